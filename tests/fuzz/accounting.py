"""Every input accounted for: what became of each record, told from the outputs and the state alone.

``unaccounted`` holds the outputs of some transactions against their inputs. A signal has exactly one fate: a decision,
a dead letter, a copy on the partition of its account, or the children of its fan-out. A command has one: a dead
letter, a copy, or its event (or lock). A fill or an equity mark has at most one dead letter or copy, and where it has
none its effect is in the state: the fill's id is remembered, the mark's sequence is the account's. No output belongs
to a record that was not there. Used offline on single transactions and on whole topics after a live run.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import orjson

from schemas.inputs import Fill, Pnl
from streams.core.decode import decode
from streams.core.fold import FORWARDED
from streams.core.records import (
    APPROVED,
    CONTROLS,
    DEAD_LETTERS,
    EVENTS,
    FILLS,
    INPUTS,
    LOCKED,
    PNL,
    POLICIES,
    REJECTED,
    SIGNALS,
    Output,
    Record,
)
from streams.core.routing import account_of
from streams.core.rules import Rules
from streams.core.state import Account, remembered_key

Place = tuple[str, int, int]


def unaccounted(
    inputs: Iterable[Record],
    outputs: Iterable[Output],
    remembered: Collection[bytes],
    accounts: Mapping[str, Account],
    rules: Rules,
) -> list[str]:
    """What does not add up, a sentence for each record; empty if all does.

    ``remembered``: the keys of ids that were written; ``accounts``: as they are after the last of the inputs.
    """
    fates = _Fates({(one.topic, one.partition, one.offset): one for one in inputs})
    for output in outputs:
        fates.take(output)
    faults = fates.faults
    for place, record in fates.records.items():
        found = fates.of[place]
        if record.topic == SIGNALS and not found:
            found = fates.children_of(decode(record), rules)
        total = sum(found.values())
        if total > 1 or (total == 0 and record.topic == SIGNALS):
            fate = " and ".join(f"{count} {what}" for what, count in found.items()) or "nothing"
            faults.append(f"{_named(place)} came to {fate}")
        elif total == 0 and not _left_its_mark(record, rules, remembered, accounts, fates):
            faults.append(f"{_named(place)} was lost: no dead letter, and no trace in the state")
    if extra := +fates.children:
        faults.append(f"signals were published that no input asked for: {sorted(extra)[:3]!r}")
    return faults


class _Fates:
    """Outputs by the input that they belong to."""

    def __init__(self, records: Mapping[Place, Record]) -> None:
        self.records = records
        self.of: defaultdict[Place, Counter[str]] = defaultdict(Counter)
        self.children: Counter[str] = Counter()
        self.events: set[str] = set()
        self.locked: set[tuple[str, int]] = set()
        self.faults: list[str] = []

    def take(self, output: Output) -> None:
        body = orjson.loads(output.value) if output.topic not in INPUTS else {}
        if output.topic == DEAD_LETTERS:
            self._dead_letter(output, body)
        elif output.topic in (APPROVED, REJECTED):
            basis = body["basis"]
            self._fate((SIGNALS, basis["partition"], basis["offsets"][SIGNALS]), "decision")
        elif output.topic == EVENTS:
            self.events.add(body["command_id"])
        elif output.topic == LOCKED:
            self.locked.add((body["account_id"], body["basis"]["offsets"].get(CONTROLS, -1)))
        else:
            self._copy(output)

    def children_of(self, event: Any, rules: Rules) -> Counter[str]:
        """The one fate of a signal that was fanned out: all of its children are there."""
        weights = rules.fanouts.get(event.body.strategy_id or "") if event.body is not None else None
        ids = [f"{event.body.signal_id}/{account_id}" for account_id in weights or ()]
        if not ids or any(self.children[one] < 1 for one in ids):
            return Counter()
        self.children.subtract(ids)
        return Counter({"fan-out": 1})

    def _dead_letter(self, output: Output, body: Mapping[str, Any]) -> None:
        place = (body["topic"], body["partition"], body["offset"])
        self._fate(place, f"dead letter {body['reason']}")
        record = self.records.get(place)
        if record is None:
            return
        value = record.value
        sha256 = None if value is None else hashlib.sha256(value).hexdigest()
        if (body["payload_sha256"], body["payload_size"]) != (sha256, len(value or b"")) or output.key != record.key:
            self.faults.append(f"the dead letter of {_named(place)} shows another record")

    def _copy(self, output: Output) -> None:
        if output.headers and output.headers[-1][0] == FORWARDED:
            topic, partition, offset = output.headers[-1][1].decode().split("/")
            place = (topic, int(partition), int(offset))
            origin = self.records.get(place)
            if origin is not None and (origin.value or b"") == output.value and output.topic == topic:
                self._fate(place, "copy on its own partition")
                return
        self.children[orjson.loads(output.value)["signal_id"]] += 1

    def _fate(self, place: Place, what: str) -> None:
        if place not in self.records:
            self.faults.append(f"a {what} belongs to {_named(place)}, which was not there")
        self.of[place][what] += 1


def _left_its_mark(
    record: Record, rules: Rules, remembered: Collection[bytes], accounts: Mapping[str, Account], fates: _Fates
) -> bool:
    if record.topic == POLICIES:
        return True  # in force, or outdated by another: its version says that it was read
    event = decode(record)
    account_id, body = account_of(event, rules), event.body
    if body is None or account_id is None:
        return False
    if record.topic == FILLS:
        assert isinstance(body, Fill)
        return remembered_key(account_id, "fill", body.fill_id) in remembered
    if record.topic == PNL:
        assert isinstance(body, Pnl)
        sequence = accounts[account_id].drawdown.sequence
        return sequence is not None and sequence >= body.sequence
    told = body.command_id in fates.events or (account_id, record.offset) in fates.locked
    return told and remembered_key(account_id, "command", body.command_id) in remembered


def _named(place: Place) -> str:
    topic, partition, offset = place
    return f"{topic} {partition}@{offset}"
