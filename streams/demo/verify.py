"""The proof, from the topics alone: one decision per signal, one dead letter per unusable record, and no exposure
added under a lock.

This module reads what any consumer can read and shares no code with the gate: it has its own idea of what a readable
record is, of positions, and of what reduces one. It assumes what the demo publishes: every signal names its account,
one venue per account.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import orjson

INPUTS = ("signals", "fills", "pnl", "controls")
OUTPUTS = ("approved-orders", "rejected-signals", "account-locked", "account-events", "dead-letters")
FORWARDED_HEADER = "tidegate-forwarded-from"
FINAL = frozenset({"filled", "cancelled", "rejected", "expired"})
IDENTITY = {"signals": "signal_id", "fills": "fill_id", "pnl": "sequence", "controls": "command_id"}

NEEDED = {
    "approved-orders": {"account_id", "signal_id", "order_id", "instrument", "side", "quantity", "basis"},
    "rejected-signals": {"account_id", "signal_id"},
    "account-locked": {"account_id", "basis"},
    "account-events": {"account_id", "type", "basis"},
    "dead-letters": {"topic", "partition", "offset"},
    "fills": {"account_id", "fill_id", "order_id", "instrument", "side", "quantity", "status"},
}

Coordinates = tuple[str, int, int]


class Seen(NamedTuple):
    """One record as read from a topic."""

    topic: str
    partition: int
    offset: int
    value: bytes | None
    origin: str | None = None
    """Where the gate forwarded this copy from, as its header says: "topic/partition/offset". None for an original."""

    @property
    def where(self) -> str:
        return f"{self.topic}-{self.partition}@{self.offset}"


class Verdict(NamedTuple):
    """What was counted, and the records that break a promise, by topic, partition and offset. Good without any."""

    signals: int
    decisions: int
    dead_letters: int
    locks: int
    approved_while_locked: int
    findings: tuple[str, ...]


class _Output(NamedTuple):
    seen: Seen
    value: Mapping[str, Any]

    @property
    def is_complete(self) -> bool:
        return self.value.keys() >= NEEDED[self.seen.topic]

    @property
    def step(self) -> tuple[int, int]:
        """Where in its partition's history this was made: each record raises one offset, so their sum orders steps."""
        basis = self.value["basis"]
        return basis["partition"], sum(offset + 1 for offset in basis["offsets"].values())


def verify(records: Iterable[Seen]) -> Verdict:
    """Judge all records of the demo's topics, each topic in offset order within its partitions."""
    by_topic: dict[str, list[Seen]] = defaultdict(list)
    for record in records:
        by_topic[record.topic].append(record)
    outputs = {topic: list(map(_output, by_topic[topic])) for topic in OUTPUTS}
    unreadable = [output.seen for topic in OUTPUTS for output in outputs[topic] if not output.is_complete]
    outputs = {topic: [output for output in outputs[topic] if output.is_complete] for topic in OUTPUTS}
    usable, unusable = _sort_inputs(by_topic)
    decisions = outputs["approved-orders"] + outputs["rejected-signals"]
    exposure, allowed = _added_under_lock(outputs, by_topic["fills"])
    findings = (
        *(f"{seen.where} cannot be read, or lacks a field" for seen in unreadable),
        *_misforwarded(by_topic),
        *_undecided(usable, decisions),
        *_unburied(unusable, outputs["dead-letters"], by_topic),
        *_repeated_orders(outputs["approved-orders"]),
        *exposure,
    )
    return Verdict(
        signals=sum(seen.origin is None for seen in by_topic["signals"]),
        decisions=len(decisions),
        dead_letters=len(outputs["dead-letters"]),
        locks=len(outputs["account-locked"]),
        approved_while_locked=allowed,
        findings=findings,
    )


