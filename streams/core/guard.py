"""The checks of a signal, in the order of the contract's section 4: one small function a code.

Each check looks at a :class:`Case` and says nothing (it does not apply, or lacks its input), or what it observed,
the limit, and whether it passed. All that apply are made: a rejection lists every reason, its code is the first. What
is observed, and when a check is listed, is fixed by the table in ``schemas/fine-print.md``.

A *reducing order* is only asked what could make it wrong or impossible; nothing about risk may stop an exit.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Generic, NamedTuple, TypeVar

from msgspec import Struct

from schemas.inputs import Signal
from schemas.types import AMOUNT_PLACES_OUT
from streams.core import drawdown, lock
from streams.core.decode import Event
from streams.core.drawdown import DAILY, MANUAL, TRAILING, WEEKLY, has_equity
from streams.core.exposure import Exposure, Valuation, exposure_of, higher_floor, reducible
from streams.core.routing import NO_VENUE, Venue, exit_venue, venue_of
from streams.core.rules import HALTED, NO_LISTS, REDUCING, AccountRules, Lists, Profile, Rules
from streams.core.state import Account

_ZERO, _ONE = Decimal(0), Decimal(1)
# Half of the last place that is written; what is not above it would be sent to a venue as 0.
_SHOWN_AS_ZERO = Decimal(5).scaleb(-AMOUNT_PLACES_OUT - 1)


Figure = Decimal | int | str | None


class Check(Struct, frozen=True, gc=False):
    """What one check found. Figures are written only where they are published: most checks pass unseen."""

    passed: bool
    observed: Figure
    limit: Figure
    unit: str
    scope: str


_Value = TypeVar("_Value")


class lazy(Generic[_Value]):  # noqa: N801  # it is used like a function
    """Worked out when it is first asked for. ``cached_property`` without its lock: no other thread has the case."""

    def __init__(self, work_out: Callable[[Any], _Value]) -> None:
        self._work_out = work_out
        self._name = work_out.__name__
        self.__doc__ = work_out.__doc__

    def __get__(self, case: "Case", owner: type) -> _Value:
        value = case.__dict__[self._name] = self._work_out(case)
        return value


class Case:
    """One signal beside all that its checks may look at. ``account`` and ``terms`` are None for unknown accounts."""

    def __init__(
        self, event: Event, account_id: str, account: Account, terms: AccountRules | None, rules: Rules, now_ms: int
    ) -> None:
        self.signal: Any = event.body  # a Signal whose unreadable fields are None
        self.account_id = account_id
        self.account = account
        self.rules = rules
        self.limits = rules.limits
        self.now_ms = now_ms
        self.faults = _faults(event)
        self.known = terms is not None
        self.terms = terms or AccountRules()
        self.profile: Profile = rules.profiles[account.standing.profile or self.terms.profile]
        self.valuation = Valuation(account, self.terms, rules)
        # Equity to decide on; None while there is none.
        self.equity = account.drawdown.equity if has_equity(account.drawdown) else None
        self.price_is_valid = _valid(self.signal.price)
        self.quantity_is_valid = _valid(self.signal.quantity)
        # The instrument is known too: the order has a notional.
        self.priced = self.price_is_valid and self.quantity_is_valid and self.signal.instrument is not None
        self.venue, self.reduces, self.may_reduce = self._route()
        self.state, self.state_scope = lock.imposed_state(
            rules, account.standing, self.venue.name if self.venue.known else None, self.signal.strategy_id
        )

    def _route(self) -> tuple[Venue, bool, Decimal]:
        """The venue, whether the order only reduces, and the quantity that could be reduced."""
        signal = self.signal
        if not self.known or "venue" in self.faults:
            return NO_VENUE, False, _ZERO
        readable = signal.side is not None and signal.instrument is not None
        named = signal.venue
        own = named is None or named in self.terms.venues
        there = reducible(self.account, signal.instrument, signal.side, named) if readable and own else None
        may_reduce = there[1] if there is not None else _ZERO
        if there is not None and self.quantity_is_valid and signal.quantity <= may_reduce:
            return exit_venue(there[0], self.rules), True, may_reduce
        venue = venue_of(named, signal.strategy_id, self.account_id, self.terms, self.rules)
        return venue, False, may_reduce

    @lazy
    def drawdown_limits(self) -> dict[str, drawdown.Limit]:
        """The drawdown limits in force, by name; none without equity."""
        if self.equity is None:
            return {}
        return {limit.name: limit for limit in drawdown.limits_of(self.account.drawdown, self.profile)}

    @lazy
    def exposure(self) -> Exposure:
        return exposure_of(self.account, self.valuation, self.profile, self.equity)

    @lazy
    def rate(self) -> Decimal | None:
        """The rate of the signal's instrument."""
        return None if self.signal.instrument is None else self.valuation.rate(self.signal.instrument)

    @lazy
    def missing(self) -> str | None:
        """The input that decisions on risk lack, if any: ``equity`` or a currency."""
        if self.equity is None:
            return "equity"
        if self.signal.instrument is not None and self.rate is None:
            return self.valuation.quote(self.signal.instrument)
        return self.exposure.missing

    @lazy
    def notional(self) -> Decimal | None:
        """Of the new order, in the account's currency, at the higher of price and mark."""
        if not self.priced or self.rate is None:
            return None
        signal = self.signal
        price = self.valuation.order_price(signal.instrument, signal.price)
        return self.valuation.notional(signal.instrument, signal.quantity, price, self.rate)

    @lazy
    def stop_is_right(self) -> bool:
        """A stop below the price of a buy, above that of a sell."""
        signal = self.signal
        if signal.side is None or not self.price_is_valid or not _valid(signal.stop_loss):
            return False
        return bool(signal.stop_loss < signal.price if signal.side == "buy" else signal.stop_loss > signal.price)

    @lazy
    def risk(self) -> Decimal | None:
        """What the new order may lose, in the account's currency."""
        signal = self.signal
        if not self.priced or not self.stop_is_right or self.rate is None:
            return None
        return self.valuation.order_risk(signal.instrument, signal.quantity, signal.price, signal.stop_loss, self.rate)


