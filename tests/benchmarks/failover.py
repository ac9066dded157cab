"""``python -m tests.benchmarks.failover``: how long accounts wait for a decision when their worker is killed.

Two workers on real Kafka share eight partitions. State is put into the changelog beforehand: that of one account as the
gate itself writes it (marks, an open position, a working order, remembered ids), under as many account ids as asked
for. Then signals for every partition are sent twenty times a second, one worker is killed (SIGKILL), and for each of
its partitions the time is taken from the kill to the first decision on a signal that was sent after it. For the
partitions of the other worker, which a rebalance interrupts too, it is the longest gap between two decisions.

One JSON line a run. Cases: *cold*, the other worker has nothing of the dead one's state on its disk; *standby*, it
follows (TIDEGATE_STANDBY=1); *named*, no other takes over, the dead one is started again at once under the same
TIDEGATE_INSTANCE_ID.
"""

import argparse
import asyncio
import itertools
import json
import logging
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from infra.brokers import KafkaCluster
from schemas.config import ConfigFile
from schemas.types import write_time
from streams.core.fold import Batch, fold
from streams.core.outputs import order_id_of
from streams.core.records import APPROVED, FILLS, PNL, REJECTED, SIGNALS, Record
from streams.core.rules import rules_of
from streams.core.state import PARTITION, Account, Change, Remembered
from streams.runtime import kafka
from streams.runtime.settings import Settings
from streams.runtime.store import Identity, changelog_key, peek
from streams.runtime.topics import STATE, TopicNames, create_topics, verify_topics
from tests.integration.support import wait_for

PARTITIONS = 8
SEED_ACCOUNT = "account-0"
SIGNALS_PER_S = 20
SESSION_TIMEOUT_MS = 10_000
NAMED_SESSION_TIMEOUT_MS = 30_000
_DEADLINE_S = 180.0
_BEFORE_S = 2.0


class Run(NamedTuple):
    """What one run found. Seconds."""

    waits: Sequence[float]
    """Of the killed worker's partitions."""
    gaps: Sequence[float]
    """Of the other worker's partitions."""
    taken_over: Sequence[float]
    """From the assignment that followed to serving, one a partition that changed hands."""
    reopened: Sequence[float]
    """The same of the partitions that stayed."""


class Nothing:
    """A view of a gate that has seen nothing."""

    offsets: Mapping[str, int] = {}

    def account(self, _account_id: str) -> Account | None:
        return None

    def remembered(self, _key: bytes) -> Remembered | None:
        return None


def state_of_an_account() -> list[Change]:
    """What the gate itself writes for an account that has a position and a working order."""
    rules = rules_of(
        ConfigFile.model_validate({"accounts": {SEED_ACCOUNT: {"exchange": "x", "profile": "aggressive"}}})
    )
    now_ms = time.time_ns() // 1_000_000
    account, key = SEED_ACCOUNT, SEED_ACCOUNT.encode()
    equity = {"account_id": account, "sequence": 1, "equity": "10000", "marks": {"BTC-USD": "100"}, "rates": {}}
    signals = [signal(account, f"s-{number}", now_ms) for number in range(2)]
    fill = {"fill_id": "f-1", "order_id": order_id_of(account, "s-0"), "account_id": account, "instrument": "BTC-USD"}
    fill |= {"side": "buy", "quantity": "1", "price": "100", "status": "filled", "filled_at": write_time(now_ms)}
    batch = {
        PNL: [Record(PNL, 0, 0, now_ms, key, orjson.dumps(equity | {"as_of": write_time(now_ms)}))],
        SIGNALS: [Record(SIGNALS, 0, n, now_ms, key, orjson.dumps(one)) for n, one in enumerate(signals)],
        FILLS: [Record(FILLS, 0, 0, now_ms + 1, key, orjson.dumps(fill))],
    }
    changes = fold(Batch(0, batch, now_ms), Nothing(), rules, lambda _account_id: 0).changes
    return [change for change in changes if change.table != PARTITION]


def signal(account: str, name: str, at_ms: int) -> dict[str, str]:
    """A signal that nothing speaks against."""
    return {
        "signal_id": name,
        "account_id": account,
        "strategy_id": "trend",
        "instrument": "BTC-USD",
        "side": "buy",
        "quantity": "1",
        "price": "100",
        "stop_loss": "99",
        "created_at": write_time(at_ms),
    }


