"""A pipeline: sends signals and says what the gate decided. Python, aiokafka.

    python -m infra.examples.pipeline_aiokafka < signals.jsonl

Each line of standard input is one signal (`schemas/json/signals.schema.json`). Exit status: 0 when all were approved,
1 when one was rejected, 2 when one could not be sent or has no decision after 10 seconds. Then send the same line
again: a `signal_id` that was decided is not decided twice. For a new try after a rejection take a new one.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from infra.examples.connection import for_aiokafka, partitions_of, topic

PATIENCE_S = 10.0
Key = tuple[str, str]


async def main() -> int:
    """Send what comes on standard input. Returns the exit status."""
    signals = [json.loads(line) for line in sys.stdin if line.strip()]
    # aiokafka's default partitioner is Kafka's own: an account's records meet in one partition. Idempotence, which
    # brings acks=all with it, keeps a retry from writing twice.
    producer = AIOKafkaProducer(**for_aiokafka(), enable_idempotence=True)
    # Read committed: what an aborted transaction of the gate has written was never decided.
    consumer = AIOKafkaConsumer(**for_aiokafka(), isolation_level="read_committed", enable_auto_commit=False)
    try:
        await producer.start()
        await consumer.start()
        # Before anything is sent, so that no decision is missed; without a group, so that every pipeline hears its own.
        consumer.assign(await partitions_of("approved-orders", "rejected-signals"))
        await consumer.seek_to_end()
        waiting = {key_of(signal) for signal in signals}
        for signal in signals:
            # Without an account the gate goes by the strategy's route, and so does not need the key.
            account = signal.get("account_id")
            key = account.encode() if account else None
            await producer.send_and_wait(topic("signals"), json.dumps(signal).encode(), key)
        return await hear(consumer, waiting)
    except KafkaError as error:
        # Whether it was written is unknown: send it again, under the same signal_id.
        print(f"not sent: {error}", file=sys.stderr)
        return 2
    finally:
        await consumer.stop()
        await producer.stop()


async def hear(consumer: AIOKafkaConsumer, waiting: set[Key]) -> int:
    """Print each decision as it comes. Returns the exit status."""
    status = 0
    try:
        async with asyncio.timeout(PATIENCE_S):
            while waiting:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        body = json.loads(record.value)
                        if key_of(body) in waiting or (body["signal_id"], "") in waiting:
                            waiting -= {key_of(body), (body["signal_id"], "")}
                            status |= tell(record.topic, body)
    except TimeoutError:
        for signal_id, account_id in sorted(waiting):
            # No worker runs, or it was a duplicate or unreadable: an operator's `tidegate dead-letters` says why.
            print(f"{signal_id} {account_id}: no decision within {PATIENCE_S:g} s", file=sys.stderr)
        return 2
    return status


def tell(name: str, body: Mapping[str, Any]) -> int:
    """One decision on one line. Returns 1 for a rejection."""
    if name == topic("approved-orders"):
        print(f"{body['signal_id']} {body['account_id']}: approved as {body['order_id']} until {body['valid_until']}")
        return 0
    reasons = ", ".join(f"{r['code']} ({r['observed']} against {r['limit']})" for r in body["reasons"])
    print(f"{body['signal_id']} {body['account_id']}: rejected: {reasons}")
    return 1


def key_of(body: Mapping[str, Any]) -> Key:
    """A signal is named within its account."""
    return body["signal_id"], body.get("account_id") or ""


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
