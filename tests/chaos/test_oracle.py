"""The oracle finds what it is there for: a clean run is clean, and what is taken away, doubled, moved or changed shows.

A mutation of an output must show as exactly one harm of the right kind. What cannot show is named where it is left out.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import copy
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.chaos.memory_run import MemoryRecording, clean_run, record_run
from tests.chaos.oracle import Part, Verdict, judge, judge_partition, judge_recording, main, verdict_of
from tests.chaos.oracle_findings import HARM
from tests.chaos.oracle_replay import FORWARDED
from tests.chaos.recording import INPUTS, JOURNAL, OUTPUTS, POLICIES, STATE, Entry, Rec, write_recording
from tests.model import strategies
from tests.model.naive import read_time, write_time

# Between them they have every kind of output and event, forwards, policies' dead letters, rolls and forgotten ids.
SEEDS = (83, 23, 2, 106)
PARTITIONS = (0, 1)
Mutation = Callable[[list[Rec], int], list[Rec]]
Json = dict[str, Any]


@cache
def clean(seed: int) -> MemoryRecording:
    return clean_run(seed, records=140)


@cache
def judged(seed: int, partition: int) -> Part:
    return judge_partition(clean(seed), partition)


def harms(verdict: Verdict) -> dict[str, int]:
    return {kind: getattr(verdict, kind) for kind in HARM if getattr(verdict, kind)}


def mutated(seed: int, topic: str, partition: int, records: list[Rec]) -> Verdict:
    """The verdict on a clean run in which one partition of one topic holds other records."""
    other = copy(clean(seed))
    other.topics = {**other.topics, topic: {**other.topics[topic], partition: records}}
    # Dead letters lie anywhere; the records of the other topics are only looked at with their own partition.
    parts = [
        judge_partition(other, number) if number == partition or topic == "dead-letters" else judged(seed, number)
        for number in PARTITIONS
    ]
    return verdict_of(other, parts)


def places(topic: str, each: int = 4) -> Iterator[tuple[int, int, int, list[Rec]]]:
    """Some positions in a topic, the first and the last among them: seed, partition, index and the records there."""
    rng = Random(topic)
    for seed in SEEDS:
        for partition in PARTITIONS:
            count = len(clean(seed).topics[topic][partition])
            for at in sorted({0, count - 1, *(rng.randrange(count) for _ in range(each - 2))} if count else ()):
                yield seed, partition, at, clean(seed).topics[topic][partition]


# ------------------------------------------------------------------------------------------------------- mutations


def drop(records: list[Rec], at: int) -> list[Rec]:
    return records[:at] + records[at + 1 :]


def duplicate(records: list[Rec], at: int) -> list[Rec]:
    """The record comes again at the next offset; all that follow move up."""
    again = [rec._replace(offset=rec.offset + 1) for rec in records[at:]]
    return [*records[: at + 1], *again]


def swap(records: list[Rec], at: int, other: int | None = None) -> list[Rec]:
    """Two records change places; offsets belong to the places."""
    to = other if other is not None else (at + 1 if at + 1 < len(records) else at - 1)
    moved = list(records)
    moved[at] = records[to]._replace(offset=records[at].offset)
    moved[to] = records[at]._replace(offset=records[to].offset)
    return moved


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to everything in a JSON value that is no object or list, and to those that are empty."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = False
    for name, item in items:
        found = True
        yield from leaves(item, (*path, name))
    if not found:
        yield path


def flipped(value: Any, path: tuple[Any, ...]) -> Any:
    """The value with another one at the end of the path."""
    if not path:
        match value:
            case bool():
                return not value
            case int():
                return value + 1
            case str():
                # The last digit of an amount, the last letter of a name: what is easily overlooked.
                return value[:-1] + ("1" if value[-1:] != "1" else "2")
            case list():
                return ["x"]
            case dict():
                return {"x": "1"}
            case _:
                return "1"
    inside = copy(value)
    inside[path[0]] = flipped(value[path[0]], path[1:])
    return inside


def flip(records: list[Rec], at: int, path: tuple[Any, ...]) -> list[Rec]:
    changed = list(records)
    value = flipped(json.loads(records[at].value or b""), path)
    changed[at] = records[at]._replace(value=json.dumps(value, separators=(",", ":")).encode())
    return changed


# ------------------------------------------------------------------------------------------------------ clean runs


@pytest.mark.parametrize("seed", SEEDS)
def test_a_clean_run_is_clean(seed: int) -> None:
    verdict = judge_recording(clean(seed))
    assert verdict.findings == ()
    assert harms(verdict) == {}
    decisions = [*clean(seed).topics["approved-orders"].values(), *clean(seed).topics["rejected-signals"].values()]
    assert verdict.decisions == sum(map(len, decisions)) > 0
    assert verdict.events > 120
    assert verdict.redeliveries > 0


def test_the_clean_runs_have_something_of_everything() -> None:
    kinds: set[str] = set()
    for seed in SEEDS:
        for topic in OUTPUTS:
            for records in clean(seed).topics[topic].values():
                for rec in records:
                    value = json.loads(rec.value or b"")
                    kinds |= {topic, str(value.get("type")), str(value.get("reason"))}
        for topic in INPUTS:
            kinds |= {"forwarded" for records in clean(seed).topics[topic].values() for rec in records if rec.headers}
        state = [rec for records in clean(seed).topics[STATE].values() for rec in records]
        kinds |= {"forgotten" for rec in state if rec.value is None}
        kinds |= {(rec.key or b"").partition(b"\0")[0].decode() for rec in state}
    wanted = {*OUTPUTS, "forwarded", "forgotten", "accounts", "drawdown", "positions", "orders", "decisions"}
    wanted |= {"UNLOCKED", "HALTED", "RESUMED", "PROFILE_CHANGED", "WARNING", "UNKNOWN_ORDER", "FILL_UNUSABLE"}
    wanted |= {"PERIOD_CLOSED", "DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN", "TRAILING_DRAWDOWN", "MANUAL", "POLICY_UNUSABLE"}
    wanted |= {"MALFORMED", "SCHEMA", "TOO_OLD", "DUPLICATE_SIGNAL", "DUPLICATE_FILL", "STALE_SEQUENCE"}
    wanted |= {"OVERFILL", "LATE_FILL", "ORDER_RELEASED"}
    assert wanted <= kinds, wanted - kinds


# --------------------------------------------------------------------------------------------------------- outputs


def kind_of(topic: str, otherwise: str) -> str:
    return "dead_letters_wrong" if topic == "dead-letters" else otherwise


@pytest.mark.parametrize("topic", OUTPUTS)
def test_a_missing_output_is_one_loss(topic: str) -> None:
    for seed, partition, at, records in places(topic):
        found = harms(mutated(seed, topic, partition, drop(records, at)))
        # Without its unlock an account seems locked to the line that knows no model, and what follows seems wrong.
        found.pop("approvals_after_lock", None)
        assert found == {kind_of(topic, "lost"): 1}, (partition, at)


@pytest.mark.parametrize("topic", OUTPUTS)
def test_an_output_that_came_twice_is_one_duplicate(topic: str) -> None:
    for seed, partition, at, records in places(topic):
        found = harms(mutated(seed, topic, partition, duplicate(records, at)))
        assert found == {kind_of(topic, "duplicated"): 1}, (partition, at)


@pytest.mark.parametrize("topic", OUTPUTS)
def test_outputs_that_changed_places_are_out_of_order(topic: str) -> None:
    for seed, partition, at, records in places(topic):
        # Dead letters of two input partitions may lie in one and have no order between them: nothing could be wrong.
        alike = [to for to in range(at + 1, len(records)) if _source(topic, records[to]) == _source(topic, records[at])]
        if alike:
            found = harms(mutated(seed, topic, partition, swap(records, at, alike[0])))
            found.pop("approvals_after_lock", None)
            # One stands too early; where others lie between them, one too late as well.
            assert found in [{kind_of(topic, "contradicted"): count} for count in (1, 2)], (partition, at)


def _source(topic: str, rec: Rec) -> Any:
    value = json.loads(rec.value or b"")
    return (value["topic"] == "policies", value["partition"]) if topic == "dead-letters" else None


@pytest.mark.parametrize("topic", OUTPUTS)
def test_any_field_of_an_output_that_differs_is_one_contradiction(topic: str) -> None:
    rng = Random(topic)
    for seed, partition, at, records in places(topic, each=3):
        value = json.loads(records[at].value or b"")
        every = [path for path in leaves(value) if not _is_free(topic, value, path)]
        for path in rng.sample(every, min(len(every), 5)):
            found = harms(mutated(seed, topic, partition, flip(records, at, path)))
            # The second line believes what a lock, an unlock or an approval says of itself.
            found.pop("approvals_after_lock", None)
            assert found == {kind_of(topic, "contradicted"): 1}, (partition, at, path)


def _is_free(topic: str, value: Json, path: tuple[Any, ...]) -> bool:
    """Whether the contract leaves it open what is written there: sentences for people, and details for them."""
    if path[0] != "detail" or topic not in ("dead-letters", "account-events"):
        return False
    if topic == "dead-letters" or value["type"] not in ("PERIOD_CLOSED", "WARNING"):
        return True
    return value["type"] == "WARNING" and value["order_id"] is not None


@pytest.mark.parametrize("topic", OUTPUTS)
def test_an_output_under_another_key_or_without_its_value_is_found(topic: str) -> None:
    for seed, partition, at, records in places(topic, each=3):
        for change in ({"key": b"another"}, {"value": b"{"}, {"value": b"[]"}, {"value": None}):
            changed = [*records[:at], records[at]._replace(**change), *records[at + 1 :]]
            found = harms(mutated(seed, topic, partition, changed))
            assert found.keys() & {kind_of(topic, "contradicted")}, (partition, at, change)


def test_a_dead_letter_without_its_sentence_is_wrong() -> None:
    for seed, partition, at, records in places("dead-letters"):
        value = json.loads(records[at].value or b"") | {"detail": ""}
        changed = [*records[:at], records[at]._replace(value=json.dumps(value).encode()), *records[at + 1 :]]
        assert harms(mutated(seed, "dead-letters", partition, changed)) == {"dead_letters_wrong": 1}


def test_a_signal_that_is_both_approved_and_rejected_was_decided_twice() -> None:
    for seed, partition, at, records in places("approved-orders"):
        rejected = clean(seed).topics["rejected-signals"][partition]
        also = records[at]._replace(offset=rejected[-1].offset + 1 if rejected else 0)
        found = harms(mutated(seed, "rejected-signals", partition, [*rejected, also]))
        assert found.pop("duplicated") == 1
        # It also comes after later ones.
        assert found.keys() <= {"contradicted"}


# --------------------------------------------------------------------------------------------------------- journal


def covered(rec: Rec) -> int:
    ranges = json.loads(rec.value or b"")["offsets"].values()
    return sum(last - first + 1 for first, last in ranges)


def test_a_missing_journal_record_loses_what_it_covered() -> None:
    for seed, partition, at, records in places(JOURNAL):
        if covered(records[at]):
            found = harms(mutated(seed, JOURNAL, partition, drop(records, at)))
            # Offsets without a record are covered too, where a range spans them.
            assert 1 <= found["lost"] <= covered(records[at])


def test_a_journal_record_that_comes_twice_applied_its_inputs_twice() -> None:
    for seed, partition, at, records in places(JOURNAL):
        if covered(records[at]):
            found = harms(mutated(seed, JOURNAL, partition, duplicate(records, at)))
            assert found == {"duplicated": covered(records[at])}


def test_journal_records_that_changed_places_do_not_follow() -> None:
    for seed, partition, at, records in places(JOURNAL):
        found = mutated(seed, JOURNAL, partition, swap(records, at))
        assert found.harm, (partition, at)


def test_any_field_of_the_journal_that_differs_is_found() -> None:
    for seed, partition, at, records in places(JOURNAL):
        value = json.loads(records[at].value or b"")
        for path in leaves(value):
            if path in (("now",), ("policy_version",)):
                continue
            assert mutated(seed, JOURNAL, partition, flip(records, at, path)).harm, (partition, at, path)
        for change in ({"now": "2001-01-01T00:00:00Z"}, {"now": None}, {"policy_version": 10**6}, {"more": 1}):
            changed = [
                *records[:at],
                records[at]._replace(value=json.dumps(value | change).encode()),
                *records[at + 1 :],
            ]
            assert mutated(seed, JOURNAL, partition, changed).harm, (partition, at, change)


def test_a_moment_or_a_policy_version_that_decided_something_cannot_be_another() -> None:
    """A transaction of equity marks alone, that rolled, warned and locked nothing, would be the same at another moment.

    The journal's own timestamp bounds that moment, and a policy version never goes back; within that, what decided
    nothing may say what it likes: nothing that anyone can see came from it.
    """
    tried = 0
    for seed, partition, at, records in places(JOURNAL, each=8):
        value = json.loads(records[at].value or b"")
        if not _decided(seed, partition, value):
            continue
        tried += 1
        for path in (("now",), ("policy_version",)):
            if path == ("now",):
                body = json.dumps(value | {"now": write_time(read_time(value["now"]) + 1)}).encode()
                changed = [*records[:at], records[at]._replace(value=body), *records[at + 1 :]]
            else:
                changed = flip(records, at, path)
            assert mutated(seed, JOURNAL, partition, changed).harm, (partition, at, path)
    assert tried > 5


def _decided(seed: int, partition: int, journal: Json) -> bool:
    """Whether a rejection names one of its signals and its moment."""
    if "signals" not in journal["offsets"]:
        return False
    first, last = journal["offsets"]["signals"]
    values = [json.loads(rec.value or b"") for rec in clean(seed).topics["rejected-signals"][partition]]
    return any(
        first <= value["basis"]["offsets"]["signals"] <= last and value["decided_at"] == journal["now"]
        for value in values
    )


# ----------------------------------------------------------------------------------------------------------- state


@pytest.mark.parametrize("mutation", [drop, duplicate])
def test_a_change_that_is_missing_or_doubled_is_a_mismatch(mutation: Mutation) -> None:
    for seed, partition, at, records in places(STATE, each=6):
        if mutation is drop and records[at].key == b"partition\0policies":
            # How far policies were reported: the next one says it again, and the dead letters themselves are counted.
            continue
        if mutation is drop and records[at].value == next(
            (rec.value for rec in reversed(records[:at]) if rec.key == records[at].key), None
        ):
            # It says what the changelog says already: a restore is the same without it.
            continue
        found = harms(mutated(seed, STATE, partition, mutation(records, at)))
        assert found.keys() == {"state_mismatches"}, (partition, at, records[at])


def test_changes_that_moved_to_another_transaction_are_mismatches() -> None:
    for seed, partition, at, records in places(STATE, each=6):
        # Within one transaction the order of different keys says nothing: all of them are there at once or not at all.
        later = [to for to in range(at + 1, len(records)) if records[to].key == b"partition\0offsets"]
        if len(later) > 1:
            found = harms(mutated(seed, STATE, partition, swap(records, at, later[-1])))
            assert found.keys() == {"state_mismatches"}, (partition, at)


def test_any_field_of_the_state_that_differs_is_a_mismatch() -> None:
    rng = Random(STATE)
    tables: set[bytes] = set()
    for seed, partition, at, records in places(STATE, each=12):
        value = records[at].value
        if value is None:
            continue
        tables.add((records[at].key or b"").partition(b"\0")[0])
        paths = list(leaves(json.loads(value)))
        for path in rng.sample(paths, min(len(paths), 4)):
            if path[0] == "approvals" and clean(seed).table["limits"].get("rate_limit") is None:
                # Times of approvals are for the rate limit alone.
                continue
            if path[-1] == "average_price":
                # Its 34th digit is a matter of rounding, and no check depends on it: the flip has to be larger.
                continue
            found = harms(mutated(seed, STATE, partition, flip(records, at, path)))
            assert found.keys() == {"state_mismatches"}, (partition, at, path, value)
    assert tables == {b"accounts", b"drawdown", b"positions", b"orders", b"decisions", b"partition"}


def test_a_database_that_differs_from_the_changelog_is_a_mismatch() -> None:
    rng = Random("stores")
    for seed in SEEDS[:2]:
        recording = clean(seed)
        for number, store in enumerate(recording.databases):
            for at in rng.sample(range(len(store.entries)), 8):
                key, value = store.entries[at]
                for entries in (
                    (*store.entries[:at], *store.entries[at + 1 :]),
                    (*store.entries[:at], Entry(key, value + b" "), *store.entries[at + 1 :]),
                    (*store.entries[:at], Entry(key + b"x", value), *store.entries[at + 1 :]),
                ):
                    other = copy(recording)
                    other.databases = list(recording.databases)
                    other.databases[number] = store._replace(entries=entries)
                    # White space after its JSON changes nothing in what a checkpoint says.
                    is_checkpoint = key == b"\0meta" and entries[at].value == value + b" "
                    assert (harms(judge_recording(other)).keys() == {"state_mismatches"}) != is_checkpoint


def compacted(recording: MemoryRecording) -> MemoryRecording:
    """As Kafka may leave it: of each key only the last record, in what was cleaned; here three quarters."""
    other = copy(recording)
    other.topics = dict(recording.topics)
    other.topics["state"] = {}
    for partition, records in recording.topics["state"].items():
        clean_to = len(records) * 3 // 4
        last = {rec.key: rec.offset for rec in records[:clean_to]}
        kept = [rec for rec in records[:clean_to] if last[rec.key] == rec.offset]
        other.topics["state"][partition] = [*kept, *records[clean_to:]]
    return other


@pytest.mark.parametrize("seed", SEEDS)
def test_a_compacted_changelog_is_no_harm_if_it_may_be(seed: int) -> None:
    recording = compacted(clean(seed))
    assert harms(judge_recording(recording, compacted=True)) == {}
    assert harms(judge_recording(clean(seed), compacted=True)) == {}
    assert harms(judge_recording(recording)).keys() == {"state_mismatches"}


def test_policies_alone_are_told_from_the_transaction_before_them_whose_offsets_were_compacted_away() -> None:
    config, session = strategies.generate(SEEDS[0], 140)
    after_ms = max(record.timestamp_ms for record in session)
    # More than a stretch of the run holds, so that the last of them come alone.
    unusable = [strategies.Record(POLICIES, b"weather", b"{}", after_ms, offset) for offset in range(15)]
    recording = record_run(config | {"clock": "wall"}, [*session, *unusable], Random(SEEDS[0]), 2)
    assert json.loads(recording.topics[JOURNAL][0][-1].value or b"")["offsets"] == {}
    records = recording.topics[STATE][0]
    last = {rec.key: rec.offset for rec in records}
    thinned = copy(recording)
    thinned.topics = recording.topics | {
        STATE: recording.topics[STATE] | {0: [rec for rec in records if last[rec.key] == rec.offset]}
    }
    for one, how in ((recording, False), (recording, True), (thinned, True)):
        assert judge_partition(one, 0, compacted=how).findings.counts == {}


@pytest.mark.parametrize("seed", SEEDS)
def test_what_compaction_would_have_kept_is_missed(seed: int) -> None:
    recording = compacted(clean(seed))
    for partition, records in recording.topics["state"].items():
        # A deletion that is missing only keeps an id for longer; the databases would tell.
        last = {rec.key: at for at, rec in enumerate(records) if rec.key != b"partition\0policies"}
        standing = [at for at in last.values() if records[at].value is not None]
        for at in Random(seed).sample(standing, min(12, len(standing))):
            value = (records[at].value or b"").replace(b"{", b'{"x":1,', 1)
            for instead in ([], [records[at]._replace(value=value)]):
                changed = [*records[:at], *instead, *records[at + 1 :]]
                other = copy(recording)
                other.databases = []
                other.topics = recording.topics | {"state": recording.topics["state"] | {partition: changed}}
                told = judge_partition(other, partition, compacted=True).findings.counts
                assert told["state_mismatches"] > 1, records[at]  # one says that there is no database


def test_a_partition_without_a_database_that_is_up_to_date_is_a_mismatch() -> None:
    recording = copy(clean(SEEDS[0]))
    recording.databases = recording.databases[1:]
    assert harms(judge_recording(recording)) == {"state_mismatches": 1}


def test_an_old_database_beside_the_right_one_is_no_harm() -> None:
    recording = copy(clean(SEEDS[0]))
    old = recording.databases[0]
    meta = json.loads(old.entries[0].value)
    empty = old._replace(worker="old", entries=(Entry(b"\0meta", json.dumps([*meta[:5], 0]).encode()),))
    recording.databases = [empty, *recording.databases]
    assert harms(judge_recording(recording)) == {}


# ---------------------------------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize("topic", INPUTS)
@pytest.mark.parametrize("mutation", [drop, duplicate])
def test_an_input_that_is_gone_or_doubled_does_not_go_unnoticed(topic: str, mutation: Mutation) -> None:
    for seed, partition, at, records in places(topic, each=3):
        assert mutated(seed, topic, partition, mutation(records, at)).harm, (seed, partition, at)


@pytest.mark.parametrize("topic", ["controls", "pnl", "signals"])
def test_inputs_of_one_account_that_changed_places_do_not_go_unnoticed(topic: str) -> None:
    """Of two accounts they may: what neither a decision nor a dead letter names by its offset has no place to lose.

    So may two fills of one transaction: they add up to the same position.
    """
    tried = 0
    for seed, partition, at, records in places(topic):
        whole = [rec for rec in records[at:] if rec.key == records[at].key is not None and is_sound(rec)]
        if len(whole) > 1 and whole[0] is records[at]:
            tried += 1
            other = records.index(whole[1])
            assert mutated(seed, topic, partition, swap(records, at, other)).harm, (seed, partition, at, other)
    assert tried


def is_sound(rec: Rec) -> bool:
    """Whether it is JSON: two that are not may be the same."""
    try:
        return isinstance(json.loads(rec.value or b""), dict)
    except ValueError:
        return False


def test_a_record_for_another_partition_is_forwarded_once_as_it_was() -> None:
    tried = 0
    for seed in SEEDS[:3]:
        for topic in INPUTS:
            for partition in PARTITIONS:
                records = clean(seed).topics[topic][partition]
                for at, rec in enumerate(records):
                    if not rec.headers:
                        continue
                    tried += 1

                    def harms_with(
                        seed: int = seed, topic: str = topic, partition: int = partition, at: int = at, **change: Any
                    ) -> dict[str, int]:
                        records = clean(seed).topics[topic][partition]
                        changed = [*records[:at], records[at]._replace(**change), *records[at + 1 :]]
                        return harms(mutated(seed, topic, partition, changed))

                    # A record that nobody forwarded stands where it should be; the one that was is nowhere.
                    assert harms_with(headers=()) == {"lost": 1}
                    elsewhere = ((FORWARDED, f"{topic}/{1 - partition}/99999".encode()),)
                    assert harms_with(headers=elsewhere) == {"lost": 1, "duplicated": 1}
                    assert harms_with(headers=(*rec.headers, ("more", b""))) == {"contradicted": 1}
    assert tried > 3


# ------------------------------------------------------------------------------------------------- anything at all


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_output_can_be_tampered_with(data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from(SEEDS))
    topic = data.draw(st.sampled_from(OUTPUTS))
    partition = data.draw(st.sampled_from(PARTITIONS))
    records = clean(seed).topics[topic][partition]
    if not records:
        return
    at = data.draw(st.integers(0, len(records) - 1))
    value = json.loads(records[at].value or b"")
    paths = [path for path in leaves(value) if not _is_free(topic, value, path)]
    other = data.draw(
        st.sampled_from(
            [drop(records, at), duplicate(records, at), flip(records, at, data.draw(st.sampled_from(paths)))]
        )
    )
    found = harms(mutated(seed, topic, partition, other))
    found.pop("approvals_after_lock", None)
    assert sum(found.values()) == 1


# ------------------------------------------------------------------------------------------------- as it is called


def test_a_dump_on_disk_is_judged_like_the_run_in_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = clean(SEEDS[0])
    write_recording(
        tmp_path / "clean",
        config=toml(recording.table),
        environment={},
        topics=recording.topics,
        stores=recording.databases,
    )
    assert judge(tmp_path / "clean") == judge_recording(recording)
    assert main([str(tmp_path / "clean")]) == 0
    assert json.loads(capsys.readouterr().out)["lost"] == 0

    topics = {**recording.topics, "rejected-signals": {0: recording.topics["rejected-signals"][0][1:], 1: []}}
    write_recording(
        tmp_path / "harmed", config=toml(recording.table), environment={}, topics=topics, stores=recording.databases
    )
    assert main([str(tmp_path / "harmed")]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["lost"] == 1 + len(recording.topics["rejected-signals"][1])
    assert "rejected-signals: is missing" in said["findings"][0]
    with pytest.raises(SystemExit, match="2"):
        main([])


def toml(table: Json, path: tuple[str, ...] = ()) -> str:
    """As much of TOML as the configurations need: strings, numbers, lists and inline tables."""

    def inline(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{json.dumps(name)} = {inline(one)}" for name, one in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(inline, value)) + "]"
        return json.dumps(value)

    return "".join(f"{json.dumps(name)} = {inline(value)}\n" for name, value in table.items())


def test_the_oracle_shares_no_code_with_the_gate() -> None:
    """All that it needs is imported in a process of its own, and nothing of it is the gate's."""
    listing = "[name for name in sys.modules if name.split('.')[0] in ('streams', 'schemas')]"
    code = f"import sys, tests.chaos.oracle; print({listing})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
