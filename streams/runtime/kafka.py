"""The one place where Kafka clients are made, so that TLS, SASL and timeouts are the same for all of them."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    IllegalSaslStateError,
    KafkaError,
    NodeNotReadyError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.partitioner import murmur2
from aiokafka.structs import TopicPartition
from faust.auth import Credentials, SASLCredentials, SSLCredentials

from streams.runtime.settings import Security, Settings, SettingsError

__all__ = [
    "TopicPartition",
    "admin",
    "ask_any_broker",
    "client",
    "consumer",
    "faust_credentials",
    "partition_of_key",
    "producer",
    "refusal",
    "started",
    "tls",
]

# A producer sends one batch per partition and request: at the default 16 kB a transaction of 500 decisions
# would take a hundred requests one after the other. It must stay below the topics' max.message.bytes.
_MAX_BATCH_BYTES = 900_000
_PROBE_TIMEOUT_MS = 5_000
# With one of three brokers away, all of these go to that one once in 6,561 times.
_BROKERS_ASKED = 8

_Answer = TypeVar("_Answer")


def consumer(settings: Settings, **options: Any) -> AIOKafkaConsumer:
    """A consumer: read committed and without automatic commits, unless ``options`` say otherwise."""
    defaults: dict[str, Any] = {
        "isolation_level": "read_committed",
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
    }
    return AIOKafkaConsumer(**(_connection(settings) | defaults | options))


async def started(consumer: AIOKafkaConsumer) -> AIOKafkaConsumer:
    """The consumer, once it is connected. One that fails or is cancelled on the way is closed: what it had begun would
    stay until the process ends. Raises KafkaError."""
    try:
        await consumer.start()
    except BaseException:
        await consumer.stop()
        raise
    return consumer


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


async def ask_any_broker(ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """What ``ask`` comes to, begun again where it went to a broker that is away.

    The clients send what any broker can answer to a random one of those that the cluster has or had, and give up if it
    is down; the next may be another. Raises what ``ask`` raises, NodeNotReadyError only after several times.
    """
    for _ in range(_BROKERS_ASKED - 1):
        with suppress(NodeNotReadyError):
            return await ask()
    return await ask()


def tls(settings: Settings) -> ssl.SSLContext | None:
    """What all clients hold brokers against and show of themselves; None without TLS. Raises SettingsError."""
    return _tls(settings.security) if settings.security.uses_tls else None


async def refusal(settings: Settings) -> str | None:
    """Why no broker can be talked to, in words that name the setting; None if one can, or simply does not answer.

    The clients try every address and say no more than that all failed: a wrong password looks like a broker that is
    away. This tries each address once more, alone.
    """
    options = _connection(settings)
    reason = None
    for server in options.pop("bootstrap_servers").split(","):
        host, _, port = server.rpartition(":")
        try:
            connection = await create_conn(host, int(port), request_timeout_ms=_PROBE_TIMEOUT_MS, **options)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is put into words
            reason = _in_words(error, server, settings.security) or reason
        else:
            connection.close()
            return None
    return reason


def _in_words(error: Exception, server: str, security: Security) -> str | None:
    match error:
        case SaslAuthenticationFailed() | AuthenticationFailedError() | IllegalSaslStateError():
            return (
                f"{server} refuses user {security.sasl_username!r} with {security.sasl_mechanism}: user or password is "
                "wrong, or has no credential for this mechanism (TIDEGATE_KAFKA_SASL_USERNAME, …_SASL_PASSWORD, "
                "…_SASL_MECHANISM)"
            )
        case UnsupportedSaslMechanismError():
            return f"{server} does not offer {security.sasl_mechanism} (TIDEGATE_KAFKA_SASL_MECHANISM)"
        case ssl.SSLCertVerificationError():
            return (
                f"the certificate of {server} is not trusted: {error.verify_message} (TIDEGATE_KAFKA_SSL_CAFILE names "
                "the authority that signed it; its names must include the host)"
            )
        case ssl.SSLError():
            return (
                f"no TLS with {server}: {error.reason or 'the handshake failed'} (TIDEGATE_KAFKA_SECURITY_PROTOCOL is "
                f"{security.protocol}; a broker that wants client certificates needs …_SSL_CERTFILE and …_SSL_KEYFILE)"
            )
        case KafkaError() | ConnectionResetError() | ConnectionAbortedError():
            # It took the connection and closed it without an answer, as a listener does that expects another protocol.
            return (
                f"{server} closes the connection: it may expect another TIDEGATE_KAFKA_SECURITY_PROTOCOL than "
                f"{security.protocol}, or a client certificate (…_SSL_CERTFILE) that it trusts"
            )
    return None


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
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(f"TIDEGATE_KAFKA_SSL_CAFILE cannot be used: {_cause(error)}") from None
    context.check_hostname = security.ssl_check_hostname
    if security.ssl_certfile:
        try:
            # A callable: without any password OpenSSL would ask for one on the terminal, and wait.
            context.load_cert_chain(
                security.ssl_certfile, security.ssl_keyfile, lambda: security.ssl_key_password or ""
            )
        except (ssl.SSLError, OSError, ValueError) as error:
            raise SettingsError(
                f"TIDEGATE_KAFKA_SSL_CERTFILE, …_SSL_KEYFILE, …_SSL_KEY_PASSWORD cannot be used: {_cause(error)}; "
                "they are PEM, the key belongs to the certificate, and the password opens the key"
            ) from None
    return context


def _cause(error: Exception) -> str:
    """The library's word for it; never the whole message, which may quote a file."""
    if isinstance(error, ssl.SSLError):
        return error.reason or "not readable as PEM"
    return (isinstance(error, OSError) and error.strerror) or "not readable as PEM"