def _sort_inputs(by_topic: Mapping[str, Sequence[Seen]]) -> tuple[dict[tuple[str, str], Seen], list[Seen]]:
    """Signals that need a decision by (account, signal_id), and all input records that need a dead letter instead."""
    usable: dict[tuple[str, str], Seen] = {}
    unusable: list[Seen] = []
    for topic in INPUTS:
        known: set[tuple[str, str]] = set()
        highest: dict[str, int] = {}
        for seen in by_topic.get(topic, ()):
            if seen.origin is not None:
                continue
            value = _object(seen.value)
            account, identity = (value.get("account_id"), value.get(IDENTITY[topic])) if value else (None, None)
            if not isinstance(account, str) or identity is None:
                unusable.append(seen)
            elif topic == "pnl":
                if identity <= highest.get(account, identity - 1):
                    unusable.append(seen)
                highest[account] = max(identity, highest.get(account, identity))
            elif (account, identity) in known:
                unusable.append(seen)
            else:
                known.add((account, identity))
                if topic == "signals":
                    usable[account, identity] = seen
    return usable, unusable


def _misforwarded(by_topic: Mapping[str, Sequence[Seen]]) -> Iterator[str]:
    """Copies of records from the wrong partition: at most one of each, and only of what was published."""
    inputs = [seen for topic in INPUTS for seen in by_topic.get(topic, ())]
    values = {f"{seen.topic}/{seen.partition}/{seen.offset}": seen.value for seen in inputs if seen.origin is None}
    copies: dict[str, list[Seen]] = defaultdict(list)
    for seen in inputs:
        if seen.origin is not None:
            copies[seen.origin].append(seen)
    for origin, found in copies.items():
        if len(found) > 1:
            yield f"{origin} was forwarded {len(found)} times{_places(found)}"
        if any(values.get(origin) != seen.value for seen in found):
            yield f"{origin} is not what was forwarded from it{_places(found)}"


def _undecided(usable: Mapping[tuple[str, str], Seen], decisions: Sequence[_Output]) -> Iterator[str]:
    made: dict[tuple[str, str], list[Seen]] = defaultdict(list)
    for decision in decisions:
        made[decision.value["account_id"], decision.value["signal_id"]].append(decision.seen)
    for identity, seen in usable.items():
        found = made.pop(identity, [])
        if len(found) != 1:
            yield f"signal {identity[1]} of {identity[0]} ({seen.where}) has {len(found)} decisions{_places(found)}"
    for identity, found in made.items():
        yield f"signal {identity[1]!r} of {identity[0]!r} was never published, but decided{_places(found)}"


def _unburied(
    unusable: Sequence[Seen], dead_letters: Sequence[_Output], by_topic: Mapping[str, Sequence[Seen]]
) -> Iterator[str]:
    origins = {
        (seen.topic, seen.partition, seen.offset): _origin(seen) for topic in INPUTS for seen in by_topic.get(topic, ())
    }
    letters: dict[Coordinates, list[Seen]] = defaultdict(list)
    for letter in dead_letters:
        value = letter.value
        where = (value["topic"], value["partition"], value["offset"])
        letters[origins.get(where, where)].append(letter.seen)
    for seen in unusable:
        found = letters.pop((seen.topic, seen.partition, seen.offset), [])
        if len(found) != 1:
            yield f"{seen.where} is unusable or a repeat and has {len(found)} dead letters{_places(found)}"
    for where, found in letters.items():
        what = "usable" if where in origins else "unknown"
        yield f"{where[0]}-{where[1]}@{where[2]} is {what}, but has a dead letter{_places(found)}"


def _origin(seen: Seen) -> Coordinates:
    """Where a record was published at first: a forwarded copy's dead letter answers for its original."""
    if seen.origin is None:
        return seen.topic, seen.partition, seen.offset
    topic, partition, offset = seen.origin.rsplit("/", 2)
    return topic, int(partition), int(offset)


def _repeated_orders(approved: Sequence[_Output]) -> Iterator[str]:
    counts = Counter(str(order.value["order_id"]) for order in approved)
    for order_id, count in counts.items():
        if count > 1:
            places = [order.seen for order in approved if order.value["order_id"] == order_id]
            yield f"order {order_id} was approved {count} times{_places(places)}"


