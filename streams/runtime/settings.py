"""What a worker needs to know besides the rules: broker, directories, limits of its batches. Read once, frozen."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


class SettingsError(ValueError):
    """A setting cannot be used. The message names the setting and never repeats a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """How clients authenticate. Secrets stay out of ``repr``."""

    protocol: Protocol = "PLAINTEXT"
    sasl_mechanism: Mechanism = "PLAIN"
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_key_password: str | None = field(default=None, repr=False)
    ssl_check_hostname: bool = True

    @property
    def uses_sasl(self) -> bool:
        return self.protocol.startswith("SASL_")

    @property
    def uses_tls(self) -> bool:
        return self.protocol.endswith("SSL")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Security":
        """Read ``TIDEGATE_KAFKA_…``. Raises SettingsError that names the variable."""
        protocol = _choice(environ, "TIDEGATE_KAFKA_SECURITY_PROTOCOL", "PLAINTEXT", get_args(Protocol))
        mechanism = _choice(environ, "TIDEGATE_KAFKA_SASL_MECHANISM", "PLAIN", get_args(Mechanism))
        security = cls(
            protocol=cast("Protocol", protocol),
            sasl_mechanism=cast("Mechanism", mechanism),
            sasl_username=environ.get("TIDEGATE_KAFKA_SASL_USERNAME"),
            sasl_password=_secret(environ, "TIDEGATE_KAFKA_SASL_PASSWORD"),
            ssl_cafile=_file(environ, "TIDEGATE_KAFKA_SSL_CAFILE"),
            ssl_certfile=_file(environ, "TIDEGATE_KAFKA_SSL_CERTFILE"),
            ssl_keyfile=_file(environ, "TIDEGATE_KAFKA_SSL_KEYFILE"),
            ssl_key_password=_secret(environ, "TIDEGATE_KAFKA_SSL_KEY_PASSWORD"),
            ssl_check_hostname=_flag(environ, "TIDEGATE_KAFKA_SSL_CHECK_HOSTNAME", default=True),
        )
        if security.uses_sasl and not (security.sasl_username and security.sasl_password):
            raise SettingsError(
                f"TIDEGATE_KAFKA_SECURITY_PROTOCOL={protocol} needs TIDEGATE_KAFKA_SASL_USERNAME and "
                "TIDEGATE_KAFKA_SASL_PASSWORD (or TIDEGATE_KAFKA_SASL_PASSWORD_FILE)"
            )
        return security


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One worker's runtime settings. Durations in ms, sizes in bytes."""

    broker: str
    """``kafka://host:port[,host:port]``."""
    app_id: str = "tidegate"
    """Prefix of transactional ids and name of the consumer group: workers with one app id share the partitions."""
    data_dir: Path = Path(".tidegate")
    """This worker's own directory. Losing it only costs a longer restore."""
    topic_prefix: str = ""
    """Put before every topic's name, so that several gates can share a broker."""
    security: Security = Security()

    batch_max_records: int = 500
    batch_max_bytes: int = 512 * 1024
    fold_target_ms: int = 100
    """Batches get smaller while a fold takes longer than this."""
    queue_max_records: int = 2_000
    """Records of one topic and partition held in memory; reading pauses above it."""
    queue_max_bytes: int = 4 * 1024 * 1024
    concurrency: int = 16
    """Partitions whose transactions may be under way at once."""
    restore_concurrency: int = 32
    cached_accounts: int = 4_000
    """Live accounts kept decoded, per partition."""
    store_cache_bytes: int = 64 * 1024 * 1024
    """Block cache and write buffers of all partitions together."""

    transaction_deadline_ms: int = 30_000
    """A transaction that takes longer ends the worker."""
    batch_deadline_ms: int = 120_000
    """As above, with the wait for a free ``gate`` actor included."""
    session_timeout_ms: int = 10_000
    rebalance_timeout_ms: int = 60_000
    stop_deadline_ms: int = 20_000
    lag_commit_interval_ms: int = 5_000

    forget_slack_ms: int = 3_600_000
    """How long an expired id is kept on: covers clocks that differ between workers, and records out of order."""
    forget_max_per_batch: int = 200
    accept_gaps: bool = False
    """Go on although retention deleted input that was never applied. Positions and equity may then be wrong."""

    @property
    def bootstrap(self) -> str:
        """``host:port[,host:port]``. Raises SettingsError unless the broker is a kafka:// URL."""
        scheme, separator, servers = self.broker.partition("://")
        if scheme != "kafka" or not separator or not all(_is_server(s) for s in servers.split(",")):
            raise SettingsError(f"TIDEGATE_BROKER must look like kafka://host:port[,host:port], not {self.broker!r}")
        return servers

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> "Settings":
        """Settings from ``TIDEGATE_…`` variables; ``overrides`` (those not None) win.

        Raises SettingsError that names the variable.
        """
        env = os.environ if environ is None else environ
        values: dict[str, Any] = {"security": Security.from_environment(env)}
        for name in ("broker", "app_id", "topic_prefix"):
            if text := env.get(f"TIDEGATE_{name.upper()}"):
                values[name] = text
        if directory := env.get("TIDEGATE_DATA_DIR"):
            values["data_dir"] = Path(directory)
        values["accept_gaps"] = _flag(env, "TIDEGATE_ACCEPT_GAPS", default=False)
        values |= {name: value for name, value in overrides.items() if value is not None}
        if "broker" not in values:
            raise SettingsError("no broker: set TIDEGATE_BROKER=kafka://host:port[,host:port]")
        settings = cls(**values)
        _ = settings.bootstrap
        return settings


def _is_server(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdigit()


def _choice(environ: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = environ.get(name) or default
    if value not in allowed:
        raise SettingsError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def _flag(environ: Mapping[str, str], name: str, *, default: bool) -> bool:
    value = environ.get(name)
    if not value:
        return default
    if value.lower() not in ("0", "1", "true", "false"):
        raise SettingsError(f"{name} must be 1 or 0, not {value!r}")
    return value.lower() in ("1", "true")


def _file(environ: Mapping[str, str], name: str) -> str | None:
    value = environ.get(name) or None
    if value is not None and not Path(value).is_file():
        raise SettingsError(f"{name} names no file: {value!r}")
    return value


def _secret(environ: Mapping[str, str], name: str) -> str | None:
    """A secret from ``name``, or from the file that ``name_FILE`` names."""
    if value := environ.get(name):
        return value
    path = _file(environ, f"{name}_FILE")
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        # The cause is left out: a decoding error carries the file's bytes.
        raise SettingsError(f"{name}_FILE cannot be read as UTF-8 text") from None
