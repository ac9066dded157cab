"""A subscriber for operators: locks, warnings and what else happens to accounts, one line each, on a terminal.

    python -m infra.examples.ops_subscriber                   from now on
    python -m infra.examples.ops_subscriber --since-the-beginning

It only reads (role observer or notifier), belongs to no group and keeps no position: run as many as you like. A desk
that must not miss a lock takes `tidegate notify`, which remembers what it has told.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from infra.examples.connection import for_aiokafka, partitions_of, topic

TOPICS = ("account-locked", "account-events")
RED, YELLOW, PLAIN = "\x1b[1;31m", "\x1b[33m", "\x1b[0m"


async def follow(*, since_the_beginning: bool) -> None:
    """Print until cancelled. Raises KafkaError."""
    # Read committed: a lock of a transaction that was aborted has never happened.
    async with AIOKafkaConsumer(**for_aiokafka(), isolation_level="read_committed") as consumer:
        consumer.assign(await partitions_of(*TOPICS))
        await (consumer.seek_to_beginning() if since_the_beginning else consumer.seek_to_end())
        print(f"following {', '.join(TOPICS)}", flush=True)
        async for record in consumer:
            print(line_of(record.topic == topic("account-locked"), json.loads(record.value)), flush=True)


def line_of(is_lock: bool, body: Mapping[str, Any]) -> str:
    """A record as an operator reads it."""
    if is_lock:
        orders = ", ".join(entry["order_id"] for entry in body["open_orders"]) or "none"
        text = (
            f"{body['locked_at']} LOCKED {body['account_id']} by {body['reason']}{figures(body)}; to cancel: {orders}"
        )
        return coloured(RED, text)
    told = f"{body['at']} {body['type']} {body['account_id']}"
    if body["order_id"] is not None:
        told += f" {body['order_id']}"
    return coloured(YELLOW if body["type"] == "WARNING" else PLAIN, told + figures(body))


def figures(body: Mapping[str, Any]) -> str:
    """What was observed against what limit; fractions as percent."""
    observed, limit = body["observed"], body["limit"]
    if observed is None or limit is None:
        return ""
    if body.get("unit", "fraction") == "fraction":
        return f": {percent(observed)} of {percent(limit)}"
    return f": {observed} against {limit}"


def percent(fraction: str) -> str:
    """Two places, in decimals all the way."""
    return f"{Decimal(fraction) * 100:.2f} %"


def coloured(colour: str, text: str) -> str:
    """In colour where a person looks."""
    return f"{colour}{text}{PLAIN}" if sys.stdout.isatty() else text


async def main() -> int:
    """The command line. Returns the exit status: 0 after SIGTERM or Ctrl-C, 1 if the brokers refuse."""
    parser = argparse.ArgumentParser(prog="python -m infra.examples.ops_subscriber")
    parser.add_argument("--since-the-beginning", action="store_true", help="print what is kept first")
    given = parser.parse_args()
    task = asyncio.create_task(follow(since_the_beginning=given.since_the_beginning))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    except KafkaError as error:
        print(f"cannot follow: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
