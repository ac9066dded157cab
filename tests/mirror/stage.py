"""A model in a real Redis, fed with what the pure gate makes of a desk's day: no broker, every record a true one."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Self

import orjson
from msgspec.structs import replace

from schemas.types import write_time
from streams.core.records import APPROVED, LOCKED, REJECTED, Record
from streams.core.rules import Rules
from streams.core.state import DECISIONS, NEW_ACCOUNT, PARTITION, changes_of, encode_state
from streams.mirror.content import accounts_content, decisions_content, locks_content, refreshed, touched
from streams.mirror.last_look import LastLook, Look
from streams.mirror.model import Model, Opened, Progress, Stretch
from streams.mirror.settings import MirrorSettings
from streams.mirror.view import rules_view
from streams.runtime import clock
from streams.runtime.store import changelog_key
from streams.runtime.topics import STATE
from tests.unit.desk import ACCOUNT, Desk, Json, Said

SOURCE = "cluster/tidegate"


def now_text() -> str:
    """The wall clock: Redis compares with its own."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Stage:
    """One model, its desk, and the last look at it."""

    def __init__(self, settings: MirrorSettings, desk: Desk) -> None:
        self.desk = desk
        self.settings = settings
        self.model = Model(settings, source=SOURCE)
        self.looker = LastLook(self.model._redis, prefix=settings.prefix, timeout_ms=5_000)
        self.generation = ""
        self.positions: dict[str, int] = {}
        self._told: list[tuple[str, Json]] = []
        self._remembered: set[bytes] = set()
        self._before = NEW_ACCOUNT

    async def __aenter__(self) -> Self:
        self._begin(await self.model.open())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.model.close()

    def _begin(self, opened: Opened) -> None:
        self.generation = opened.generation
        self.positions = dict(opened.positions)
        self._before, self._remembered = NEW_ACCOUNT, set()

    def heard(self, said: Said) -> Said:
        """What the gate published, for the next :meth:`publish`."""
        self._told += [(one.topic, one.value) for one in said]
        return said

    @property
    def rules(self) -> Rules:
        """As a live gate has them: a replay always goes by the records' clock."""
        return replace(self.desk.gate.rules, clock="wall")

    # -- what a session would write --------------------------------------------------------------------------------

    async def publish(self, *, fresh_age_ms: float | None = 0) -> Self:
        """Write all that is new: rules, state, decisions, locks; then say how fresh it is."""
        await self.put_rules()
        await self.put_state()
        for topic in (APPROVED, REJECTED, LOCKED):
            values = [value for told, value in self._told if told == topic]
            if values:
                await self.put_outputs(topic, values)
        self._told = []
        await self.model.finish(self.generation)
        await self.refresh()
        if fresh_age_ms is not None:
            await self.beat(fresh_age_ms)
        return self

    async def put_rules(self) -> None:
        rules = self.rules
        await self.model.put_rules(self.generation, rules.version, rules_view(rules))

    async def refresh(self) -> None:
        """As a session does when rules change: configured accounts, with or without state."""
        rules = self.rules
        held = await self.model.read_state(self.generation, sorted(rules.accounts))
        accounts = [refreshed(account_id, parts, rules) for account_id, parts in held.items()]
        await self.model.refresh_accounts(self.generation, rules.version, accounts)

    def state_records(self) -> list[Record]:
        """The changelog records of what has changed since the last time."""
        after = self.desk.account
        changes = list(changes_of(ACCOUNT, self._before, after))
        records = [(changelog_key(change.table, change.key), change.value) for change in changes]
        for key, remembered in self.desk.gate._remembered.items():
            if key not in self._remembered:
                self._remembered.add(key)
                records.append((changelog_key(DECISIONS, key), encode_state(remembered)))
        self._before = after
        records.append((changelog_key(PARTITION, b"offsets"), b'{"v":1,"offsets":{}}'))
        start = self.positions.get(f"{STATE}/0", 0)
        now_ms = clock.now_ms()
        return [Record(STATE, 0, start + n, now_ms, key, value) for n, (key, value) in enumerate(records)]

    async def put_state(self, records: Sequence[Record] | None = None) -> Stretch:
        """Write a batch of the changelog; the stretch that it was."""
        batch = self.state_records() if records is None else records
        stretch = Stretch(f"{STATE}/0", batch[0].offset, batch[-1].offset + 1)
        await self.put_batch(stretch, batch)
        return stretch

    async def put_batch(self, stretch: Stretch, batch: Sequence[Record]) -> None:
        changes = touched(batch)
        held = await self.model.read_state(self.generation, list(changes.parts))
        content = accounts_content(changes, held, self.rules)
        await self.model.put_accounts(self.generation, stretch, content)
        self.positions[stretch.place] = max(stretch.end, self.positions.get(stretch.place, 0))

    async def put_outputs(self, topic: str, values: Sequence[Json], start: int | None = None) -> None:
        """Write records of one of the gate's outputs."""
        place = f"{topic}/0"
        first = self.positions.get(place, 0) if start is None else start
        batch = [
            Record(topic, 0, first + n, 0, value["account_id"].encode(), orjson.dumps(value))
            for n, value in enumerate(values)
        ]
        stretch = Stretch(place, first, first + len(batch))
        if topic == LOCKED:
            await self.model.put_locks(self.generation, stretch, locks_content(batch)[0])
        else:
            await self.model.put_decisions(self.generation, stretch, decisions_content(topic, batch)[0])
        self.positions[place] = stretch.end

    async def beat(self, fresh_age_ms: float = 0) -> None:
        """Say that the model was complete ``fresh_age_ms`` ago, by Redis' clock."""
        seconds, micros = await self.model._redis.time()
        fresh_ms = seconds * 1000 + micros // 1000 - fresh_age_ms
        places = [Progress(place, position, position) for place, position in self.positions.items()]
        await self.model.heartbeat(self.generation, "stage", fresh_ms, 0, places)

    # -- what executors and screens see ----------------------------------------------------------------------------

    async def look(self, order_id: str, account_id: str = ACCOUNT) -> Look:
        return await self.looker.ask(account_id, order_id)

    async def hash(self, key: str) -> dict[str, str]:
        found = await self.model._redis.hgetall(f"{self.settings.prefix}{key}")
        return {str(name): str(value) for name, value in found.items()}

    async def order(self, **fields: Any) -> str:
        """Have an order approved and published; its id."""
        approved = self.heard(self.desk.signal(created_at=write_time(clock.now_ms()), **fields)).approved
        await self.publish()
        order_id: str = approved["order_id"]
        return order_id
