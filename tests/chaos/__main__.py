"""``python -m tests.chaos [--seed N] [--faults N] [--events N] [--replay FILE]``: one run, one JSON line.

The exit status is 0 only if all six counts of harm are 0, every fault landed, and enough was approved and locked for
that to mean something. A run that fails keeps its directory (logs, schedule, dump), says where, and how to repeat it.
"""

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

from aiokafka.errors import KafkaError

from infra.cluster import BrokerFailed
from infra.jars import KafkaUnavailable
from streams.runtime.topics import TopicsError
from tests.chaos import results
from tests.chaos.run import HARMS, SESSION_TIMEOUT_S, Stuck, run
from tests.chaos.schedule import draw, load

FAULTS, EVENTS = 60, 300_000
_DESCRIPTION = "Break three brokers and three workers under load, then judge what they did; one JSON line."


def main(arguments: list[str] | None = None) -> int:
    """Run, print, and keep or remove what is left."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=_DESCRIPTION)
    parser.add_argument("--seed", type=int, help="of the faults, and of the load's choices; drawn if not given")
    parser.add_argument("--faults", type=int, default=FAULTS, help="how many (default %(default)s)")
    parser.add_argument("--events", type=int, default=EVENTS, help="input records at least (default %(default)s)")
    parser.add_argument(
        "--replay", type=Path, metavar="FILE", help="inject the schedule of a former run's schedule.json"
    )
    parser.add_argument("--rate", type=float, help="input records a second (default: as long as the faults last)")
    parser.add_argument("--directory", type=Path, help="where logs, schedule and dump go, and stay")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="append the run to this table, as tests/chaos/RESULTS.md"
    )
    given = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    if given.replay is None:
        schedule = draw(seed, given.faults, given.events, SESSION_TIMEOUT_S)
    else:
        try:
            schedule = load(given.replay)
        except (OSError, ValueError, KeyError, TypeError) as why:
            parser.error(f"--replay {given.replay}: no schedule in it ({why!r})")
    kept = given.directory is not None
    directory = given.directory or Path(tempfile.mkdtemp(prefix="tidegate-chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    again = f"make chaos SEED={schedule.seed} FAULTS={len(schedule.faults)} EVENTS={schedule.events}"
    sys.stderr.write(f"chaos: {again}  (logs: {directory})\n")
    try:
        outcome = asyncio.run(run(schedule, directory, rate=given.rate))
    except KafkaUnavailable as why:
        shutil.rmtree(directory, ignore_errors=True)
        sys.stderr.write(f"chaos: no Apache Kafka here: {why}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"chaos: interrupted; logs and schedule are in {directory}\n")
        return 130
    except (Stuck, BrokerFailed, KafkaError, TopicsError, OSError) as why:
        sys.stderr.write(
            f"chaos: {str(why) or repr(why)}\nchaos: logs and schedule are in {directory}\nto see it again: {again}\n"
        )
        return 1
    for topic, counts in outcome.outputs.items():
        told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        sys.stderr.write(f"{topic}: {told}\n")
    sys.stdout.write(json.dumps(outcome.figures) + "\n")
    sys.stdout.flush()
    if given.record is not None:
        results.append(given.record, outcome.figures)
    if outcome.is_good:
        if not kept:
            shutil.rmtree(directory, ignore_errors=True)
        return 0
    for finding in outcome.findings:
        sys.stderr.write(f"{finding}\n")
    if any(outcome.figures[harm] for harm in HARMS):
        sys.stderr.write("chaos: the gate did harm\n")
    if outcome.figures["faults_landed"] < outcome.figures["faults_asked"]:
        sys.stderr.write('chaos: not every fault landed; see "happened" in schedule.json\n')
    if not outcome.is_telling:
        sys.stderr.write("chaos: too little was approved or locked for the run to tell anything\n")
    sys.stderr.write(f"chaos: logs, schedule and dump are in {directory}\n")
    sys.stderr.write(f"to see it again: {again}\nor: python -m tests.chaos --replay {directory / 'schedule.json'}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