async def seed(settings: Settings, accounts: int) -> int:
    """Write the changelog; returns its records."""
    template = state_of_an_account()
    topic = TopicNames.of(settings).physical(STATE)
    own = SEED_ACCOUNT.encode()
    async with AIOKafkaProducer(bootstrap_servers=settings.bootstrap, max_batch_size=500_000) as producer:
        open_batches = {partition: producer.create_batch() for partition in range(PARTITIONS)}
        for number in range(accounts):
            account = b"seeded-%d" % number
            partition = kafka.partition_of_key(account, PARTITIONS)
            for table, key, value in template:
                record = changelog_key(table, account + key.removeprefix(own)), value
                if open_batches[partition].append(timestamp=None, key=record[0], value=record[1]) is None:
                    await producer.send_batch(open_batches[partition], topic, partition=partition)
                    open_batches[partition] = producer.create_batch()
                    open_batches[partition].append(timestamp=None, key=record[0], value=record[1])
        for partition, batch in open_batches.items():
            await producer.send_batch(batch, topic, partition=partition)
        await producer.flush()
    return accounts * len(template)


def probes() -> dict[int, str]:
    """An account of each partition."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < PARTITIONS:
        account = f"probe-{number}"
        found.setdefault(kafka.partition_of_key(account.encode(), PARTITIONS), account)
        number += 1
    return found


class Worker:
    """A worker process as an operator starts it."""

    def __init__(self, name: str, settings: Settings, directory: Path, config: Path, extra: Mapping[str, str]) -> None:
        self.data_dir = directory / name
        self._log_path = directory / f"{name}.log"
        self._config = config
        self._environment = os.environ | {
            "TIDEGATE_BROKER": settings.broker,
            "TIDEGATE_APP_ID": settings.app_id,
            "TIDEGATE_TOPIC_PREFIX": settings.topic_prefix,
            "TIDEGATE_DATA_DIR": str(self.data_dir),
            **extra,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log_path.read_text() if self._log_path.exists() else ""

    def start(self) -> None:
        with self._log_path.open("ab") as file:
            command = [sys.executable, "-m", "streams.ops.cli", "worker", "--config", str(self._config)]
            self._process = subprocess.Popen(command, stdout=file, stderr=file, env=self._environment)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def serving(self) -> set[int]:
        """What it has said to serve since its last assignment."""
        if self._process is not None and self._process.poll() not in (None, -9):
            raise RuntimeError(f"the worker ended:\n{self.log[-2_000:]}")
        _, _, since = self.log.rpartition("assigned partitions")
        return set(map(int, re.findall(r"serving partition (\d+)", since)))

    def openings(self) -> Iterator[tuple[int, float]]:
        """Each partition of the last assignment, and how long it took from there to serving."""
        lines = self.log.splitlines()
        last = max(n for n, line in enumerate(lines) if "assigned partitions" in line)
        for line in lines[last:]:
            if found := re.search(r"serving partition (\d+)", line):
                yield int(found[1]), _second_of(line) - _second_of(lines[last])


def _second_of(line: str) -> float:
    hours, minutes, seconds = re.findall(r"T(\d\d):(\d\d):(\d\d\.\d+)Z", line)[0]
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


class Traffic:
    """Signals for every partition, and when each was decided."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._names = TopicNames.of(settings)
        self._accounts = probes()
        self.sent_s: dict[str, tuple[int, float]] = {}
        self.decided_s: dict[str, float] = {}

    async def send(self) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self._settings.bootstrap, acks="all") as producer:
            for number in range(1_000_000):
                for partition, account in self._accounts.items():
                    name = f"{partition}-{number}"
                    value = orjson.dumps(signal(account, name, time.time_ns() // 1_000_000))
                    self.sent_s[name] = partition, time.monotonic()
                    await producer.send(self._names.physical(SIGNALS), value, account.encode(), partition=partition)
                await asyncio.sleep(1 / SIGNALS_PER_S)

    async def watch(self) -> None:
        topics = [self._names.physical(topic) for topic in (APPROVED, REJECTED)]
        async with AIOKafkaConsumer(
            *topics, bootstrap_servers=self._settings.bootstrap, isolation_level="read_committed"
        ) as consumer:
            async for record in consumer:
                self.decided_s.setdefault(orjson.loads(record.value)["signal_id"], time.monotonic())

    def wait_after(self, partition: int, at_s: float) -> float | None:
        """From ``at_s`` to the first decision on a signal that was sent after it."""
        decided = [
            self.decided_s[name]
            for name, (number, sent_s) in self.sent_s.items()
            if number == partition and sent_s > at_s and name in self.decided_s
        ]
        return min(decided) - at_s if decided else None

    def longest_gap(self, partition: int, from_s: float) -> float:
        """Between two decisions since."""
        times = sorted(
            decided_s
            for name, decided_s in self.decided_s.items()
            if self.sent_s[name][0] == partition and decided_s > from_s
        )
        return max((after - before for before, after in itertools.pairwise(times)), default=0.0)


async def run(settings: Settings, directory: Path, case: str) -> Run:
    """One kill."""
    config = directory / "tidegate.toml"
    config.write_text("".join(f'[accounts."{account}"]\nexchange = "x"\n' for account in probes().values()))
    extra = {"TIDEGATE_SESSION_TIMEOUT": f"{settings.session_timeout_ms}ms"}
    if case == "standby":
        extra["TIDEGATE_STANDBY"] = "1"
    doomed, other = (
        Worker(name, settings, directory, config, extra | ({"TIDEGATE_INSTANCE_ID": name} if case == "named" else {}))
        for name in ("doomed", "other")
    )
    traffic = Traffic(settings)
    tasks: list[asyncio.Task[None]] = []
    try:
        # The first has all partitions and keeps half: the other gets nothing of these on its disk.
        doomed.start()
        await wait_for(lambda: len(doomed.serving()) == PARTITIONS, _DEADLINE_S, "the first worker")
        other.start()
        await wait_for(
            lambda: len(doomed.serving()) == len(other.serving()) == PARTITIONS // 2, _DEADLINE_S, "the second worker"
        )
        lost, kept = doomed.serving(), other.serving()
        tasks = [asyncio.create_task(traffic.watch()), asyncio.create_task(traffic.send())]
        if case == "standby":
            # What it has written shows in files only when a later write flushes it.
            await _level(settings, other.data_dir, lost)
        await wait_for(lambda: {name[0] for name in traffic.decided_s} >= set("01234567"), _DEADLINE_S, "decisions")
        await asyncio.sleep(_BEFORE_S)

        killed_s = time.monotonic()
        doomed.kill()
        if case == "named":
            doomed.start()
        await wait_for(
            lambda: all(traffic.wait_after(number, killed_s) is not None for number in range(PARTITIONS)),
            _DEADLINE_S,
            "decisions after the kill",
        )
        await asyncio.sleep(_BEFORE_S)
        heir = doomed if case == "named" else other
        openings = dict(heir.openings())
        return Run(
            [traffic.wait_after(number, killed_s) or 0.0 for number in sorted(lost)],
            [traffic.longest_gap(number, killed_s) for number in sorted(kept)],
            [took for number, took in openings.items() if number in lost],
            [took for number, took in openings.items() if number in kept],
        )
    finally:
        for task in tasks:
            task.cancel()
        doomed.kill()
        other.kill()


async def _level(settings: Settings, data_dir: Path, numbers: set[int]) -> None:
    """Wait until the standby has followed these changelogs to their present ends."""
    layout = await verify_topics(settings)
    topic = TopicNames.of(settings).physical(STATE)
    places = [kafka.TopicPartition(topic, number) for number in numbers]
    async with kafka.consumer(settings) as looker:
        ends = await looker.end_offsets(places)

    def is_level() -> bool:
        return all(
            peek(
                data_dir / "state" / str(place.partition),
                Identity(layout.cluster_id, settings.app_id, topic, place.partition),
            )
            >= end
            for place, end in ends.items()
        )

    await wait_for(is_level, _DEADLINE_S, "the standby")


async def measure(cluster: KafkaCluster, directory: Path, accounts: int, case: str, number: int) -> None:
    """One run on topics of its own; prints its line."""
    name = f"{case}-{accounts}-{number}"
    settings = Settings(
        broker=f"kafka://{cluster.bootstrap}",
        app_id=name,
        topic_prefix=f"{name}.",
        session_timeout_ms=NAMED_SESSION_TIMEOUT_MS if case == "named" else SESSION_TIMEOUT_MS,
    )
    await create_topics(settings, partitions=PARTITIONS)
    records = await seed(settings, accounts)
    place = directory / name
    place.mkdir()
    found = await run(settings, place, case)
    print(
        json.dumps(
            {
                "figure": "failover",
                "case": case,
                "accounts": accounts,
                "changelog_records": records,
                "machine_load": round(os.getloadavg()[0], 1),
                "session_timeout_s": settings.session_timeout_ms / 1000,
                "next_decision_s": _spread(found.waits),
                "others_gap_s": _spread(found.gaps),
                "take_over_s": _spread(found.taken_over),
                "reopen_s": _spread(found.reopened),
            }
        ),
        flush=True,
    )


def _spread(seconds: Sequence[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    return {"median": round(statistics.median(seconds), 2), "max": round(max(seconds), 2)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Seconds from the kill of a worker to the next decision.")
    parser.add_argument("--accounts", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument(
        "--cases", nargs="+", choices=("cold", "standby", "named"), default=["cold", "standby", "named"]
    )
    parser.add_argument("--runs", type=int, default=1)
    asked = parser.parse_args()
    # A topic's leader is not known everywhere right after its creation, which producers complain of at length.
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="tidegate-failover-") as directory, KafkaCluster() as cluster:
        for accounts in asked.accounts:
            for case in asked.cases:
                for number in range(asked.runs):
                    asyncio.run(measure(cluster, Path(directory), accounts, case, number))


if __name__ == "__main__":
    main()
