"""Where the mirror writes, and how often. Read once, frozen. The URL may hold a password: it stays out of ``repr``."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from streams.runtime.settings import Settings, SettingsError, secret

_SCHEMES = ("redis", "rediss", "unix")


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorSettings:
    """One mirror's settings. Durations in ms."""

    url: str = field(repr=False)
    """``redis://[user:password@]host:port/0``, ``rediss://`` for TLS, ``unix://``."""
    prefix: str
    """Put before every key and channel. On Redis Cluster it must hold a hash tag, ``{tidegate}:``."""
    locks_max: int = 10_000
    """The stream of locks keeps about this many."""
    heartbeat_interval_ms: int = 100
    timeout_ms: int = 5_000
    """A request to Redis that takes longer has failed, and is made again."""
    retry_min_ms: int = 100
    retry_max_ms: int = 5_000

    @property
    def address(self) -> str:
        """The URL as it may be told: without user and password."""
        return told(self.url)

    @classmethod
    def from_environment(
        cls, settings: Settings, environ: Mapping[str, str] | None = None, **overrides: Any
    ) -> "MirrorSettings":
        """From ``TIDEGATE_REDIS_URL`` (or ``…_FILE``) and ``TIDEGATE_REDIS_PREFIX``; ``overrides`` not None win.

        Raises SettingsError that names the variable.
        """
        env = os.environ if environ is None else environ
        values: dict[str, Any] = {"prefix": prefix_of(settings, env)}
        if url := secret(env, "TIDEGATE_REDIS_URL"):
            values["url"] = url
        if length := env.get("TIDEGATE_REDIS_LOCKS_MAX"):
            if not length.isdecimal() or int(length) < 1:
                raise SettingsError(f"TIDEGATE_REDIS_LOCKS_MAX must be a number from 1 up, not {length!r}")
            values["locks_max"] = int(length)
        values |= {name: value for name, value in overrides.items() if value is not None}
        if "url" not in values:
            raise SettingsError("no Redis: set TIDEGATE_REDIS_URL=redis://host:6379 (or TIDEGATE_REDIS_URL_FILE)")
        _check(values["url"])
        return cls(**values)


def prefix_of(settings: Settings, environ: Mapping[str, str]) -> str:
    """``TIDEGATE_REDIS_PREFIX``, else one that keeps apart what two gates on one Redis write: ``tidegate:``."""
    return environ.get("TIDEGATE_REDIS_PREFIX") or f"{settings.topic_prefix}{settings.app_id}:"


def told(url: str) -> str:
    """A URL without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _SCHEMES and (bool(parts.hostname) or parts.scheme == "unix")
        _ = parts.port
    except ValueError:
        usable = False
    if not usable:
        # The URL itself is not repeated: it may hold a password.
        raise SettingsError(
            "TIDEGATE_REDIS_URL must look like redis://host:6379/0 (rediss:// for TLS, unix:///path/to.sock)"
        )
