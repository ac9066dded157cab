"""How the examples reach the brokers: the environment of Tidegate's own processes, for aiokafka and for librdkafka.

    TIDEGATE_BROKER=kafka://host:port[,host:port]      TIDEGATE_TOPIC_PREFIX, TIDEGATE_APP_ID (default: tidegate)
    TIDEGATE_KAFKA_SECURITY_PROTOCOL                   PLAINTEXT unless set; a desk's brokers ask for SASL_SSL
    TIDEGATE_KAFKA_SASL_MECHANISM, …_SASL_USERNAME, …_SASL_PASSWORD_FILE, …_SSL_CAFILE, …_SSL_CERTFILE, …_SSL_KEYFILE

A login needs the ACLs of its role: `tidegate access acls --role pipeline --principal User:NAME`.
"""

import os
import ssl
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

PREFIX = os.environ.get("TIDEGATE_TOPIC_PREFIX", "")
GATE = PREFIX + os.environ.get("TIDEGATE_APP_ID", "tidegate")
"""What the names of consumer groups begin with, so that ACLs can be given by it."""


def topic(name: str) -> str:
    """A topic's name on the brokers."""
    return PREFIX + name


def servers() -> str:
    """``host:port[,host:port]``. Raises SystemExit unless TIDEGATE_BROKER names some."""
    scheme, _, addresses = os.environ.get("TIDEGATE_BROKER", "").partition("://")
    if scheme != "kafka" or not addresses:
        raise SystemExit("set TIDEGATE_BROKER=kafka://host:port")
    return addresses


def for_aiokafka() -> dict[str, Any]:
    """Options of every aiokafka client."""
    protocol, authority, certificate = _protocol(), *_files()
    options: dict[str, Any] = {"bootstrap_servers": servers(), "security_protocol": protocol}
    if protocol.endswith("SSL"):
        context = options["ssl_context"] = ssl.create_default_context(cafile=authority)
        if certificate:
            context.load_cert_chain(certificate, os.environ.get("TIDEGATE_KAFKA_SSL_KEYFILE"))
    if protocol.startswith("SASL"):
        user, password = os.environ.get("TIDEGATE_KAFKA_SASL_USERNAME"), _password()
        options |= {"sasl_mechanism": _mechanism(), "sasl_plain_username": user, "sasl_plain_password": password}
    return options


async def partitions_of(*names: str) -> list[TopicPartition]:
    """All partitions of some topics, for a consumer without a group. Raises SystemExit, KafkaError."""
    admin = AIOKafkaAdminClient(**for_aiokafka())
    await admin.start()
    try:
        described = {one["topic"]: one["partitions"] for one in await admin.describe_topics()}
    finally:
        await admin.close()
    if missing := [topic(name) for name in names if topic(name) not in described]:
        raise SystemExit(f"{', '.join(missing)}: not there, or not for this login")
    return [TopicPartition(topic(name), one["partition"]) for name in names for one in described[topic(name)]]


def for_librdkafka() -> dict[str, Any]:
    """Options of every librdkafka client, as confluent-kafka takes them."""
    protocol, authority, certificate = _protocol(), *_files()
    options: dict[str, Any] = {"bootstrap.servers": servers(), "security.protocol": protocol}
    if protocol.endswith("SSL") and authority:
        options["ssl.ca.location"] = authority
    if protocol.endswith("SSL") and certificate:
        options |= {
            "ssl.certificate.location": certificate,
            "ssl.key.location": os.environ.get("TIDEGATE_KAFKA_SSL_KEYFILE"),
        }
    if protocol.startswith("SASL"):
        user = os.environ.get("TIDEGATE_KAFKA_SASL_USERNAME")
        options |= {"sasl.mechanism": _mechanism(), "sasl.username": user, "sasl.password": _password()}
    return options


def _protocol() -> str:
    return os.environ.get("TIDEGATE_KAFKA_SECURITY_PROTOCOL") or "PLAINTEXT"


def _files() -> tuple[str | None, str | None]:
    return os.environ.get("TIDEGATE_KAFKA_SSL_CAFILE"), os.environ.get("TIDEGATE_KAFKA_SSL_CERTFILE")


def _mechanism() -> str:
    return os.environ.get("TIDEGATE_KAFKA_SASL_MECHANISM") or "PLAIN"


def _password() -> str:
    file = os.environ.get("TIDEGATE_KAFKA_SASL_PASSWORD_FILE")
    return Path(file).read_text().strip() if file else os.environ.get("TIDEGATE_KAFKA_SASL_PASSWORD", "")
