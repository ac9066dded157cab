"""The demo's strategies: pure functions from prices and a holding to an intent.

They are plain on purpose (moving averages, breakouts, resting bids), since what the demo shows is the gate around
them. All of them decide at a bar's open from completed bars, and guard every position with a stop that is checked at
each tick.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_DOWN, Decimal
from typing import NamedTuple

from streams.demo.accounts import Costs, Seat

TREND_HOURS = 24
BREAKOUT_HOURS = 12
FADE_HOURS = 12
FADE_DISTANCE = Decimal("0.0012")
DIP_DEPTH = Decimal("0.015")
DEEP_DEPTH = Decimal("0.045")
DIP_TARGET = Decimal("0.03")


class Holding(NamedTuple):
    """What a seat holds: signed quantity, average price, its stop, and whether an entry of its own still works."""

    quantity: Decimal
    average: Decimal
    stop: Decimal | None
    entry_working: bool


class Intent(NamedTuple):
    """What a strategy wants: `quantity` unsigned; `stop` is absent for an exit."""

    side: str
    quantity: Decimal
    price: Decimal
    stop: Decimal | None

    @property
    def is_exit(self) -> bool:
        return self.stop is None


class Scene(NamedTuple):
    """What a strategy sees at a bar's open: price, closes of completed bars (oldest first), the account's equity."""

    hour: int
    price: Decimal
    closes: Sequence[Decimal]
    equity: Decimal


Rule = Callable[[Seat, Costs, Scene, Holding], Intent | None]


def decide(seat: Seat, costs: Costs, scene: Scene, holding: Holding) -> Intent | None:
    """What the seat's rule wants at this bar's open, if anything."""
    return RULES[seat.rule](seat, costs, scene, holding)


def stop_reached(price: Decimal, holding: Holding) -> bool:
    """True where a position's stop has been touched."""
    if holding.stop is None or holding.quantity == 0:
        return False
    return price <= holding.stop if holding.quantity > 0 else price >= holding.stop


def flatten(price: Decimal, holding: Holding) -> Intent:
    """The order that closes a position at the market."""
    return Intent("sell" if holding.quantity > 0 else "buy", abs(holding.quantity), price, None)


def sized(seat: Seat, costs: Costs, equity: Decimal, price: Decimal, side: str) -> Intent | None:
    """An entry that loses `seat.risk` of equity at its stop, costs included; None where one step is too much."""
    direction = 1 if side == "buy" else -1
    stop = price * (1 - direction * seat.stop)
    per_unit = abs(price - stop) + costs.fee_rate * (price + stop) + costs.slippage * price
    quantity = (equity * seat.risk / per_unit).quantize(costs.quantity_step, rounding=ROUND_DOWN)
    tick = Decimal("0.01") if price > 100 else Decimal("0.00001")
    return Intent(side, quantity, price, stop.quantize(tick)) if quantity > 0 else None


def trend(seat: Seat, costs: Costs, scene: Scene, holding: Holding) -> Intent | None:
    """With the moving average: long above it, short below it (where the seat may), out when the price crosses back."""
    average = _average(scene.closes[-TREND_HOURS:])
    if average is None:
        return None
    side = "buy" if scene.price > average else "sell"
    if _against(side, holding):
        return flatten(scene.price, holding)
    if holding.quantity == 0 and _may_enter(seat, scene, holding) and (side == "buy" or seat.shorts):
        return sized(seat, costs, scene.equity, scene.price, side)
    return None


def breakout(seat: Seat, costs: Costs, scene: Scene, holding: Holding) -> Intent | None:
    """Long at a new high of the last half day, out at a new low of it."""
    window = scene.closes[-BREAKOUT_HOURS:]
    if len(window) < BREAKOUT_HOURS:
        return None
    if holding.quantity > 0 and scene.price < min(window[:-1]):
        return flatten(scene.price, holding)
    if holding.quantity == 0 and _may_enter(seat, scene, holding) and scene.price >= max(window):
        return sized(seat, costs, scene.equity, scene.price, "buy")
    return None


def fade(seat: Seat, costs: Costs, scene: Scene, holding: Holding) -> Intent | None:
    """Against a move away from the moving average, out when the price is back at it."""
    average = _average(scene.closes[-FADE_HOURS:])
    if average is None:
        return None
    distance = scene.price / average - 1
    if (holding.quantity > 0 and distance >= 0) or (holding.quantity < 0 and distance <= 0):
        return flatten(scene.price, holding)
    if holding.quantity != 0 or not _may_enter(seat, scene, holding) or abs(distance) < FADE_DISTANCE:
        return None
    if distance > 0:
        return sized(seat, costs, scene.equity, scene.price, "sell") if seat.shorts else None
    return sized(seat, costs, scene.equity, scene.price, "buy")


def dip(seat: Seat, costs: Costs, scene: Scene, holding: Holding) -> Intent | None:
    """A bid resting below the market; what it bought is sold at a profit target."""
    if holding.quantity > 0:
        return flatten(scene.price, holding) if scene.price >= holding.average * (1 + DIP_TARGET) else None
    if not _may_enter(seat, scene, holding):
        return None
    return _bid(seat, costs, scene, DIP_DEPTH)


def deep(seat: Seat, costs: Costs, scene: Scene, holding: Holding) -> Intent | None:
    """A bid far below the market, for a crash; the account's other strategy sells what it bought."""
    return _bid(seat, costs, scene, DEEP_DEPTH) if _may_enter(seat, scene, holding) else None


RULES: Mapping[str, Rule] = {"trend": trend, "breakout": breakout, "fade": fade, "dip": dip, "deep": deep}


def _bid(seat: Seat, costs: Costs, scene: Scene, depth: Decimal) -> Intent | None:
    return sized(seat, costs, scene.equity, (scene.price * (1 - depth)).quantize(Decimal("0.01")), "buy")


def _may_enter(seat: Seat, scene: Scene, holding: Holding) -> bool:
    return scene.hour % seat.every_h == seat.phase_h and not holding.entry_working


def _against(side: str, holding: Holding) -> bool:
    return (holding.quantity > 0 and side == "sell") or (holding.quantity < 0 and side == "buy")


def _average(closes: Sequence[Decimal]) -> Decimal | None:
    """The mean of at least a quarter of a day of closes; None while there are fewer."""
    return sum(closes, Decimal(0)) / len(closes) if len(closes) >= 6 else None
