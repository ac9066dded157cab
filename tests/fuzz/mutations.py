"""What producers, proxies and attackers make of a sound record: structural damage, drawn from a seed.

``Mutator.spoil`` takes a record of a coherent session and returns a broken copy with the names of what was done to it.
Damage comes on three levels: the JSON tree (fields dropped, repeated, renamed, retyped; extreme numbers, odd strings
and times), the bytes (truncated, flipped, joined, encoded otherwise), and the record around them (key, partition,
timestamp, headers, topic). Nothing here knows the gate, and no two draws share a state: the same ``Random`` gives the
same record.
"""

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

from tests.model.strategies import Raw

PARTITIONS = 2
INPUT_TOPICS = ("signals", "fills", "pnl", "controls", "policies")
INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Sent:
    """A record as a producer sends it. ``wall_ms``: the clock of the gate at that time."""

    topic: str
    partition: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    wall_ms: int = 0


class Members(list[tuple[str, Any]]):
    """A JSON object as its members in order: names may repeat."""


NUMBERS = [
    *("0", "-0", "-0.0", "0e0", "-0e999", "0.0000000000000000000000000000000000000001", "1", "-1", "1e0", "1E+2"),
    *("1e29", "1e30", "-1e30", "9.99e29", "1e-30", "1e-31", "1e999", "-1e999", "1e-999", "1e308", "1e309", "4.9e-324"),
    *("1e999999", "1e999999999", "1e-999999999", "1e99999999999999999999", "NaN", "Infinity", "-Infinity", "-NaN"),
    *(str(2**31), str(2**53 + 1), str(2**63 - 1), str(2**63), str(-(2**63)), str(-(2**63) - 1), str(2**64), "7.0"),
    *("1" * 39, "1" * 40, "1" * 41, "1" * 100, "1" * 101, "1" * 4_300, "1" * 4_301, "9" * 20_000),
    *(
        "0." + "1" * 40,
        "0." + "1" * 41,
        "0." + "0" * 11 + "5",
        "0." + "0" * 12 + "5",
        "0." + "3" * 10_000,
        "1" + "0" * 29,
    ),
    *("01", "+1", ".5", "5.", "1e", "0x10", "1_000", "--1", "1,5", "１"),
]
STRINGS = [
    *("", " ", "\0", "a\0b", "\n", "\t", '"', "\\", "/", "../../etc/passwd", "null", "true", "NaN", "\ufeff", "\u202e"),
    *("\ud800", "\udfff", "a\udc00b", "\U0001f4a9", "e\u0301", "\u0085\u2028\u2029", "\x7f", "\x1b[31m", "{}", "%s%n"),
    *("x" * 255, "x" * 256, "x" * 257, "å" * 128, "å" * 129, "x" * 1_024, "å" * 512, "å" * 513, "x" * 5_000),
    *(
        "buy",
        "BUY",
        "Sell",
        "filled",
        "micro",
        "aggressive",
        "unlock",
        "state/global",
        "acc0",
        "acc1",
        "nobody",
        "trend",
    ),
    *(
        "shared",
        "binance",
        "BTC-USD",
        "-",
        "A-",
        "-B",
        "o-" + "0" * 32,
        "${jndi:ldap://x}",
        "'; DROP TABLE --",
        "ß" * 90,
    ),
]
TIMES = [
    *(
        "1970-01-01T00:00:00Z",
        "1969-12-31T23:59:59.999Z",
        "1970-01-01T00:00:00+23:59",
        "2999-12-31T23:59:59.999999999Z",
    ),
    *("3000-01-01T00:00:00Z", "2999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
    *(
        "2017-12-19T11:00:00",
        "2017-12-19T11:00:60Z",
        "2017-12-19T24:00:00Z",
        "2017-02-29T00:00:00Z",
        "2016-02-29t00:00:00z",
    ),
    *(
        "2017-12-19 11:00:00Z",
        "2017-12-19T11:00:00+24:00",
        "2017-12-19T11:00:00.Z",
        "2017-12-19T11:00:00," + "1Z",
        "now",
    ),
    *("２０１７-12-19T11:00:00Z", "2017-12-19T11:00:00." + "1" * 300 + "Z", "2017-12-19T11:00:00-00:00", "2017-12-19"),
]
OTHER: list[Any] = [None, True, False, [], {}, [None], {"a": 1}, [[]], {"": ""}, [1] * 200, {"a": {"b": {"c": []}}}]
# Brokers, replays and clock faults make times outside of any calendar.
TIMESTAMPS = [0, -1, 1, -(2**63), INT64_MAX, 2**31, 2**53, 253_402_300_800_000, 32_503_679_999_999, 32_503_680_000_000]
KEYS = [
    None,
    b"",
    b"\xff\xfe",
    b"\0",
    b"acc0",
    b"acc1",
    b"acc2",
    b"nobody",
    b"x" * 300,
    b"k" * 65_536,
    "ø".encode() * 99,
]
HEADERS: list[tuple[tuple[str, bytes], ...]] = [
    (("", b""),),
    (("traceparent", b"00-" + b"1" * 32 + b"-01"),),
    (("trace", b"1"), ("trace", b"2"), ("trace", b"\xff\x00")),
    (("x" * 1_000, b"\0" * 1_000),),
    tuple((f"h{n}", b"v") for n in range(300)),
    (("big", b"b" * 60_000),),
    (("tidegate-forwarded-from", b"signals/0/0"),),
    (("tidegate-resubmitted-from", b"signals/0/0"),),
    (("ø\0", "ø".encode()),),
]


def encode(value: Any) -> str:
    """A JSON tree as text; numbers and repeated names as they are."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Members):
        return "{" + ",".join(f"{json.dumps(name)}:{encode(item)}" for name, item in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(encode, value)) + "]"
    return json.dumps(value)


@cache
def parsed(value: bytes) -> Members | None:
    """The members of a record's value, numbers as they are written; None where it is no JSON object."""
    try:
        tree = json.loads(value, parse_float=Raw, parse_int=Raw, parse_constant=Raw, object_pairs_hook=Members)
    except (ValueError, RecursionError):
        return None
    return tree if isinstance(tree, Members) else None


class Mutator:
    """Draws damage from a ``Random``. ``others``: records to take parts from."""

    def __init__(self, rng: Random, others: Sequence[Sent]) -> None:
        self._rng = rng
        self._others = others

    def spoil(self, sent: Sent) -> tuple[Sent, list[str]]:
        """A broken copy, and what was done to it."""
        rng, done = self._rng, list[str]()
        dice = rng.random()
        if dice < 0.72:
            sent = self._tree(sent, done)
        if dice > 0.62:
            sent = self._pick(_BYTES, sent, done)
        if rng.random() < 0.2:
            sent = self._pick(_AROUND, sent, done)
        return sent, done

    def _pick(self, among: "Sequence[Change]", sent: Sent, done: list[str]) -> Sent:
        change = self._rng.choice(among)
        done.append(change.__name__.lstrip("_"))
        return change(self, sent)

    # -- the tree --------------------------------------------------------------------------------------------------

    def _tree(self, sent: Sent, done: list[str]) -> Sent:
        members = None if sent.value is None or len(sent.value) > 100_000 else parsed(sent.value)
        if members is None:
            return self._pick(_BYTES, sent, done)
        for _ in range(self._rng.choice((1, 1, 1, 2, 3, 6))):
            members = self._members(members, done)
        return replace(sent, value=encode(members).encode(errors="surrogatepass"))

    def _members(self, members: Members, done: list[str]) -> Members:
        rng = self._rng
        new = Members(members)
        if not new:
            return Members([("signal_id", self._odd())])
        at = rng.randrange(len(new))
        name, value = new[at]
        if isinstance(value, Members) and rng.random() < 0.7:
            new[at] = (name, self._members(value, done))
            return new
        dice = rng.random()
        if dice < 0.12:
            done.append("drop")
            del new[at]
        elif dice < 0.20:
            done.append("repeat")
            new.insert(rng.choice((0, at, len(new))), (name, rng.choice((value, self._odd(), None))))
        elif dice < 0.25:
            done.append("rename")
            new[at] = (rng.choice((name.upper(), name + " ", " " + name, name[:-1], "", "\0", *STRINGS)), value)
        elif dice < 0.31:
            done.append("swap")
            other = rng.randrange(len(new))
            new[at], new[other] = (name, new[other][1]), (new[other][0], value)
        elif dice < 0.37:
            done.append("retype")
            new[at] = (name, self._retyped(value))
        elif dice < 0.42:
            done.append("borrow")
            lender = parsed(rng.choice(self._others).value or b"")
            new[at] = (name, rng.choice(lender)[1] if lender else None)
        elif dice < 0.46:
            done.append("add")
            new.insert(rng.randrange(len(new) + 1), (rng.choice(STRINGS), self._odd()))
        elif dice < 0.48:
            done.append("share")
            new = Members((one, item) for one, item in new if one not in ("strategy_id", "account_id"))
            new += [("strategy_id", "shared"), ("account_id", None)]
        else:
            done.append("odd")
            new[at] = (name, self._odd_for(name))
        return new

    def _odd(self) -> Any:
        rng = self._rng
        pool = rng.choice((NUMBERS, NUMBERS, STRINGS, TIMES, OTHER))
        value = rng.choice(pool)
        if pool is NUMBERS:
            return Raw(value) if rng.random() < 0.6 else value
        return value

    def _odd_for(self, name: str) -> Any:
        """Mostly of the field's own kind, which gets further into the rules than any nonsense."""
        rng = self._rng
        if rng.random() < 0.35:
            return self._odd()
        if name.endswith("_at") or name == "as_of":
            return rng.choice(TIMES)
        if name in _AMOUNTS:
            number = rng.choice(NUMBERS)
            return Raw(number) if rng.random() < 0.5 else number
        return rng.choice(STRINGS)

    def _retyped(self, value: Any) -> Any:
        if isinstance(value, Raw):
            return str(value)
        if isinstance(value, str):
            return Raw(value) if value[:1].isdigit() else [value]
        return self._rng.choice(([value], Members([("value", value)]), encode(value)))

    # -- the bytes -------------------------------------------------------------------------------------------------

    def _at(self, value: bytes) -> int:
        return self._rng.randrange(len(value) + 1)

    def _truncated(self, sent: Sent) -> Sent:
        value = sent.value or b""
        return replace(sent, value=value[: self._at(value)])

    def _flipped(self, sent: Sent) -> Sent:
        value = bytearray(sent.value or b"\0")
        for _ in range(self._rng.choice((1, 1, 2, 8))):
            at = self._rng.randrange(max(1, len(value)))
            value[at : at + 1] = bytes([(value[at] if value else 0) ^ (1 << self._rng.randrange(8))])
        return replace(sent, value=bytes(value))

    def _inserted(self, sent: Sent) -> Sent:
        value = sent.value or b""
        at = self._at(value)
        return replace(sent, value=value[:at] + self._rng.choice(_SNIPPETS) + value[at:])

    def _cut(self, sent: Sent) -> Sent:
        value = sent.value or b""
        at, end = sorted((self._at(value), self._at(value)))
        return replace(sent, value=value[:at] + value[end:])

    def _joined(self, sent: Sent) -> Sent:
        glue = self._rng.choice((b"", b"\n", b",", b" ", b"\0"))
        return replace(sent, value=(sent.value or b"") + glue + (self._rng.choice(self._others).value or b""))

    def _encoded_otherwise(self, sent: Sent) -> Sent:
        value = sent.value or b""
        text = value.decode(errors="replace")
        form = self._rng.choice(("utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-7", "cp037", "gzip", "base64"))
        if form == "gzip":
            return replace(sent, value=gzip.compress(value, 1, mtime=0))
        if form == "base64":
            return replace(sent, value=json.dumps(text).encode())
        return replace(sent, value=text.encode(form, errors="replace"))

    def _absent(self, sent: Sent) -> Sent:
        return replace(
            sent, value=self._rng.choice((None, b"", b" ", b"\0", b"null", b"0", b"[]", b"{}", b'""', b"\n\n"))
        )

    def _wrapped(self, sent: Sent) -> Sent:
        head, tail = self._rng.choice(
            (
                (b"[", b"]"),
                (b'{"value":', b"}"),
                (b" \r\n\t", b" \n"),
                (b"callback(", b")"),
                (b"/* */", b""),
                (b"", b";"),
            )
        )
        return replace(sent, value=head + (sent.value or b"") + tail)

    def _nested(self, sent: Sent) -> Sent:
        depth = self._rng.choice((98, 99, 100, 101, 5_000, 100_000))
        opening, closing = self._rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
        inner = opening * depth + (closing * depth if self._rng.random() < 0.7 else b"")
        value = sent.value or b""
        body = value[:-1] + b',"deep":' + inner + b"}" if value.endswith(b"}") and self._rng.random() < 0.7 else inner
        return replace(sent, value=body)

    def _large(self, sent: Sent) -> Sent:
        """Near what brokers take; rarely, since each of them costs as much as a thousand others."""
        size = self._rng.choice(
            (4_095, 4_096, 4_097, 20_000, 20_000) if self._rng.random() < 0.95 else (300_000, 1_000_000)
        )
        filling = self._rng.choice((b"x" * size, b"\\u0000" * (size // 6), "å".encode() * (size // 2), b"\xff" * size))
        value = sent.value or b""
        note = b',"' + (filling if self._rng.random() < 0.3 else b'note":"' + filling) + b'"'
        return replace(sent, value=value[:-1] + note + value[-1:])

    def _garbage(self, sent: Sent) -> Sent:
        return replace(sent, value=self._rng.randbytes(self._rng.choice((1, 7, 64, 900))))

    # -- around the value ------------------------------------------------------------------------------------------

    def _key(self, sent: Sent) -> Sent:
        return replace(sent, key=self._rng.choice(KEYS))

    def _partition(self, sent: Sent) -> Sent:
        return replace(sent, partition=(sent.partition + 1) % PARTITIONS) if sent.topic != "policies" else sent

    def _timestamp(self, sent: Sent) -> Sent:
        near = sent.timestamp_ms + self._rng.choice((-1, 1, 86_400_000, -86_400_000, 5_000, 5_001))
        return replace(sent, timestamp_ms=self._rng.choice((near, self._rng.choice(TIMESTAMPS))))

    def _headers(self, sent: Sent) -> Sent:
        return replace(sent, headers=self._rng.choice(HEADERS))

    def _topic(self, sent: Sent) -> Sent:
        topic = self._rng.choice(INPUT_TOPICS)
        return replace(sent, topic=topic, partition=0 if topic == "policies" else sent.partition)


Change = Callable[[Mutator, Sent], Sent]
_BYTES: Sequence[Change] = (
    Mutator._truncated,
    Mutator._truncated,
    Mutator._flipped,
    Mutator._flipped,
    Mutator._inserted,
    Mutator._cut,
    Mutator._joined,
    Mutator._encoded_otherwise,
    Mutator._absent,
    Mutator._wrapped,
    Mutator._nested,
    Mutator._large,
    Mutator._garbage,
)
_AROUND: Sequence[Change] = (
    Mutator._key,
    Mutator._key,
    Mutator._partition,
    Mutator._timestamp,
    Mutator._timestamp,
    Mutator._headers,
    Mutator._topic,
)
_SNIPPETS = (
    b"\0",
    b'"',
    b"{",
    b"}",
    b"\\",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"\\ud800",
    b",",
    b":",
)
_AMOUNTS = frozenset(
    ("quantity", "price", "stop_loss", "leverage", "fee", "equity", "balance", "cash_flow", "sequence", "reverts")
) | {"BTC-USD", "ETH-USD", "EUR-JPY", "GOLD", "ADA-NOK", "USD", "JPY", "NOK"}
