"""Fuzzing as continuous integration runs it, rounds that were kept, and whether the fuzzer would notice at all."""

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from streams.core.fold import Batch, Commit, fold
from streams.core.records import APPROVED, DEAD_LETTERS, EVENTS, INPUTS, LOCKED, OUTPUTS, PNL, REJECTED, SIGNALS
from streams.core.state import DECISIONS, TABLES, Change
from tests.fuzz.cases import CASES, load, save
from tests.fuzz.gate import Fold, play
from tests.fuzz.mutations import INPUT_TOPICS, Mutator
from tests.fuzz.run import Stalled, failure_of, fuzz, shortened
from tests.fuzz.sessions import Round, make_round, session

CI_INPUTS = 50_000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_one_of_fifty_thousand_broken_inputs_is_accounted_for(seed: int) -> None:
    found = fuzz(seed, CI_INPUTS)
    assert found.failure is None, f"python -m tests.fuzz --seed {seed} --round {found.failure.number} --save NAME"
    assert found.tally.broken >= CI_INPUTS
    assert set(found.tally.outputs) == {*OUTPUTS, *INPUTS}, "copies and children of every input included"


@pytest.mark.parametrize("path", sorted(CASES.glob("*.json")), ids=lambda path: path.stem)
def test_what_was_kept_passes(path: Path) -> None:
    play(load(path))


def test_a_round_is_a_function_of_its_number(seed: int) -> None:
    assert make_round(seed, 3) == make_round(seed, 3) != make_round(seed, 4)
    assert play(make_round(seed, 3))[:3] == play(make_round(seed, 3))[:3]


def test_a_case_is_kept_to_the_byte(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.cases.CASES", tmp_path)
    one = replace(make_round(seed, 5), broken=0)
    kept = load(save(one, "kept"))
    assert kept == replace(one, config=kept.config)
    assert dict(one.config) == kept.config


# -- would it notice? ----------------------------------------------------------------------------------------------


def without(topic: str, place: int = 0) -> Fold:
    """A fold that loses one output of a topic in each transaction that has some."""

    def broken(*given: Any) -> Commit:
        commit = fold(*given)
        found = [n for n, output in enumerate(commit.outputs) if output.topic == topic]
        if not found:
            return commit
        lost = found[place]
        return commit._replace(outputs=commit.outputs[:lost] + commit.outputs[lost + 1 :])

    return broken


def twice(topic: str) -> Fold:
    """A fold that publishes one output of a topic twice."""

    def broken(*given: Any) -> Commit:
        commit = fold(*given)
        again = [output for output in commit.outputs if output.topic == topic][:1]
        return commit._replace(outputs=(*commit.outputs, *again))

    return broken


def unwritten(table: str) -> Fold:
    """A fold that forgets to write one table."""

    def broken(*given: Any) -> Commit:
        commit = fold(*given)
        return commit._replace(changes=tuple(change for change in commit.changes if change.table != table))

    return broken


def forgetful(batch: Batch, *given: Any) -> Commit:
    """A fold that skips the last mark of each batch of several."""
    marks = batch.records.get(PNL, ())
    if len(marks) > 1:
        batch = batch._replace(records={**batch.records, PNL: marks[:-1]})
    return fold(batch, *given)


def raising(batch: Batch, *given: Any) -> Commit:
    """A fold that cannot stand a NUL."""
    if any(b"\0" in (one.value or b"") for part in batch.records.values() for one in part):
        raise ValueError("embedded null byte")
    return fold(batch, *given)


def garbled(*given: Any) -> Commit:
    """A fold whose state is written in a way that reads back otherwise."""
    commit = fold(*given)
    changes = [
        Change(one.table, one.key, one.value[:-1] + b',"unknown":1}')
        if one.table in TABLES and one.value is not None and one.value[-2:-1] != b"1"
        else one
        for one in commit.changes
    ]
    return commit._replace(changes=tuple(changes))


BROKEN: dict[str, Fold] = {
    "a lost approval": without(APPROVED),
    "a lost rejection": without(REJECTED),
    "a lost dead letter": without(DEAD_LETTERS),
    "a lost copy": without(SIGNALS),
    "a decision twice": twice(REJECTED),
    "a dead letter twice": twice(DEAD_LETTERS),
    "a copy twice": twice(PNL),
    "an id not remembered": unwritten(DECISIONS),
    "a table not written": unwritten("drawdown"),
    "a mark skipped": forgetful,
    "an exception": raising,
    "state that reads back otherwise": garbled,
}


@pytest.mark.parametrize("fold", BROKEN.values(), ids=BROKEN)
def test_a_broken_gate_is_noticed(fold: Fold) -> None:
    assert any(isinstance(failure_of(make_round(7, number), fold=fold), str) for number in range(40))


def test_a_stall_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.run.STALL_S", 1)

    def stalled(*_given: Any) -> Commit:
        while True:
            pass

    error = failure_of(make_round(7, 0), fold=stalled)
    assert isinstance(error, str)
    assert error.startswith(Stalled.__name__)


def test_a_failure_is_shortened_to_what_it_needs() -> None:
    number, error = next(
        (number, error)
        for number in range(40)
        if isinstance(error := failure_of(make_round(7, number), fold=raising), str)
    )
    short = shortened(make_round(7, number), error, fold=raising)
    assert len(short.sent) == 1
    assert b"\0" in (short.sent[0].value or b"")


# -- is the damage varied? -----------------------------------------------------------------------------------------


def test_every_kind_of_damage_is_done_to_every_topic(seed: int) -> None:
    sent = make_round(seed, 0).sent
    mutator = Mutator(Random(seed), sent)
    done: dict[str, set[str]] = {topic: set() for topic in INPUT_TOPICS}
    by_topic = {topic: [one for one in sent if one.topic == topic] for topic in INPUT_TOPICS}
    for topic, records in by_topic.items():
        for n in range(4_000):
            done[topic].update(mutator.spoil(records[n % len(records)])[1])
    assert len(set(map(frozenset, done.values()))) == 1, "the same kinds for each"
    assert len(done[SIGNALS]) == 25


def test_sound_sessions_come_through_the_gate_as_a_desk_would_have_them() -> None:
    """Else the damage would fall on accounts that hold nothing."""
    config, records = session(7, 0)
    outputs = play(Round(config, 7, False, records)).outputs
    assert min(outputs[topic] for topic in (APPROVED, REJECTED, EVENTS, LOCKED)) > 0
