"""Fan-out: one strategy's signal for several accounts."""

import json
from collections.abc import Mapping
from decimal import Decimal, localcontext
from typing import Any

import pytest

from streams.config import ConfigError, parse_config
from streams.core.fold import Batch, Commit, fold
from streams.core.records import Record
from streams.core.rules import rules_of
from tests.unit.desk import TUESDAY, Desk, Json, read_output, rules_from
from tests.unit.test_fold import T0, Memory, pnl

WEIGHTS = {"main": "0.6", "other": "0.4"}
TABLE: Json = {
    "accounts": {"main": {"exchange": "binance", "profile": "normal"}, "other": {"exchange": "kraken"}},
    "fanout": {"trend": {"accounts": WEIGHTS}},
}
PARTITIONS = {"main": 3, "other": 5}
PARENT = {
    "signal_id": "s-1",
    "strategy_id": "trend",
    "instrument": "BTC-USD",
    "side": "buy",
    "quantity": "1",
    "price": 100.10,
    "stop_loss": "99",
    "leverage": 2,
    "venue": "binance",
    "created_at": "2017-12-19T12:00:00.1239+01:00",
    "expires_at": "2017-12-19T11:00:30Z",
}


def parent(headers: Any = (), **fields: Any) -> Record:
    value = json.dumps(PARENT | fields).encode()
    return Record("signals", 3, 7, T0 + 123, b"trend", value, headers)


def folded(*signals: Record, table: Json = TABLE, view: Memory | None = None) -> Commit:
    records = {"pnl": [pnl(0)], "signals": list(signals)}
    return fold(Batch(3, records, T0), view or Memory(), rules_from(table), PARTITIONS.__getitem__)


def children(commit: Commit) -> dict[str, Json]:
    assert {output.topic for output in commit.outputs} == {"signals"}
    return {(output.key or b"").decode(): json.loads(output.value) for output in commit.outputs}


def letter(commit: Commit) -> Json:
    (output,) = commit.outputs
    assert output.topic == "dead-letters"
    return read_output(output).value


def sharing(weights: Mapping[str, str]) -> Json:
    accounts = TABLE["accounts"] | {name: {"exchange": "binance"} for name in weights}
    return {"accounts": accounts, "fanout": {"trend": {"accounts": dict(weights)}}}


def quantities(weights: Mapping[str, str], quantity: Any) -> dict[str, Decimal]:
    made = children(folded(parent(quantity=quantity), table=sharing(weights)))
    return {account: Decimal(child["quantity"]) for account, child in made.items()}


def test_each_account_gets_a_child_with_its_share_and_all_else_as_it_was() -> None:
    made = children(folded(parent()))
    assert made == {
        account: {
            "signal_id": f"s-1/{account}",
            "account_id": account,
            "strategy_id": "trend",
            "instrument": "BTC-USD",
            "side": "buy",
            "quantity": weight,
            "price": "100.1",
            "stop_loss": "99",
            "leverage": "2",
            "reduce_only": False,
            "venue": "binance",
            "created_at": "2017-12-19T11:00:00.123Z",
            "expires_at": "2017-12-19T11:00:30Z",
        }
        for account, weight in WEIGHTS.items()
    }


def test_children_have_the_parents_time_and_headers_and_their_accounts_key() -> None:
    headers = (("traceparent", b"00-1"),)
    outputs = folded(parent(headers)).outputs
    assert [(output.key, output.timestamp_ms, output.headers) for output in outputs] == [
        (b"main", T0 + 123, headers),
        (b"other", T0 + 123, headers),
    ]


def test_the_parent_itself_is_not_decided_and_leaves_no_state_but_its_offset() -> None:
    commit = folded(parent())
    assert set(commit.accounts) == {"main"}, "of the pnl update"
    assert commit.offsets == {"pnl": 0, "signals": 7}


