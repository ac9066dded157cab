"""``python -m tests.benchmarks [ITEM …]``: one JSON line a figure, and ``RESULTS.md`` from all items measured so far.

Items: one-worker, latency, burst, state, scale, step; none named: all, or with ``--quick`` the first three at small
sizes. Each keeps its results in ``results/``, so that they can be measured one at a time.
"""

import argparse
import sys

from tests.benchmarks import page, report
from tests.benchmarks.items import ITEMS


def main() -> int:
    """Measure, print, write the page. 0 also when a goal is missed: figures are for reading."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure Tidegate and its peers.")
    parser.add_argument("items", nargs="*", type=_item, metavar="ITEM", help=", ".join(ITEMS))
    parser.add_argument(
        "--quick", action="store_true", help="small sizes; by default only one-worker, latency and burst"
    )
    parser.add_argument("--page", action="store_true", help="measure nothing, write RESULTS.md from what is kept")
    arguments = parser.parse_args()
    names = arguments.items or [name for name, item in ITEMS.items() if item.quick or not arguments.quick]
    for name in [] if arguments.page else names:
        print(f"{name}: measuring", file=sys.stderr, flush=True)
        before = report.conditions()
        item = ITEMS[name]
        results = item.run(arguments.quick)
        report.save(name, results, before)
        for figure in item.figures(results):
            print(figure.line(), flush=True)
    page.write()
    print(f"written: {report.PAGE}", file=sys.stderr)
    return 0


def _item(name: str) -> str:
    if name not in ITEMS:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(ITEMS)}")
    return name


if __name__ == "__main__":
    sys.exit(main())
