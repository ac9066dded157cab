"""``python -m tests.benchmarks``: one JSON line a figure (``figure``, ``value``, ``unit``)."""

import json
import statistics

from tests.benchmarks import steps, worker

WORKER_RUNS = 3


def main() -> None:
    """Measure and print: the pure step first, then a worker on real Kafka."""
    for figure, spent in steps.measure():
        _print(f"{figure}_cpu", spent.cpu, "µs CPU per event, decode to encode")
        _print(f"{figure}_wall", spent.wall, "µs wall clock per event, decode to encode")
    runs = [worker.measure() for _ in range(WORKER_RUNS)]
    _print("worker_throughput", statistics.median(run.events_per_s for run in runs), "events/s, wall clock")
    _print("worker_cpu", statistics.median(run.cpu_us_per_event for run in runs), "µs CPU per event, all included")


def _print(figure: str, value: float, unit: str) -> None:
    print(json.dumps({"figure": figure, "value": round(value, 1), "unit": unit}, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
