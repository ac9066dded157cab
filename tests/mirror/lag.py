"""How long after a lock does the last look refuse? ``python -m tests.mirror.lag [LOCKS]``: one JSON line per figure.

A real broker, worker, mirror and Redis on this machine. An account with an approved order is locked by command and
unlocked, again and again; a last look is asked without pause until it refuses. Counted from the timestamp of the
``account-locked`` record, which the gate takes before its transaction commits, and from the command before it is sent.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from redis.asyncio import Redis

from infra.brokers import broker
from streams.core.records import LOCKED
from tests.integration.processes import DEADLINE_S
from tests.integration.support import Names, read_topic, wait_for
from tests.mirror.processes import PARTITIONS, Gate, Screen
from tests.mirror.servers import server

LOCKS = 200


async def measure(locks: int) -> None:
    """Run it and print the figures."""
    with broker() as kafka, server() as redis, tempfile.TemporaryDirectory() as directory:
        gate = await Gate(kafka, Names("lag"), Path(directory), redis.url).create()
        async with Redis.from_url(redis.url, decode_responses=True) as client:
            screen = Screen(gate, client)
            with gate.worker() as worker, gate.mirror():
                worker.wait_serving(PARTITIONS)
                await gate.pnl("main", "10000")
                order_id = await gate.approved("main")
                rounds = [await one_round(gate, screen, order_id) for _ in range(locks)]
                ages = [await age(screen, order_id) for _ in range(locks)]
        records = await read_topic(kafka.bootstrap, gate.names.physical(LOCKED))
    locked_ms = sorted(record.timestamp for record in records)
    told("lock to refused", [refused - at for (_, refused), at in zip(rounds, locked_ms, strict=True)])
    told("command to refused", [refused - sent for sent, refused in rounds])
    told("age of an answer", ages)


async def one_round(gate: Gate, screen: Screen, order_id: str) -> tuple[float, float]:
    """Lock and unlock; when the command was about to be sent, and when the last look first refused, ms."""

    async def is_allowed() -> bool:
        return (await screen.looker.ask("main", order_id)).allowed

    await wait_for(is_allowed, DEADLINE_S, "an order that may go out")
    sent_ms = time.time() * 1000
    sending = asyncio.create_task(gate.command("main", "lock"))
    while (await screen.looker.ask("main", order_id)).code != "ACCOUNT_LOCKED_MANUAL":
        pass
    refused_ms = time.time() * 1000
    await sending
    await gate.command("main", "unlock")
    return sent_ms, refused_ms


async def age(screen: Screen, order_id: str) -> float:
    """How old an answer is."""
    await asyncio.sleep(0.01)
    age_ms = (await screen.looker.ask("main", order_id)).age_ms
    assert age_ms is not None
    return age_ms


def told(figure: str, values_ms: Sequence[float]) -> None:
    """One JSON line."""
    percentiles = statistics.quantiles(values_ms, n=100, method="inclusive")
    line = {"figure": figure, "unit": "ms", "count": len(values_ms), "median": round(percentiles[49], 1)}
    print(json.dumps(line | {"p99": round(percentiles[98], 1), "max": round(max(values_ms), 1)}), flush=True)


if __name__ == "__main__":
    asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else LOCKS))