_FIELDS = tuple(Signal.model_fields)


def _faults(event: Event) -> tuple[str, ...]:
    """The fields that cannot be read, and a leverage that is no number above 0, in the order of the contract."""
    leverage = event.body.leverage
    unusable = leverage is not None and not _positive(leverage)
    if not event.faults and not unusable:
        return ()
    return tuple(name for name in _FIELDS if name in event.faults or (unusable and name == "leverage"))


def _positive(amount: Decimal) -> bool:
    return amount.is_finite() and amount > 0


def _valid(amount: Decimal | None) -> bool:
    """Readable, finite, above 0, and still above 0 as it will be written."""
    return amount is not None and amount.is_finite() and amount > _SHOWN_AS_ZERO


Found = Check | list[Check] | None


# -- the signal itself ---------------------------------------------------------------------------------------------


def invalid_signal(case: Case) -> Found:
    """Every field can be read; leverage, if asked for, is a number above 0."""
    if not case.faults:
        return Check(True, None, None, "name", "signal")
    return [Check(False, field, None, "name", "signal") for field in case.faults]


def unknown_account(case: Case) -> Check:
    """The account is configured."""
    return Check(case.known, case.account_id, None, "name", "account")


def stale_signal(case: Case) -> Check | None:
    """Created at most ``max_signal_age`` before or after now."""
    created_at = case.signal.created_at
    if created_at is None:
        return None
    age_ms = abs(case.now_ms - created_at)
    limit_ms = case.limits.max_signal_age_ms
    return Check(age_ms <= limit_ms, _seconds(age_ms), _seconds(limit_ms), "seconds", "signal")


def expired_signal(case: Case) -> Check | None:
    """Expires after now."""
    expires_at = case.signal.expires_at
    if expires_at is None:
        return None
    left_ms = expires_at - case.now_ms
    return Check(left_ms > 0, _seconds(left_ms), "0", "seconds", "signal")


def invalid_price(case: Case) -> Check | None:
    """Price and stop are finite and above 0."""
    price, stop = case.signal.price, case.signal.stop_loss
    if price is None or "stop_loss" in case.faults:
        return None
    bad = price if not case.price_is_valid else stop if stop is not None and not _valid(stop) else None
    return Check(bad is None, price if bad is None else bad, "0", "amount", "signal")


