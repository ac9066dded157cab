"""Transactions back to back with aiokafka as it is installed and with our patch, in turns on one real broker.

``python -m tests.benchmarks.upstream`` prints one JSON line a variant: ms a transaction of one record (median and p99
of all), and CPU. The patch is applied to a copy: nothing that is installed is touched.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiokafka

from infra.brokers import KafkaCluster
from tests.benchmarks.engines import make_topics
from tests.benchmarks.figures import percentile
from tests.benchmarks.processes import BROKER_CORE, ENGINE_CORE, pinned_to

PATCH = Path(__file__).with_name("aiokafka-concurrent-transactions.patch")
ROUNDS, TRANSACTIONS = 5, 300


def patched(directory: Path) -> Path:
    """A copy of the installed aiokafka with the patch, to be put first on a path. Raises CalledProcessError."""
    source = Path(aiokafka.__file__).parent
    shutil.copytree(source, directory / "aiokafka", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "apply", "--unsafe-paths", str(PATCH)], cwd=directory, check=True)
    return directory


def main() -> None:
    """Measure and print."""
    with pinned_to(BROKER_CORE), KafkaCluster() as cluster, tempfile.TemporaryDirectory() as name:
        variants = {"as installed": None, "patched": patched(Path(name))}
        found: dict[str, list[dict[str, Any]]] = {label: [] for label in variants}
        make_topics(cluster.bootstrap, [f"t-{number}" for number in range(ROUNDS)])
        for number in range(ROUNDS):
            for label, path in variants.items():
                found[label].append(_measure(cluster.bootstrap, f"t-{number}", path))
    for label, rounds in found.items():
        took_ms = [one for measured in rounds for one in measured["took_ms"]]
        line = {
            "aiokafka": label,
            "transaction_ms_p50": round(statistics.median(took_ms), 2),
            "transaction_ms_p99": round(percentile(took_ms, 0.99), 2),
            "cpu_ms": round(statistics.median(measured["cpu_ms"] for measured in rounds), 2),
            "transactions": len(took_ms),
        }
        print(json.dumps(line), flush=True)


def _measure(bootstrap: str, topic: str, path: Path | None) -> dict[str, Any]:
    with pinned_to(ENGINE_CORE):
        command = [sys.executable, "-m", "tests.benchmarks.upstream.transactions", bootstrap, topic, str(TRANSACTIONS)]
        done = subprocess.run([*command, str(path or "")], stdout=subprocess.PIPE, check=True, timeout=120)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


if __name__ == "__main__":
    main()
