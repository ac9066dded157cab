"""A pipeline on librdkafka (confluent-kafka): sends signals and says what the gate decided.

    pip install confluent-kafka
    python -m infra.examples.pipeline_librdkafka < signals.jsonl

What is different from other clients is one line, `partitioner`: librdkafka's default would send an account's records to
other partitions than everyone else's, and the gate would have to forward each of them. Exit statuses are those of
`pipeline_aiokafka`.
"""

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import OFFSET_END, Consumer, KafkaException, Producer, TopicPartition

from infra.examples.connection import GATE, for_librdkafka, topic

PATIENCE_S = 10.0


def main() -> int:
    """Send what comes on standard input. Returns the exit status."""
    signals = [json.loads(line) for line in sys.stdin if line.strip()]
    failures: list[str] = []
    settings = {
        "partitioner": "murmur2_random",
        "enable.idempotence": True,
        # Tried again in the background until then.
        "message.timeout.ms": int(PATIENCE_S * 1000),
    }
    producer = Producer(for_librdkafka() | settings)
    consumer = Consumer(
        for_librdkafka()
        | {
            # Never joined: partitions are taken by hand, and nothing is committed.
            "group.id": f"{GATE}-pipeline-librdkafka",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
        }
    )
    try:
        to_the_end_of_decisions(consumer)

        def delivered(error: Any, _record: Any) -> None:
            if error is not None:
                failures.append(str(error))

        for signal in signals:
            key = signal.get("account_id")
            producer.produce(topic("signals"), json.dumps(signal).encode(), key, on_delivery=delivered)
        left = producer.flush(PATIENCE_S)
        if failures or left:
            # Whether they were written is unknown: send them again, under the same signal_ids.
            print(f"not sent: {failures or f'{left} without an answer from {PATIENCE_S:g} s'}", file=sys.stderr)
            return 2
        return hear(consumer, {signal["signal_id"] for signal in signals})
    except (KafkaException, SystemError) as error:
        # A SystemError where brokers refuse for good: confluent-kafka calls back while its own exception is under way.
        print(f"not sent: {error.__cause__ or error}", file=sys.stderr)
        return 2
    finally:
        consumer.close()


def to_the_end_of_decisions(consumer: Consumer) -> None:
    """Before anything is sent, so that no decision is missed. Raises KafkaException."""
    places = []
    for name in map(topic, ("approved-orders", "rejected-signals")):
        described = consumer.list_topics(name, timeout=PATIENCE_S).topics[name]
        if described.error is not None:
            raise KafkaException(described.error)
        places += [TopicPartition(name, number, OFFSET_END) for number in described.partitions]
    # The ends as they are now: OFFSET_END would be looked up later, when the first decision may be there already.
    for place in places:
        _, place.offset = consumer.get_watermark_offsets(place, timeout=PATIENCE_S)
    consumer.assign(places)


def hear(consumer: Consumer, waiting: set[str]) -> int:
    """Print each decision as it comes. Returns the exit status."""
    status, until_s = 0, time.monotonic() + PATIENCE_S
    while waiting and time.monotonic() < until_s:
        record = consumer.poll(0.2)
        if record is None:
            continue
        if record.error() is not None:
            raise KafkaException(record.error())
        body = json.loads(record.value() or b"{}")
        if body["signal_id"] in waiting:
            waiting.remove(body["signal_id"])
            status |= tell(body)
    for signal_id in sorted(waiting):
        # No worker runs, or it was a duplicate or unreadable: an operator's `tidegate dead-letters` says why.
        print(f"{signal_id}: no decision within {PATIENCE_S:g} s", file=sys.stderr)
    return 2 if waiting else status


def tell(body: Mapping[str, Any]) -> int:
    """One decision on one line. Returns 1 for a rejection."""
    if "order_id" in body:
        print(f"{body['signal_id']} {body['account_id']}: approved as {body['order_id']} until {body['valid_until']}")
        return 0
    print(f"{body['signal_id']} {body['account_id']}: rejected: {body['code']}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