def test_children_are_decided_once_each_where_their_accounts_live() -> None:
    first = folded(parent())
    view = Memory()
    arrived = [
        Record("signals", 3, 8 + n, output.timestamp_ms or 0, output.key, output.value)
        for n, output in enumerate([first.outputs[0], first.outputs[0]])
    ]
    outputs = [read_output(output) for output in folded(*arrived, view=view).outputs]
    assert [one.topic for one in outputs] == ["approved-orders", "dead-letters"]
    assert (outputs[0].value["signal_id"], outputs[0].value["quantity"]) == ("s-1/main", "0.6")
    assert outputs[1].value["reason"] == "DUPLICATE_SIGNAL"


@pytest.mark.parametrize(
    "quantity", ["1", 0.1, "0.00000000000000000007", "123456789012345678.123456789012345678", 10**29]
)
def test_shares_are_exact_and_sum_to_the_whole(quantity: Any) -> None:
    weights = {"a": "0.333333333333", "b": "0.333333333333", "c": "0.333333333334"}
    made = quantities(weights, quantity)
    whole = Decimal(str(quantity))
    with localcontext(prec=100):
        assert sum(made.values()) == whole
        assert all(made[name] == whole * Decimal(weight) for name, weight in weights.items())


@pytest.mark.parametrize("quantity", ["NaN", "-Infinity", "0", "-3"])
def test_a_quantity_that_is_no_quantity_is_refused_account_by_account(quantity: str) -> None:
    (first, _) = folded(parent(quantity=quantity)).outputs
    arrived = Record("signals", 3, 8, T0, first.key, first.value)
    (decision,) = folded(arrived).outputs
    assert read_output(decision).value["code"] == "INVALID_QUANTITY"


def test_a_share_with_more_digits_than_are_carried_is_refused_by_name() -> None:
    table = sharing({"main": "0.333333333333", "other": "0.666666666667"})
    (first, _) = folded(parent(quantity="1." + "3" * 39), table=table).outputs
    (decision,) = folded(Record("signals", 3, 8, T0, first.key, first.value), table=table).outputs
    value = read_output(decision).value
    assert (value["code"], value["reasons"][0]["observed"]) == ("INVALID_SIGNAL", "quantity")


def test_a_signal_that_names_its_account_is_not_fanned_out() -> None:
    (decision,) = folded(parent(account_id="main")).outputs
    assert decision.topic == "approved-orders"
    assert read_output(decision).value["signal_id"] == "s-1"


def test_a_strategy_without_fan_out_is_as_before() -> None:
    found = letter(folded(parent(strategy_id="mean")))
    assert found["reason"] == "UNKNOWN_ACCOUNT"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"price": "high"}, "price"),
        ({"signal_id": None}, "signal_id"),
        ({"account_id": 5}, "account_id"),
        ({"strategy_id": 5}, "strategy_id"),
        ({"created_at": "yesterday"}, "created_at"),
    ],
)
def test_a_parent_that_cannot_be_read_whole_is_one_dead_letter_that_names_the_field(fields: Json, named: str) -> None:
    found = letter(folded(parent(**fields)))
    assert (found["reason"], found["offset"]) == ("SCHEMA", 7)
    assert named in found["detail"]


def test_a_parent_that_is_not_json_is_malformed() -> None:
    found = letter(folded(Record("signals", 3, 7, T0, b"trend", b"{")))
    assert found["reason"] == "MALFORMED"