def invalid_quantity(case: Case) -> Check | None:
    """Quantity is finite and above 0."""
    quantity = case.signal.quantity
    if quantity is None:
        return None
    return Check(case.quantity_is_valid, quantity, "0", "amount", "signal")


# -- permission ----------------------------------------------------------------------------------------------------


def trading_halted(case: Case) -> Check:
    """No scope is HALTED by policy or ``halt``."""
    return Check(case.state != HALTED, case.state, None, "name", case.state_scope)


def trading_state_reducing(case: Case) -> Check:
    """No scope is REDUCING by policy or an unusable fill."""
    return Check(case.state != REDUCING, case.state, None, "name", case.state_scope)


def rollout_phase(case: Case) -> Check | None:
    """Account, profile and venue belong to the present phase."""
    rollout = case.rules.rollout
    if rollout is None:
        return None
    venue = case.venue.name if case.venue.known else None
    for name, allowed in (
        (case.account_id, rollout.accounts),
        (case.profile.name, rollout.profiles),
        (venue, rollout.venues),
    ):
        if name is not None and allowed is not None and name not in allowed:
            return Check(False, name, rollout.phase, "name", "global")
    return Check(True, case.account_id, rollout.phase, "name", "global")


def _locked_by(reason: str) -> Callable[[Case], Check]:
    unit = "name" if reason == MANUAL else "fraction"
    free = Check(True, None, None, unit, "account")

    def check(case: Case) -> Check:
        for one in case.account.standing.locks:
            if one.reason == reason:
                return Check(False, one.observed, one.limit, unit, "account")
        return free

    check.__doc__ = f"The account is not locked by {reason}."
    return check


def reduce_only(case: Case) -> Check | None:
    """A flagged signal only reduces, in every state."""
    signal = case.signal
    if not signal.reduce_only or signal.quantity is None or signal.side is None or signal.instrument is None:
        return None
    return Check(case.reduces, signal.quantity, case.may_reduce, "amount", "signal")


def strategy_blacklisted(case: Case) -> Check | None:
    """On neither the global nor the profile's blacklist."""
    strategy = case.signal.strategy_id
    if strategy is None:
        return None
    everywhere, here = _lists(case)
    listed = strategy in everywhere.blacklist or strategy in here.blacklist
    return Check(not listed, strategy, None, "name", "strategy")


def strategy_not_whitelisted(case: Case) -> Check | None:
    """On every whitelist that applies; an empty one allows all."""
    strategy = case.signal.strategy_id
    whitelists = [lists.whitelist for lists in _lists(case) if lists.whitelist]
    if strategy is None or not whitelists:
        return None
    return Check(all(strategy in one for one in whitelists), strategy, None, "name", "strategy")


def _lists(case: Case) -> tuple[Lists, Lists]:
    """The global lists and the profile's."""
    lists = case.rules.lists
    return lists.get("", NO_LISTS), lists.get(case.profile.name, NO_LISTS)


# -- venue ---------------------------------------------------------------------------------------------------------


def no_venue(case: Case) -> Check | None:
    """The account knows the venue."""
    if "venue" in case.faults:
        return None
    return Check(case.venue.known, case.venue.name, None, "name", "venue")


def venue_unavailable(case: Case) -> Check | None:
    """The venue is up."""
    return Check(case.venue.up, case.venue.name, None, "name", "venue") if case.venue.known else None


# -- equity and drawdown -------------------------------------------------------------------------------------------


def risk_data_missing(case: Case) -> Check:
    """There is usable equity, and a rate for every currency involved."""
    return Check(case.missing is None, case.missing, None, "name", "account")


def risk_data_stale(case: Case) -> Check | None:
    """Equity is at most ``max_pnl_age`` old, and not from a future that would keep it fresh for ever."""
    if case.equity is None:
        return None
    age_ms = case.now_ms - case.account.drawdown.as_of_ms
    limit_ms = case.limits.max_pnl_age_ms
    passed = drawdown.is_fresh(case.account.drawdown, case.now_ms, limit_ms)
    return Check(passed, _seconds(age_ms), _seconds(limit_ms), "seconds", "account")


