"""Money at stake: notional, risk and headroom (contract, section 2: Trade risk to Open positions).

All figures are in the account's currency. A missing rate of any held or working instrument makes the whole unknown
(``missing``): a sum without one of its parts would read as less risk than there is.
"""

from collections.abc import Iterator
from decimal import Decimal

from msgspec import Struct

from streams.core import drawdown
from streams.core.rules import NO_INSTRUMENT, AccountRules, Instrument, Profile, Rules
from streams.core.state import Account, Order, Position

_ZERO, _ONE = Decimal(0), Decimal(1)


class Exposure(Struct, frozen=True, gc=False):
    """What is held and reserved, before a new order. ``missing``: the first currency without a rate."""

    gross: Decimal
    entries: Decimal
    risk: Decimal
    instruments: frozenset[str]
    missing: str | None


class Valuation:
    """Prices, rates and instruments of one account at one moment."""

    def __init__(self, account: Account, terms: AccountRules, rules: Rules) -> None:
        self._account = account
        self._terms = terms
        self._instruments = rules.instruments

    def instrument(self, name: str) -> Instrument:
        return self._instruments.get(name, NO_INSTRUMENT)

    def mark(self, instrument: str) -> Decimal | None:
        """The latest ``pnl`` mark, else the last fill price."""
        mark = self._account.drawdown.marks.get(instrument)
        return self._account.book.fill_prices.get(instrument) if mark is None else mark

    def quote(self, instrument: str) -> str:
        """The currency that the instrument is priced in: what follows its last ``-``."""
        return instrument.rpartition("-")[2]

    def rate(self, instrument: str) -> Decimal | None:
        """The value of one unit of the quote currency in the account's; None if it is not known."""
        if self._terms.currency is None:
            return _ONE
        quote = self.quote(instrument)
        if quote == self._terms.currency:
            return _ONE
        return self._account.drawdown.rates.get(quote)

    def order_price(self, instrument: str, price: Decimal) -> Decimal:
        """Orders count at the higher of price and mark."""
        mark = self.mark(instrument)
        return price if mark is None else max(price, mark)

    def notional(self, instrument: str, quantity: Decimal, price: Decimal, rate: Decimal) -> Decimal:
        return abs(quantity) * price * self.instrument(instrument).multiplier * rate

    def order_risk(self, instrument: str, quantity: Decimal, price: Decimal, stop: Decimal, rate: Decimal) -> Decimal:
        """What an entry loses if it is stopped out, with fees on both sides and slippage."""
        terms = self.instrument(instrument)
        loss = quantity * abs(price - stop)
        fees = terms.fee_rate * quantity * (price + stop)
        slippage = terms.slippage * quantity * price
        return (loss + fees + slippage) * terms.multiplier * rate

    def position_risk(
        self, instrument: str, position: Position, rate: Decimal, profile: Profile, equity: Decimal
    ) -> Decimal:
        """From mark to stop (≥ 0) plus the exit fee; without a stop, the most that a trade may risk."""
        stop = position.stop
        if stop is None:
            return profile.max_trade_risk * equity
        mark = self.mark(instrument)
        assert mark is not None  # a position has been filled, so there is a fill price
        distance = mark - stop if position.quantity > 0 else stop - mark
        terms = self.instrument(instrument)
        return abs(position.quantity) * (max(_ZERO, distance) + terms.fee_rate * stop) * terms.multiplier * rate


def working_entries(account: Account) -> Iterator[tuple[str, Order]]:
    """Entries that still reserve a quantity."""
    for order_id, order in account.orders.open.items():
        if not order.reduces and order.left > 0:
            yield order_id, order


def exposure_of(account: Account, valuation: Valuation, profile: Profile, equity: Decimal | None) -> Exposure:
    """Everything held and reserved. ``risk`` needs equity for positions without a stop; without it they count 0."""
    gross = entries = risk = _ZERO
    instruments: set[str] = set()
    unrated: list[str] = []
    for instrument, venues in account.book.positions.items():
        instruments.add(instrument)
        rate = valuation.rate(instrument)
        mark = valuation.mark(instrument)
        if rate is None:
            unrated.append(instrument)
        if rate is None or mark is None:
            continue
        for position in venues.values():
            gross += valuation.notional(instrument, position.quantity, mark, rate)
            risk += valuation.position_risk(instrument, position, rate, profile, equity or _ZERO)
    missing = valuation.quote(min(unrated)) if unrated else None
    for _, order in working_entries(account):
        instruments.add(order.instrument)
        rate = valuation.rate(order.instrument)
        if rate is None:
            missing = missing or valuation.quote(order.instrument)
            continue
        price = valuation.order_price(order.instrument, order.price)
        entries += valuation.notional(order.instrument, order.left, price, rate)
        if order.stop is not None:
            risk += valuation.order_risk(order.instrument, order.left, order.price, order.stop, rate)
    return Exposure(gross, entries, risk, frozenset(instruments), missing)


def higher_floor(account: Account, terms: AccountRules, profile: Profile) -> Decimal:
    """The equity at which the daily or the weekly limit would be reached, whichever comes first."""
    return max(
        drawdown.floor(limit, terms)
        for limit in drawdown.limits_of(account.drawdown, profile)
        if limit.name != drawdown.TRAILING
    )


def reducible(account: Account, instrument: str, side: str, venue: str | None) -> tuple[str, Decimal] | None:
    """Where an order on ``side`` could reduce, and by how much at most; None if no opposite position is held.

    At the named venue, else at that of the largest opposite position (ties: by venue name). Exits that are working
    there have claimed their part already, whichever side they are on.
    """
    opposite = [
        (-abs(position.quantity), name)
        for name, position in account.book.positions.get(instrument, {}).items()
        if (position.quantity > 0) == (side == "sell") and venue in (None, name)
    ]
    if not opposite:
        return None
    quantity, where = min(opposite)
    claimed = sum(
        (
            order.left
            for order in account.orders.open.values()
            if order.reduces and (order.instrument, order.venue) == (instrument, where)
        ),
        _ZERO,
    )
    return where, max(_ZERO, -quantity - claimed)
