"""What the mirror writes of an account, a decision, a lock and the rules (pure).

Fields of an account's hash are texts; those that are lists or objects are JSON; empty: there is none. What
``tidegate accounts --json`` shows is here under the same names and from the same functions, so the two cannot disagree.
"""

from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import orjson

from schemas.types import write_amount
from streams.core import drawdown
from streams.core.exposure import Valuation, exposure_of, higher_floor
from streams.core.lock import imposed_state, is_locked
from streams.core.rules import Rules
from streams.core.state import NEW_ACCOUNT, Account
from streams.ops.overview import LimitLine, Overview, document, overview

_HUNDRED = Decimal(100)
_SHORT = {drawdown.DAILY: "daily", drawdown.WEEKLY: "weekly", drawdown.TRAILING: "trailing"}
# Told in other words: a figure that changes with the time alone would be wrong a moment after it was written.
_LEFT_OUT = ("equity_stale",)
# States that policies set for wider scopes are written once, beside the accounts, and take effect there at once.
_NO_POLICY = Rules()

Fields = dict[str, str]


class AccountView(NamedTuple):
    """One account as it is written."""

    fields: Fields
    orders: Fields
    """Open orders by id, JSON."""
    is_locked: bool


def account_view(account_id: str, account: Account | None, rules: Rules) -> AccountView:
    """An account under the rules in force; None: it has no state yet."""
    shown = overview(account_id, account, rules, 0)
    account = account or NEW_ACCOUNT
    told = document(shown)
    fields = {name: _text(value) for name, value in told.items() if name not in _LEFT_OUT}
    fields |= {
        "as_of_ms": _text(shown.as_of_ms),
        "stale_after_ms": _text(_stale_after_ms(shown, rules)),
        "lock_reasons": _text([lock.reason for lock in shown.locks]),
        "own_state": imposed_state(_NO_POLICY, account.standing, None, None)[0],
        "entry_refusals": _text(_entry_refusals(account, shown, rules)),
        "order_count": str(len(shown.orders)),
        "policy_version": str(rules.version),
    }
    fields |= _limit_fields(shown, rules) | _exposure_fields(account, shown, rules)
    covered = _covered_exits(account)
    orders = {
        line["order_id"]: _text(
            line | {"valid_until_ms": one.valid_until_ms, "covered": not one.reduces or one.order_id in covered}
        )
        for line, one in zip(told["open_orders"], shown.orders, strict=True)
    }
    return AccountView(fields, orders, is_locked(account.standing))


def account_document(fields: Mapping[str, str]) -> dict[str, Any]:
    """An account's hash read back, as ``tidegate accounts --json`` writes it (but for ``equity_stale``)."""
    texts = ("account_id", "trading_state", "profile", "timezone", "currency", "equity", "as_of")
    flags = ("configured", "seen", "profile_by_command", "equity_usable")
    parsed = ("causes", "venues", "locks", "last_breach", "drawdowns", "positions", "open_orders")
    read: dict[str, Any] = {name: fields[name] or None for name in texts}
    read |= {name: fields[name] == "1" for name in flags}
    return read | {name: orjson.loads(fields[name]) if fields[name] else None for name in parsed}


def _stale_after_ms(shown: Overview, rules: Rules) -> int | None:
    """Under the record clock nobody here can know what time it is."""
    if shown.as_of_ms is None or rules.clock != "wall":
        return None
    return shown.as_of_ms + rules.limits.max_pnl_age_ms


def _entry_refusals(account: Account, shown: Overview, rules: Rules) -> list[str]:
    """Codes with which the account's own standing refuses entries, in the contract's order, whatever the time."""
    terms = rules.accounts.get(shown.account_id)
    if terms is None or shown.profile is None:
        return ["UNKNOWN_ACCOUNT"]
    profile, state = rules.profiles[shown.profile], account.drawdown
    held = {lock.reason for lock in shown.locks}
    codes = [f"ACCOUNT_LOCKED_{lock.reason}" for lock in shown.locks]
    if not shown.has_equity:
        return [*codes, "RISK_DATA_MISSING"]
    counts = drawdown.counts_of(state, profile)
    if any(0 < count < profile.confirmations and reason not in held for reason, count in counts.items()):
        codes.append("DRAWDOWN_UNCONFIRMED")
    return codes + [f"{breach.reason}_REACHED" for breach in drawdown.breaches(state, terms, profile)]


