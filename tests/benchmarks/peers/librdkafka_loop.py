"""A bare librdkafka loop: state in a dict, offsets committed by a timer, no guarantee. The practical limit."""

import signal
import sys
import time
from collections import defaultdict

from confluent_kafka import Consumer, KafkaException, Producer

from streams.core.fold import Batch, fold
from streams.core.records import Record
from streams.runtime.worker import quieten_gc
from tests.benchmarks.memory import MemoryView
from tests.benchmarks.peers.setup import INPUTS, Setup

BATCH = 500


def run(setup: Setup) -> None:
    """Until SIGTERM."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    progress, rules = setup.progress, setup.rules
    views: defaultdict[int, MemoryView] = defaultdict(MemoryView)
    logical = {setup.topic(topic): topic for topic in INPUTS}
    consumer = Consumer(
        {
            "bootstrap.servers": setup.bootstrap,
            "group.id": f"{setup.prefix}librdkafka",
            "auto.offset.reset": "earliest",
            "fetch.queue.backoff.ms": 10,
        }
    )
    producer = Producer({"bootstrap.servers": setup.bootstrap, "acks": 1, "linger.ms": 5})
    consumer.subscribe(list(logical))
    quieten_gc()
    while not stopping:
        batches: defaultdict[int, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
        for message in consumer.consume(BATCH, 0.1):
            if message.error():
                raise KafkaException(message.error())
            topic, partition = logical[message.topic()], message.partition()
            record = Record(topic, partition, message.offset(), message.timestamp()[1], message.key(), message.value())
            batches[partition][topic].append(record)
        for partition, inputs in batches.items():
            view = views[partition]
            commit = fold(Batch(partition, inputs, time.time_ns() // 1_000_000), view, rules, setup.partition_of)
            view.apply(commit)
            for output in commit.outputs:
                producer.produce(setup.topic(output.topic), output.value, output.key)
            for topic, position in commit.offsets.items():
                progress.set(topic, partition, position + 1)
        producer.poll(0)
    producer.flush()
    consumer.close()


if __name__ == "__main__":
    run(Setup.of(sys.argv[1]))
