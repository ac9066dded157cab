"""A broker as a desk would run it: TLS with an authority of its own, SCRAM users, and an authorizer that denies.

Users are made by the protocol's own request, which the client library does not have: a tool of Kafka's would start a
Java machine for each of them.
"""

import asyncio
import hashlib
import ipaddress
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import for_code
from aiokafka.protocol.admin import DeleteAclsRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infra.brokers import KafkaCluster
from schemas.roles import ROLES
from streams.runtime.access import Entry, entries_of, grant
from streams.runtime.settings import Mechanism, Security, Settings
from streams.runtime.topics import TopicNames
from tests.integration.support import Names

SCRAM, MTLS, STRANGER = "SCRAM", "MTLS", "STRANGER"
"""Listeners: SASL over TLS; TLS with client certificates; TLS with a certificate for another host."""

_MECHANISMS: Mapping[Mechanism, tuple[int, str]] = {"SCRAM-SHA-256": (1, "sha256"), "SCRAM-SHA-512": (2, "sha512")}
_ITERATIONS = 4096


@dataclass(frozen=True)
class Identity:
    """A key with its certificate, as PEM files."""

    cert: Path
    key: Path
    both: Path
    """Key and certificate in one file, as Kafka wants them."""


class Authority:
    """A certificate authority that lives as long as a test, and its files."""

    def __init__(self, directory: Path, name: str = "tidegate test authority") -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _subject(name)
        self._cert = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.file = directory / "ca.pem"
        self.file.write_bytes(self._cert.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, hosts: Iterable[str] = (), password: str | None = None) -> Identity:
        """A certificate for ``CN=name``, good for ``hosts`` (names or addresses); the key under a password, or not."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            self._builder(_subject(name), key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names := [_host(host) for host in hosts]:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        cert = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        sealed: Any = (
            serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        )
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed)
        identity = Identity(*(self._directory / f"{name}{suffix}" for suffix in (".pem", ".key", ".both")))
        identity.cert.write_bytes(cert)
        identity.key.write_bytes(pem)
        identity.both.write_bytes(pem + cert)
        return identity

    def _builder(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
        )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def secured_cluster(authority: Authority) -> KafkaCluster:
    """One node with the three listeners above. Nobody may do anything without an ACL but who comes by PLAINTEXT."""
    broker = authority.issue("broker", hosts=("127.0.0.1", "localhost"))
    elsewhere = authority.issue("elsewhere", hosts=("kafka.elsewhere.example",))

    def tls(listener: str, identity: Identity) -> dict[str, str]:
        of = f"listener.name.{listener.lower()}"
        return {
            f"{of}.ssl.keystore.type": "PEM",
            f"{of}.ssl.keystore.location": str(identity.both),
            f"{of}.ssl.truststore.type": "PEM",
            f"{of}.ssl.truststore.location": str(authority.file),
        }

    return KafkaCluster(
        listeners={SCRAM: "SASL_SSL", MTLS: "SSL", STRANGER: "SSL"},
        config={
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            # The test's own way in. Brokers of a desk have no listener without a login.
            "super.users": "User:ANONYMOUS",
            "sasl.enabled.mechanisms": ",".join(_MECHANISMS),
            "listener.name.scram.sasl.enabled.mechanisms": ",".join(_MECHANISMS),
            **{
                f"listener.name.scram.{mechanism.lower()}.sasl.jaas.config": (
                    "org.apache.kafka.common.security.scram.ScramLoginModule required;"
                )
                for mechanism in _MECHANISMS
            },
            **tls(SCRAM, broker),
            **tls(MTLS, broker),
            **tls(STRANGER, elsewhere),
            "listener.name.mtls.ssl.client.auth": "required",
            "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
        },
    )


@dataclass(frozen=True)
class Desk:
    """The secured broker with one gate's names on it."""

    cluster: KafkaCluster
    authority: Authority
    names: Names
    data_dir: Path

    def settings(self, security: Security, listener: str = SCRAM, **values: Any) -> Settings:
        quick: dict[str, Any] = {"session_timeout_ms": 6_000, "lag_commit_interval_ms": 300}
        return Settings(
            broker=f"kafka://{self.cluster.bootstrap_of(listener)}",
            app_id=self.names.app_id,
            topic_prefix=self.names.prefix,
            data_dir=self.data_dir,
            security=security,
            **(quick | values),
        )

    @property
    def admin(self) -> Settings:
        """The test's own way in, that may do everything."""
        return self.settings(Security(), "PLAINTEXT")

    @property
    def topics(self) -> TopicNames:
        return TopicNames.of(self.admin)

    def scram(self, user: str, password: str, mechanism: Mechanism = "SCRAM-SHA-512") -> Security:
        return Security(
            protocol="SASL_SSL",
            sasl_mechanism=mechanism,
            sasl_username=user,
            sasl_password=password,
            ssl_cafile=str(self.authority.file),
        )

    def environment(self, user: str, password_file: Path, mechanism: Mechanism = "SCRAM-SHA-512") -> dict[str, str]:
        """How a process of this user is set up."""
        return {
            "TIDEGATE_BROKER": f"kafka://{self.cluster.bootstrap_of(SCRAM)}",
            "TIDEGATE_APP_ID": self.names.app_id,
            "TIDEGATE_TOPIC_PREFIX": self.names.prefix,
            "TIDEGATE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "TIDEGATE_KAFKA_SASL_MECHANISM": mechanism,
            "TIDEGATE_KAFKA_SASL_USERNAME": user,
            "TIDEGATE_KAFKA_SASL_PASSWORD_FILE": str(password_file),
            "TIDEGATE_KAFKA_SSL_CAFILE": str(self.authority.file),
        }

    async def add_user(self, user: str, password: str, mechanism: Mechanism = "SCRAM-SHA-512") -> None:
        """Create a user, or set the password that holds for one mechanism."""
        number, digest = _MECHANISMS[mechanism]
        salt = os.urandom(16)
        salted = hashlib.pbkdf2_hmac(digest, password.encode(), salt, _ITERATIONS)
        await self._alter([], [(user, number, _ITERATIONS, salt, salted, {})])

    async def drop_credential(self, user: str, mechanism: Mechanism) -> None:
        await self._alter([(user, _MECHANISMS[mechanism][0], {})], [])

    async def grant(self, principal: str, role: str) -> None:
        await grant(self.admin, f"User:{principal}", entries_of(ROLES[role], self.topics))

    async def revoke(self, principal: str, entry: Entry) -> None:
        """Take one of its ACLs from a principal."""
        literal, any_host, allow = 3, "*", 3
        client = AIOKafkaClient(bootstrap_servers=self.cluster.bootstrap)
        await client.bootstrap()
        try:
            request = DeleteAclsRequest(
                entry.kind, entry.name, literal, f"User:{principal}", any_host, entry.operation, allow
            )
            response = await client.send(client.get_random_node(), request)
        finally:
            await client.close()
        ((code, _, matched),) = response.filter_responses
        assert (code, len(matched)) == (0, 1), response

    async def _alter(self, deletions: list[Any], upsertions: list[Any]) -> None:
        client = AIOKafkaClient(bootstrap_servers=self.cluster.bootstrap)
        await client.bootstrap()
        try:
            response = await client.send(client.get_random_node(), _AlterScram(deletions, upsertions))
        finally:
            await client.close()
        for user, code, message, _ in response.results:
            if code:
                raise for_code(code)(f"{user}: {message}")


def run(work: Any) -> Any:
    """A coroutine from a test that has no loop of its own."""
    return asyncio.run(work)


class _AlterScramResponse(Response):
    API_KEY = 51
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            CompactArray(
                ("user", CompactString("utf-8")),
                ("error_code", Int16),
                ("error_message", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _AlterScramRequest(RequestStruct):
    API_KEY = 51
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _AlterScramResponse
    SCHEMA = Schema(
        (
            "deletions",
            CompactArray(("name", CompactString("utf-8")), ("mechanism", Int8), ("tags", TaggedFields)),
        ),
        (
            "upsertions",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _AlterScram(Request[_AlterScramRequest]):
    API_KEY = 51

    def __init__(self, deletions: list[Any], upsertions: list[Any]) -> None:
        self._deletions, self._upsertions = deletions, upsertions

    def build(self, request_struct_class: type[_AlterScramRequest]) -> _AlterScramRequest:
        return request_struct_class(self._deletions, self._upsertions, {})
