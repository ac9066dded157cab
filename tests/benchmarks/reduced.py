"""The reduced rules, for the comparison with Kafka Streams: Tidegate's runtime with these in place of its core.

``peers/kafka_streams`` implements the same in Java; the same stream has to give the same records on both.

*State of an account*: sequence, equity, base (the first equity ever), locked, position (signed), open orders (id and
quantity). *Ids* of signals and fills are remembered under keys of their own. Amounts are decimals throughout.

- ``pnl``: a sequence that is not above the last is dropped. Else equity and sequence are taken; where equity ≤ 0.95 ×
  base and the account is not locked, it is locked: ``account-locked`` {account_id, equity, base, locked_at}.
- ``signals``: a known signal_id is dropped. Else the first of these refuses it: the account is locked
  (``ACCOUNT_LOCKED``); no equity yet (``RISK_DATA_MISSING``); quantity × |price − stop| > 0.02 × equity
  (``TRADE_RISK_EXCEEDED``); (|position| + open + quantity) × price > 5 × equity (``LEVERAGE_EXCEEDED``). Refused:
  ``rejected-signals`` {signal_id, account_id, strategy_id, instrument, code, decided_at}. Approved: the order is open,
  and ``approved-orders`` {signal_id, account_id, strategy_id, instrument, side, quantity, price, stop_loss, order_id,
  decided_at}.
- ``fills``: a known fill_id is dropped. Else the position moves by the quantity and the order is closed.

Times written are the record's timestamp.

``python -m tests.benchmarks.reduced CONFIG_JSON`` is a worker that runs these rules.
"""

import sys
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import msgspec
import orjson
from msgspec import Struct
from msgspec.structs import replace

from schemas.types import write_amount, write_time
from streams.core.decode import Event, decode
from streams.core.fold import Batch, Commit, View, merge
from streams.core.outputs import order_id_of
from streams.core.records import APPROVED, LOCKED, PNL, REJECTED, SIGNALS, Output
from streams.core.rules import Rules
from streams.core.state import (
    DECISIONS,
    OFFSETS_KEY,
    PARTITION,
    Change,
    Remembered,
    decode_remembered,
    encode_state,
    remembered_key,
)
from streams.runtime.partition import Core
from tests.integration.standin import at_one_go

TABLE = "accounts"
_ZERO = Decimal(0)
_KEPT_MIN, _TRADE_RISK_MAX, _LEVERAGE_MAX = Decimal("0.95"), Decimal("0.02"), Decimal(5)
_ID_KEPT_MS = 86_400_000


class Account(Struct, frozen=True, omit_defaults=True, gc=False):
    """What is known of an account."""

    sequence: int | None = None
    equity: Decimal | None = None
    base: Decimal | None = None
    locked: bool = False
    position: Decimal = _ZERO
    open: Mapping[str, Decimal] = {}


NEW = Account()
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Account).decode


def decode_account(parts: Mapping[str, bytes]) -> Any:
    """An account from its one record."""
    return _decode(parts[TABLE])


