"""The model in Redis as the mirror writes it: each write is one call of a function of ``library.lua``, all or nothing.

Every write names its generation and the stretch of the topic that it is made of; Redis decides whether it is new, a
repeat, or beyond what the model holds (:class:`Superseded`: begin again from what is there). So a write may be
repeated, and a second or an older mirror does no harm.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple, TypeVar

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from streams.mirror.settings import MirrorSettings

log = logging.getLogger(__name__)

LAYOUT = "1"
LIBRARY = "tidegate_mirror"
_WRITTEN = ("written", "repeated")

T = TypeVar("T")
_pack = msgspec.msgpack.Encoder().encode


class ModelError(RuntimeError):
    """The model cannot be written here at all. The message names the remedy."""


class Superseded(Exception):
    """The model is another than the one that was opened: rebuilt, wiped, or set back. It has to be opened again."""


class Opened(NamedTuple):
    """A model to go on with. ``positions``: by place, the next offset of its topic."""

    generation: str
    is_live: bool
    positions: Mapping[str, int]


class Stretch(NamedTuple):
    """A place, and the offsets [``start``, ``end``) of it that a write is made of."""

    place: str
    start: int
    end: int


class Progress(NamedTuple):
    """How far one place is written, and where it ends on the broker."""

    place: str
    position: int
    end: int

    @property
    def topic(self) -> str:
        """The place's topic, by its logical name."""
        return self.place.rpartition("/")[0]


def connect(settings: MirrorSettings) -> Redis:
    """A client that fails within the timeout. It retries nothing itself: who calls knows whether that is safe."""
    timeout_s = settings.timeout_ms / 1000
    client: Redis = Redis.from_url(
        settings.url,
        decode_responses=True,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        client_name="tidegate-mirror",
    )
    return client


