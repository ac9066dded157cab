"""From records of the gate's topics to what the mirror writes of them (pure).

Of a batch only the last record of an account counts, but for locks, which are all told. Records that this release
cannot read are left out and named: the mirror is a view, and one odd record must not end it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from schemas.types import read_time
from streams.core.records import APPROVED, Record, text_of
from streams.core.rules import Rules
from streams.core.state import DECISIONS, TABLES, decode_account
from streams.mirror.model import account_content
from streams.mirror.view import account_view
from streams.runtime.store import change_of

KEPT_AFTER_MS = 3_600_000
"""How long an order is known after its ``valid_until`` or its closing: to say why it may not go out any more."""

_UNKNOWN_ACCOUNT = "UNKNOWN_ACCOUNT"
_LOCK_FIELDS = ("lock_id", "account_id", "reason", "observed", "limit", "equity", "base_equity", "profile", "locked_at")
_DECISION_FIELDS = ("signal_id", "order_id", "strategy_id", "instrument", "side", "quantity", "price", "venue")
_ORDER_FIELDS = ("account_id", "signal_id", "strategy_id", "instrument", "side", "venue", "quantity", "price")


class Touched(NamedTuple):
    """What a batch of the state changelog changes."""

    parts: dict[str, dict[str, str]]
    """By account: its new records by table."""
    offsets: dict[str, int]
    """By account: the offset of its last record."""
    closed: list[dict[str, Any]]
    """Orders that were closed."""


def touched(records: Sequence[Record]) -> Touched:
    """The accounts in a batch of the changelog. Raises ValueError for a record that is none of the gate's."""
    found = Touched({}, {}, [])
    for record in records:
        table, key, value = change_of(record.key or b"", record.value)
        if table in TABLES:
            account_id = key.decode()
            found.parts.setdefault(account_id, {})[table] = "" if value is None else value.decode()
            found.offsets[account_id] = record.offset
        elif table == DECISIONS and value is not None and key.startswith(b"order\0"):
            order_id = _order_in(key)
            found.closed.append({"order_id": order_id, "until_ms": record.timestamp_ms + KEPT_AFTER_MS})
    return found


def _order_in(key: bytes) -> str:
    """The order of a remembered id: kind, length of the account's id, that id, the order's, with NUL between."""
    _, length, rest = key.decode().split("\0", 2)
    return rest[int(length) + 1 :]


def accounts_content(changes: Touched, held: Mapping[str, Mapping[str, str]], rules: Rules) -> dict[str, Any]:
    """The accounts of a batch on top of what is ``held`` of them. Raises ValueError for state of a newer program."""
    accounts = []
    for account_id, new in changes.parts.items():
        parts = {table: value for table in TABLES if (value := new.get(table, held[account_id].get(table, "")))}
        offset = str(changes.offsets[account_id])
        stored = {table: parts.get(table, "") for table in TABLES} | {"offset": offset}
        accounts.append(_account(account_id, parts, rules, offset, {"parts": stored}))
    return {"accounts": accounts, "closed": changes.closed}


def refreshed(account_id: str, held: Mapping[str, str], rules: Rules) -> dict[str, Any]:
    """An account whose state is as it was, under other rules."""
    offset = held.get("offset", "")
    return _account(account_id, _records(held), rules, offset, {"offset": offset})


def _account(
    account_id: str, parts: Mapping[str, str], rules: Rules, offset: str, more: Mapping[str, Any]
) -> dict[str, Any]:
    account = decode_account({table: text.encode() for table, text in parts.items()}) if parts else None
    view = account_view(account_id, account, rules)
    fields = view.fields | {"offset": offset}
    return account_content(
        account_id, fields["trading_state"], fields, is_locked=view.is_locked, orders=view.orders, **more
    )


def _records(held: Mapping[str, str]) -> dict[str, str]:
    return {table: text for table in TABLES if (text := held.get(table))}


def decisions_content(topic: str, records: Iterable[Record]) -> tuple[dict[str, Any], list[int]]:
    """The last decision of each account, and the approved orders; offsets that could not be read."""
    last: dict[str, dict[str, Any]] = {}
    orders, unreadable = [], []
    for record in records:
        try:
            body = orjson.loads(record.value or b"")
            if topic == APPROVED:
                orders.append(_order(body))
            # Signals of unknown accounts may name anything: they make no account here.
            if body.get("code") != _UNKNOWN_ACCOUNT:
                last[body["account_id"]] = _decision(topic, body)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
            unreadable.append(record.offset)
    return {"accounts": list(last.values()), "orders": orders}, unreadable


def _decision(topic: str, body: Mapping[str, Any]) -> dict[str, Any]:
    verdict = "approved" if topic == APPROVED else "rejected"
    told = {"decision": verdict, "code": body.get("code"), "decided_at": body["decided_at"]}
    told |= {name: body.get(name) for name in _DECISION_FIELDS}
    return {
        "id": body["account_id"],
        "sequence": int(body["basis"]["offsets"]["signals"]),
        "fields": ["last_decision", orjson.dumps(told).decode()],
    }


def _order(body: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: body[name] for name in _ORDER_FIELDS} | {"valid_until": body["valid_until"]}
    until_ms = read_time(body["valid_until"]) + KEPT_AFTER_MS
    return {"id": body["order_id"], "value": orjson.dumps(told).decode(), "until_ms": until_ms}


def locks_content(records: Iterable[Record]) -> tuple[list[dict[str, Any]], list[int]]:
    """All locks of a batch; offsets that could not be read."""
    locks, unreadable = [], []
    for record in records:
        try:
            body = orjson.loads(record.value or b"")
            fields = {name: body[name] for name in _LOCK_FIELDS} | {
                "partition": str(record.partition),
                "offset": str(record.offset),
                "record": text_of(record.value),
            }
            flat = [text for name, value in fields.items() for text in (name, "" if value is None else value)]
            locks.append({"offset": record.offset, "fields": flat, "message": text_of(record.value)})
        except (orjson.JSONDecodeError, KeyError, TypeError):
            unreadable.append(record.offset)
    return locks, unreadable