class _Step:
    """One batch on its way through the rules."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.accounts: dict[str, Any] = {}
        self.ids: dict[bytes, Remembered] = {}
        self.outputs: list[Output] = []

    def apply(self, event: Event) -> None:
        account_id = event.body.account_id
        account = self.accounts.get(account_id) or self._view.account(account_id) or NEW
        handler = {PNL: self._mark, SIGNALS: self._decide}.get(event.record.topic, self._fill)
        self.accounts[account_id] = handler(event, account)

    def _mark(self, event: Event, account: Any) -> Account:
        update = event.body
        held: Account = account
        if held.sequence is not None and update.sequence <= held.sequence:
            return held
        base = update.equity if held.base is None else held.base
        locks = not held.locked and update.equity <= _KEPT_MIN * base
        if locks:
            body = {"equity": write_amount(update.equity), "base": write_amount(base)}
            self._send(LOCKED, event, body | {"locked_at": write_time(event.record.timestamp_ms)})
        locked = held.locked or locks
        return replace(held, sequence=update.sequence, equity=update.equity, base=base, locked=locked)

    def _decide(self, event: Event, account: Any) -> Account:
        signal = event.body
        held: Account = account
        key = remembered_key(signal.account_id, "signal", signal.signal_id)
        if self._known(key):
            return held
        expires_ms = event.record.timestamp_ms + _ID_KEPT_MS
        code = _refusal(held, signal)
        body = {"signal_id": signal.signal_id, "strategy_id": signal.strategy_id, "instrument": signal.instrument}
        decided_at = write_time(event.record.timestamp_ms)
        if code is not None:
            self.ids[key] = Remembered(signal.signal_id, expires_ms)
            self._send(REJECTED, event, body | {"code": code, "decided_at": decided_at})
            return held
        order_id = order_id_of(signal.account_id, signal.signal_id)
        self.ids[key] = Remembered(order_id, expires_ms)
        body |= {
            "side": signal.side,
            "quantity": write_amount(signal.quantity),
            "price": write_amount(signal.price),
            "stop_loss": write_amount(signal.stop_loss),
            "order_id": order_id,
            "decided_at": decided_at,
        }
        self._send(APPROVED, event, body)
        return replace(held, open={**held.open, order_id: signal.quantity})

    def _fill(self, event: Event, account: Any) -> Account:
        fill = event.body
        held: Account = account
        key = remembered_key(fill.account_id, "fill", fill.fill_id)
        if self._known(key):
            return held
        self.ids[key] = Remembered(fill.fill_id, event.record.timestamp_ms + _ID_KEPT_MS)
        position = held.position + (fill.quantity if fill.side == "buy" else -fill.quantity)
        working = {order_id: quantity for order_id, quantity in held.open.items() if order_id != fill.order_id}
        return replace(held, position=position, open=working)

    def _known(self, key: bytes) -> bool:
        return key in self.ids or self._view.remembered(key) is not None

    def _send(self, topic: str, event: Event, body: dict[str, Any]) -> None:
        account_id = event.body.account_id
        self.outputs.append(Output(topic, account_id.encode(), orjson.dumps({"account_id": account_id, **body})))


def _refusal(account: Account, signal: Any) -> str | None:
    if account.locked:
        return "ACCOUNT_LOCKED"
    equity = account.equity
    if equity is None:
        return "RISK_DATA_MISSING"
    if signal.quantity * abs(signal.price - signal.stop_loss) > _TRADE_RISK_MAX * equity:
        return "TRADE_RISK_EXCEEDED"
    quantity = abs(account.position) + sum(account.open.values(), _ZERO) + signal.quantity
    return "LEVERAGE_EXCEEDED" if quantity * signal.price > _LEVERAGE_MAX * equity else None


def fold(batch: Batch, view: View, rules: Rules, _partition_of: Callable[[str], int]) -> Commit:
    """As ``streams.core.fold.fold``, under the reduced rules."""
    step = _Step(view)
    offsets = dict(view.offsets)
    for record in merge(batch.records):
        offsets[record.topic] = record.offset
        step.apply(decode(record))
    changes = [
        *(Change(TABLE, account_id.encode(), _encode(account)) for account_id, account in step.accounts.items()),
        *(Change(DECISIONS, key, encode_state(memory)) for key, memory in step.ids.items()),
        Change(PARTITION, OFFSETS_KEY, orjson.dumps({"v": 1, "offsets": offsets})),
    ]
    spans = {topic: [records[0].offset, records[-1].offset] for topic, records in batch.records.items() if records}
    journal = {"partition": batch.partition, "offsets": spans, "policy_version": rules.version}
    return Commit(tuple(step.outputs), tuple(changes), step.accounts, orjson.dumps(journal), offsets)


CORE = Core(at_one_go(fold), decode_account, decode_remembered, (TABLE,))


if __name__ == "__main__":
    from streams.runtime.worker import run_worker
    from tests.benchmarks.engines import settings_of
    from tests.benchmarks.peers.setup import Setup

    setup = Setup.of(sys.argv[1])
    sys.exit(run_worker(settings_of(setup), setup.rules, core=CORE))
