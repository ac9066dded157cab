"""What can be measured, item by item."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from tests.benchmarks import burst, latency, one_worker, scale, state, steps
from tests.benchmarks.figures import Figure


class Item(NamedTuple):
    """One item: ``run(quick)`` measures, ``figures`` reads its results."""

    title: str
    run: Callable[[bool], dict[str, Any]]
    figures: Callable[[Mapping[str, Any]], Iterable[Figure]]
    quick: bool = False
    """Whether ``--quick`` measures it by default."""


ITEMS = {
    "one-worker": Item(
        "One worker",
        lambda quick: one_worker.run(one_worker.QUICK if quick else one_worker.FULL),
        one_worker.figures,
        quick=True,
    ),
    "latency": Item(
        "Latency",
        lambda quick: latency.run(latency.QUICK if quick else latency.FULL),
        latency.figures,
        quick=True,
    ),
    "burst": Item(
        "A breach amid a burst",
        lambda quick: burst.run(burst.QUICK if quick else burst.FULL),
        burst.figures,
        quick=True,
    ),
    "state": Item("State", lambda quick: state.run(state.QUICK if quick else state.FULL), state.figures),
    "scale": Item("Scale out", lambda quick: scale.run(scale.QUICK if quick else scale.FULL), scale.figures),
    "step": Item("The pure step", lambda quick: steps.run(2 if quick else steps.ROUNDS), steps.figures),
}
