"""The one place where Kafka clients are made, so that TLS, SASL and timeouts are the same for all of them."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.partitioner import murmur2
from aiokafka.structs import TopicPartition
from faust.auth import Credentials, SASLCredentials, SSLCredentials

from streams.runtime.settings import Security, Settings, SettingsError

__all__ = ["TopicPartition", "admin", "client", "consumer", "faust_credentials", "partition_of_key", "producer"]

# A producer sends one batch per partition and request: at the default 16 kB a transaction of 500 decisions
# would take a hundred requests one after the other. It must stay below the topics' max.message.bytes.
_MAX_BATCH_BYTES = 900_000


def consumer(settings: Settings, **options: Any) -> AIOKafkaConsumer:
    """A consumer: read committed and without automatic commits, unless ``options`` say otherwise."""
    defaults: dict[str, Any] = {
        "isolation_level": "read_committed",
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
    }
    return AIOKafkaConsumer(**(_connection(settings) | defaults | options))


def producer(settings: Settings, **options: Any) -> AIOKafkaProducer:
    """A producer with acks=all and no lingering: whoever sends has already made up a batch."""
    defaults: dict[str, Any] = {
        "acks": "all",
        "linger_ms": 0,
        "enable_idempotence": True,
        "max_batch_size": _MAX_BATCH_BYTES,
    }
    return AIOKafkaProducer(**(_connection(settings) | defaults | options))


def admin(settings: Settings) -> AIOKafkaAdminClient:
    """An admin client."""
    return AIOKafkaAdminClient(**_connection(settings))


@asynccontextmanager
async def client(settings: Settings) -> AsyncIterator[AIOKafkaClient]:
    """A bare client, for requests that the admin client does not know. Raises KafkaError."""
    one = AIOKafkaClient(**_connection(settings))
    try:
        await one.bootstrap()
        yield one
    finally:
        await one.close()


def faust_credentials(settings: Settings) -> Credentials | None:
    """The same security settings in the form that Faust's own consumer and producer take."""
    security = settings.security
    context = _tls(security) if security.uses_tls else None
    if security.uses_sasl:
        return SASLCredentials(
            username=security.sasl_username,
            password=security.sasl_password,
            mechanism=security.sasl_mechanism,
            ssl_context=context,
        )
    return SSLCredentials(context) if context is not None else None


@lru_cache(maxsize=65_536)
def partition_of_key(key: bytes, partitions: int) -> int:
    """The partition that Kafka's default (murmur2) partitioner gives to ``key``."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


def _connection(settings: Settings) -> dict[str, Any]:
    security = settings.security
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap,
        "client_id": settings.app_id,
        "security_protocol": security.protocol,
    }
    if security.uses_tls:
        options["ssl_context"] = _tls(security)
    if security.uses_sasl:
        options["sasl_mechanism"] = security.sasl_mechanism
        options["sasl_plain_username"] = security.sasl_username
        options["sasl_plain_password"] = security.sasl_password
    return options


def _tls(security: Security) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=security.ssl_cafile)
        context.check_hostname = security.ssl_check_hostname
        if security.ssl_certfile:
            context.load_cert_chain(security.ssl_certfile, security.ssl_keyfile, security.ssl_key_password)
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(
            f"TIDEGATE_KAFKA_SSL_…: the certificates or the key cannot be used: {error.strerror}"
        ) from None
    return context
