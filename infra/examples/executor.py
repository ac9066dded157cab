"""An executor: sends approved orders to a venue, cancels the entries of accounts that lock, reports what was filled.

    export TIDEGATE_REDIS_URL=redis://localhost:6379/0        # the mirror's, for the last look
    python -m infra.examples.executor --name binance --venue binance

What it promises, and how:

- *Nothing is sent that the gate would not approve now*, as far as can be known: it reads committed, asks the mirror
  once more just before it sends (the last look, which fails closed), and sends nothing after `valid_until`.
- *Nothing is sent twice*: `order_id` is the client's order id at the venue, and an order that the venue knows is not
  sent again. Offsets are committed after the report, so a crash repeats work and loses none.
- *Every order is accounted for*: one that is not sent is reported as `cancelled`, which frees what the gate reserves
  for it. A report that is repeated has the same `fill_id` and changes nothing.
- *A lock waits for one order at most*, the one that is on its way: it is read by a task of its own.

An order of which the venue says nothing clear ends the program: only the venue can tell, and the next start asks it.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from redis.asyncio import Redis

from infra.examples.connection import GATE, for_aiokafka, topic
from infra.examples.venue import PaperVenue, Report, Venue
from streams.mirror.last_look import LastLook, Look

# An approval may reach this program before it reaches the mirror.
LOOK_PATIENCE_MS = 2_000

Publish = Callable[[Mapping[str, Any]], Awaitable[None]]
Record = Mapping[str, Any]


class Executor:
    """What is done about one record, whoever brings it."""

    def __init__(
        self, venue: Venue, look: Callable[[str, str], Awaitable[Look]], publish: Publish, *, serves: str | None = None
    ) -> None:
        """``serves``: orders for other venues are left to their executors; None: all are ours."""
        self._venue = venue
        self._look = look
        self._publish = publish
        self._serves = serves
        self._cancelled: set[str] = set()
        # Whether an order may go out and its sending are one step: a lock that comes between them waits, then cancels.
        self._sending = asyncio.Lock()

    async def on_approved(self, order: Record) -> None:
        """Send an order, or say that it was not."""
        if self._serves not in (None, order["venue"]):
            return
        async with self._sending:
            known = await self._venue.find(order["order_id"])
            if known is not None:
                # This program has ended between sending and committing. Its reports may not be out.
                await self._report(order, known)
            elif (reason := await self._why_not(order)) is not None:
                print(f"{order['order_id']} {order['account_id']}: not sent: {reason}", flush=True)
                await self._report(order, [Report("unsent", "cancelled")])
            else:
                print(f"{order['order_id']} {order['account_id']}: sent", flush=True)
                await self._report(order, await self._venue.send(dict(order)))

    async def on_locked(self, lock: Record) -> None:
        """Cancel the entries that still work. Exits and protective stops stay: they reduce."""
        print(f"{lock['account_id']}: locked by {lock['reason']}: {len(lock['open_orders'])} entries", flush=True)
        # One that has not come yet, on the other topic, is not to be sent when it does, even after an unlock.
        self._cancelled.update(entry["order_id"] for entry in lock["open_orders"])
        async with self._sending:
            for entry in lock["open_orders"]:
                if reports := await self._venue.cancel(entry["order_id"]):
                    print(f"{entry['order_id']} {lock['account_id']}: cancelled", flush=True)
                    await self._report({**entry, "account_id": lock["account_id"]}, reports)

    async def _why_not(self, order: Record) -> str | None:
        if order["order_id"] in self._cancelled:
            return "its account was locked meanwhile"
        look = await self._look(order["account_id"], order["order_id"])
        if not look.allowed:
            return f"{look.code}: {look.reason}"
        # By this machine's clock too: the look may have taken its time.
        if datetime.now(UTC) > datetime.fromisoformat(order["valid_until"]):
            return "valid_until has passed"
        return None

    async def _report(self, order: Record, reports: list[Report]) -> None:
        for report in reports:
            if report.status != "working":
                await self._publish(fill_of(order, report))


def fill_of(order: Record, report: Report) -> dict[str, Any]:
    """A venue's report as a record of `fills`. Its id is made of the venue's, so that a repeat has the same."""
    named = f"{order['account_id']}\0{order['order_id']}\0{report.execution_id}"
    return {
        "fill_id": f"f-{hashlib.sha256(named.encode()).hexdigest()[:32]}",
        "order_id": order["order_id"],
        "account_id": order["account_id"],
        "instrument": order["instrument"],
        "side": order["side"],
        "venue": order["venue"],
        # Decimals as strings: a JSON number may become binary floating point on its way.
        "quantity": str(report.quantity),
        "price": None if report.price is None else str(report.price),
        "fee": str(report.fee),
        "status": report.status,
        "filled_at": datetime.now(UTC).isoformat(),
    }


async def follow(name: str, group: str, handle: Callable[[Record], Awaitable[None]]) -> None:
    """Hand over each record of a topic, and commit it once it is dealt with. Raises what fails."""
    consumer = AIOKafkaConsumer(
        topic(name),
        **for_aiokafka(),
        group_id=group,
        isolation_level="read_committed",
        enable_auto_commit=False,
        # Only where the group has read nothing yet: orders of the past are not ours to answer for.
        auto_offset_reset="latest",
    )
    await consumer.start()
    try:
        while not consumer.assignment():  # noqa: ASYNC110 - it has no event for that
            await asyncio.sleep(0.05)
        # Where a new group begins is written down before anything is read: from here on nothing is missed.
        await consumer.commit({place: await consumer.position(place) for place in consumer.assignment()})
        print(f"following {name}", flush=True)
        async for record in consumer:
            await handle(json.loads(record.value))
            await consumer.commit()
    finally:
        await consumer.stop()


async def run(name: str, serves: str | None, venue: Venue) -> None:
    """Execute until cancelled, or until anything fails: that is raised, and the next start goes on from there."""
    redis = Redis.from_url(os.environ["TIDEGATE_REDIS_URL"], socket_timeout=0.5, socket_connect_timeout=0.5, retry=None)
    look = LastLook(redis, prefix=os.environ.get("TIDEGATE_REDIS_PREFIX") or f"{GATE}:")
    async with AIOKafkaProducer(**for_aiokafka(), enable_idempotence=True) as producer:

        async def publish(fill: Mapping[str, Any]) -> None:
            await producer.send_and_wait(topic("fills"), json.dumps(fill).encode(), fill["account_id"].encode())

        async def ask(account_id: str, order_id: str) -> Look:
            return await look.ask_within(account_id, order_id, LOOK_PATIENCE_MS)

        executor = Executor(venue, ask, publish, serves=serves)
        group = f"{GATE}-executor-{name}"
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(follow("account-locked", f"{group}-locks", executor.on_locked))
                tasks.create_task(follow("approved-orders", f"{group}-orders", executor.on_approved))
        finally:
            await redis.aclose()


async def main() -> int:
    """The command line. Returns the exit status: 0 after SIGTERM or Ctrl-C, 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m infra.examples.executor", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--name", required=True, help="of this executor: its offsets are kept under it")
    parser.add_argument("--venue", help="orders for other venues are left alone; default: all are ours")
    parser.add_argument("--rest", action="store_true", help="let the paper venue fill nothing")
    given = parser.parse_args()
    if "TIDEGATE_REDIS_URL" not in os.environ:
        parser.error("set TIDEGATE_REDIS_URL: without a last look nothing is sent")
    task = asyncio.create_task(run(given.name, given.venue, PaperVenue(rests=given.rest)))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and the next start asks the venue
        causes = error.exceptions if isinstance(error, ExceptionGroup) else [error]
        print("executor failed: " + "; ".join(f"{type(one).__name__}: {one}" for one in causes), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