def _limit_fields(shown: Overview, rules: Rules) -> Fields:
    """Of each limit: drawdown and limit as fractions, base, floor and room in money; P&L signed, in percent."""
    lines = {line.name: line for line in shown.limits}
    fields: Fields = {}
    for name, short in _SHORT.items():
        line = lines.get(name)
        equity = shown.equity if shown.has_equity else None
        fields[f"{short}_drawdown"] = _amount(line and line.drawdown)
        fields[f"{short}_limit"] = _amount(line and line.limit)
        fields[f"{short}_base"] = _amount(line and line.base)
        fields[f"{short}_floor"] = _amount(line and line.floor)
        fields[f"{short}_room"] = _amount(None if line is None or equity is None else equity - line.floor)
        if name != drawdown.TRAILING:
            fields[f"{short}_pnl_pct"] = _amount(_pnl_pct(shown, line, rules))
    return fields


def _pnl_pct(shown: Overview, line: LimitLine | None, rules: Rules) -> Decimal | None:
    """Profit (+) or loss (−) since the limit's base, in percent of what its drawdown is a fraction of."""
    terms = rules.accounts.get(shown.account_id)
    if line is None or terms is None or shown.equity is None or not shown.has_equity:
        return None
    initial = terms.initial_capital if terms.loss_basis == "initial" else None
    whole = line.base if initial is None else initial
    return (shown.equity - line.base) / whole * _HUNDRED if whole > 0 else None


def _exposure_fields(account: Account, shown: Overview, rules: Rules) -> Fields:
    """What is at stake, as the gate counts it: the figures are missing where it lacks a rate or equity."""
    terms = rules.accounts.get(shown.account_id)
    positions = str(len({line.instrument for line in shown.positions}))
    none = {"position_count": positions, "open_risk": "", "headroom": "", "leverage": ""}
    if terms is None or shown.profile is None:
        return none
    profile = rules.profiles[shown.profile]
    equity = shown.equity if shown.has_equity else None
    exposure = exposure_of(account, Valuation(account, terms, rules), profile, equity)
    counted = {"position_count": str(len(exposure.instruments))}
    if equity is None or exposure.missing is not None:
        return none | counted
    room = equity - higher_floor(account, terms, profile)
    leverage = (exposure.gross + exposure.entries) / equity if equity > 0 else None
    return counted | {
        "open_risk": _amount(exposure.risk),
        "headroom": _amount(room - exposure.risk),
        "leverage": _amount(leverage),
    }


def _covered_exits(account: Account) -> frozenset[str]:
    """Exits that still only reduce, counted in order of approval: the position may have shrunk since."""
    claimed: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    covered = set()
    for order_id, order in account.orders.open.items():
        position = account.book.at(order.instrument, order.venue)
        if not order.reduces or position is None or (position.quantity > 0) == (order.side == "buy"):
            continue
        claimed[order.instrument, order.venue] += order.left
        if claimed[order.instrument, order.venue] <= abs(position.quantity):
            covered.add(order_id)
    return frozenset(covered)


# -- rules ---------------------------------------------------------------------------------------------------------


def rules_view(rules: Rules) -> Fields:
    """The rules in force: what policies have made of the configuration, by kind, JSON."""
    rollout = rules.rollout
    return {
        "states": _text(rules.states),
        "venues": _text(rules.venues_up),
        "lists": _text(
            {
                scope: {"whitelist": sorted(one.whitelist), "blacklist": sorted(one.blacklist)}
                for scope, one in rules.lists.items()
            }
        ),
        "rollout": _text(
            None
            if rollout is None
            else {"phase": rollout.phase}
            | {
                kind: None if names is None else sorted(names)
                for kind, names in (
                    ("accounts", rollout.accounts),
                    ("profiles", rollout.profiles),
                    ("venues", rollout.venues),
                )
            },
            null="null",
        ),
        "profiles": _text(
            {
                name: {field: _plain(getattr(profile, field)) for field in profile.__struct_fields__ if field != "name"}
                for name, profile in rules.profiles.items()
            }
        ),
    }


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return write_amount(value)
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


# -- texts ---------------------------------------------------------------------------------------------------------


def _text(value: object, *, null: str = "") -> str:
    if value is None:
        return null
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, str):
        return value
    return orjson.dumps(value).decode()


def _amount(value: Decimal | None) -> str:
    return "" if value is None else write_amount(value)
