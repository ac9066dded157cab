"""Who serves which partition: as even as can be, and otherwise where it is served now or where its state is at hand.

Every member tells the leader of its group which partitions it serves, how much of which partition's state its disk
holds (the changelog offset up to which it is applied) and whether it is willing to stand by. The leader shares out
whole partitions (the four inputs of a number go together):

1. counts first: nobody has more than one partition more than anybody else;
2. then whoever serves a partition keeps it; where two say so, the one whose state is further (the other was cut off);
3. what has to move goes where the disk holds most of its changelog already, so that a worker that comes back gets its
   own partitions back; else where the least is left to restore, so that a new one gets the smallest;
4. then to whoever has least; at last by name. The same members with the same disks are always shared out alike.

Then, among those who are willing, it names a *standby* for each partition: another than its owner, spread so that the
partitions of one owner fall to all others alike if it dies, and the one that is furthest already where that leaves a
choice.

It is registered with the group under the name of Kafka's ``range`` assignor, and for two reasons. A group needs a
name that all members have in common, and workers of earlier releases know that one alone: under it old and new work
together, whichever leads (an old leader shares out by range and names no standbys; an old member says nothing of its
disk and takes what it gets). And it has to be the only name: aiokafka 0.14 sends a JoinGroup for each, the first one
without the others (its pull request 1168), so every rebalance would be two, and a worker that knows none but the
missing name would end.

What could break it: members with different views of the partition count. The reader refuses an assignment that lacks
an input, and the worker ends.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

log = logging.getLogger(__name__)

_VERSION = 1
_PROTOCOL_VERSION = 0

Shares = Mapping[str, Sequence[int]]
"""Partitions by member."""


class Holding(NamedTuple):
    """What one member has."""

    owned: frozenset[int] = frozenset()
    """The partitions that it served when the group broke up."""
    warm: Mapping[int, int] = {}
    """The changelog offset up to which its disk holds the state of a partition."""
    standby: bool = False
    """Whether it follows the changelog of partitions that others serve."""

    def encode(self) -> bytes:
        """As user data of its subscription."""
        warm = {str(number): offset for number, offset in sorted(self.warm.items())}
        return orjson.dumps({"v": _VERSION, "owned": sorted(self.owned), "warm": warm, "standby": self.standby})

    @classmethod
    def decode(cls, user_data: bytes | None) -> "Holding":
        """Nothing, where it is of another release: that only costs a longer restore."""
        try:
            told = orjson.loads(user_data or b"")
            if told["v"] != _VERSION:
                return cls()
            warm = {int(number): int(offset) for number, offset in told["warm"].items()}
            return cls(frozenset(map(int, told["owned"])), warm, bool(told["standby"]))
        except (ValueError, TypeError, LookupError, AttributeError):
            return cls()


def share_out(partitions: int, members: Mapping[str, Holding]) -> Shares:
    """The partitions of each member, by the rules above."""
    owner = _owners(partitions, members)
    shares: dict[str, list[int]] = {name: [] for name in sorted(members)}
    for number, name in sorted(owner.items()):
        shares[name].append(number)
    floor, more = divmod(partitions, len(members))
    largest_first = sorted(shares, key=lambda name: (-len(shares[name]), name))
    quota = {name: floor + (place < more) for place, name in enumerate(largest_first)}
    if all(len(shares[name]) == quota[name] for name in shares):
        return shares

    furthest = [max(held.warm.get(number, 0) for held in members.values()) for number in range(partitions)]

    def cost(number: int, name: str) -> tuple[bool, int]:
        left = furthest[number] - members[name].warm.get(number, 0)
        return 2 * left >= furthest[number], left

    moves = sorted(
        (cost(number, name), number)
        for number in range(partitions)
        if number not in owner or len(shares[owner[number]]) > quota[owner[number]]
        for name in shares
        if len(shares[name]) < quota[name]
    )
    placed: set[int] = set()
    for least, number in moves:
        holder = owner.get(number)
        if number in placed or (holder is not None and len(shares[holder]) <= quota[holder]):
            continue
        takers = [name for name in shares if len(shares[name]) < quota[name] and cost(number, name) <= least]
        if not takers:
            continue
        if holder is not None:
            shares[holder].remove(number)
        shares[min(takers, key=lambda name: (len(shares[name]), name))].append(number)
        placed.add(number)
    return {name: sorted(numbers) for name, numbers in shares.items()}


def stand_by(shares: Shares, members: Mapping[str, Holding]) -> Shares:
    """The partitions that each member is to follow; none for those who are not willing."""
    willing = sorted(name for name in shares if members[name].standby)
    follows: dict[str, list[int]] = {name: [] for name in shares}
    for owner in sorted(shares):
        others = [name for name in willing if name != owner]
        if not others:
            continue
        room = dict.fromkeys(others, -(-len(shares[owner]) // len(others)))
        choices = sorted(
            (-members[name].warm[number], number, name)
            for number in shares[owner]
            for name in others
            if number in members[name].warm
        )
        left = set(shares[owner])
        for _, number, name in choices:
            if number in left and room[name]:
                follows[name].append(number)
                room[name] -= 1
                left.discard(number)
        for number in sorted(left):
            name = min((one for one in others if room[one]), key=lambda one: (len(follows[one]), -room[one], one))
            follows[name].append(number)
            room[name] -= 1
    return {name: sorted(numbers) for name, numbers in follows.items()}


def _owners(partitions: int, members: Mapping[str, Holding]) -> dict[int, str]:
    """Who serves a partition now; of several who say so, the one whose state is further."""
    owner: dict[int, str] = {}
    for name in sorted(members):
        for number in members[name].owned:
            rival = owner.get(number)
            if number < partitions and (
                rival is None or members[name].warm.get(number, 0) > members[rival].warm.get(number, 0)
            ):
                owner[number] = name
    return owner


class WorkerAssignor(AbstractPartitionAssignor):
    """Speaks aiokafka's assignor protocol for one worker."""

    name = "range"

    def __init__(self, holding: Callable[[], Holding]) -> None:
        """``holding`` is asked at each join of the group."""
        self._holding = holding
        self.standing_by: frozenset[int] = frozenset()
        """The partitions to follow, as of the last assignment."""

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """What this member tells the leader."""
        return ConsumerProtocolMemberMetadata(_PROTOCOL_VERSION, list(topics), self._holding().encode())

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, ConsumerProtocolMemberAssignment]:
        """As leader: every member's partitions and standbys."""
        holdings = {name: Holding.decode(metadata.user_data) for name, metadata in members.items()}
        topics = sorted({topic for metadata in members.values() for topic in metadata.subscription})
        counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics}
        shares = share_out(max(counts.values(), default=0), holdings)
        follows = stand_by(shares, holdings)
        log.info("shared out %s", {name: list(numbers) for name, numbers in shares.items()})
        return {
            name: ConsumerProtocolMemberAssignment(
                _PROTOCOL_VERSION,
                [(topic, [number for number in shares[name] if number < counts[topic]]) for topic in topics],
                orjson.dumps({"v": _VERSION, "standby": follows[name]}),
            )
            for name in members
        }

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """As any member: note what to follow. A leader of an earlier release names nothing."""
        told = orjson.loads(assignment.user_data) if assignment.user_data else {}
        known = told.get("v") == _VERSION
        self.standing_by = frozenset(map(int, told["standby"])) if known else frozenset()
