"""How the model stands, read from Redis alone: every age is a difference of Redis' own clock."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis

from streams.mirror.last_look import MAX_AGE_MS
from streams.mirror.model import Progress

NO_EVICTION = "noeviction"
HEARTBEAT_MAX_MS = 5_000
"""A mirror that has not been heard of for longer is taken for dead."""


class ServerFacts(NamedTuple):
    """The server that the model is on."""

    version: str
    maxmemory_policy: str
    used_memory_bytes: int
    maxmemory_bytes: int


class Status(NamedTuple):
    """One model. ``phase`` None: there is none. Ages in ms; None: never."""

    phase: str | None
    generation: str | None = None
    source: str | None = None
    writer: str | None = None
    heartbeat_age_ms: int | None = None
    fresh_age_ms: int | None = None
    behind_records: int | None = None
    policy_version: int | None = None
    accounts: int = 0
    locked: int = 0
    places: Sequence[Progress] = ()

    def faults(self, max_age_ms: int = MAX_AGE_MS) -> list[str]:
        """What is wrong with it, in words; empty where a last look would trust it."""
        if self.phase is None:
            return ["there is no model"]
        faults = []
        if self.heartbeat_age_ms is None or self.heartbeat_age_ms > HEARTBEAT_MAX_MS:
            age = "ever" if self.heartbeat_age_ms is None else f"for {self.heartbeat_age_ms / 1000:.1f} s"
            faults.append(f"no mirror was heard of {age}")
        if self.phase != "live":
            faults.append("the model is being built")
        elif self.fresh_age_ms is None or not 0 <= self.fresh_age_ms <= max_age_ms:
            age = "never complete" if self.fresh_age_ms is None else f"complete {self.fresh_age_ms / 1000:.1f} s ago"
            faults.append(f"the model was {age}, and the last look trusts it for {max_age_ms / 1000:g} s")
        return faults


async def read_status(redis: Redis, prefix: str) -> Status:
    """The model under a prefix. Raises RedisError."""
    async with redis.pipeline(transaction=True) as pipeline:
        pipeline.time()
        for name in ("status", "positions", "ends"):
            pipeline.hgetall(f"{prefix}{name}")
        for name in ("accounts", "locked"):
            pipeline.scard(f"{prefix}{name}")
        (seconds, micros), status, positions, ends, accounts, locked = await pipeline.execute()
    if not status:
        return Status(None)
    now_ms = seconds * 1000 + micros // 1000
    return Status(
        phase=status.get("phase"),
        generation=status.get("generation"),
        source=status.get("source"),
        writer=status.get("writer"),
        heartbeat_age_ms=_age(status.get("heartbeat_ms"), now_ms),
        fresh_age_ms=_age(status.get("fresh_ms"), now_ms),
        behind_records=_int(status.get("behind_records")),
        policy_version=_int(status.get("policy_version")),
        accounts=accounts,
        locked=locked,
        places=tuple(
            Progress(place, int(positions.get(place, 0)), int(end))
            for place, end in sorted(ends.items(), key=_in_order)
        ),
    )


async def read_server(redis: Redis) -> ServerFacts:
    """The server. Raises RedisError."""
    told: Mapping[str, Any] = await redis.info()
    return ServerFacts(
        f"{told.get('server_name', 'redis')} {told.get('valkey_version', told.get('redis_version', '?'))}",
        str(told.get("maxmemory_policy", "unknown")),
        int(told.get("used_memory", 0)),
        int(told.get("maxmemory", 0)),
    )


def document(status: Status) -> dict[str, Any]:
    """The status for scripts."""
    return {
        "phase": status.phase,
        "generation": status.generation,
        "source": status.source,
        "writer": status.writer,
        "heartbeat_age_ms": status.heartbeat_age_ms,
        "fresh_age_ms": status.fresh_age_ms,
        "behind_records": status.behind_records,
        "policy_version": status.policy_version,
        "accounts": status.accounts,
        "locked": status.locked,
        "places": [one._asdict() for one in status.places],
        "faults": status.faults(),
    }


def _in_order(item: tuple[str, str]) -> tuple[str, int]:
    topic, _, partition = item[0].rpartition("/")
    return topic, int(partition)


def _age(text: str | None, now_ms: int) -> int | None:
    at_ms = _int(text)
    return None if not at_ms else now_ms - at_ms


def _int(text: str | None) -> int | None:
    return int(text) if text else None
