"""Names of topics, and the check that a worker can rely on them."""

import pytest

from streams.core.records import CONTROLS, FILLS, INPUTS, OUTPUTS, PNL, POLICIES, SIGNALS
from streams.runtime.topics import CO_PARTITIONED, JOURNAL, REQUESTS, STATE, TopicNames, TopicsError, check_counts

NAMES = TopicNames("p.", "gate")
GOOD = {name: 1 if NAMES.logical(name) == POLICIES else 6 for name in NAMES.all()}


def test_names_map_both_ways() -> None:
    assert NAMES.physical(SIGNALS) == "p.signals"
    assert NAMES.physical(STATE) == "p.gate-state"
    assert NAMES.physical(JOURNAL) == "p.gate-journal"
    assert {NAMES.logical(name) for name in NAMES.all()} == {*INPUTS, *OUTPUTS, POLICIES, STATE, JOURNAL}
    assert TopicNames().physical(STATE) == "tidegate-state"


def test_good_topics_give_the_partition_counts() -> None:
    partitions, counts = check_counts(NAMES, GOOD)
    assert partitions == 6
    assert counts[POLICIES] == 1
    assert counts[SIGNALS] == 6


@pytest.mark.parametrize("topic", [*INPUTS, *OUTPUTS, POLICIES, STATE, JOURNAL])
def test_a_missing_topic_is_named_with_the_remedy(topic: str) -> None:
    counts = {name: count for name, count in GOOD.items() if name != NAMES.physical(topic)}
    with pytest.raises(TopicsError, match=f"{NAMES.physical(topic)}; create them with `tidegate topics create`"):
        check_counts(NAMES, counts)


@pytest.mark.parametrize("topic", [FILLS, PNL, CONTROLS, STATE, JOURNAL])
def test_a_topic_with_other_partitions_is_named(topic: str) -> None:
    with pytest.raises(TopicsError, match=f"topic {NAMES.physical(topic)} has 5 partitions, but p.signals has 6"):
        check_counts(NAMES, GOOD | {NAMES.physical(topic): 5})


@pytest.mark.parametrize("topic", [POLICIES, REQUESTS])
def test_what_is_one_sequence_has_one_partition(topic: str) -> None:
    name = NAMES.physical(topic)
    with pytest.raises(TopicsError, match=f"topic {name} has 2 partitions"):
        check_counts(NAMES, GOOD | {name: 2})


def test_the_gate_does_not_need_the_operators_topic() -> None:
    assert REQUESTS not in check_counts(NAMES, GOOD)[1]
    assert check_counts(NAMES, GOOD | {NAMES.physical(REQUESTS): 1})[1][REQUESTS] == 1


def test_outputs_may_have_partitions_of_their_own() -> None:
    _, counts = check_counts(NAMES, GOOD | {NAMES.physical(OUTPUTS[0]): 3})
    assert counts[OUTPUTS[0]] == 3


def test_what_belongs_to_one_account_is_co_partitioned() -> None:
    assert set(CO_PARTITIONED) == {*INPUTS, STATE, JOURNAL}
