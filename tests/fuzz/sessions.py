"""Rounds to play: a coherent session of a desk, with broken records between and in place of its own.

A round is a function of the seed and its number, so that one that fails is repeated without those before it. Sound
records have to be among the broken ones: only an account with equity, orders and positions shows what damage does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

from streams.runtime.kafka import partition_of_key
from tests.fuzz.mutations import INPUT_TOPICS, PARTITIONS, Mutator, Sent
from tests.model.strategies import generate

SESSION_RECORDS = 300
ROUNDS_PER_SESSION = 8


@dataclass(frozen=True)
class Round:
    """What is sent to a gate of this configuration. ``batches``: the seed of how it is cut into transactions.

    ``cold``: the gate keeps no live objects, every account comes out of its state records.
    """

    config: Mapping[str, Any]
    batches: int
    cold: bool
    sent: tuple[Sent, ...]
    broken: int = 0


def make_round(seed: int, number: int) -> Round:
    """Round ``number`` of a seed."""
    config, records = session(seed, number // ROUNDS_PER_SESSION)
    rng = Random(f"{seed}/{number}")
    mutator = Mutator(rng, records)
    # From sessions that are hardly disturbed, where damage meets deep state, to ones that are nothing but damage.
    replaced, inserted = rng.choice(((0.05, 0.5), (0.1, 1.0), (0.3, 0.7), (0.6, 0.5), (0.95, 0.3)))
    # One broken fill stops all entries of its account until a resume: mostly a single topic is damaged, and more of it.
    focus = rng.choice((None, None, *INPUT_TOPICS))
    sent: list[Sent] = []
    broken = 0
    for record in records:
        if focus not in (None, record.topic):
            sent.append(record)
            continue
        spoilt = rng.random() < replaced
        sent.append(mutator.spoil(record)[0] if spoilt else record)
        broken += spoilt
        copies = inserted if focus is None else 5 * inserted
        while rng.random() < copies / (1 + copies):
            sent.append(mutator.spoil(record)[0])
            broken += 1
    table = dict(config) | {"clock": rng.choice(("record", "wall"))}
    return Round(table, rng.randrange(2**32), rng.random() < 0.5, tuple(sent), broken)


@lru_cache(maxsize=4)
def session(seed: int, number: int) -> tuple[Mapping[str, Any], tuple[Sent, ...]]:
    """A configuration with a fan-out, and the sound records of a session under it."""
    config, records = generate(Random(f"{seed}/session/{number}").randrange(2**32), SESSION_RECORDS)
    names = list(config["accounts"])
    config["fanout"] = {"shared": {"accounts": {names[0]: "0.5", names[1]: "0.3", names[2]: "0.2"}}}
    return config, tuple(
        Sent(
            one.topic,
            0 if one.topic == "policies" else partition_of_key(one.key or b"", PARTITIONS),
            one.timestamp_ms,
            one.key,
            one.value,
            wall_ms=one.timestamp_ms,
        )
        for one in records
    )
