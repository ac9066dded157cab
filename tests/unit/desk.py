"""A small desk to write worked examples of the contract with: one account, a clock, and the gate as ``replay`` runs it.

A test tells the desk what producers would send and reads what the gate answers:

    desk = Desk(profile="normal")
    desk.pnl("10000")
    desk.signal(quantity="1").approved["order_id"]

Everything passes through JSON lines and :class:`streams.replay.Replay`, so a test sees what a user would see. Whatever
is not named has a default that passes every check: what a test names is what it is about.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from schemas.outputs import MODELS
from streams.config import parse_config
from streams.core.records import APPROVED, DEAD_LETTERS, EVENTS, LOCKED, REJECTED, Output
from streams.core.rules import Rules, rules_of
from streams.core.state import NEW_ACCOUNT, Account
from streams.replay import Replay

Json = dict[str, Any]

ACCOUNT = "main"
TUESDAY = "2017-12-19T11:00:00Z"


class Absent:
    """A field that a record leaves out; ``None`` would write null."""


ABSENT = Absent()
_NEXT = Absent()


class Out(NamedTuple):
    topic: str
    key: str | None
    value: Json


class Said(list[Out]):
    """What the gate published for one record."""

    def of(self, topic: str) -> list[Json]:
        return [one.value for one in self if one.topic == topic]

    def _one(self, topic: str) -> Json:
        found = self.of(topic)
        assert len(found) == 1, f"one {topic} expected, published: {self.names}"
        return found[0]

    @property
    def approved(self) -> Json:
        return self._one(APPROVED)

    @property
    def rejected(self) -> Json:
        return self._one(REJECTED)

    @property
    def letter(self) -> Json:
        """The one dead letter."""
        return self._one(DEAD_LETTERS)

    @property
    def lock(self) -> Json:
        return self._one(LOCKED)

    @property
    def locks(self) -> list[str]:
        """The reasons of all locks, in order."""
        return [one["reason"] for one in self.of(LOCKED)]

    def events(self, kind: str) -> list[Json]:
        return [one for one in self.of(EVENTS) if one["type"] == kind]

    def event(self, kind: str) -> Json:
        found = self.events(kind)
        assert len(found) == 1, f"one {kind} expected, published: {self.names}"
        return found[0]

    @property
    def names(self) -> list[str]:
        """Each record in order: an event's type, a lock's or dead letter's reason, a rejection's code, ``APPROVED``."""
        field = {REJECTED: "code", LOCKED: "reason", EVENTS: "type", DEAD_LETTERS: "reason"}
        return ["APPROVED" if one.topic == APPROVED else one.value[field[one.topic]] for one in self]

    @property
    def codes(self) -> list[str]:
        """The failing checks of a rejection, in order."""
        return [reason["code"] for reason in self.rejected["reasons"]]

    def check(self, code: str, scope: str | None = None) -> Json:
        """One check of an approval or one reason of a rejection, without its code."""
        listed = self.checks(code, scope)
        assert len(listed) == 1, f"{code} is listed {len(listed)} times in {self.names}"
        return listed[0]

    def checks(self, code: str, scope: str | None = None) -> list[Json]:
        decided = self.of(APPROVED) + self.of(REJECTED)
        assert len(decided) == 1, f"one decision expected, published: {self.names}"
        listed = decided[0].get("checks") or decided[0].get("reasons") or []
        return [
            {name: value for name, value in one.items() if name not in ("code", "passed")}
            for one in listed
            if one["code"] == code and scope in (None, one["scope"])
        ]


def read_output(output: Output) -> Out:
    """A published record, checked against its published schema: so every test is a test of the schemas too."""
    value: Json = json.loads(output.value)
    MODELS[output.topic].model_validate(value)
    return Out(output.topic, None if output.key is None else output.key.decode(errors="backslashreplace"), value)


def rules_from(table: Json) -> Rules:
    """The rules of a ``tidegate.toml`` written as a dict."""
    return rules_of(parse_config(table, {}))


class Desk:
    """One account ``main`` at venue ``binance`` (``normal`` unless told), and whatever else the test configures."""

    def __init__(
        self,
        profile: str = "normal",
        *,
        account: Json | None = None,
        limits: Json | None = None,
        at: str = TUESDAY,
        **tables: Any,
    ) -> None:
        own = {"exchange": "binance", "profile": profile, **(account or {})}
        table = {"accounts": {ACCOUNT: own, **tables.pop("accounts", {})}, "limits": limits or {}, **tables}
        self.gate = Replay(rules_from(table))
        self._now = _instant(at)
        self._sequence = 0
        self._numbers: dict[str, int] = {}

    # -- the clock -------------------------------------------------------------------------------------------------

    def at(self, time: str) -> "Desk":
        """Move the clock to a time."""
        self._now = _instant(time)
        return self

    def later(self, **by: float) -> "Desk":
        """Move the clock on (``seconds=…``, ``hours=…``)."""
        self._now += timedelta(**by)
        return self

    def time(self, **by: float) -> str:
        """Now, or a time relative to it, as it is written."""
        text = (self._now + timedelta(**by)).isoformat(timespec="milliseconds")
        return text.replace(".000", "").replace("+00:00", "Z")

    # -- what producers send ---------------------------------------------------------------------------------------

    def signal(self, signal_id: Any = _NEXT, **fields: Any) -> Said:
        """A buy of 1 BTC-USD at 100 with a stop at 99."""
        return self.send(
            "signals",
            {
                "signal_id": self._next("s") if signal_id is _NEXT else signal_id,
                "account_id": ACCOUNT,
                "strategy_id": "trend",
                "instrument": "BTC-USD",
                "side": "buy",
                "quantity": "1",
                "price": "100",
                "stop_loss": "99",
                "created_at": self.time(),
                **fields,
            },
        )

    def fill(self, fill_id: Any = _NEXT, **fields: Any) -> Said:
        """A complete fill of 1 BTC-USD bought at 100, of no order."""
        return self.send(
            "fills",
            {
                "fill_id": self._next("f") if fill_id is _NEXT else fill_id,
                "order_id": None,
                "account_id": ACCOUNT,
                "instrument": "BTC-USD",
                "side": "buy",
                "quantity": "1",
                "price": "100",
                "status": "filled",
                "filled_at": self.time(),
                **fields,
            },
        )

    def pnl(self, equity: Any = "10000", **fields: Any) -> Said:
        """An equity mark with the next sequence."""
        sequence = fields.pop("sequence", self._sequence + 1)
        if type(sequence) is int:
            self._sequence = sequence
        value = {"account_id": ACCOUNT, "sequence": sequence, "equity": equity, "as_of": self.time(), **fields}
        return self.send("pnl", value)

    def command(self, kind: str, command_id: Any = _NEXT, **fields: Any) -> Said:
        """A command of operator ann."""
        return self.send(
            "controls",
            {
                "command_id": self._next("c") if command_id is _NEXT else command_id,
                "account_id": ACCOUNT,
                "type": kind,
                "operator": "ann",
                "reason": "reviewed with desk",
                "issued_at": self.time(),
                **fields,
            },
        )

    def policy(self, name: str, rule: Any) -> Said:
        value = {"name": name, "rule": rule, "operator": "ann", "reason": "market", "issued_at": self.time()}
        return self.send("policies", value, key=name)

    def send(self, topic: str, value: Json, key: Any = ACCOUNT) -> Said:
        """A record now; fields that are ABSENT are left out."""
        kept = {name: one for name, one in value.items() if one is not ABSENT}
        return self.raw(topic, json.dumps(kept), key)

    def raw(self, topic: str, value: str, key: Any = ACCOUNT) -> Said:
        """A record now whose value is written exactly so."""
        head = f'{{"topic": "{topic}", "timestamp": "{self.time()}", "key": {json.dumps(key)}, "value": '
        return self.line(head + value + "}")

    def line(self, line: str) -> Said:
        """One line of a log."""
        return Said(
            Out(
                one.topic, None if one.key is None else one.key.decode(errors="backslashreplace"), json.loads(one.value)
            )
            for one in self.gate.feed(line)
        )

    # -- shorthand -------------------------------------------------------------------------------------------------

    def hold(self, quantity: str, price: str = "100", **fields: Any) -> "Desk":
        """Hold a position (negative: short) that no order of ours made: an opening balance."""
        side, size = ("sell", quantity[1:]) if quantity.startswith("-") else ("buy", quantity)
        said = self.fill(side=side, quantity=size, price=price, **fields)
        assert said == [], said
        return self

    def working(self, **fields: Any) -> str:
        """Get an order approved; its order_id."""
        order_id: str = self.signal(**fields).approved["order_id"]
        return order_id

    @property
    def account(self) -> Account:
        """The account's state."""
        return self.gate.accounts.get(ACCOUNT, NEW_ACCOUNT)

    def position(self, instrument: str = "BTC-USD", venue: str = "binance") -> tuple[str, str] | None:
        """Quantity and average price as a lock would publish them; None when flat."""
        found = self.account.book.at(instrument, venue)
        return None if found is None else (f"{found.quantity.normalize():f}", f"{found.average_price.normalize():f}")

    def _next(self, prefix: str) -> str:
        self._numbers[prefix] = self._numbers.get(prefix, 0) + 1
        return f"{prefix}-{self._numbers[prefix]}"


def _instant(time: str) -> datetime:
    return datetime.fromisoformat(time).astimezone(UTC)
