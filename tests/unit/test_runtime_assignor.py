"""How partitions are shared out: even, sticky, back to the disk that knows them; and who stands by for whom."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import pytest
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from hypothesis import given
from hypothesis import strategies as st

from streams.core.records import INPUTS
from streams.runtime.assignor import Holding, Shares, WorkerAssignor, share_out, stand_by


def holding(owned: Any = (), warm: Mapping[int, int] | None = None, *, standby: bool = False) -> Holding:
    owned = frozenset(owned)
    return Holding(owned, {**dict.fromkeys(owned, 1_000), **(warm or {})}, standby)


def after(shares: Shares, members: Mapping[str, Holding]) -> dict[str, Holding]:
    """What the members have once they serve what they got."""
    return {
        name: members[name]._replace(
            owned=frozenset(shares[name]), warm={**members[name].warm, **dict.fromkeys(shares[name], 2_000)}
        )
        for name in members
    }


holdings = st.builds(
    Holding,
    st.frozensets(st.integers(0, 25), max_size=12),
    st.dictionaries(st.integers(0, 25), st.integers(0, 5_000), max_size=12),
    st.booleans(),
)
groups = st.dictionaries(st.sampled_from([f"member-{n}" for n in range(6)]), holdings, min_size=1)


@given(st.integers(0, 20), groups)
def test_every_partition_has_one_owner_and_counts_differ_by_one_at_most(
    count: int, members: Mapping[str, Holding]
) -> None:
    shares = share_out(count, members)
    assert set(shares) == set(members)
    assert sorted(chain(*shares.values())) == list(range(count))
    sizes = [len(numbers) for numbers in shares.values()]
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(0, 20), groups)
def test_nothing_moves_among_the_same_members(count: int, members: Mapping[str, Holding]) -> None:
    shares = share_out(count, members)
    assert share_out(count, after(shares, members)) == shares


@given(st.integers(0, 20), groups)
def test_it_does_not_depend_on_the_order_in_which_members_are_named(count: int, members: Mapping[str, Holding]) -> None:
    backwards = dict(reversed(list(members.items())))
    shares = share_out(count, members)
    assert share_out(count, backwards) == shares
    assert stand_by(shares, backwards) == stand_by(shares, members)


def moved(before: Mapping[str, Holding], shares: Shares) -> int:
    return sum(len(set(shares[name]) - held.owned) for name, held in before.items() if name in shares)


@given(st.integers(1, 24), st.integers(2, 5))
def test_a_death_moves_only_what_the_dead_had(count: int, size: int) -> None:
    members = {f"member-{n}": Holding() for n in range(size)}
    members = after(share_out(count, members), members)
    dead = members.pop("member-0")
    assert moved(members, share_out(count, members)) == len(dead.owned)


@given(st.integers(1, 24), st.integers(1, 5))
def test_a_newcomer_takes_its_share_and_nobody_else_gets_any(count: int, size: int) -> None:
    members = {f"member-{n}": Holding() for n in range(size)}
    members = after(share_out(count, members), members)
    members["newcomer"] = Holding()
    shares = share_out(count, members)
    assert moved(members, shares) == len(shares["newcomer"]) == count // (size + 1)


@given(st.integers(2, 24), st.integers(2, 5))
def test_who_comes_back_gets_its_own_back(count: int, size: int) -> None:
    members = {f"member-{n}": Holding() for n in range(size)}
    members = after(share_out(count, members), members)
    gone = members.pop("member-1")
    members = after(share_out(count, members), members)
    # The same disk under another member id, a little behind by now.
    members["member-9"] = Holding(frozenset(), gone.warm)
    back = set(share_out(count, members)["member-9"])
    assert back <= gone.owned
    assert len(back) in (len(gone.owned), count // size)


def test_of_two_who_say_that_they_serve_it_the_further_one_does() -> None:
    members = {"cut-off": holding({0, 1}, {0: 900, 1: 900}), "heir": holding({0, 1}, {0: 950, 1: 950})}
    members["cut-off"] = members["cut-off"]._replace(warm={0: 900, 1: 400})
    # One has to go: the one of which the cut-off worker lacks least.
    assert share_out(2, members) == {"cut-off": [0], "heir": [1]}


def test_what_nobody_serves_goes_to_the_disk_that_knows_it() -> None:
    members = {"a": holding({0}), "b": holding({1}, {2: 700, 3: 10}), "c": holding({4}, {3: 600})}
    assert share_out(6, members) == {"a": [0, 5], "b": [1, 2], "c": [3, 4]}


def test_a_cold_newcomer_gets_what_is_quickest_to_restore() -> None:
    members = {"a": holding((), {0: 9_000, 1: 50, 2: 8_000})._replace(owned=frozenset({0, 1, 2})), "new": Holding()}
    assert share_out(3, members) == {"a": [0, 2], "new": [1]}


# -- standbys


@given(st.integers(0, 20), groups)
def test_each_partition_has_a_standby_that_is_not_its_owner_where_someone_is_willing(
    count: int, members: Mapping[str, Holding]
) -> None:
    shares = share_out(count, members)
    follows = stand_by(shares, members)
    willing = {name for name, held in members.items() if held.standby}
    for owner, numbers in shares.items():
        for number in numbers:
            standbys = [name for name, followed in follows.items() if number in followed]
            assert len(standbys) == (1 if willing - {owner} else 0)
            assert set(standbys) <= willing - {owner}


@given(st.integers(0, 20), groups)
def test_an_owners_partitions_are_spread_over_all_who_stand_by(count: int, members: Mapping[str, Holding]) -> None:
    shares = share_out(count, members)
    follows = stand_by(shares, members)
    for owner, numbers in shares.items():
        others = [name for name, held in members.items() if held.standby and name != owner]
        if others:
            most = -(-len(numbers) // len(others))
            assert all(len(set(numbers) & set(follows[name])) <= most for name in others)


def test_a_standby_stays_where_it_is() -> None:
    members = {name: Holding(standby=True) for name in "abc"}
    shares = share_out(9, members)
    follows = stand_by(shares, members)
    members = {
        name: Holding(frozenset(shares[name]), dict.fromkeys([*shares[name], *follows[name]], 500), True)
        for name in members
    }
    assert stand_by(share_out(9, members), members) == follows


def test_after_a_death_the_standbys_take_over_and_nothing_is_restored_from_nothing() -> None:
    members = {name: Holding(standby=True) for name in "abc"}
    shares = share_out(12, members)
    follows = stand_by(shares, members)
    members = {
        name: Holding(frozenset(shares[name]), dict.fromkeys([*shares[name], *follows[name]], 500), True)
        for name in "bc"
    }
    heirs = share_out(12, members)
    for name in "bc":
        assert set(heirs[name]) == {*shares[name], *(set(follows[name]) & set(shares["a"]))}


# -- the protocol


class Cluster:
    """What the assignor asks of aiokafka's metadata."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def partitions_for_topic(self, _topic: str) -> set[int]:
        return set(range(self._partitions))


