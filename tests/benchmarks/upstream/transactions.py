"""``python -m tests.benchmarks.upstream.transactions BOOTSTRAP TOPIC COUNT [PATH]``: transactions of one record each,
one right after the other; ``PATH`` has another aiokafka. Prints JSON: ms of each, and CPU ms of one."""

import asyncio
import json
import sys
import time


async def run(bootstrap: str, topic: str, count: int) -> tuple[list[float], float]:
    """How long each took, ms, and the CPU of one, ms."""
    from aiokafka import AIOKafkaProducer  # the one of ``PATH``, if there is one

    took_ms: list[float] = []
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"tx-{topic}") as producer:
        for number in range(-20, count):
            if number == 0:
                cpu_s = time.process_time()
            began_s = time.perf_counter()
            async with producer.transaction():
                await producer.send_and_wait(topic, b"value", partition=0)
            if number >= 0:
                took_ms.append((time.perf_counter() - began_s) * 1_000)
    return took_ms, (time.process_time() - cpu_s) / count * 1_000


def main() -> None:
    """Measure and print."""
    bootstrap, topic, count, *path = sys.argv[1:]
    sys.path[:0] = [one for one in path if one]
    took_ms, cpu_ms = asyncio.run(run(bootstrap, topic, int(count)))
    print(json.dumps({"took_ms": took_ms, "cpu_ms": cpu_ms}))


if __name__ == "__main__":
    main()
