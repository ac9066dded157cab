"""The world that a partition's owners live in: one log, their disks, and the faults that a seed deals out."""

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import orjson

from schemas.types import write_time
from streams.core.outputs import order_id_of
from streams.core.records import Output, Record
from streams.core.state import Change, decode_remembered
from streams.runtime.bounds import Bounds
from streams.runtime.log import LogError, Restored
from streams.runtime.store import Expiring, MemoryStore, StateRecord, Store, state_record

ACCOUNTS = ("main", "other", "third")
START_MS = 1_700_000_000_000


class Crash(BaseException):
    """The process died here. No ``except Exception`` survives it."""


@dataclass
class Faults:
    """What befalls one process: it dies or pauses when it passes its ``at``-th boundary, and nothing after that."""

    at: int
    pause: bool = False
    passed: int = 0
    paused: asyncio.Event = field(default_factory=asyncio.Event)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    where: str = ""

    def hit(self, name: str) -> bool:
        """Whether the fault strikes at this boundary."""
        self.passed += 1
        if self.passed != self.at:
            return False
        self.where = name
        return True

    async def boundary(self, name: str) -> None:
        """A boundary where a process may die or be paused."""
        if self.hit(name):
            if not self.pause:
                raise Crash(name)
            self.paused.set()
            await self.woken.wait()

    def dying_boundary(self, name: str) -> None:
        """A boundary amid synchronous work: a pause there looks to others like a death."""
        if self.hit(name):
            raise Crash(name)


@dataclass
class Topic:
    """What the broker holds of one partition."""

    epoch: int = 0
    changelog: list[Change | None] = field(default_factory=list)  # None: a marker, or an aborted record
    pending: list[Change] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    journal: list[bytes] = field(default_factory=list)


class SimulatedLog:
    """``Log`` with Kafka's promises: a transaction is whole or not there, and an older epoch can write nothing."""

    def __init__(self, topic: Topic, faults: Faults) -> None:
        self._topic = topic
        self._faults = faults
        self._epoch = -1
        self._outputs: list[Output] = []
        self._journal = b""

    async def fence(self) -> None:
        await self._faults.boundary("before fence")
        self._shut_out()
        await self._faults.boundary("after fence")

    def _shut_out(self) -> None:
        """All earlier owners, whatever becomes of this one."""
        self._topic.epoch += 1
        self._epoch = self._topic.epoch
        self._abort()

    async def changelog_end(self) -> int:
        await self._faults.boundary("end")
        return len(self._topic.changelog) + len(self._topic.pending)

    async def changelog(self, start: int, end: int) -> AsyncGenerator[Restored, None]:
        position = start
        while position < end:
            await self._faults.boundary("restore")
            upto = min(position + 7, len(self._topic.changelog))
            if upto == position:
                raise LogError("a restore waits for a transaction that nobody ends")
            yield Restored([*map(state_record, filter(None, self._topic.changelog[position:upto]))], upto)
            position = upto

    async def begin(self) -> None:
        await self._faults.boundary("begin")
        self._check_epoch()

    async def send(self, outputs: Iterable[Output], changes: Iterable[Change], journal: bytes) -> int:
        await self._faults.boundary("before send")
        self._check_epoch()
        self._outputs, self._journal = list(outputs), journal
        self._topic.pending = []
        for change in changes:
            await self._faults.boundary("each send")
            self._check_epoch()
            self._topic.pending.append(change)
        await self._faults.boundary("after send")
        return len(self._topic.changelog) + len(self._topic.pending)

    async def commit(self) -> None:
        await self._faults.boundary("before commit")
        self._check_epoch()
        self._topic.changelog += [*self._topic.pending, None]
        self._topic.pending = []
        self._topic.outputs += self._outputs
        self._topic.journal.append(self._journal)
        await self._faults.boundary("after commit")

    async def close(self) -> None:
        """Nothing to release: an open transaction is left for the next fence."""

    def _abort(self) -> None:
        self._topic.changelog += [None] * (len(self._topic.pending) + bool(self._topic.pending))
        self._topic.pending = []

    def _check_epoch(self) -> None:
        if self._epoch != self._topic.epoch:
            raise LogError("fenced by a later owner")


class SimulatedFeed:
    """``Feed`` of a standby: what is committed, whatever an owner is writing meanwhile."""

    def __init__(self, topic: Topic, faults: Faults) -> None:
        self._topic = topic
        self._faults = faults
        self._position = 0

    async def bounds(self, numbers: Collection[int]) -> Mapping[int, Bounds]:
        await self._faults.boundary("standby looks")
        return {number: Bounds(0, len(self._topic.changelog) + len(self._topic.pending)) for number in numbers}

    async def start(self, positions: Mapping[int, int]) -> None:
        self._position = next(iter(positions.values()), 0)

    async def next(self) -> Mapping[int, Restored]:
        records = self.readable()
        upto = min(self._position + 7, len(records))
        stretch = Restored([*map(state_record, filter(None, records[self._position : upto]))], upto)
        self._position = upto
        await self._faults.boundary("standby reads")
        # A fetch takes its time: owners come and go meanwhile.
        for _ in range(self._faults.passed % 12):
            await asyncio.sleep(0)
        return {0: stretch}

    def readable(self) -> Sequence[Change | None]:
        """What a reader is handed."""
        return self._topic.changelog

    async def close(self) -> None:
        """Nothing to release."""


