"""What becomes of an approved order: what an executor reports of it, and when.

Drawn from the seed and the order's id alone, so that it is the same whenever the approval comes.
"""

import random
from typing import NamedTuple

RELEASED = "released"
"""Stands for the status of an order that nothing is heard of: an operator gives back what it reserves."""
_UNFILLED = ("cancelled", "rejected", "expired")


class Report(NamedTuple):
    """One thing to publish of an order."""

    after: int
    """Records of the load between the approval's arrival and this."""
    quantity: int
    """What it fills, in millionths."""
    status: str
    """The order's state after it, or ``RELEASED``."""
    is_final: bool = True
    """Whether it ends the order."""
    is_late: bool = False
    """Whether it comes after that."""


def reports_of(seed: int, order_id: str, quantity: int) -> list[Report]:
    """What will be reported of an approved order of ``quantity`` millionths, in the order of time."""
    rng = random.Random(f"order {seed} {order_id}")
    after, later = rng.randint(100, 1_800), rng.randint(2_000, 3_500)
    dice = rng.random()
    if dice < 0.55:
        return [Report(after, quantity, "filled")]
    part = quantity // 3
    if dice < 0.75:
        return [Report(after, part, "partially_filled", is_final=False), Report(later, quantity - part, "filled")]
    if dice < 0.80:
        return [Report(after, part, "partially_filled", is_final=False), Report(later, 0, "cancelled")]
    if dice < 0.92:
        return [Report(after, 0, rng.choice(_UNFILLED))]
    if dice < 0.95:
        return [Report(after, 2 * quantity, "filled")]
    if dice < 0.96:
        return [Report(after, 0, "cancelled"), Report(later, part, "filled", is_final=False, is_late=True)]
    return [Report(later + rng.randint(1_000, 4_000), 0, RELEASED)]