class Model:
    """Writes one model. A failing Redis is waited for, with back-off and for as long as it takes."""

    def __init__(self, settings: MirrorSettings, *, source: str) -> None:
        """``source``: which cluster and gate it is made from; the model of another one is not touched."""
        self._settings = settings
        self._source = source
        self._redis = connect(settings)
        self._status_key = f"{settings.prefix}status"
        self._loaded = False
        self.fault: str | None = None
        """What is wrong with Redis now, in words; None: the last request was answered."""
        self.on_error: Callable[[], None] = lambda: None

    async def close(self) -> None:
        """Release the connections."""
        await self._redis.aclose()

    async def open(self) -> Opened:
        """The model as it stands, or a new one. Raises ModelError for another gate's, or a newer release's."""
        return self._opened(await self._call("open", self._source, LAYOUT))

    async def rebuild(self, *, topics_are_new: bool = False) -> Opened:
        """Begin a new generation, whatever is there, and make the model this gate's."""
        return self._opened(await self._call("rebuild", self._source, LAYOUT, "1" if topics_are_new else "0"))

    def _opened(self, reply: Sequence[Any]) -> Opened:
        kind = reply[0]
        if kind == "foreign":
            raise ModelError(
                f"the prefix {self._settings.prefix!r} on {self._settings.address} holds the model of another gate "
                f"({reply[1]}); set TIDEGATE_REDIS_PREFIX, or take it over with `tidegate mirror rebuild`"
            )
        if kind == "newer":
            raise ModelError(
                f"the model on {self._settings.address} has layout {reply[1]}, and this release writes {LAYOUT}: use "
                "the release that made it, or make it anew with `tidegate mirror rebuild`"
            )
        _, generation, phase, flat = reply
        positions = {place: int(at) for place, at in zip(flat[::2], flat[1::2], strict=True)}
        return Opened(generation, phase == "live", positions)

    async def read_state(self, generation: str, account_ids: Sequence[str]) -> dict[str, Mapping[str, str]]:
        """What this generation has kept of the changelog for each account; empty for one that it has not met."""

        async def read() -> list[Mapping[str, str]]:
            pipeline = self._redis.pipeline(transaction=False)
            for account_id in account_ids:
                pipeline.hgetall(f"{self._settings.prefix}state:{account_id}")
            found: list[Mapping[str, str]] = await pipeline.execute()
            return found

        found = await self._persist(read) if account_ids else []
        return {
            account_id: parts if parts.get("generation") == generation else {}
            for account_id, parts in zip(account_ids, found, strict=True)
        }

    async def account_ids(self, cursor: int) -> tuple[int, list[str]]:
        """Some of the accounts, and where to go on; 0: those were the last."""

        async def scan() -> tuple[int, list[str]]:
            at, found = await self._redis.sscan(f"{self._settings.prefix}accounts", cursor, count=200)
            return int(at), [str(one) for one in found]

        return await self._persist(scan)

    async def put_accounts(self, generation: str, stretch: Stretch, content: Mapping[str, Any]) -> None:
        """Write accounts as of the stretch's end. Raises Superseded."""
        await self._write("put_accounts", generation, *_written(stretch), _pack(content))

    async def put_decisions(self, generation: str, stretch: Stretch, content: Mapping[str, Any]) -> None:
        """Write last decisions and approved orders. Raises Superseded."""
        await self._write("put_decisions", generation, *_written(stretch), _pack(content))

    async def put_locks(self, generation: str, stretch: Stretch, locks: Sequence[Mapping[str, Any]]) -> None:
        """Add locks to their stream. Raises Superseded."""
        await self._write("put_locks", generation, *_written(stretch), self._settings.locks_max, _pack(locks))

    async def put_rules(self, generation: str, version: int, fields: Mapping[str, str]) -> None:
        """Write the rules in force. Raises Superseded."""
        await self._write("put_rules", generation, version, _pack(_flat(fields)))

    async def refresh_accounts(self, generation: str, version: int, accounts: Sequence[Mapping[str, Any]]) -> None:
        """Write figures that other rules changed. Raises Superseded."""
        await self._write("refresh_accounts", generation, version, _pack(accounts))

    async def finish(self, generation: str) -> None:
        """Drop what this generation has not met, and call the model whole. Raises Superseded."""
        cursor, found = await self.account_ids(0)
        while True:
            if found:
                await self._write("sweep", generation, *found)
            if cursor == 0:
                break
            cursor, found = await self.account_ids(cursor)
        await self._write("finish", generation)

    async def heartbeat(
        self, generation: str, writer: str, fresh_ms: float | None, behind: int | None, places: Sequence[Progress]
    ) -> int:
        """Say how far the model is; Redis' time in ms. Tried once: raises RedisError, Superseded."""
        fresh = "" if fresh_ms is None else f"{fresh_ms:.0f}"
        count = "" if behind is None else str(behind)
        reply = await self._once("heartbeat", generation, writer, fresh, count, _pack(places))
        _check(reply)
        return int(reply[1])

    async def _write(self, name: str, *arguments: Any) -> None:
        _check(await self._call(name, *arguments))

    async def _call(self, name: str, *arguments: Any) -> Sequence[Any]:
        return await self._persist(lambda: self._once(name, *arguments))

    async def _once(self, name: str, *arguments: Any) -> Sequence[Any]:
        if not self._loaded:
            await self._load()
        try:
            reply: Sequence[Any] = await self._redis.fcall(f"tidegate_{name}", 1, self._status_key, *arguments)
        except ResponseError as error:
            # A server that was started anew without its data has lost the functions too.
            self._loaded = "function not found" not in str(error).lower()
            raise
        self._answered()
        return reply

    async def _load(self) -> None:
        code = files("streams.mirror").joinpath("library.lua").read_text(encoding="utf-8")
        try:
            await self._redis.function_load(code, replace=True)
        except ResponseError as error:
            if "unknown command" in str(error).lower():
                raise ModelError(
                    f"{self._settings.address} has no functions: the mirror needs Redis 7, Valkey 7.2, or later"
                ) from None
            raise
        self._loaded = True

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Until it succeeds: repeats are harmless, and nothing waits for the mirror."""
        delay_ms = self._settings.retry_min_ms
        while True:
            try:
                found = await attempt()
            except (RedisError, OSError, TimeoutError) as error:
                self.failed(error)
                await asyncio.sleep(delay_ms / 1000)
                delay_ms = min(2 * delay_ms, self._settings.retry_max_ms)
            else:
                self._answered()
                return found

    def _answered(self) -> None:
        if self.fault is not None:
            log.info("redis %s answers again", self._settings.address)
        self.fault = None

    def failed(self, error: Exception) -> None:
        """Note that a request failed; told once per trouble."""
        if self.fault is None:
            log.warning("redis %s: %s; trying until it answers", self._settings.address, in_words(error))
        self.fault = in_words(error)
        self.on_error()


def in_words(error: BaseException) -> str:
    """A client's error for people."""
    return str(error) or type(error).__name__


def account_content(
    account_id: str, trading_state: str, fields: Mapping[str, str], *, is_locked: bool, **more: Any
) -> dict[str, Any]:
    """One account as ``library.lua`` takes it."""
    return {
        "id": account_id,
        "trading_state": trading_state,
        "fields": _flat(fields),
        "is_locked": is_locked,
        **{name: _flat(value) if isinstance(value, Mapping) else value for name, value in more.items()},
    }


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [text for pair in fields.items() for text in pair]


def _written(stretch: Stretch) -> tuple[str, int, int]:
    return stretch.place, stretch.start, stretch.end


def _check(reply: Sequence[Any]) -> None:
    if reply[0] not in _WRITTEN:
        raise Superseded(f"{reply[0]} {reply[1]}")