class Lender:
    """Lends a disk out, to one at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lent = False

    def lend(self, _number: int) -> Store:
        assert not self._lent
        self._lent = True
        return self._store

    def hand_back(self, _number: int) -> None:
        self._lent = False


class SimulatedStore:
    """A disk: what was written before a death is there after it, a write is whole or not there."""

    def __init__(self, disk: MemoryStore, faults: Faults) -> None:
        self._disk = disk
        self._faults = faults

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._disk.get(table, key)

    @property
    def checkpoint(self) -> int:
        return self._disk.checkpoint

    def write(self, changes: Iterable[Change], checkpoint: int) -> None:
        self._faults.dying_boundary("before store write")
        self._disk.write(changes, checkpoint)
        self._faults.dying_boundary("after store write")

    def restore(self, records: Iterable[StateRecord], checkpoint: int) -> None:
        self._faults.dying_boundary("before store write")
        self._disk.restore(records, checkpoint)
        self._faults.dying_boundary("after store write")

    def due(self, before_ms: int, limit: int) -> Sequence[Expiring]:
        return self._disk.due(before_ms, limit)

    def wipe(self) -> None:
        self._disk.wipe()

    def close(self) -> None:
        """The disk stays."""


def new_disk() -> MemoryStore:
    """An empty one."""
    return MemoryStore(lambda value: decode_remembered(value).expires_ms)


class Disks:
    """The data directories that are still around, some of them old copies."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._disks = [new_disk()]

    def pick(self) -> MemoryStore:
        """For the next process: the last one's, an older copy of it, or a new one."""
        choice = self._random.random()
        if choice < 0.15:
            return new_disk()
        if choice < 0.35:
            return copy.deepcopy(self._random.choice(self._disks))
        return self._disks[-1]

    def keep(self, disk: MemoryStore) -> None:
        """Remember it as it is now: a zombie may go on writing to its own."""
        self._disks = [*self._disks[-3:], copy.deepcopy(disk)]


def desk(random: Random, count: int, number: int = 0) -> dict[str, list[Record]]:
    """What a small desk sent to one partition, by topic: marks that sink and recover, signals with repeats, fills,
    locks and unlocks."""
    topics: dict[str, list[Record]] = {"controls": [], "fills": [], "pnl": [], "signals": []}
    sent: list[dict[str, object]] = []
    make: Mapping[str, Callable[[str, int], dict[str, object]]] = {
        "pnl": lambda account, number: {
            "sequence": number,
            "equity": str(random.choice((10_000, 9_990, 9_900, 9_700))),
            "marks": {"BTC-USD": "100"},
        },
        "signals": lambda account, number: _signal(random, account, number, sent),
        "fills": lambda account, number: _fill(random, number, sent),
        "controls": lambda account, number: {
            "command_id": f"c-{random.randrange(count)}",
            "type": random.choice(("lock", "unlock", "halt", "resume")),
            "operator": "ann",
            "reason": "drill",
            "rebase": random.choice(("keep", "now")),
        },
    }
    for number in range(count):
        topic = random.choices(("pnl", "signals", "fills", "controls"), (5, 6, 4, 1))[0]
        account = random.choice(ACCOUNTS)
        at_ms = START_MS + 500 * number + random.randrange(400)
        value = make[topic](account, number)
        account = str(value.pop("account", account))
        time_field = {"pnl": "as_of", "signals": "created_at", "fills": "filled_at", "controls": "issued_at"}[topic]
        value = {time_field: write_time(at_ms)} | value | {"account_id": account}
        if topic == "signals":
            sent.append(value)
        records = topics[topic]
        payload = orjson.dumps(value) if random.random() > 0.03 else b"{"
        records.append(Record(topic, number, len(records), at_ms, account.encode(), payload))
    return topics


def _signal(random: Random, account: str, number: int, sent: list[dict[str, object]]) -> dict[str, object]:
    if sent and random.random() < 0.2:
        again = random.choice(sent)
        return again | {"account": again["account_id"]}
    side = random.choice(("buy", "sell"))
    return {
        "account": account,
        "signal_id": f"s-{number}",
        "strategy_id": "trend",
        "instrument": random.choice(("BTC-USD", "ETH-USD")),
        "side": side,
        "quantity": "1",
        "price": "100",
        "stop_loss": "98" if side == "buy" else "102",
    }


def _fill(random: Random, number: int, sent: list[dict[str, object]]) -> dict[str, object]:
    signal = random.choice(sent) if sent else {"account_id": "main", "signal_id": "s-none"}
    account, signal_id = str(signal["account_id"]), str(signal["signal_id"])
    return {
        "account": account,
        "fill_id": f"f-{number if random.random() > 0.2 else random.randrange(number + 1)}",
        "order_id": order_id_of(account, signal_id),
        "instrument": "BTC-USD",
        "side": random.choice(("buy", "sell")),
        "quantity": random.choice(("1", "0.5")),
        "price": "100",
        "status": random.choice(("filled", "partially_filled", "cancelled")),
    }