@pytest.mark.parametrize(("length", "fits"), [(250, True), (251, False)])
def test_a_child_id_that_is_too_long_makes_one_dead_letter_and_no_child(length: int, fits: bool) -> None:
    """The other account's id is six bytes with its slash, main's five: both or none."""
    commit = folded(parent(signal_id="å" * (length // 2) + "x" * (length % 2)))
    if fits:
        assert set(children(commit)) == {"main", "other"}
    else:
        found = letter(commit)
        assert found["reason"] == "SCHEMA"
        assert "/other" in found["detail"]


def test_a_child_is_bounded_in_size_whatever_its_parent_carries() -> None:
    """A parent near the broker's limit, multiplied, must not make a transaction that no broker takes."""
    huge = parent(note="x" * 1_000_000, created_at="2017-12-19T11:00:00." + "0" * 100_000 + "Z")
    assert all(len(output.value) < 1_000 for output in folded(huge).outputs)


def test_offline_replay_decides_the_children_in_their_parents_place() -> None:
    desk = Desk(accounts={"other": {"exchange": "kraken"}}, fanout={"trend": {"accounts": WEIGHTS}})
    desk.pnl("10000")
    said = desk.signal("s-9", account_id=None)
    assert [(one.topic, one.key, one.value["signal_id"]) for one in said] == [
        ("approved-orders", "main", "s-9/main"),
        ("rejected-signals", "other", "s-9/other"),
    ]
    assert said.approved["quantity"] == "0.6"
    assert said.approved["basis"]["offsets"] == {"pnl": 0, "signals": 0}
    assert desk.signal("s-9", account_id=None).names == ["DUPLICATE_SIGNAL", "DUPLICATE_SIGNAL"]


# -- configuration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"fanout": {"t": {"accounts": {"main": "0.6"}}}}, "fanout.t.accounts: weights sum to 0.6, not to 1"),
        ({"fanout": {"t": {"accounts": {}}}}, "fanout.t.accounts: weights sum to 0, not to 1"),
        (
            {"fanout": {"t": {"accounts": {"main": "0.6", "ghost": "0.4"}}}},
            "fanout.t.accounts.ghost: is not configured; add [accounts.ghost]",
        ),
        (
            {"fanout": {"t": {"accounts": {"main": "1.5", "other": "-0.5"}}}},
            "fanout.t.accounts.main: '1.5': is a fraction",
        ),
        ({"fanout": {"t": {"accounts": {"main": "1", "other": "0"}}}}, "fanout.t.accounts.other: '0': must be above 0"),
        (
            {"fanout": {"t": {"accounts": {"main": "0.9999999999999", "other": "0.0000000000001"}}}},
            "fanout.t.accounts.main: '0.9999999999999': has more than 12 places",
        ),
        (
            {"fanout": {"t": {"accounts": WEIGHTS}}, "strategies": {"routes": {"t": {"account": "main"}}}},
            "fanout.t: the strategy has a route too; keep one of them",
        ),
        ({"fanout": {"t": {}}}, "fanout.t.accounts: is missing"),
        ({"fanout": {"t": {"account": "main", "accounts": WEIGHTS}}}, "fanout.t.account: is not a key"),
    ],
)
def test_a_fan_out_that_makes_no_sense_stops_the_start_and_is_named(table: Json, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        rules_from({"accounts": TABLE["accounts"], **table})
    assert message in str(raised.value)


def test_accounts_of_the_environment_may_share_signals() -> None:
    table = {"fanout": {"t": {"accounts": {"main": "1"}}}}
    rules = rules_of(parse_config(table, {"QT_ACCOUNT_MAIN_EXCHANGE": "binance"}))
    assert rules.fanouts == {"t": {"main": Decimal(1)}}


def test_a_fail_over_venue_is_named_in_the_decision_and_in_its_checks() -> None:
    desk = Desk(account={"failover": ["kraken", "bitstamp"]}, at=TUESDAY)
    desk.pnl("10000")
    desk.policy("venue/binance", {"up": False})
    said = desk.signal()
    assert said.approved["venue"] == "kraken"
    assert said.check("VENUE_UNAVAILABLE")["observed"] == "kraken"
    desk.policy("venue/kraken", {"up": False})
    assert desk.signal().approved["venue"] == "bitstamp"
    desk.policy("venue/bitstamp", {"up": False})
    refused = desk.signal()
    assert refused.codes == ["VENUE_UNAVAILABLE"]
    assert refused.check("VENUE_UNAVAILABLE")["observed"] == "binance"
