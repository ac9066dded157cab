"""What was published, beside what had to be: each expected record is looked for, compared field by field, ticked off.

A record is found by what it was made from (a decision by its signal's offset, a dead letter by its record's
coordinates) or else by the id that it names, so that one wrong field is one contradiction and not a loss and a
surplus. Not compared: the ``detail`` of a dead letter and of an event other than PERIOD_CLOSED and WARNING, whose
wording the contract leaves open (it has to be there), and the output record's own timestamp.

Amounts are compared as they are written, to the last place.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import orjson

from tests.chaos.oracle_findings import CONTRADICTED, DEAD_LETTER_WRONG, DUPLICATED, LOST, Findings
from tests.chaos.recording import INPUTS, OUTPUTS, Recording

Json = dict[str, Any]
Identity = tuple[Any, ...]
DEAD_LETTERS = "dead-letters"


class Published(NamedTuple):
    """One record of an output topic."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes

    @property
    def where(self) -> str:
        return f"{self.topic}-{self.partition}@{self.offset}"


class Left(NamedTuple):
    """Something that was expected and not found (``where`` None), or found and not expected."""

    topic: str
    where: str | None
    likeness: Identity
    text: str


def identity_of(topic: str, value: Json) -> Identity:
    """What the record was made from: no two right ones share it."""
    match topic:
        case "dead-letters":
            return topic, value.get("topic"), value.get("partition"), value.get("offset")
        case "account-locked":
            return topic, value.get("lock_id")
        case "account-events":
            return topic, value.get("event_id")
        case _:
            return "decision", _offsets(value).get("signals")


def likeness_of(topic: str, value: Json) -> Identity:
    """A second way to know it again, by other fields."""
    match topic:
        case "dead-letters":
            return topic, value.get("payload_sha256"), value.get("reason"), value.get("timestamp")
        case "account-locked":
            return topic, value.get("account_id"), value.get("reason"), position_of(value)
        case "account-events":
            return topic, value.get("account_id"), value.get("type"), position_of(value), value.get("order_id")
        case _:
            return "decision", value.get("account_id"), value.get("signal_id")


def position_of(value: Json) -> int:
    """Where in its partition's life a record was made: every step applies one more offset than the one before."""
    return sum(offset + 1 for offset in _offsets(value).values() if isinstance(offset, int))


def _offsets(value: Json) -> Mapping[str, Any]:
    basis = value.get("basis")
    offsets = basis.get("offsets") if isinstance(basis, dict) else None
    return offsets if isinstance(offsets, dict) else {}


@dataclass
class Tally:
    """The outputs that one input partition gave rise to. ``partition_of``: a key's partition, by topic."""

    partition: int
    findings: Findings
    left: list[Left] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    """Where records are that were found, and are not as expected or out of order."""
    _found: dict[Identity, list[Published]] = field(default_factory=dict)
    _missing: list[Left] = field(default_factory=list)
    _turns: dict[tuple[str, int], list[tuple[int, int]]] = field(default_factory=dict)
    _turn: int = 0

    def load(self, recording: Recording) -> None:
        """Take in what is there: account-keyed outputs lie in the partition of their account, dead letters anywhere."""
        for topic in OUTPUTS:
            if topic != DEAD_LETTERS:
                for one, value in read_outputs(recording, topic, self.partition, self.findings):
                    self._add(one, value)
        self.load_letters(
            recording, lambda value: value.get("topic") in INPUTS and value.get("partition") == self.partition
        )

    def load_letters(self, recording: Recording, wanted: Callable[[Json], bool]) -> None:
        """Take in some of the dead letters."""
        for number in range(recording.partitions(DEAD_LETTERS)):
            findings = self.findings if number == self.partition else None
            for one, value in read_outputs(recording, DEAD_LETTERS, number, findings):
                if wanted(value):
                    self._add(one, value)

    def _add(self, one: Published, value: Json) -> None:
        self.counts[one.topic] = self.counts.get(one.topic, 0) + 1
        self._found.setdefault(identity_of(one.topic, value), []).append(one)

    def expect(self, output: Json, partition: int) -> None:
        """The next record that had to be published, and in which partition of its topic."""
        self._turn += 1
        topic, value = output["topic"], output["value"]
        candidates = self._found.get(identity_of(topic, value), [])
        if not candidates:
            self._missing.append(Left(topic, None, likeness_of(topic, value), _brief(value)))
            return
        differences = [difference_of(output, one, partition) for one in candidates]
        # Of several that claim to be it, one that is right is it.
        best = differences.index("") if "" in differences else 0
        one, difference = candidates.pop(best), differences[best]
        if difference:
            self.wrong.add(one.where)
            kind = DEAD_LETTER_WRONG if topic == DEAD_LETTERS else CONTRADICTED
            self.findings.add(kind, one.where, difference)
        else:
            self._turns.setdefault((one.topic, one.partition), []).append((one.offset, self._turn))

    def close(self) -> None:
        """All that was expected has been named: what is left over is surplus, and order is judged."""
        for (topic, partition), turns in self._turns.items():
            turns.sort()
            for (_, before), (offset, turn) in pairwise(turns):
                if turn < before:
                    kind = DEAD_LETTER_WRONG if topic == DEAD_LETTERS else CONTRADICTED
                    where = f"{topic}-{partition}@{offset}"
                    self.wrong.add(where)
                    self.findings.add(kind, where, "stands after what was made later")
        self.left = self._missing
        for candidates in self._found.values():
            for one in candidates:
                value = orjson.loads(one.value)
                self.left.append(Left(one.topic, one.where, likeness_of(one.topic, value), _brief(value)))


