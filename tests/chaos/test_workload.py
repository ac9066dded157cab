"""The load is the same for the same seed, and holds a bit of everything."""

from collections import Counter
from itertools import pairwise

import orjson

from streams.config import parse_config
from tests.chaos.desk import ACCOUNTS, configuration, partition_of, probes, toml_of
from tests.chaos.schedule import PARTITIONS
from tests.chaos.workload import Message, Workload

NOW_MS = 1_790_000_000_000
MANY = 30_000


def _messages(seed: int, count: int = MANY) -> list[Message]:
    workload = Workload(seed)
    return [workload.next(NOW_MS + 2 * number) for number in range(count)]


def test_the_same_seed_publishes_the_same(seed: int) -> None:
    assert _messages(seed, 3_000) == _messages(seed, 3_000)
    assert _messages(seed, 3_000) != _messages(seed + 1, 3_000)


def test_a_bit_of_everything(seed: int) -> None:
    messages = _messages(seed)
    kinds = Counter(message.kind for message in messages)
    for kind in ("entry, calm", "entry, locked", "exit", "fill, filled", "mark, falling", "command, unlock", "policy"):
        assert kinds[kind] >= 20, (kind, kinds)
    for kind in ("repeat", "misplaced", "malformed"):
        assert kinds[kind] >= MANY / 200, (kind, kinds)
    topics = Counter(message.topic for message in messages)
    assert topics["pnl"] > MANY / 2
    assert topics["signals"] > MANY / 8
    assert {message.topic for message in messages} == {"signals", "fills", "pnl", "controls", "policies"}


def test_misplaced_records_are_on_the_wrong_partition(seed: int) -> None:
    misplaced = [message for message in _messages(seed) if message.kind == "misplaced"]
    for message in misplaced:
        account_id = orjson.loads(message.value or b"")["account_id"]
        assert message.partition in range(PARTITIONS)
        if account_id in ACCOUNTS:
            assert message.partition != partition_of(account_id)


def test_sequences_only_rise(seed: int) -> None:
    marks: dict[str, list[int]] = {}
    for message in _messages(seed, 5_000):
        if message.topic == "pnl" and message.kind.startswith("mark"):
            value = orjson.loads(message.value or b"")
            marks.setdefault(value["account_id"], []).append(value["sequence"])
    assert len(marks) == len(ACCOUNTS)
    assert all(before < after for sequence in marks.values() for before, after in pairwise(sequence))


def test_the_configuration_is_one_and_probes_reach_every_partition() -> None:
    import tomllib

    table = configuration(NOW_MS / 1000)
    assert tomllib.loads(toml_of(table)) == table
    config = parse_config(table, {})
    assert set(ACCOUNTS) | set(probes().values()) == set(config.accounts)
    assert {partition_of(account): number for number, account in probes().items()} == {
        number: number for number in range(PARTITIONS)
    }