def _added_under_lock(outputs: Mapping[str, Sequence[_Output]], fills: Sequence[Seen]) -> tuple[list[str], int]:
    """Approvals between a lock and its unlock that would not only reduce, and the number of those that would."""
    findings: list[str] = []
    allowed = 0
    reports = _reports(fills)
    for account, history in _histories(outputs).items():
        locked_by: Seen | None = None
        exits: list[_Output] = []
        for output in history:
            if output.seen.topic == "account-locked":
                locked_by = output.seen
            elif output.seen.topic == "account-events":
                locked_by = None
            else:
                room = _room(output, reports[account], exits)
                reduces = 0 < Decimal(output.value["quantity"]) <= room
                if reduces:
                    exits.append(output)
                if locked_by is not None:
                    allowed += reduces
                    if not reduces:
                        order = f"{output.value['side']} {output.value['quantity']} {output.value['instrument']}"
                        findings.append(
                            f"{account}: {order} ({output.seen.where}) was approved under the lock {locked_by.where}, "
                            f"where {room} could be reduced"
                        )
    return findings, allowed


def _histories(outputs: Mapping[str, Sequence[_Output]]) -> dict[str, list[_Output]]:
    """Locks, unlocks and approvals of each account in the order in which the gate made them."""
    relevant = [
        *outputs["account-locked"],
        *(event for event in outputs["account-events"] if event.value["type"] == "UNLOCKED"),
        *outputs["approved-orders"],
    ]
    histories: dict[str, list[_Output]] = defaultdict(list)
    for output in sorted(relevant, key=lambda output: output.step):
        histories[output.value["account_id"]].append(output)
    return histories


class _Report(NamedTuple):
    offset: int
    order_id: str | None
    instrument: str
    signed: Decimal
    is_final: bool


def _reports(fills: Sequence[Seen]) -> dict[str, list[_Report]]:
    reports: dict[str, list[_Report]] = defaultdict(list)
    known: set[tuple[str, str]] = set()
    for seen in fills:
        value = _object(seen.value)
        if value is None or not value.keys() >= NEEDED["fills"] or (value["account_id"], value["fill_id"]) in known:
            continue
        known.add((value["account_id"], value["fill_id"]))
        quantity = Decimal(value["quantity"]) * (1 if value["side"] == "buy" else -1)
        final = value["status"] in FINAL
        reports[value["account_id"]].append(
            _Report(seen.offset, value["order_id"], value["instrument"], quantity, final)
        )
    return reports


def _room(order: _Output, reports: Sequence[_Report], exits: Sequence[_Output]) -> Decimal:
    """How much this order could reduce its position when it was approved, exits still at work taken off."""
    instrument, side = order.value["instrument"], order.value["side"]
    applied = [report for report in reports if report.offset <= order.value["basis"]["offsets"].get("fills", -1)]
    position = sum((report.signed for report in applied if report.instrument == instrument), Decimal(0))
    opposite = position if side == "sell" else -position
    working = sum(
        (
            _left(other, applied)
            for other in exits
            if (other.value["instrument"], other.value["side"]) == (instrument, side)
        ),
        Decimal(0),
    )
    return max(Decimal(0), opposite) - working


def _left(order: _Output, applied: Sequence[_Report]) -> Decimal:
    mine = [report for report in applied if report.order_id == order.value["order_id"]]
    if any(report.is_final for report in mine):
        return Decimal(0)
    return Decimal(order.value["quantity"]) - sum((abs(report.signed) for report in mine), Decimal(0))


def _output(seen: Seen) -> _Output:
    return _Output(seen, _object(seen.value) or {})


def _object(value: bytes | None) -> dict[str, Any] | None:
    try:
        decoded = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None
    return decoded if isinstance(decoded, dict) else None


def _places(found: Sequence[Seen]) -> str:
    return f": {', '.join(seen.where for seen in found)}" if found else ""
