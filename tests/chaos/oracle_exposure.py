"""No approval of added exposure between a lock and its unlock, from what anyone can read: a second, simpler line.

The model has no part in this. Locks, unlocks and approvals of a partition are put in order by their bases (every step
applies one more offset, so the sum of the applied offsets rises), fills by the approvals that they name. Between a lock
and the next ``UNLOCKED`` an approval has to go against a position of its account, and not beyond it.

Fills that are dead letters, or belong to another partition, were not applied. One simplification, on the lenient side:
exits that are already working are not taken off what may be reduced.
"""

import json
from collections import defaultdict
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from tests.chaos.oracle_findings import APPROVED_WHILE_LOCKED, Findings
from tests.chaos.oracle_outputs import Json, position_of, read_outputs
from tests.chaos.oracle_replay import partition_of
from tests.chaos.recording import Recording
from tests.model.naive import accounts_of

_ENTRY_ONLY = frozenset({"TRADING_STATE_REDUCING", "ROLLOUT_PHASE", "RISK_DATA_MISSING", "TRADE_RISK_EXCEEDED"})


class _Happening(NamedTuple):
    position: int
    fills_applied: int
    order: int
    topic: str
    offset: int
    value: Json


def check_exposure(recording: Recording, partition: int, findings: Findings) -> None:
    """Judge every approval of a partition."""
    happenings = sorted(_happenings(recording, partition), key=lambda one: one[:3])
    book = _Book(recording, partition)
    locked: dict[str, str] = {}
    for one in happenings:
        account_id = str(one.value.get("account_id"))
        where = f"{one.topic}-{partition}@{one.offset}"
        if one.topic == "account-locked":
            locked.setdefault(account_id, where)
        elif one.topic == "account-events":
            locked.pop(account_id, None)
        else:
            book.apply_fills(one.fills_applied)
            if account_id in locked and (fault := _fault(one.value, book)):
                text = f"{account_id} {one.value.get('signal_id')}: {fault}, locked since {locked[account_id]}"
                findings.add(APPROVED_WHILE_LOCKED, where, text)
            book.approve(one.value)


def _happenings(recording: Recording, partition: int) -> list[_Happening]:
    found = []
    # What forbids goes before what asks, should two name the same place.
    for order, topic in enumerate(("account-locked", "account-events", "approved-orders")):
        for one, value in read_outputs(recording, topic, partition):
            if topic == "account-events" and value.get("type") != "UNLOCKED":
                continue
            basis = value.get("basis")
            offsets = basis.get("offsets") if isinstance(basis, dict) else None
            fills = offsets.get("fills", -1) if isinstance(offsets, dict) else -1
            found.append(_Happening(position_of(value), fills, order, topic, one.offset, value))
    return found


def _fault(approval: Json, book: "_Book") -> str:
    """Why an approval adds exposure, "" if it does not."""
    if approval.get("trading_state") == "ACTIVE":
        return "says ACTIVE"
    checks = approval.get("checks")
    if isinstance(checks, list) and any(isinstance(one, dict) and one.get("code") in _ENTRY_ONLY for one in checks):
        return "was checked as an entry"
    quantity = _decimal(approval.get("quantity"))
    held = book.held(approval)
    signed = quantity if approval.get("side") == "buy" else -quantity
    if held * signed >= 0 or abs(signed) > abs(held):
        return f"{approval.get('side')} {quantity} of {approval.get('instrument')} does not reduce {held}"
    return ""


class _Book:
    """Positions by account, instrument and venue, from the fills that were applied."""

    def __init__(self, recording: Recording, partition: int) -> None:
        accounts = accounts_of(recording.config(), recording.environment())
        self._primary = {name: one.get("exchange") for name, one in accounts.items()}
        self._partition, self._partitions = partition, recording.partitions("fills")
        dead = _dead_fills(recording, partition)
        self._fills = [rec for rec in recording.records("fills", partition) if rec.offset not in dead]
        self._strange = _fills_of_unknown_orders(recording, partition)
        self._next = 0
        self._venues: dict[str, Any] = {}
        self._held: dict[tuple[Any, ...], Decimal] = defaultdict(Decimal)

    def approve(self, approval: Json) -> None:
        """Remember where an order goes."""
        self._venues[str(approval.get("order_id"))] = approval.get("venue")

    def apply_fills(self, last: int) -> None:
        """Apply the fills up to an offset."""
        while self._next < len(self._fills) and self._fills[self._next].offset <= last:
            rec = self._fills[self._next]
            self._fill(rec.value or b"", is_strange=rec.offset in self._strange)
            self._next += 1

    def held(self, order: Json) -> Decimal:
        """What the account holds where the order goes, a short below 0."""
        return self._held[order.get("account_id"), order.get("instrument"), order.get("venue")]

    def _fill(self, value: bytes, *, is_strange: bool) -> None:
        try:
            fill = json.loads(value, parse_float=Decimal, parse_int=Decimal)
        except ValueError:
            # It has no dead letter here: it went to another partition by its key.
            return
        account_id = fill.get("account_id") if isinstance(fill, dict) else None
        if account_id is None or partition_of(str(account_id).encode(), self._partitions) != self._partition:
            return
        of_order = None if is_strange else self._venues.get(str(fill.get("order_id")))
        venue = fill.get("venue") or of_order or self._primary.get(account_id)
        quantity = _decimal(fill.get("quantity"))
        self._held[account_id, fill.get("instrument"), venue] += quantity if fill.get("side") == "buy" else -quantity


def _dead_fills(recording: Recording, partition: int) -> set[int]:
    """Offsets of fills that were not applied: dead letters, and those that went to another partition."""
    dead = set()
    for number in range(recording.partitions("dead-letters")):
        for _, value in read_outputs(recording, "dead-letters", number):
            if value.get("topic") == "fills" and value.get("partition") == partition:
                dead.add(int(value["offset"]))
    return dead


def _fills_of_unknown_orders(recording: Recording, partition: int) -> set[int]:
    """Offsets of fills whose order the gate did not know (any more)."""
    strange = set()
    for _, value in read_outputs(recording, "account-events", partition):
        if value.get("type") == "UNKNOWN_ORDER":
            strange.add(int(value["basis"]["offsets"]["fills"]))
    return strange


def _decimal(raw: Any) -> Decimal:
    try:
        return Decimal(str(raw))
    except InvalidOperation:
        return Decimal(0)
