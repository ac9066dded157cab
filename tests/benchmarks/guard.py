"""What the pure step costs in figures that do not depend on how busy the machine is; ``test_guard.py`` holds them down.

*Instructions*: bytecode instructions that Python executes per event. The same input executes the same number of them,
whatever else runs; what compiled code does within a call is not in it. *Ratio*: CPU time of a fold over that of a fixed
computation of the same make (JSON, decimals, dicts), the least of many slices of a few milliseconds each, in turns.
That has compiled code in it, and the load of the machine only in so far as it never leaves a slice alone.

``python -m tests.benchmarks.guard`` prints the present figures: after an improvement they become the new budget.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from types import FrameType
from typing import Any

import orjson

from streams.core.fold import Batch, fold
from streams.core.rules import Rules
from tests.benchmarks.memory import Fold, MemoryView, fold_all, rules_for
from tests.benchmarks.stream import batches, encoded
from tests.benchmarks.workload import Workload

ACCOUNTS = 100
KINDS = ("pnl", "signals", "fills")
_BATCH = 100
_WARM_UP = 2_000
_COUNTED = 400
_TIMED = 1_000
_ROUNDS = 60
_NEVER = float("inf")


class Bench:
    """A gate in memory that has open orders and positions, and the same next events every time it is asked."""

    def __init__(self) -> None:
        self.rules: Rules = rules_for(ACCOUNTS)
        self.view = MemoryView()
        workload = Workload(ACCOUNTS, fill_delay=500)
        before = [*workload.first_marks(), *workload.events(_WARM_UP)]
        fold_all(fold, _batches(before), {0: self.view}, self.rules, _owner)
        self.mixture = _batches(workload.events(_TIMED))
        self.kinds = {kind: _batches(workload.of(kind, _COUNTED)) for kind in KINDS}

    def run(self, folding: Fold, prepared: Sequence[Batch]) -> None:
        """Fold on a state that stays as it was, so that each run does the same."""
        for batch in prepared:
            folding(batch, self.view, self.rules, _owner)


def _batches(events: Any) -> list[Batch]:
    return list(batches(encoded(events, 1), _BATCH))


def _owner(_account_id: str) -> int:
    return 0


def instructions(folding: Fold = fold) -> dict[str, float]:
    """Bytecode instructions per event, by kind."""
    bench = Bench()
    found = {}
    for kind, prepared in bench.kinds.items():
        bench.run(folding, prepared)  # what is made once is made now
        found[kind] = _counted(partial(bench.run, folding, prepared)) / _COUNTED
    return found


def _counted(work: Callable[[], None]) -> int:
    count = 0

    def local(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "opcode"
        return local

    def begin(frame: FrameType, _event: str, _argument: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return local

    before = sys.gettrace()
    sys.settrace(begin)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def ratio(folding: Fold = fold) -> float:
    """CPU time of the mixture over that of the reference, batch by batch of a few milliseconds."""
    bench = Bench()
    works: list[Callable[[], None]] = [partial(bench.run, folding, [batch]) for batch in bench.mixture]
    works.append(_reference)
    least = [_NEVER] * len(works)
    for _ in range(_ROUNDS):
        for number, work in enumerate(works):
            began = time.thread_time_ns()
            work()
            least[number] = min(least[number], time.thread_time_ns() - began)
    *folds, reference = least
    return sum(folds) / len(folds) / reference


def _reference() -> None:
    """A fixed amount of what a step is made of."""
    text = json.dumps({"account_id": "account", "equity": "100000.25", "marks": {"BTC-USD": "16500.5"}, "n": 1})
    held: dict[str, Decimal] = {}
    for number in range(_BATCH):
        value = orjson.loads(text)
        equity, mark = Decimal(value["equity"]), Decimal(value["marks"]["BTC-USD"])
        for factor in range(10):
            key = f"{value['account_id']}-{(number + factor) % ACCOUNTS}"
            held[key] = max(held.get(key, equity), equity * mark - factor)
        orjson.dumps({"account_id": value["account_id"], "equity": format(equity, "f"), "held": len(held)})


def main() -> None:
    """Print the present figures."""
    print(f"instructions per event: { ({kind: round(count) for kind, count in instructions().items()}) }")
    print(f"ratio to the reference: {ratio():.2f}")


if __name__ == "__main__":
    main()
