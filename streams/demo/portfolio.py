"""An account's books in decimals: cash, positions at average price, equity at given marks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal


@dataclass
class Position:
    """Signed quantity, average price of what opened it, and the stop that came with it."""

    quantity: Decimal = Decimal(0)
    average: Decimal = Decimal(0)
    stop: Decimal | None = None


@dataclass
class Portfolio:
    """One account's books. Cash may be negative while a leveraged position is held; equity is what counts."""

    cash: Decimal
    positions: dict[str, Position] = field(default_factory=dict)

    def position(self, instrument: str) -> Position:
        """The position in an instrument, flat where there never was one."""
        return self.positions.setdefault(instrument, Position())

    def apply(
        self, instrument: str, side: str, quantity: Decimal, price: Decimal, fee: Decimal, stop: Decimal | None
    ) -> None:
        """Book an execution. `quantity` is unsigned; `stop` is that of the order that it filled, if it has one."""
        signed = quantity if side == "buy" else -quantity
        self.cash -= signed * price + fee
        held = self.position(instrument)
        after = held.quantity + signed
        if after == 0:
            self.positions[instrument] = Position()
        elif held.quantity == 0 or held.quantity * after < 0:
            self.positions[instrument] = Position(after, price, stop)
        elif abs(after) > abs(held.quantity):
            average = (held.average * held.quantity + price * signed) / after
            self.positions[instrument] = Position(after, average, stop or held.stop)
        else:
            held.quantity = after

    def equity(self, prices: Mapping[str, Decimal]) -> Decimal:
        """Cash plus every position at its mark."""
        worth = (held.quantity * prices[name] for name, held in self.positions.items() if held.quantity)
        return self.cash + sum(worth, Decimal(0))

    @property
    def is_flat(self) -> bool:
        return all(held.quantity == 0 for held in self.positions.values())