def read_outputs(
    recording: Recording, topic: str, partition: int, findings: Findings | None = None
) -> Iterator[tuple[Published, Json]]:
    """The records of one partition, decoded; what is no JSON object is harm by itself."""
    for rec in recording.records(topic, partition):
        one = Published(topic, partition, rec.offset, rec.key, rec.value or b"")
        try:
            value = orjson.loads(one.value)
        except orjson.JSONDecodeError:
            value = None
        if isinstance(value, dict):
            yield one, value
        elif findings is not None:
            kind = DEAD_LETTER_WRONG if topic == DEAD_LETTERS else CONTRADICTED
            findings.add(kind, one.where, f"is not a JSON object: {one.value[:80]!r}")


def difference_of(output: Json, one: Published, partition: int) -> str:
    """What is wrong with a record, "" if nothing."""
    if one.topic != output["topic"]:
        return f"belongs to {output['topic']}: {_brief(output['value'])}"
    key = output["key"].encode() if isinstance(output["key"], str) else output["key"]
    if one.key != key:
        return f"key is {one.key!r}, expected {key!r}"
    if one.partition != partition:
        return f"is in partition {one.partition}, its key belongs to {partition}"
    actual: Json = orjson.loads(one.value)
    return differs(_comparable(one.topic, actual, output["value"]), output["value"], "")


def _comparable(topic: str, actual: Json, expected: Json) -> Json:
    """The record with the expected ``detail`` where its wording is free and there is one."""
    detail = actual.get("detail")
    if topic == DEAD_LETTERS:
        return actual | {"detail": expected["detail"]} if isinstance(detail, str) and detail else actual
    if topic == "account-events" and isinstance(detail, dict):
        if expected["type"] == "PERIOD_CLOSED":
            return actual
        if expected["type"] == "WARNING":
            # More may be said to people, but not something else.
            return actual | {"detail": {name: detail.get(name) for name in expected["detail"]}}
        return actual | {"detail": expected["detail"]}
    return actual


def differs(actual: Any, expected: Any, path: str) -> str:
    """The first field that differs, with both values; "" if none does."""
    if type(actual) is type(expected):
        if isinstance(actual, dict):
            if actual.keys() != expected.keys():
                return f"{path or 'its'} fields are {sorted(actual)}, expected {sorted(expected)}"
            pairs: Iterable[tuple[Any, Any, Any]] = ((name, actual[name], expected[name]) for name in expected)
        elif isinstance(actual, list) and len(actual) == len(expected):
            pairs = zip(range(len(actual)), actual, expected, strict=True)
        elif actual == expected:
            return ""
        else:
            return f"{path} is {actual!r}, expected {expected!r}"
        for name, one, other in pairs:
            if found := differs(one, other, f"{path}.{name}" if path else str(name)):
                return found
        return ""
    return f"{path} is {actual!r}, expected {expected!r}"


def settle(left: Iterable[Left], findings: Findings) -> None:
    """Pair what is missing with what is too much: a pair is one contradiction; the rest is lost or surplus."""
    surplus: dict[Identity, list[Left]] = {}
    missing: list[Left] = []
    for one in left:
        if one.where is None:
            missing.append(one)
        else:
            surplus.setdefault(one.likeness, []).append(one)
    for one in missing:
        likes = surplus.get(one.likeness)
        if likes:
            other = likes.pop()
            kind = DEAD_LETTER_WRONG if one.topic == DEAD_LETTERS else CONTRADICTED
            findings.add(kind, str(other.where), f"is {other.text}, expected {one.text}")
        else:
            kind = DEAD_LETTER_WRONG if one.topic == DEAD_LETTERS else LOST
            findings.add(kind, one.topic, f"is missing: {one.text}")
    for others in surplus.values():
        for other in others:
            kind = DEAD_LETTER_WRONG if other.topic == DEAD_LETTERS else DUPLICATED
            findings.add(kind, str(other.where), f"was published once too often, or for nothing: {other.text}")


def _brief(value: Json) -> str:
    names = ("account_id", "signal_id", "code", "type", "reason", "topic", "partition", "offset", "basis")
    return ", ".join(f"{name} {value[name]}" for name in names if value.get(name) is not None)