def joined(held: Holding) -> ConsumerProtocolMemberMetadata:
    """What a leader reads of a member, over the wire."""
    return ConsumerProtocolMemberMetadata.decode(WorkerAssignor(lambda: held).metadata(INPUTS).encode())


def told(assignment: ConsumerProtocolMemberAssignment) -> tuple[set[int], frozenset[int]]:
    """What a member reads of the leader, over the wire."""
    assignor = WorkerAssignor(Holding)
    read = ConsumerProtocolMemberAssignment.decode(assignment.encode())
    assignor.on_assignment(read)
    by_topic = {topic: set(numbers) for topic, numbers in read.assignment}
    assert list(by_topic) == sorted(INPUTS)
    assert all(numbers == by_topic[INPUTS[0]] for numbers in by_topic.values())
    return by_topic[INPUTS[0]], assignor.standing_by


def test_what_members_have_and_get_crosses_the_wire() -> None:
    members = {"a": holding({0, 1}, standby=True), "b": holding({2}, {3: 77}, standby=True)}
    leader = WorkerAssignor(lambda: members["a"])
    assigned = leader.assign(Cluster(4), {name: joined(held) for name, held in members.items()})
    assert {name: told(one) for name, one in assigned.items()} == {
        "a": ({0, 1}, frozenset({2, 3})),
        "b": ({2, 3}, frozenset({0, 1})),
    }


def test_a_member_of_an_earlier_release_gets_its_share() -> None:
    members = {"new": joined(holding({1})), "old": RangePartitionAssignor.metadata(INPUTS)}
    assigned = WorkerAssignor(Holding).assign(Cluster(2), members)
    assert {name: told(one) for name, one in assigned.items()} == {
        "new": ({1}, frozenset()),
        "old": ({0}, frozenset()),
    }


def test_a_leader_of_an_earlier_release_is_understood() -> None:
    assert WorkerAssignor.name == RangePartitionAssignor.name
    members = {"new": joined(holding({1}, standby=True)), "old": RangePartitionAssignor.metadata(INPUTS)}
    assigned = RangePartitionAssignor.assign(Cluster(2), members)
    assert told(assigned["new"]) == ({0}, frozenset())


@pytest.mark.parametrize("user_data", [None, b"", b"{", b"[]", b'{"v":2,"owned":[1]}', b'{"v":1,"owned":[1]}'])
def test_what_a_member_of_another_release_says_is_no_reason_to_fail(user_data: bytes | None) -> None:
    assert Holding.decode(user_data) == Holding()


def test_standing_by_ends_with_an_assignment_that_does_not_name_it() -> None:
    assignor = WorkerAssignor(Holding)
    assignor.on_assignment(ConsumerProtocolMemberAssignment(0, [], b'{"v":1,"standby":[4]}'))
    assert assignor.standing_by == {4}
    assignor.on_assignment(ConsumerProtocolMemberAssignment(0, [], b""))
    assert assignor.standing_by == frozenset()
