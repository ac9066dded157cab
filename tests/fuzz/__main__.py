"""Structure-aware fuzzing of every input: ``python -m tests.fuzz [--inputs N] [--seed S] [--round K] [--live N]``.

Half of what the gate is given is sound, so that accounts have equity, orders, positions and locks to be damaged; the
other half, which ``N`` counts, is broken in structure, bytes or surroundings. Every input has to be accounted for (see
``accounting.py``), state has to survive its encoding after every transaction, and outputs are held against the
published models. A failure is printed at its shortest, with the command that repeats it; ``--save`` keeps it among
the regressions. ``--live N`` gives N inputs to a worker on a throw-away Kafka instead (see ``live.py``).

Why a generator of its own: hypothesis (which ``tests/property`` uses) keeps a record of each choice so that it can
shrink them, which costs more than the step that is tested; here a round is a number, repeated by its number, and
shortened by leaving records out. Coverage-guided fuzzers instrument bytes through one parser; what is of interest
here is the state that sequences of nearly sound records reach.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from infra.brokers import Broker, KafkaCluster
from tests.fuzz import live
from tests.fuzz.cases import save
from tests.fuzz.run import Failure, failure_of, fuzz, shortened
from tests.fuzz.sessions import make_round
from tests.integration.support import Names

_SHOWN_MAX = 2_000


def main() -> int:
    """Run it; exit status 1 if any input was not accounted for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=1_000_000, help="broken inputs to give (default: 1,000,000)")
    parser.add_argument("--seed", type=int, help="default: a new one, which is printed")
    parser.add_argument("--round", type=int, help="play this one only")
    parser.add_argument("--save", metavar="NAME", help="keep a failing round as tests/fuzz/regressions/NAME.json")
    parser.add_argument("--live", type=int, metavar="N", help="N inputs through a worker on real Kafka instead")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one for each core)")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    if given.live is not None:
        return _give_live(seed, given.live)
    if given.round is not None:
        found = failure_of(make_round(seed, given.round))
        if isinstance(found, str):
            return _tell(seed, Failure(given.round, found), given.save)
        print(json.dumps({"seed": seed, "round": given.round, "inputs": found.inputs, "outputs": dict(found.outputs)}))
        return 0
    started = time.monotonic()
    tally, rounds, failure = fuzz(seed, given.inputs, jobs=given.jobs, told=_progress(given.inputs))
    if failure is not None:
        return _tell(seed, failure, given.save)
    seconds = time.monotonic() - started
    document = {
        "seed": seed,
        "inputs": tally.inputs,
        "broken": tally.broken,
        "rounds": rounds,
        "unaccounted": 0,
        "outputs": dict(sorted(tally.outputs.items())),
        "slowest_transaction_ms": round(tally.slowest_ms, 1),
        "seconds": round(seconds, 1),
        "inputs_per_second": round(tally.inputs / seconds),
    }
    print(json.dumps(document))
    return 0


def _give_live(seed: int, inputs: int) -> int:
    with KafkaCluster() as cluster, tempfile.TemporaryDirectory() as directory:
        broker = Broker(cluster.bootstrap, "kafka", "Apache Kafka from its jars")
        started = time.monotonic()
        found = asyncio.run(live.run(broker, Names("fuzz"), Path(directory), seed, inputs))
        seconds = time.monotonic() - started
    print(
        json.dumps(
            {
                "seed": seed,
                "live_inputs": found.inputs,
                "refused_by_the_broker": found.refused,
                "faults": len(found.faults),
                "outputs": dict(sorted(found.outputs.items())),
                "transactions": found.transactions,
                "seconds": round(seconds, 1),
            }
        )
    )
    for fault in found.faults:
        print(fault[:_SHOWN_MAX], file=sys.stderr)
    return 1 if found.faults else 0


def _progress(wanted: int) -> Callable[[int], None]:
    def told(broken: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{broken:,} of {wanted:,} broken inputs", end="", file=sys.stderr, flush=True)

    return told


def _tell(seed: int, failure: Failure, name: str | None) -> int:
    number, error = failure
    print(f"round {number} of seed {seed} failed: {error[:_SHOWN_MAX]}", file=sys.stderr)
    print("shortening it …", file=sys.stderr)
    short = shortened(make_round(seed, number), error)
    print(f"{len(short.sent)} records are enough:", file=sys.stderr)
    for sent in short.sent:
        text = repr(sent)
        print(f"  {text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + '…'}", file=sys.stderr)
    print(f"again: python -m tests.fuzz --seed {seed} --round {number} --save NAME", file=sys.stderr)
    if name:
        print(f"kept as {save(short, name)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
