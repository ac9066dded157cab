"""The oracle: whether a finished run kept every promise, judged from its dump with nothing of the gate's code.

``python -m tests.chaos.oracle DIR`` prints a JSON verdict and exits 1 on any harm; ``judge(DIR)`` returns it.

The six counts of harm:

- ``lost``: an input that no transaction applied; a decision, lock or event that had to be there and is not; a record
  for another partition that did not get there;
- ``duplicated``: any of these once too often, or for nothing;
- ``contradicted``: there, but not as the naive model says after the same inputs and journal; or out of order; or a
  journal that does not fit;
- ``approvals_after_lock``: approvals that add exposure between a lock and its unlock, found without the model;
- ``state_mismatches``: a change of the changelog, or a database, that is not what the model's state became;
- ``dead_letters_wrong``: a bad record without its dead letter, with two, or with a wrong one; one for nothing.

``redeliveries`` are input records that a transaction held which was then aborted.
"""

import argparse
import json
import sys
from collections.abc import Container, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import orjson

from tests.chaos.oracle_exposure import check_exposure
from tests.chaos.oracle_findings import CONTRADICTED, DUPLICATED, HARM, LOST, Findings
from tests.chaos.oracle_outputs import DEAD_LETTERS, Left, Tally, read_outputs, settle
from tests.chaos.oracle_replay import Forward, Journal, Replay, arrivals, partition_of
from tests.chaos.oracle_state import StateCheck, check_stores, is_thinned
from tests.chaos.recording import INPUTS, JOURNAL, JOURNAL_UNCOMMITTED, POLICIES, Directory, Recording
from tests.model.naive import NaiveGate

_PROCESSES = 2


@dataclass(frozen=True)
class Verdict:
    """What was found. Harmless if the six counts are 0."""

    lost: int
    duplicated: int
    contradicted: int
    approvals_after_lock: int
    state_mismatches: int
    dead_letters_wrong: int
    events: int
    decisions: int
    locks: int
    redeliveries: int
    findings: tuple[str, ...]

    @property
    def harm(self) -> int:
        """The sum of the six counts."""
        return sum(getattr(self, kind) for kind in HARM)


@dataclass
class Part:
    """What one partition had to say."""

    findings: Findings = field(default_factory=Findings)
    left: list[Left] = field(default_factory=list)
    sent: list[Forward] = field(default_factory=list)
    arrived: list[Forward] = field(default_factory=list)
    events: int = 0
    decisions: int = 0
    locks: int = 0
    redeliveries: int = 0
    complete: bool = True


def judge(directory: Path, processes: int = _PROCESSES, *, compacted: bool = False) -> Verdict:
    """Judge a dump on disk, partitions side by side in ``processes`` processes.

    ``compacted``: the state changelog may have been; a partition of which nothing is missing is judged strictly.
    """
    recording = Directory(directory)
    partitions = range(recording.partitions("signals"))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(partial(judge_partition, recording, compacted=compacted), partitions))
    return verdict_of(recording, parts)


def judge_recording(recording: Recording, *, compacted: bool = False) -> Verdict:
    """Judge a run in this process."""
    partitions = range(recording.partitions("signals"))
    return verdict_of(recording, [judge_partition(recording, number, compacted=compacted) for number in partitions])


def judge_partition(recording: Recording, partition: int, *, compacted: bool = False) -> Part:
    """Replay one partition, and compare all that it published and stored."""
    part = Part()
    findings = part.findings
    tally = Tally(partition, findings)
    tally.load(recording)
    journal = Journal(recording, partition, findings)
    replay = Replay(recording, partition, findings)
    state = StateCheck(recording, replay, findings, compacted and is_thinned(recording, partition))
    for transaction in journal.transactions():
        for made in replay.apply(transaction):
            tally.expect(made.output, made.partition)
        state.follow(transaction)
    part.complete = journal.complete
    if journal.complete:
        state.finish()
        tally.close()
        part.left = tally.left
        part.sent = replay.forwards
    part.arrived = list(arrivals(recording, partition))
    check_bases(recording, partition, findings, tally.wrong)
    check_exposure(recording, partition, findings)
    check_stores(recording, partition, findings, compacted=state.compacted)
    part.events = sum(1 for topic in INPUTS for _ in recording.records(topic, partition))
    part.decisions = tally.counts.get("approved-orders", 0) + tally.counts.get("rejected-signals", 0)
    part.locks = tally.counts.get("account-locked", 0)
    part.redeliveries = _redeliveries(recording, partition)
    return part


