"""State that an earlier release wrote, in the hands of this one: restored, decided on identically, refused if newer.

``v1/`` was recorded by the first release (see ``record.py``): its changelog, journal, RocksDB directory, and what it
decided next. That release wrote one record without a version, the bare number that says which unusable policies were
reported; this one writes it with a version and reads both. That is the upgrade that is real today. The tables' own
records have needed no second version yet, and inventing a change of them would prove an invention: instead the
recorded state is read by a program of version 2, whose step from 1 is made up and which shares every other line with
this one. When version 2 is real, its recorded state comes beside ``v1/``, and the tests below run over both.
"""

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest

import streams.core.state
import streams.runtime.policies
from streams.audit import replayed
from streams.config import parse_config
from streams.core.records import POLICIES
from streams.core.rules import Rules, rules_of
from streams.core.state import DECISIONS, OFFSETS_KEY, PARTITION, TABLES, Change, Format, decode_state, encode_state
from streams.runtime.policies import POLICIES_KEY, reported_offset, reported_record
from streams.runtime.store import MemoryStore, RocksEnvironment, RocksStore, change_of
from tests.unit.memory_log import Broker, MemoryLog
from tests.upgrade.record import IDENTITY, Dump, Life, expires, read

RECORDED = sorted(path for path in Path(__file__).parent.iterdir() if re.fullmatch(r"v[0-9]+", path.name))
ENVIRONMENT = RocksEnvironment(8 << 20)
Published = list[tuple[str, bytes | None, bytes | None]]


@pytest.fixture(params=RECORDED, ids=lambda path: path.name)
def dump(request: pytest.FixtureRequest) -> Dump:
    return read(request.param)


def broker_of(dump: Dump) -> Broker:
    """The changelog as the release left it."""
    return Broker(changelog=[None if one is None else change_of(*one) for one in dump.changelog])


def heir_of(dump: Dump, broker: Broker, store: Any) -> Life:
    """This program as the next owner; like any worker it has read all policies first."""
    life = Life(MemoryLog(broker), store, configured(dump))
    for turn in dump.turns[: dump.cut]:
        if turn.policy is not None:
            life.obey(turn.policy)
    return life


def configured(dump: Dump) -> Rules:
    return rules_of(parse_config(dump.config, {}))


async def decided(life: Life, dump: Dump, broker: Broker) -> list[Published]:
    """What the heir publishes, turn by turn, on what came next."""
    published: list[Published] = []
    for turn in dump.turns[dump.cut :]:
        before = len(broker.outputs)
        await life.take(turn)
        published.append([(one.topic, one.key, one.value) for one in broker.outputs[before:]])
    return published


def unpacked(dump: Dump, directory: Path) -> Path:
    with tarfile.open(dump.store) as archive:
        archive.extractall(directory, filter="data")
    return directory / "0"


# -- the state of an earlier release -------------------------------------------------------------------------------


def test_the_recorded_state_is_rich(dump: Dump) -> None:
    """Else restoring it would show little: every table, each kind of id, tombstones, and decisions of every kind."""
    held = {key: value for one in dump.changelog if one is not None for key, value in [one]}
    tables = {key.split(b"\0")[0].decode() for key in held}
    assert tables == {*TABLES, DECISIONS, PARTITION}
    kinds = {key.split(b"\0")[1].decode() for key in held if key.startswith(b"decisions\0")}
    assert kinds == {"signal", "fill", "command", "order"}
    assert None in held.values()
    assert any(b'"locks":[{' in (value or b"") for value in held.values())
    after = [topic for part in dump.outputs[dump.cut :] for topic, _, _ in part]
    assert set(after) == {"approved-orders", "rejected-signals", "account-locked", "account-events", "dead-letters"}


async def test_its_changelog_is_restored_and_decided_on_identically(dump: Dump) -> None:
    broker, store = broker_of(dump), MemoryStore(expires)
    life = heir_of(dump, broker, store)
    await life.partition.open()
    assert await decided(life, dump, broker) == dump.outputs[dump.cut :]


async def test_its_rocksdb_directory_is_opened_as_it_is(dump: Dump, tmp_path: Path) -> None:
    broker = broker_of(dump)
    store = RocksStore(unpacked(dump, tmp_path), IDENTITY, ENVIRONMENT, expires)
    assert store.checkpoint > 0
    life = heir_of(dump, broker, store)
    await life.partition.open()
    assert await decided(life, dump, broker) == dump.outputs[dump.cut :]
    await life.partition.close()


