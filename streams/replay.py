"""Offline replay: a recorded log folded through the same pure step, at record time, with no broker (contract, 5).

One line in is one record; lines out are the records that the gate would have published, in order. All accounts live
in partition 0, and offsets count the lines of each topic from 0. A line that cannot be read becomes a dead letter.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, NamedTuple

import orjson
from msgspec.structs import replace

from schemas.types import read_time
from streams.core.decode import decode
from streams.core.fanout import fan_out
from streams.core.outputs import SCHEMA_VERSION, dead_letter_body
from streams.core.records import CONTROLS, DEAD_LETTERS, FILLS, PNL, POLICIES, SIGNALS, Output, Record, text_of
from streams.core.routing import account_of
from streams.core.rules import Rules, apply_policy
from streams.core.state import NEW_ACCOUNT, Account, Remembered
from streams.core.step import Basis, step

TOPICS = (SIGNALS, FILLS, PNL, CONTROLS, POLICIES)
_SPACE = " \t\r\n"
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]|[^\s"{}\[\],:]+')


class Line(NamedTuple):
    """One readable line: its topic, time and key, and the value exactly as it is written."""

    topic: str
    timestamp_ms: int
    key: str | None
    value: str | None


class Replay:
    """The gate's state while a log is folded."""

    def __init__(self, rules: Rules) -> None:
        self.rules = replace(rules, clock="record")
        self.accounts: dict[str, Account] = {}
        self._remembered: dict[bytes, Remembered] = {}
        self._offsets: dict[str, int] = {}

    def feed(self, line: str) -> list[Output]:
        """The records that one line yields; none for a blank line."""
        if not line.strip():
            return []
        try:
            read = read_line(line)
        except ValueError as error:
            return [_unreadable(line, str(error))]
        offset = self._offsets.get(read.topic, -1) + 1
        self._offsets[read.topic] = offset
        key = None if read.key is None else _bytes(read.key)
        value = None if read.value is None else _bytes(read.value)
        return self.apply(Record(read.topic, 0, offset, read.timestamp_ms, key, value))

    def apply(self, record: Record) -> list[Output]:
        """The records that one record yields."""
        if record.topic == POLICIES:
            self.rules, letter = apply_policy(self.rules, record)
            return [] if letter is None else [letter]
        self._offsets[record.topic] = record.offset
        event = decode(record)
        account_id = account_of(event, self.rules)
        if account_id is None and (fanned := fan_out(event, self.rules)) is not None:
            return [output for one in fanned for output in self._fanned(record, one)]
        account = self.accounts.get(account_id or "", NEW_ACCOUNT)
        done = step(event, account_id, account, self._remembered.get, self.rules, record.timestamp_ms, self._basis)
        if done.account is not account and account_id is not None:
            self.accounts[account_id] = done.account
        self._remembered.update(done.remember)
        return list(done.outputs)

    def _fanned(self, parent: Record, output: Output) -> list[Output]:
        """A child is decided in its parent's place: no line of the log stands for it."""
        if output.topic != SIGNALS:
            return [output]
        return self.apply(replace(parent, key=output.key, value=output.value))

    def _basis(self) -> Basis:
        offsets = {topic: offset for topic, offset in self._offsets.items() if topic != POLICIES}
        return {"partition": 0, "offsets": offsets, "policy_version": self.rules.version}


def replay(lines: Iterable[str], rules: Rules) -> Iterator[str]:
    """Fold the lines of a log; yields a JSON line for each record out."""
    state = Replay(rules)
    for line in lines:
        for output in state.feed(line.rstrip("\r\n")):
            yield write_line(output)


def write_line(output: Output) -> str:
    """``{"topic": …, "key": …, "value": {…}}``, the value as it was encoded."""
    head: Mapping[str, Any] = {"topic": output.topic, "key": text_of(output.key)}
    return f'{orjson.dumps(head).decode()[:-1]},"value":{output.value.decode()}}}'


def read_line(line: str) -> Line:
    """Split a line of the log. Raises ValueError with what is wrong and how to write it."""
    fields = _split(line)
    topic = _text(fields, "topic")
    if topic not in TOPICS:
        raise ValueError(f"topic {topic!r} is unknown; use one of {', '.join(TOPICS)}")
    try:
        timestamp_ms = read_time(_text(fields, "timestamp"))
    except ValueError as error:
        raise ValueError(f"timestamp {fields.get('timestamp')} {error}") from None
    key = None if fields.get("key", "null") == "null" else _text(fields, "key")
    return Line(topic, timestamp_ms, key, fields.get("value"))


def _text(fields: dict[str, str], name: str) -> str:
    if not fields.get(name, "").startswith('"'):
        raise ValueError(f"{name} is missing or not a string")
    value: str = json.loads(fields[name])
    return value


def _split(line: str) -> dict[str, str]:
    """The members of a JSON object as they are written. Raises ValueError.

    The value of a record is kept to the letter: a dead letter must show what was sent, not a tidy copy of it.
    """
    fields: dict[str, str] = {}
    try:
        at = _skip(line, _skip(line, 0, "{"))
        while line[at] != "}":
            name, at = scanstring(line, _skip(line, at, '"'), True)
            at = _skip(line, _skip(line, _skip(line, at), ":"))
            end = _end_of_value(line, at)
            fields[name] = line[at:end]
            at = _skip(line, end)
            if line[at] != "}":
                at = _skip(line, _skip(line, at, ","))
                if line[at] == "}":
                    raise ValueError("a member is missing after ','")
        if line[at + 1 :].strip(_SPACE):
            raise ValueError("there is text after the object")
    except (IndexError, ValueError, RecursionError) as error:
        reason = "it ends too early" if isinstance(error, IndexError) else str(error)
        raise ValueError(f"the line is not a JSON object: {reason}") from None
    return fields


def _end_of_value(line: str, at: int) -> int:
    """Where a value ends, by its strings and brackets alone: what is wrong inside is the record's, not the line's.

    Raises ValueError if the line ends first.
    """
    depth = 0
    while True:
        token = _TOKEN.match(line, at)
        if token is None:
            raise ValueError("it ends within a value")
        at = token.end()
        depth += (token[0] in ("{", "[")) - (token[0] in ("}", "]"))
        if depth == 0:
            return at
        at = _skip(line, at)
        while depth and line[at] in ",:":
            at = _skip(line, at + 1)


def _skip(line: str, at: int, expected: str | None = None) -> int:
    """Past white space, and past one expected character if there is one. Raises ValueError, IndexError."""
    while line[at] in _SPACE:
        at += 1
    if expected is None:
        return at
    if line[at] != expected:
        raise ValueError(f"expected {expected!r} at character {at}")
    return at + 1


def _bytes(text: str) -> bytes:
    """What a line was read from: bytes that are not UTF-8 came in as surrogate escapes and go out as they were."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass")


def _unreadable(line: str, fault: str) -> Output:
    """A line that is no record: topic and offset are not known, the payload is the whole line."""
    record = Record("", 0, 0, 0, None, _bytes(line))
    body = dead_letter_body(record, "MALFORMED", fault, None, None)
    body |= {"topic": None, "partition": None, "offset": None, "timestamp": None, "schema_version": SCHEMA_VERSION}
    return Output(DEAD_LETTERS, None, orjson.dumps(body))