def check_bases(recording: Recording, partition: int, findings: Findings, wrong: Container[str]) -> None:
    """Basis offsets never go backwards within a partition of an output. ``wrong`` are counted already."""
    for topic in ("approved-orders", "rejected-signals", "account-locked", "account-events"):
        before: dict[str, int] = {}
        for one, value in read_outputs(recording, topic, partition):
            basis = value.get("basis")
            offsets = basis.get("offsets") if isinstance(basis, dict) else None
            if not isinstance(offsets, dict) or one.where in wrong:
                continue
            back = [name for name in before if offsets.get(name, -1) < before[name]]
            if back:
                findings.add(CONTRADICTED, one.where, f"basis {offsets} after {before}")
            before = {name: offset for name, offset in offsets.items() if isinstance(offset, int)}


def _redeliveries(recording: Recording, partition: int) -> int:
    committed = {rec.offset for rec in recording.records(JOURNAL, partition)}
    count = 0
    for rec in recording.records(JOURNAL_UNCOMMITTED, partition):
        if rec.offset not in committed:
            count += sum(last - first + 1 for first, last in orjson.loads(rec.value or b"{}")["offsets"].values())
    return count


def verdict_of(recording: Recording, parts: Sequence[Part]) -> Verdict:
    """All partitions together, with what only shows across them."""
    findings = Findings()
    for part in parts:
        findings.take(part.findings)
    left = [one for part in parts for one in part.left]
    is_complete = all(part.complete for part in parts)
    if is_complete:
        _check_forwards(parts, findings)
    settle([*left, *_policy_letters(recording, findings)], findings)
    policies = sum(1 for _ in recording.records(POLICIES, 0))
    return Verdict(
        **{kind: findings.counts[kind] for kind in HARM},
        events=sum(part.events for part in parts) + policies,
        decisions=sum(part.decisions for part in parts),
        locks=sum(part.locks for part in parts),
        redeliveries=sum(part.redeliveries for part in parts),
        findings=tuple(findings.first()),
    )


def _check_forwards(parts: Sequence[Part], findings: Findings) -> None:
    """Every record for another partition arrived there, once, as it was."""
    arrived: dict[str, list[Forward]] = {}
    for part in parts:
        for one in part.arrived:
            arrived.setdefault(one.origin, []).append(one)
    for part in parts:
        for one in part.sent:
            others = arrived.pop(one.origin, [])
            if not others:
                findings.add(LOST, one.origin, f"was not forwarded to {one.topic}-{one.partition}")
            elif one not in others:
                findings.add(CONTRADICTED, one.origin, f"was forwarded as something else, or not to {one.partition}")
            if len(others) > 1:
                findings.add(DUPLICATED, one.origin, f"was forwarded {len(others)} times", len(others) - 1)
    for origin, others in arrived.items():
        findings.add(DUPLICATED, origin, "was forwarded, and belonged where it was", len(others))


def _policy_letters(recording: Recording, findings: Findings) -> list[Left]:
    """Unusable policies have their dead letters, and no dead letter names a place that is no input."""
    gate = NaiveGate(recording.config(), recording.environment())
    count = recording.partitions(DEAD_LETTERS)
    numbers = range(recording.partitions("signals"))
    tally = Tally(0, findings)
    tally.load_letters(
        recording, lambda value: value.get("topic") not in INPUTS or value.get("partition") not in numbers
    )
    for rec in recording.records(POLICIES, 0):
        for output in gate.feed(POLICIES, rec.value, key=rec.key, timestamp_ms=rec.timestamp_ms, offset=rec.offset):
            partition = 0 if rec.key is None else partition_of(rec.key, count)
            tally.expect(output | {"key": rec.key}, partition)
    tally.close()
    return tally.left


def main(arguments: list[str]) -> int:
    """Print the verdict on a dump; 1 for harm."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.oracle", description="Judge a dump; one JSON object.")
    parser.add_argument("directory", type=Path, help="the dump")
    parser.add_argument("--compacted", action="store_true", help="the state changelog may have been compacted")
    given = parser.parse_args(arguments)
    verdict = judge(given.directory, compacted=given.compacted)
    sys.stdout.write(json.dumps(asdict(verdict), indent=2, ensure_ascii=False) + "\n")
    return 1 if verdict.harm else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
