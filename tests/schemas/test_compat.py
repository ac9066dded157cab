"""The check that keeps old producers and consumers alive: this release passes it, and each kind of break is seen."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import compat
from schemas.compat import Gap, breaks, contract, gaps, judge, last_release, release
from schemas.reference import FOLDER, example_of

Change = Callable[[dict[str, Any]], None]
CONTRACT = contract()


def test_nothing_since_the_last_release_breaks_anyone() -> None:
    assert judge(FOLDER / "released", CONTRACT) == []


def test_the_last_release_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--release VERSION"):
        last_release(tmp_path)
    for version in ("0.9.0", "0.10.0", "0.2.1"):
        release(tmp_path, version, {"of": version})
    assert last_release(tmp_path) == ("0.10.0", {"of": "0.10.0"})


# -- each kind of break --------------------------------------------------------------------------------------------


def field(topic: str, name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The schema of a field, in a contract."""

    def find(whole: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = whole[topic]["schema"]["properties"][name]
        return found

    return find


def put(topic: str, name: str, schema: Any, *, required: bool = False) -> Change:
    def change(whole: dict[str, Any]) -> None:
        whole[topic]["schema"]["properties"][name] = schema
        needed = whole[topic]["schema"]["required"]
        if required and name not in needed:
            needed.append(name)

    return change


def drop(topic: str, name: str) -> Change:
    def change(whole: dict[str, Any]) -> None:
        del whole[topic]["schema"]["properties"][name]
        needed = whole[topic]["schema"]["required"]
        if name in needed:
            needed.remove(name)

    return change


def require(topic: str, name: str, *, required: bool = True) -> Change:
    def change(whole: dict[str, Any]) -> None:
        needed = whole[topic]["schema"]["required"]
        if required:
            needed.append(name)
        else:
            needed.remove(name)

    return change


def merge(topic: str, name: str, **into: Any) -> Change:
    return lambda whole: field(topic, name)(whole).update(into)


def enum(topic: str, name: str, *values: str) -> Change:
    return lambda whole: field(topic, name)(whole).update(enum=list(values))


def both(*changes: Change) -> Change:
    def change(whole: dict[str, Any]) -> None:
        for one in changes:
            one(whole)

    return change


def raised(topic: str) -> Change:
    return merge(topic, "schema_version", const=2)


def whole_topic(topic: str, **into: Any) -> Change:
    return lambda whole: whole[topic].update(into)


def settings(topic: str, **into: Any) -> Change:
    return lambda whole: whole[topic]["settings"].update(into)


def part(topic: str, name: str, member: str, **into: Any) -> Change:
    """Within a part that several fields refer to."""
    return lambda whole: whole[topic]["schema"]["$defs"][name]["properties"][member].update(into)


TEXT = {"type": "string", "minLength": 1, "maxLength": 256}
SIDES = ("buy", "sell")

INPUT_BREAKS: list[tuple[Change, str, str]] = [
    (put("signals", "desk", TEXT, required=True), "signals.desk", "is required, and was not"),
    (require("fills", "venue"), "fills.venue", "is required, and was not"),
    (drop("signals", "leverage"), "signals.leverage", "is not read any more"),
    (drop("signals", "price"), "signals.price", "is not read any more"),
    (put("fills", "order_id", TEXT), "fills.order_id", "null is not accepted any more"),
    (put("pnl", "equity", {"type": "string"}), "pnl.equity", "a number is not accepted any more"),
    (put("pnl", "sequence", {"type": "string"}), "pnl.sequence", "an integer is not accepted any more"),
    (enum("signals", "side", "buy"), "signals.side", "sell is not accepted any more"),
    (put("signals", "strategy_id", {"enum": ["trend"], "type": "string"}), "signals.strategy_id", "any string"),
    (merge("signals", "strategy_id", maxLength=64), "signals.strategy_id", "what is longer than 64"),
    (merge("signals", "strategy_id", minLength=3), "signals.strategy_id", "what is shorter than 3"),
    (merge("signals", "strategy_id", pattern="^[a-z]+$"), "signals.strategy_id", "does not fit the pattern ^[a-z]+$"),
    (merge("signals", "signal_id", format="uuid"), "signals.signal_id", "does not fit the format uuid"),
    (merge("pnl", "sequence", minimum=1), "pnl.sequence", "what is less than 1"),
    (merge("controls", "rebase", default="now"), "controls.rebase", "its default was"),
    (lambda whole: whole["fills"]["schema"].update(additionalProperties=False), "fills", "fields that nobody"),
    (lambda whole: whole.pop("pnl"), "pnl", "the topic is gone"),
    (whole_topic("fills", key="order_id"), "fills", "its key was 'account_id' and is 'order_id'"),
    (whole_topic("fills", address="{prefix}executions"), "fills", "its name on the broker was"),
    (settings("policies", partitions=4), "policies", "its setting partitions was 1 and is 4"),
    (settings("signals", **{"x-partitioner": "crc32"}), "signals", "its setting x-partitioner was 'murmur2'"),
    (settings("fills", topicConfiguration={"cleanup.policy": ["compact"]}), "fills", "its setting topicConfiguration"),
]

OUTPUT_BREAKS: list[tuple[Change, str, str]] = [
    (put("approved-orders", "desk", TEXT, required=True), "approved-orders.desk", "is new, under the same"),
    (drop("approved-orders", "profile"), "approved-orders.profile", "is no longer always there"),
    (require("account-locked", "equity", required=False), "account-locked.equity", "is no longer always there"),
    (
        merge("account-locked", "reason", enum=["DAILY_DRAWDOWN", "MONTHLY_DRAWDOWN"]),
        "account-locked.reason",
        "holds MONTHLY_DRAWDOWN now, under the same",
    ),
    (
        put("approved-orders", "order_id", {"anyOf": [TEXT, {"type": "null"}]}),
        "approved-orders.order_id",
        "holds null now",
    ),
    (put("approved-orders", "quantity", {"type": "number"}), "approved-orders.quantity", "holds a number now"),
    (put("approved-orders", "side", TEXT), "approved-orders.side", "holds any string (not only buy, sell) now"),
    (merge("approved-orders", "order_id", maxLength=512), "approved-orders.order_id", "what is longer than 256"),
    (merge("account-locked", "locked_at", pattern="^.*$"), "account-locked.locked_at", "does not fit the pattern"),
    (merge("account-locked", "locked_at", format="time"), "account-locked.locked_at", "does not fit the format date"),
    (
        part("account-locked", "OpenOrder", "quantity_left", type="number"),
        "account-locked.open_orders[].quantity_left",
        "holds a number now",
    ),
    (
        part("account-locked", "Basis", "partition", minimum=-1),
        "account-locked.basis.partition",
        "what is less than 0",
    ),
    (
        lambda whole: whole["account-locked"]["schema"]["$defs"]["Basis"]["properties"]["offsets"].update(
            propertyNames={"enum": ["signals", "fills", "pnl", "controls", "quotes"]}
        ),
        "account-locked.basis.offsets.*",
        "holds quotes now, under the same",
    ),
    (
        lambda whole: field("journal", "offsets")(whole)["additionalProperties"].update(
            prefixItems=[{"type": "integer", "minimum": 0}, {"type": "string"}]
        ),
        "journal.offsets.*[1]",
        "holds a string now",
    ),
    (
        lambda whole: whole["dead-letters"]["schema"].update(additionalProperties=True),
        "dead-letters",
        "holds fields that nobody has named now",
    ),
    (merge("approved-orders", "schema_version", const=0), "approved-orders.schema_version", "was 1 and is 0"),
    (drop("approved-orders", "schema_version"), "approved-orders.schema_version", "was 1 and is None"),
    # What a new number does not excuse.
    (
        both(raised("approved-orders"), drop("approved-orders", "profile")),
        "approved-orders.profile",
        "is no longer always there",
    ),
    (
        both(raised("approved-orders"), put("approved-orders", "quantity", {"type": "number"})),
        "approved-orders.quantity",
        "holds a number now",
    ),
    (whole_topic("account-locked", direction="in"), "account-locked", "its direction was 'out' and is 'in'"),
    (lambda whole: whole.pop("dead-letters"), "dead-letters", "the topic is gone"),
]

FINE: list[Change] = [
    put("signals", "desk", {"anyOf": [TEXT, {"type": "null"}], "default": None}),
    require("signals", "price", required=False),
    enum("signals", "side", "buy", "sell", "flat"),
    merge("signals", "strategy_id", maxLength=512),
    put("pnl", "sequence", {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
    put("pnl", "sequence", {"type": "number"}),
    put("fills", "venue", {}),
    lambda whole: whole.update(quotes=whole["pnl"]),
    both(raised("approved-orders"), put("approved-orders", "desk", TEXT, required=True)),
    both(raised("account-locked"), merge("account-locked", "reason", enum=["MANUAL", "MONTHLY_DRAWDOWN"])),
    # Consumers never see what is not written any more.
    merge("account-locked", "reason", enum=["MANUAL"]),
    put("approved-orders", "stop_loss", {"type": "null"}),
    merge("approved-orders", "order_id", maxLength=34),
    lambda whole: field("account-events", "detail")(whole).update(properties={"note": TEXT}),
]


def changed(change: Change) -> dict[str, Any]:
    now = copy.deepcopy(CONTRACT)
    change(now)
    return now


@pytest.mark.parametrize(
    ("change", "where", "told"),
    INPUT_BREAKS + OUTPUT_BREAKS,
    ids=[f"{b[1]}-{b[2]}" for b in INPUT_BREAKS + OUTPUT_BREAKS],
)
def test_a_break_is_named_with_its_field_its_change_and_a_remedy(change: Change, where: str, told: str) -> None:
    found = breaks(CONTRACT, changed(change))
    assert [one for one in found if one.where == where and told in one.change], list(map(str, found))
    assert all(one.remedy for one in found)


@pytest.mark.parametrize("change", FINE)
def test_what_breaks_nobody_is_let_through(change: Change) -> None:
    now = changed(change)
    assert now != CONTRACT, "the case changes nothing"
    assert list(map(str, breaks(CONTRACT, now))) == []


def test_words_alone_are_no_change() -> None:
    assert "description" not in json.dumps(CONTRACT)
    assert "title" not in json.dumps(CONTRACT)


# -- excuses -------------------------------------------------------------------------------------------------------


def test_a_break_that_is_meant_is_written_down_with_its_reason(tmp_path: Path) -> None:
    release(tmp_path, "1.0.0", CONTRACT)
    now = changed(drop("signals", "leverage"))
    (fault,) = judge(tmp_path, now)
    assert fault.startswith("signals.leverage: is not read any more")
    where, _, rest = fault.partition(": ")
    excuse = {"where": where, "change": rest.split("\n")[0], "why": "no producer sends it: asked them all"}
    (tmp_path / "accepted.json").write_text(json.dumps([excuse]))
    assert judge(tmp_path, now) == []
    (tmp_path / "accepted.json").write_text(json.dumps([excuse | {"why": ""}]))
    assert judge(tmp_path, now) == [fault]


def test_an_excuse_that_nothing_needs_is_a_fault(tmp_path: Path) -> None:
    release(tmp_path, "1.0.0", CONTRACT)
    (tmp_path / "accepted.json").write_text(json.dumps([{"where": "signals.x", "change": "gone", "why": "old"}]))
    (fault,) = judge(tmp_path, CONTRACT)
    assert "take the entry out" in fault
    release(tmp_path, "1.1.0", CONTRACT)
    assert judge(tmp_path, CONTRACT) == []


def test_the_command_tells_all_of_it_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compat, "FOLDER", tmp_path / "schemas")
    (tmp_path / "schemas").mkdir()
    assert compat.main(["--release", "1.0.0"]) == 0
    assert compat.main([]) == 0
    now = changed(both(drop("signals", "leverage"), require("fills", "venue")))
    monkeypatch.setattr(compat, "contract", lambda: now)
    capsys.readouterr()
    assert compat.main([]) == 1
    assert capsys.readouterr().out == (
        "since release 1.0.0:\n"
        "signals.leverage: is not read any more: what old producers say in it is lost\n"
        "    → go on reading it; say in its meaning what to use instead\n"
        "fills.venue: is required, and was not: records of old producers are refused\n"
        "    → make it optional, with a default that means what its absence meant\n"
    )


# -- against a validator -------------------------------------------------------------------------------------------


def leaves() -> st.SearchStrategy[Any]:
    bounds = st.integers(0, 3)
    return st.one_of(
        st.just({"type": "null"}),
        st.just({"type": "boolean"}),
        st.builds(lambda low: {"type": "integer", "minimum": low}, bounds),
        st.just({"type": "number"}),
        st.builds(lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more}, bounds, bounds),
        st.builds(
            lambda values: {"type": "string", "enum": sorted(values)}, st.sets(st.sampled_from("abc"), min_size=1)
        ),
    )


def schemas() -> st.SearchStrategy[Any]:
    def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        objects = st.builds(
            lambda properties, required, rest: {
                "type": "object",
                "properties": properties,
                "required": sorted(required & set(properties)),
                "additionalProperties": rest,
            },
            st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
            st.sets(st.sampled_from("xyz")),
            st.one_of(st.booleans(), inner),
        )
        arrays = st.builds(lambda items: {"type": "array", "items": items}, inner)
        unions = st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner)
        return objects | arrays | unions

    return st.recursive(leaves(), nested, max_leaves=4)