async def test_a_directory_of_another_layout_is_restored_from_the_changelog(
    dump: Dump, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.runtime.store.LAYOUT_VERSION", 1_000)
    broker = broker_of(dump)
    store = RocksStore(unpacked(dump, tmp_path), IDENTITY, ENVIRONMENT, expires)
    assert store.checkpoint == 0
    life = heir_of(dump, broker, store)
    await life.partition.open()
    assert await decided(life, dump, broker) == dump.outputs[dump.cut :]
    await life.partition.close()


def test_its_journal_makes_every_decision_again(dump: Dump) -> None:
    records = [record for turn in dump.turns for record in turn.records]
    inputs = [one for one in records if one.topic != POLICIES]
    policies = [one for one in records if one.topic == POLICIES]
    again = [
        (one.topic, one.key, one.value)
        for transaction in replayed(0, inputs, dump.journal, policies, configured(dump), lambda _account: 0)
        for one in transaction.commit.outputs
    ]
    # Dead letters of policies are no part of a fold: the owner of partition 0 adds them.
    before = [one for part in dump.outputs for one in part if b'"topic":"policies"' not in (one[2] or b"")]
    assert again == before


# -- the real step: the record of reported policies ----------------------------------------------------------------


async def test_the_bare_number_is_read_and_written_with_a_version(dump: Dump) -> None:
    broker, store = broker_of(dump), MemoryStore(expires)
    life = heir_of(dump, broker, store)
    await life.partition.open()
    held = store.get(PARTITION, POLICIES_KEY)
    assert held is not None
    reported = life.partition.reported_policies
    assert reported == reported_offset(held) >= 0
    assert reported_offset(reported_record(reported)) == reported
    await decided(life, dump, broker)
    # The recorded session has an unusable policy after the cut, so the record was written anew.
    assert life.partition.reported_policies > reported
    assert orjson.loads(store.get(PARTITION, POLICIES_KEY) or b"")["v"] == streams.core.state.FORMAT.version


# -- a rehearsal of version 2 --------------------------------------------------------------------------------------


@pytest.fixture
def version_2(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """This program as its successor: version 2, with a step from 1. Returns the tables whose records took the step."""
    stepped: list[str] = []

    def step(table: str, raw: dict[str, Any]) -> dict[str, Any]:
        stepped.append(table)
        assert raw["v"] == 1
        return raw

    types = {**dict(zip(TABLES, map(type, streams.core.state.NEW_ACCOUNT), strict=True))}
    types[DECISIONS] = streams.core.state.Remembered
    successor = Format(2, types, {1: step})
    monkeypatch.setattr(streams.core.state, "FORMAT", successor)
    monkeypatch.setattr(streams.runtime.policies, "FORMAT", successor)
    return stepped


async def test_version_2_reads_version_1_and_the_two_live_side_by_side(
    dump: Dump, version_2: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, store = broker_of(dump), MemoryStore(expires)
    life = heir_of(dump, broker, store)
    await life.partition.open()
    await life.take(next(turn for turn in dump.turns[dump.cut :] if turn.policy is None))
    assert {value[:6] for value in store.records().values()} >= {b'{"v":1', b'{"v":2'}

    broker, store = broker_of(dump), MemoryStore(expires)
    life = heir_of(dump, broker, store)
    await life.partition.open()
    assert await decided(life, dump, broker) == dump.outputs[dump.cut :]
    assert set(version_2) == {*TABLES, DECISIONS}

    again = MemoryStore(expires)
    heir = heir_of(dump, broker, again)
    await heir.partition.open()
    assert again.records() == store.records()
    assert heir.partition.offsets == life.partition.offsets

    monkeypatch.undo()  # back to this release
    with pytest.raises(ValueError, match=r"unknown version.*this release reads 1\. Run the release that wrote it"):
        await heir_of(dump, broker, MemoryStore(lambda _value: 0)).partition.open()


def test_steps_follow_each_other_and_keep_every_digit() -> None:
    class Old(msgspec.Struct):
        price: str
        side: str

    class New(msgspec.Struct, omit_defaults=True):
        limit: Any
        buy: bool

    digits = "0.1234567890123456789012345678901234"
    form = Format(
        3,
        {"orders": New},
        {
            1: lambda _table, raw: {**raw, "limit": raw["price"]},
            2: lambda _table, raw: {**raw, "buy": raw["side"] == "buy"},
        },
    )
    old = Format(1, {"orders": Old}, {}).encode(Old(digits, "buy"))
    assert form.decode("orders", old) == New(digits, True)
    assert form.encode(form.decode("orders", old)) == b'{"v":3,"limit":"%s","buy":true}' % digits.encode()
    with pytest.raises(ValueError, match="reads 1 to 3"):
        form.decode("orders", b'{"v":4,"limit":"1","buy":true}')
    with pytest.raises(ValueError, match="cannot be read"):
        form.decode("orders", b'{"v":1}')


# -- state of a later release --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        (PARTITION, OFFSETS_KEY, b'{"v":99,"offsets":{}}'),
        (PARTITION, POLICIES_KEY, b'{"v":99,"reported":3}'),
        ("accounts", b"acc0", b'{"v":99}'),
        ("orders", b"acc0", b'{"v":99}'),
    ],
    ids=["offsets", "policies", "accounts", "orders"],
)
async def test_a_later_version_stops_the_worker_before_it_decides(
    dump: Dump, table: str, key: bytes, value: bytes
) -> None:
    broker = broker_of(dump)
    broker.changelog += [Change(table, key, value), None]
    life = heir_of(dump, broker, MemoryStore(expires))

    async def serve() -> None:
        await life.partition.open()
        await decided(life, dump, broker)

    with pytest.raises(ValueError, match=r"unknown version.*99.*Run the release that wrote it, or a later one"):
        await serve()
    assert not any(b"acc0" in one.value for one in broker.outputs if table != PARTITION)


def test_the_present_records_are_of_the_present_version() -> None:
    value = encode_state(streams.core.state.Standing(halted=True))
    assert json.loads(value)["v"] == streams.core.state.STATE_VERSION
    assert decode_state("accounts", value).halted