def drawdown_unconfirmed(case: Case) -> Check | None:
    """No limit is between its first breaching update and the one that would lock."""
    needed = case.profile.confirmations
    if case.equity is None or needed == 1:
        return None
    holding = lock.held(case.account.standing)
    counts = drawdown.counts_of(case.account.drawdown, case.profile)
    running = max(
        (count for reason, count in counts.items() if 0 < count < needed and reason not in holding), default=0
    )
    return Check(running == 0, running, needed, "count", "account")


def _reached(name: str) -> Callable[[Case], Check | None]:
    def check(case: Case) -> Check | None:
        limit = case.drawdown_limits.get(name)
        if limit is None:
            return None
        state = case.account.drawdown
        breached = drawdown.is_breached(state, limit, case.terms, case.profile)
        observed = drawdown.drawdown_from(state, limit.base, case.terms)
        return Check(not breached, observed, limit.limit, "fraction", "account")

    check.__doc__ = f"The last update's {name} is below the limit as it is now."
    return check


# -- size ----------------------------------------------------------------------------------------------------------


def spot_only(case: Case) -> Check | None:
    """Spot-only profiles open and enlarge no short: a sell that is not a reducing order would."""
    if not case.profile.spot_only or case.signal.side is None:
        return None
    return Check(case.signal.side == "buy", case.signal.side, "buy", "name", "signal")


def leverage_exceeded(case: Case) -> list[Check]:
    """Asked leverage, and gross notional with reservations and this order over equity, within the profile's."""
    limit = case.profile.max_leverage
    asked = case.signal.leverage
    checks: list[Check] = []
    if asked is not None and _positive(asked):
        checks.append(Check(asked <= limit, asked, limit, "multiple", "signal"))
    if case.missing is None and case.equity is not None and case.notional is not None:
        total = case.exposure.gross + case.exposure.entries + case.notional
        checks.append(_of_equity(total, limit, case.equity, "multiple", "account"))
    return checks


def max_open_positions(case: Case) -> Check | None:
    """Distinct instruments held or being entered, with this one, within the profile's."""
    if case.signal.instrument is None:
        return None
    count = len(case.exposure.instruments | {case.signal.instrument})
    limit = case.profile.max_open_positions
    return Check(count <= limit, count, limit, "count", "account")


def stop_loss_required(case: Case) -> Check | None:
    """An entry has a stop on the right side of its price."""
    signal = case.signal
    if not case.price_is_valid or signal.side is None or "stop_loss" in case.faults:
        return None
    return Check(case.stop_is_right, signal.stop_loss, signal.price, "amount", "signal")


def trade_risk(case: Case) -> Check | None:
    """What the trade may lose, over equity, within the profile's."""
    if case.missing is not None or case.equity is None or case.risk is None:
        return None
    return _of_equity(case.risk, case.profile.max_trade_risk, case.equity, "fraction", "signal")


def risk_headroom(case: Case) -> Check | None:
    """All risk that is open, with this trade's, fits between equity and the higher floor."""
    if not case.profile.headroom or case.missing is not None or case.equity is None or case.risk is None:
        return None
    room = case.equity - higher_floor(case.account, case.terms, case.profile)
    if case.equity <= 0:
        return Check(False, None, room, "amount", "account")
    total = case.exposure.risk + case.risk
    return Check(total <= room, total, room, "amount", "account")


def notional_per_order(case: Case) -> Check | None:
    """The order's notional is within what one order may have."""
    limit = case.limits.max_notional_per_order
    if limit is None or case.notional is None:
        return None
    return Check(case.notional <= limit, case.notional, limit, "amount", "signal")


def price_collar(case: Case) -> Check | None:
    """The price is near the mark."""
    limit, signal = case.limits.price_collar, case.signal
    if limit is None or signal.instrument is None or not case.price_is_valid:
        return None
    mark = case.valuation.mark(signal.instrument)
    if mark is None:
        return None
    passed = abs(signal.price - mark) <= limit * mark
    return Check(passed, abs(signal.price / mark - 1), limit, "fraction", "signal")


def rate_limit(case: Case) -> Check | None:
    """Approvals of the account in (now − per, now], with this one."""
    limit = case.limits.rate_limit_orders
    if limit is None:
        return None
    since_ms = case.now_ms - case.limits.rate_limit_per_ms
    count = 1 + sum(since_ms < at_ms <= case.now_ms for at_ms in case.account.orders.approvals)
    return Check(count <= limit, count, limit, "count", "account")


