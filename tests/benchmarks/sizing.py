"""What a million events a second would take, from what one worker was measured to need."""

import math
from collections.abc import Mapping
from typing import Any

from tests.benchmarks.figures import median_of

EVENTS_PER_S = 1_000_000
REPLICAS = 3
_BUSY_MAX = 0.6
_PARTITIONS_PER_WORKER = 4
_BROKER_WRITE_MB_PER_S = 100


def text(results: Mapping[str, Any]) -> str:
    """Paragraphs of Markdown; every number follows from the item's figures and the assumptions that it names."""
    cpu_us = median_of(results["cpu_us"]["2"]).value
    sizes: Mapping[str, float] = results["bytes_per_event"]
    cores = EVENTS_PER_S * cpu_us / 1e6
    workers = math.ceil(cores / _BUSY_MAX)
    partitions = 2 ** math.ceil(math.log2(workers * _PARTITIONS_PER_WORKER))
    event_bytes = sum(sizes.values())
    sent_mb = EVENTS_PER_S * sizes["input"] / 1e6
    decided_mb = EVENTS_PER_S * (event_bytes - sizes["input"]) / 1e6
    stored_mb = REPLICAS * (sent_mb + decided_mb)
    copied_mb = (REPLICAS - 1) * (sent_mb + decided_mb)
    brokers = math.ceil(stored_mb / _BROKER_WRITE_MB_PER_S)
    parts = ", ".join(f"{name} {size:.0f}" for name, size in sizes.items())
    return (
        f"One event costs {cpu_us:.0f} µs of a worker's CPU (two workers, the mixture of item 1), so "
        f"{EVENTS_PER_S:,} events/s are the work of {cores:.0f} cores: **{workers} workers** of one core each, kept "
        f"at {_BUSY_MAX:.0%} so that they catch up after a hand-over. A partition is decided by one worker, and with "
        f"{_PARTITIONS_PER_WORKER} or more of them each the load of a lost worker spreads: **{partitions} "
        f"partitions**, {EVENTS_PER_S / partitions:,.0f} events/s each.\n\n"
        f"An event is {event_bytes:.0f} bytes on the broker ({parts}; keys and values, uncompressed). Held "
        f"{REPLICAS} times that is {stored_mb:,.0f} MB/s: **{brokers} brokers** at {_BROKER_WRITE_MB_PER_S} MB/s of "
        "writes each, and more for catch-up reads and the loss of one. **Network**: producers send "
        f"{sent_mb:,.0f} MB/s, workers read as much and write {decided_mb:,.0f} MB/s, brokers copy {copied_mb:,.0f} "
        "MB/s to each other; consumers of the outputs come on top. This is arithmetic from one machine's figures, "
        "not a measurement: hundreds of members in a group, metadata of thousands of partitions and skewed accounts "
        "set limits that two cores do not show.\n"
    )
