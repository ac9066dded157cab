"""What a worker needs to know besides the rules: broker, directories, limits of its batches. Read once, frozen."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from schemas.config import read_duration

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

_PORT_MAX = 65_535
_STORE_CACHE_MB_MIN = 8
_INSTANCE_ID = re.compile(r"[A-Za-z0-9._-]{0,200}")


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
            sasl_password=secret(environ, "TIDEGATE_KAFKA_SASL_PASSWORD"),
            ssl_cafile=_file(environ, "TIDEGATE_KAFKA_SSL_CAFILE"),
            ssl_certfile=_file(environ, "TIDEGATE_KAFKA_SSL_CERTFILE"),
            ssl_keyfile=_file(environ, "TIDEGATE_KAFKA_SSL_KEYFILE"),
            ssl_key_password=secret(environ, "TIDEGATE_KAFKA_SSL_KEY_PASSWORD"),
            ssl_check_hostname=_flag(environ, "TIDEGATE_KAFKA_SSL_CHECK_HOSTNAME", default=True),
        )
        if security.uses_sasl and not (security.sasl_username and security.sasl_password):
            raise SettingsError(
                f"TIDEGATE_KAFKA_SECURITY_PROTOCOL={protocol} needs TIDEGATE_KAFKA_SASL_USERNAME and "
                "TIDEGATE_KAFKA_SASL_PASSWORD (or TIDEGATE_KAFKA_SASL_PASSWORD_FILE)"
            )
        security._refuse_unused()
        return security

    def _refuse_unused(self) -> None:
        """Whoever gives a password or an authority means it to be used: without it he would talk in the clear."""
        for is_used, name, value in (
            (self.uses_sasl, "SASL_PASSWORD", self.sasl_password),
            (self.uses_tls, "SSL_CAFILE", self.ssl_cafile),
            (self.uses_tls, "SSL_CERTFILE", self.ssl_certfile),
            (self.uses_tls and self.ssl_certfile, "SSL_KEYFILE", self.ssl_keyfile),
        ):
            if value and not is_used:
                wanted = "TIDEGATE_KAFKA_SSL_CERTFILE beside it" if self.uses_tls and name == "SSL_KEYFILE" else None
                raise SettingsError(
                    f"TIDEGATE_KAFKA_{name} is set, but not used: it needs "
                    f"{wanted or f'another TIDEGATE_KAFKA_SECURITY_PROTOCOL than {self.protocol}'}"
                )


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
    instance_id: str = ""
    """This worker's name for the group: with one, it may be gone for the session timeout and keeps its partitions."""
    standby: bool = False
    """Follow the state of partitions that other workers serve, so that taking them over restores next to nothing."""
    http: str = ""
    """``host:port`` that probes and scrapers ask; empty: none is listened on."""
    metrics_accounts: int = 200
    """Accounts that metrics show by name, the first by id; 0: none. All of them are counted."""

    batch_max_records: int = 1_000
    batch_max_bytes: int = 512 * 1024
    queue_max_records: int = 2_000
    """Records of one topic and partition held in memory; reading pauses above it."""
    queue_max_bytes: int = 4 * 1024 * 1024
    concurrency: int = 16
    """Partitions whose transactions may be under way at once."""
    restore_concurrency: int = 32
    cached_accounts: int = 1_000_000
    """Accounts kept decoded (1.5 KB each, more with many positions), shared evenly by the partitions; the others are
    read from RocksDB at each event."""
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

    unhealthy_after_ms: int = 15_000
    """Brokers that do not answer, or a partition that does not advance, for longer than this make it unhealthy."""
    stall_deadline_ms: int = 60_000
    """A partition that does not advance for longer than this, though it could, ends the worker."""

    forget_slack_ms: int = 3_600_000
    """How long an expired id is kept on: covers clocks that differ between workers, and records out of order."""
    forget_max_per_batch: int = 200
    """Ids that are forgotten with a batch, beyond as many as it remembers."""
    accept_gaps: bool = False
    """Go on although retention deleted input that was never applied. Positions and equity may then be wrong."""

    @property
    def bootstrap(self) -> str:
        """``host:port[,host:port]``. Raises SettingsError unless the broker is a kafka:// URL."""
        scheme, separator, servers = self.broker.partition("://")
        if "@" in self.broker:
            raise SettingsError(
                "TIDEGATE_BROKER must look like kafka://host:port[,host:port], without user and password: those go "
                "into TIDEGATE_KAFKA_SASL_USERNAME and TIDEGATE_KAFKA_SASL_PASSWORD"
            )
        if scheme != "kafka" or not separator or not all(_is_server(s) for s in servers.split(",")):
            raise SettingsError(f"TIDEGATE_BROKER must look like kafka://host:port[,host:port], not {self.broker!r}")
        return servers

    @property
    def http_address(self) -> tuple[str, int] | None:
        """Host and port to listen on, port 0 for any that is free; None for none. Raises SettingsError."""
        if not self.http:
            return None
        host, _, port = self.http.rpartition(":")
        if not host or not port.isdecimal() or int(port) > _PORT_MAX:
            raise SettingsError(f"TIDEGATE_HTTP must look like 127.0.0.1:9464 or [::1]:9464, not {self.http!r}")
        return host.removeprefix("[").removesuffix("]"), int(port)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> "Settings":
        """Settings from ``TIDEGATE_…`` variables; ``overrides`` (those not None) win.

        Raises SettingsError that names the variable.
        """
        env = os.environ if environ is None else environ
        values: dict[str, Any] = {"security": Security.from_environment(env)}
        for name in ("broker", "app_id", "topic_prefix", "instance_id", "http"):
            if text := env.get(f"TIDEGATE_{name.upper()}"):
                values[name] = text
        if not _INSTANCE_ID.fullmatch(values.get("instance_id", "")):
            raise SettingsError("TIDEGATE_INSTANCE_ID must be up to 200 letters, digits, dots, dashes or underscores")
        if directory := env.get("TIDEGATE_DATA_DIR"):
            values["data_dir"] = Path(directory)
        for name in ("session_timeout", "unhealthy_after", "stall_deadline"):
            if text := env.get(f"TIDEGATE_{name.upper()}"):
                values[f"{name}_ms"] = _duration_ms(f"TIDEGATE_{name.upper()}", text)
        for name in ("metrics_accounts", "cached_accounts"):
            if text := env.get(f"TIDEGATE_{name.upper()}"):
                values[name] = _count(f"TIDEGATE_{name.upper()}", text)
        if text := env.get("TIDEGATE_STORE_CACHE_MB"):
            values["store_cache_bytes"] = _count("TIDEGATE_STORE_CACHE_MB", text, _STORE_CACHE_MB_MIN) * 1024 * 1024
        values["accept_gaps"] = _flag(env, "TIDEGATE_ACCEPT_GAPS", default=False)
        values["standby"] = _flag(env, "TIDEGATE_STANDBY", default=False)
        values |= {name: value for name, value in overrides.items() if value is not None}
        if "broker" not in values:
            raise SettingsError("no broker: set TIDEGATE_BROKER=kafka://host:port[,host:port]")
        settings = cls(**values)
        _ = settings.bootstrap, settings.http_address
        return settings


def _is_server(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdigit()


def _choice(environ: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = environ.get(name) or default
    if value not in allowed:
        raise SettingsError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def _duration_ms(name: str, text: str) -> int:
    try:
        return read_duration(text)
    except ValueError as error:
        raise SettingsError(f"{name} {error}, not {text!r}") from None


def _count(name: str, text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise SettingsError(f"{name} must be a number from {least} up, not {text!r}")
    return int(text)


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


def secret(environ: Mapping[str, str], name: str) -> str | None:
    """A secret from ``name``, or from the file that ``name_FILE`` names."""
    value = environ.get(name)
    path = _file(environ, f"{name}_FILE")
    if value and path:
        raise SettingsError(f"both {name} and {name}_FILE are set: which one holds?")
    if value:
        return value
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        # The cause is left out: a decoding error carries the file's bytes.
        raise SettingsError(f"{name}_FILE cannot be read as UTF-8 text") from None