def values() -> st.SearchStrategy[Any]:
    scalars = st.one_of(
        st.none(), st.booleans(), st.integers(-1, 4), st.sampled_from([0.5, "", "a", "b", "c", "abcdef"])
    )
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
        max_leaves=4,
    )


@given(schemas(), schemas(), st.lists(values(), min_size=20, max_size=20))
def test_where_no_gap_is_seen_a_validator_sees_none_either(smaller: Any, larger: Any, tried: list[Any]) -> None:
    """The other way round does not hold: a field that nobody reads any more is a gap, and valid where others are."""
    if list(gaps_of(smaller, larger)):
        return
    valid, also = jsonschema.Draft202012Validator(smaller), jsonschema.Draft202012Validator(larger)
    assert [value for value in tried if valid.is_valid(value) and not also.is_valid(value)] == []


def gaps_of(smaller: Any, larger: Any) -> Iterator[Gap]:
    return gaps(compat._Part(smaller, smaller), compat._Part(larger, larger), ())


@given(schemas(), schemas())
def test_a_schema_has_no_gap_to_itself_nor_to_itself_and_more(one: Any, other: Any) -> None:
    assert list(gaps_of(one, copy.deepcopy(one))) == []
    assert list(gaps_of(one, {"anyOf": [other, one]})) == []


@pytest.mark.parametrize("topic", CONTRACT)
def test_the_examples_are_valid_by_the_released_schemas(topic: str) -> None:
    """What producers and consumers have today, read by the last release."""
    _, released = last_release(FOLDER / "released")
    jsonschema.Draft202012Validator(released[topic]["schema"]).validate(example_of(topic))