def _of_equity(amount: Decimal, limit: Decimal, equity: Decimal, unit: str, scope: str) -> Check:
    """``amount / equity <= limit``, unrounded; equity that is lost carries nothing."""
    if equity <= 0:
        return Check(False, None, limit, unit, scope)
    return Check(amount <= limit * equity, amount / equity, limit, unit, scope)


def _seconds(milliseconds: int) -> Decimal:
    return Decimal(milliseconds) / 1000


class Rule(NamedTuple):
    """A code and its check; ``exits``: asked of reducing orders too, ``accounts``: only of known accounts."""

    code: str
    check: Callable[[Case], Found]
    exits: bool = False
    accounts: bool = True


RULES = (
    Rule("INVALID_SIGNAL", invalid_signal, exits=True, accounts=False),
    Rule("UNKNOWN_ACCOUNT", unknown_account, exits=True, accounts=False),
    Rule("STALE_SIGNAL", stale_signal, exits=True, accounts=False),
    Rule("EXPIRED_SIGNAL", expired_signal, exits=True, accounts=False),
    Rule("INVALID_PRICE", invalid_price, exits=True, accounts=False),
    Rule("INVALID_QUANTITY", invalid_quantity, exits=True, accounts=False),
    Rule("TRADING_HALTED", trading_halted, exits=True),
    Rule("TRADING_STATE_REDUCING", trading_state_reducing),
    Rule("ROLLOUT_PHASE", rollout_phase),
    Rule("ACCOUNT_LOCKED_DAILY_DRAWDOWN", _locked_by(DAILY)),
    Rule("ACCOUNT_LOCKED_WEEKLY_DRAWDOWN", _locked_by(WEEKLY)),
    Rule("ACCOUNT_LOCKED_TRAILING_DRAWDOWN", _locked_by(TRAILING)),
    Rule("ACCOUNT_LOCKED_MANUAL", _locked_by(MANUAL)),
    Rule("REDUCE_ONLY_WOULD_INCREASE_POSITION", reduce_only, exits=True),
    Rule("STRATEGY_BLACKLISTED", strategy_blacklisted),
    Rule("STRATEGY_NOT_WHITELISTED", strategy_not_whitelisted),
    Rule("NO_VENUE", no_venue, exits=True),
    Rule("VENUE_UNAVAILABLE", venue_unavailable, exits=True),
    Rule("RISK_DATA_MISSING", risk_data_missing),
    Rule("RISK_DATA_STALE", risk_data_stale),
    Rule("DRAWDOWN_UNCONFIRMED", drawdown_unconfirmed),
    Rule("DAILY_DRAWDOWN_REACHED", _reached(DAILY)),
    Rule("WEEKLY_DRAWDOWN_REACHED", _reached(WEEKLY)),
    Rule("TRAILING_DRAWDOWN_REACHED", _reached(TRAILING)),
    Rule("SPOT_ONLY", spot_only),
    Rule("LEVERAGE_EXCEEDED", leverage_exceeded),
    Rule("MAX_OPEN_POSITIONS_EXCEEDED", max_open_positions),
    Rule("STOP_LOSS_REQUIRED", stop_loss_required),
    Rule("TRADE_RISK_EXCEEDED", trade_risk),
    Rule("RISK_HEADROOM_EXCEEDED", risk_headroom),
    Rule("NOTIONAL_EXCEEDS_MAX_PER_ORDER", notional_per_order),
    Rule("PRICE_COLLAR_EXCEEDED", price_collar),
    Rule("RATE_LIMIT_EXCEEDED", rate_limit),
)
CODES = tuple(rule.code for rule in RULES)
_OF_STRANGERS = tuple(rule for rule in RULES if not rule.accounts)
_OF_EXITS = tuple(rule for rule in RULES if rule.exits)


def inspect(case: Case) -> list[tuple[str, Check]]:
    """Every check that applies to the case, in order, with its code."""
    checks: list[tuple[str, Check]] = []
    for code, check, _, _ in _OF_STRANGERS if not case.known else _OF_EXITS if case.reduces else RULES:
        found = check(case)
        if isinstance(found, list):
            checks += [(code, one) for one in found]
        elif found is not None:
            checks.append((code, found))
    return checks
