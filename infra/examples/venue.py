"""What the example executor asks of a venue, and one that only pretends. Replace `PaperVenue` by your own."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, Protocol

Status = Literal["working", "partially_filled", "filled", "cancelled", "rejected", "expired"]


class VenueError(Exception):
    """The venue gave no clear answer: what became of the order is unknown until it is asked again."""


@dataclass(frozen=True)
class Report:
    """What a venue says about an order: one execution, or a change of its status."""

    execution_id: str
    """The venue's own, the same each time it tells of the same thing."""
    status: Status
    quantity: Decimal = Decimal(0)
    price: Decimal | None = None
    fee: Decimal = Decimal(0)


class Venue(Protocol):
    """A venue that knows orders by the id that the client gives them: `order_id`, which the gate made."""

    async def find(self, order_id: str) -> list[Report] | None:
        """Everything it has reported about an order, None if it has never seen it. Raises VenueError."""

    async def send(self, order: dict[str, Any]) -> list[Report]:
        """Send an order; a second one of the same id must change nothing. Its first reports. Raises VenueError."""

    async def cancel(self, order_id: str) -> list[Report]:
        """Cancel what is left of an order; no reports if nothing was. Raises VenueError."""


class PaperVenue:
    """Fills every order at its price at once, or lets all of them rest. It forgets everything when it ends."""

    def __init__(self, *, rests: bool = False) -> None:
        self._rests = rests
        self._orders: dict[str, list[Report]] = {}

    async def find(self, order_id: str) -> list[Report] | None:
        return self._orders.get(order_id)

    async def send(self, order: dict[str, Any]) -> list[Report]:
        if order["order_id"] in self._orders:
            return []
        quantity, price = Decimal(order["quantity"]), Decimal(order["price"])
        working = Report("new", "working")
        reports = [working] if self._rests else [working, Report("1", "filled", quantity, price)]
        self._orders[order["order_id"]] = reports
        return reports

    async def cancel(self, order_id: str) -> list[Report]:
        reports = self._orders.get(order_id)
        if reports is None or reports[-1].status != "working":
            return []
        reports.append(Report("cancel", "cancelled"))
        return reports[-1:]
