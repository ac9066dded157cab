"""What will go wrong, and when: drawn whole from the seed before anything starts, and kept in a file.

A run's file replays: it holds the seed, the size of the run and every fault with its kind, its target and its
parameters. What only the moment can tell (which broker leads a partition, whether a worker is restoring) is decided
when the fault is injected and written beside it. The same seed draws the same schedule; it does not make the same
interleaving of processes, so a replay repeats the blows and not the microseconds.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

WORKERS = 3
PARTITIONS = 12
BROKERS = 3

FIRST_FAULT_S = 5.0
GAP_S = (8.0, 12.0)
"""From one fault to the next. They overlap: few are over in this time."""


class Kind(StrEnum):
    """What is done to a process, its disk or its connections."""

    WORKER_KILL = "worker_kill"
    WORKER_PAUSE = "worker_pause"
    ROLLING_RESTART = "rolling_restart"
    KILL_IN_RESTORE = "kill_in_restore"
    DATA_WIPED = "data_wiped"
    DATA_TRUNCATED = "data_truncated"
    BROKER_KILL = "broker_kill"
    LEADER_KILL = "leader_kill"
    CONTROLLER_KILL = "controller_kill"
    CONNECTIONS_CUT = "connections_cut"
    CONNECTIONS_SLOWED = "connections_slowed"
    DISK_FULL = "disk_full"


WEIGHTS: Mapping[Kind, int] = {
    Kind.WORKER_KILL: 12,
    Kind.WORKER_PAUSE: 12,
    Kind.ROLLING_RESTART: 5,
    Kind.KILL_IN_RESTORE: 9,
    Kind.DATA_WIPED: 7,
    Kind.DATA_TRUNCATED: 9,
    Kind.BROKER_KILL: 6,
    Kind.LEADER_KILL: 8,
    Kind.CONTROLLER_KILL: 6,
    Kind.CONNECTIONS_CUT: 9,
    Kind.CONNECTIONS_SLOWED: 7,
    Kind.DISK_FULL: 8,
}
ON_BROKERS = frozenset({Kind.BROKER_KILL, Kind.LEADER_KILL, Kind.CONTROLLER_KILL})


@dataclass(frozen=True, slots=True)
class Fault:
    """One planned fault. Which of the parameters count depends on the kind."""

    number: int
    at_s: float
    """After the load began. Injection waits on while the target is still down from an earlier fault."""
    kind: Kind
    worker: int
    """Which worker; a rolling restart begins with it."""
    broker: int
    partition: int
    """Of ``signals``: whose leader is killed."""
    lasts_s: float
    """How long a worker is paused, its connections refused or slowed, a broker down."""
    file: str
    """What is cut by a truncation: ``sst``, ``manifest`` or ``current``."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """All faults of a run, and what else makes it repeatable."""

    seed: int
    events: int
    """Published at least; the load goes on until the last fault is over."""
    faults: tuple[Fault, ...]

    @property
    def with_standby(self) -> bool:
        """Whether the workers keep warm copies of each other's partitions: seeds that are odd do."""
        return self.seed % 2 == 1

    @property
    def ends_s(self) -> float:
        """When the last fault is due."""
        return self.faults[-1].at_s if self.faults else 0.0


def draw(seed: int, faults: int, events: int, session_timeout_s: float) -> Schedule:
    """The schedule of a seed: each kind at least once where there are enough faults, the others by weight.

    Pauses are longer than ``session_timeout_s``: a paused worker has always lost its partitions when it wakes up.
    """
    rng = random.Random(f"schedule {seed}")
    kinds = list(Kind)
    rng.shuffle(kinds)
    drawn = kinds[:faults]
    drawn += rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=faults - len(drawn))
    rng.shuffle(drawn)
    planned: list[Fault] = []
    at_s = FIRST_FAULT_S
    for number, kind in enumerate(drawn, 1):
        fault = Fault(
            number=number,
            at_s=round(at_s, 2),
            kind=kind,
            worker=rng.randrange(WORKERS),
            broker=rng.randrange(BROKERS),
            partition=rng.randrange(PARTITIONS),
            lasts_s=round(_length_s(kind, rng, session_timeout_s), 2),
            file=rng.choice(("sst", "manifest", "manifest", "current")),
        )
        planned.append(fault)
        at_s += rng.uniform(*GAP_S)
    return Schedule(seed, events, tuple(planned))


def _length_s(kind: Kind, rng: random.Random, session_timeout_s: float) -> float:
    if kind is Kind.WORKER_PAUSE:
        return session_timeout_s + rng.uniform(1.5, 5)
    if kind is Kind.CONNECTIONS_CUT:
        # Mostly a hiccup, sometimes an isolation that outlasts the session.
        return rng.choice((0.0, 0.5, 2.0, session_timeout_s + 2))
    if kind is Kind.CONNECTIONS_SLOWED:
        return rng.uniform(4, 8)
    if kind in ON_BROKERS:
        return rng.uniform(0.5, 3)
    return 0.0


def to_json(schedule: Schedule) -> dict[str, Any]:
    """What a file keeps of it."""
    return asdict(schedule)


def from_json(value: Mapping[str, Any]) -> Schedule:
    """The schedule of a file. Raises KeyError, TypeError or ValueError for one that is none."""
    faults = tuple(Fault(**one | {"kind": Kind(one["kind"])}) for one in value["faults"])
    return Schedule(value["seed"], value["events"], faults)


def load(file: Path) -> Schedule:
    """The schedule of a run's file. Raises OSError and what ``from_json`` raises."""
    return from_json(json.loads(file.read_text())["schedule"])
