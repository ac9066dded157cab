"""Offline replay (contract, section 5): lines in, lines out."""

import base64
import json
from typing import Any

import pytest

from streams.replay import Replay, replay
from tests.unit.desk import TUESDAY, Desk, Json, rules_from

TABLE: Json = {"accounts": {"main": {"exchange": "binance", "profile": "normal"}}}
PNL = {"account_id": "main", "sequence": 1, "equity": "10000", "as_of": TUESDAY}
SIGNAL = {
    "signal_id": "s-1",
    "account_id": "main",
    "strategy_id": "trend",
    "instrument": "BTC-USD",
    "side": "buy",
    "quantity": "1",
    "price": "100",
    "stop_loss": "99",
    "created_at": TUESDAY,
}


def line(topic: str, value: Any, **fields: Any) -> str:
    return json.dumps({"topic": topic, "timestamp": TUESDAY, "value": value, **fields})


def run(*lines: str, table: Json = TABLE) -> list[Json]:
    return [json.loads(one) for one in replay(lines, rules_from(table))]


def test_a_log_is_folded_in_the_files_order() -> None:
    outputs = run(line("signals", SIGNAL), line("pnl", PNL), line("signals", SIGNAL | {"signal_id": "s-2"}))
    assert [one["topic"] for one in outputs] == ["rejected-signals", "approved-orders"]
    assert [one["key"] for one in outputs] == ["main", "main"]
    assert list(outputs[0]) == ["topic", "key", "value"]


def test_each_line_out_is_one_line_of_json() -> None:
    lines = list(replay([line("signals", SIGNAL | {"strategy_id": "a\nb\u2028"})], rules_from(TABLE)))
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert json.loads(lines[0])["value"]["strategy_id"] == "a\nb\u2028"


def test_time_is_the_records_and_never_the_wall_clock() -> None:
    table = TABLE | {"clock": "wall"}
    outputs = run(line("pnl", PNL), line("signals", SIGNAL), table=table)
    assert outputs[0]["value"]["decided_at"] == TUESDAY
    assert outputs[0]["topic"] == "approved-orders"


def test_timestamps_may_be_written_in_any_zone() -> None:
    outputs = run(line("pnl", PNL), line("signals", SIGNAL, timestamp="2017-12-19T12:00:01.5+01:00"))
    assert outputs[0]["value"]["decided_at"] == "2017-12-19T11:00:01.500Z"


def test_offsets_count_the_lines_of_each_topic_from_zero_in_partition_zero() -> None:
    outputs = run(
        line("pnl", PNL),
        line("policies", {"name": "venue/kraken", "rule": {"up": False}}),
        line("signals", SIGNAL),
        line("signals", SIGNAL),
        line("pnl", PNL),
        line("signals", SIGNAL | {"signal_id": "s-2"}),
    )
    assert outputs[0]["value"]["basis"] == {"partition": 0, "offsets": {"pnl": 0, "signals": 0}, "policy_version": 1}
    duplicate = outputs[1]["value"]
    assert (duplicate["reason"], duplicate["topic"], duplicate["partition"]) == ("DUPLICATE_SIGNAL", "signals", 0)
    assert (duplicate["offset"], duplicate["timestamp"]) == (1, TUESDAY)
    assert outputs[3]["value"]["basis"]["offsets"] == {"pnl": 1, "signals": 2}


def test_the_key_is_optional_and_stays_with_a_dead_letter() -> None:
    for fields, key in (({}, None), ({"key": None}, None), ({"key": "k"}, "k"), ({"key": "å\ud83d\ude00"}, "å😀")):
        output = run(line("controls", {}, **fields))[0]
        assert (output["key"], output["value"]["key"]) == (key, key)


def test_further_fields_of_a_line_are_ignored() -> None:
    assert run(line("pnl", PNL, partition=3, headers=[1, {"a": 2}])) == []


def test_blank_lines_are_skipped() -> None:
    assert run("", "  ", "\t\r", line("pnl", PNL), "\n") == []


def test_line_ends_do_not_matter() -> None:
    assert run(line("pnl", PNL) + "\r\n", line("signals", SIGNAL) + "\n")[0]["topic"] == "approved-orders"


@pytest.mark.parametrize("value", [None, 7, "text", [1], True])
def test_a_value_that_is_no_object_is_malformed(value: Any) -> None:
    letter = run(line("signals", value))[0]["value"]
    assert (letter["reason"], letter["topic"], letter["offset"]) == ("MALFORMED", "signals", 0)
    assert letter["payload"] == json.dumps(value)


def test_a_line_without_value_is_a_record_without_one() -> None:
    letter = run(json.dumps({"topic": "fills", "timestamp": TUESDAY}))[0]["value"]
    assert (letter["reason"], letter["topic"], letter["payload"], letter["payload_size"]) == (
        "MALFORMED",
        "fills",
        None,
        0,
    )


@pytest.mark.parametrize(
    "value",
    [
        '{ "a" :  1.50 ,"b":"\\u0041" }',
        '{"a": 1e999999999}',
        '{"a": NaN, "a": -Infinity}',
        '{"a": "å"}',
        '{"a": {"b": [1, 2, {"c": "}"}]}}',
    ],
)
def test_a_dead_letters_payload_is_the_value_as_written(value: str) -> None:
    letter = run(f'{{"value": {value} , "timestamp":"{TUESDAY}","topic" : "controls"}}')[0]["value"]
    assert letter["payload"] == value
    assert letter["payload_size"] == len(value.encode())


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "[]",
        "7",
        "null",
        "{",
        '{"topic": "pnl"',
        '{"topic": "pnl",}',
        '{"topic": "pnl"} x',
        "{}",
        '{"timestamp": "2017-12-19T11:00:00Z", "value": {}}',
        '{"topic": 7, "timestamp": "2017-12-19T11:00:00Z", "value": {}}',
        '{"topic": "orders", "timestamp": "2017-12-19T11:00:00Z", "value": {}}',
        '{"topic": "pnl", "value": {}}',
        '{"topic": "pnl", "timestamp": "2017-12-19T11:00:00", "value": {}}',
        '{"topic": "pnl", "timestamp": 1513681200, "value": {}}',
        '{"topic": "pnl", "timestamp": "2017-12-19T11:00:00Z", "key": 7, "value": {}}',
        '{"topic": "pnl", "timestamp": "2017-12-19T11:00:00Z" "value": {}}',
        "{'topic': 'pnl'}",
        '{"topic": "pnl" "timestamp"}',
        '{"a": "\udcff',
    ],
)
def test_a_line_that_cannot_be_read_comes_out_on_dead_letters(text: str) -> None:
    output = run(text, line("pnl", PNL), line("signals", SIGNAL))
    assert [one["topic"] for one in output] == ["dead-letters", "approved-orders"], "the file is folded to its end"
    letter = output[0]["value"]
    assert (letter["reason"], letter["topic"], letter["partition"], letter["offset"]) == ("MALFORMED", None, None, None)
    assert (letter["account_id"], letter["first_id"], output[0]["key"]) == (None, None, None)
    written = text.encode(errors="surrogateescape")
    assert letter["payload_size"] == len(written)
    assert letter["payload"] == (text if text.isascii() else base64.b64encode(written).decode())
    assert output[1]["value"]["basis"]["offsets"] == {"pnl": 0, "signals": 0}, "it counts for no topic"


def test_an_absurd_integer_in_a_value_is_the_fields_fault_and_not_the_lines() -> None:
    """The worker reads the same value field by field; a replay that could not would decide otherwise."""
    text = line("signals", SIGNAL).replace('"quantity": "1"', '"quantity": ' + "1" * 10_000)
    assert [one["value"].get("code") for one in run(text)] == ["INVALID_SIGNAL"]


def test_a_deeply_nested_value_is_malformed_and_not_its_line() -> None:
    """So that its account is not trusted, here as in the worker."""
    text = line("pnl", PNL)[:-1] + ', "value": {"a": ' + "[" * 2_000 + "]" * 2_000 + "}}"
    output = run(text.replace('"topic": "pnl"', '"key": "main", "topic": "pnl"'))
    letter = output[0]["value"]
    assert (letter["reason"], letter["topic"], letter["offset"], letter["account_id"]) == (
        "MALFORMED",
        "pnl",
        0,
        "main",
    )


def test_bytes_that_are_not_utf_8_stay_in_their_record() -> None:
    """A file is read with ``surrogateescape``: what is not UTF-8 must not end the replay, nor lose its bytes."""
    said = run(line("fills", {"account_id": "main", "x": "@"}, key="main").replace("@", "\udcff"))
    assert [one["topic"] for one in said] == ["dead-letters", "account-events"]
    letter = said[0]["value"]
    assert (letter["reason"], letter["account_id"]) == ("MALFORMED", "main")
    assert base64.b64decode(letter["payload"]) == b'{"account_id": "main", "x": "\xff"}'


def test_replaying_a_log_twice_gives_the_same_bytes() -> None:
    log = [
        line("pnl", PNL),
        line("signals", SIGNAL),
        line("fills", {"account_id": "main"}),
        line("pnl", PNL | {"sequence": 2, "equity": "1"}),
        line("controls", {"account_id": "main", "command_id": "c", "type": "halt"}),
        "oops",
    ]
    assert list(replay(log, rules_from(TABLE))) == list(replay(log, rules_from(TABLE)))


def test_what_was_written_of_one_line_does_not_depend_on_the_next() -> None:
    """Replay is lazy: a log longer than memory can be folded."""
    lines = iter([line("signals", SIGNAL), "never read"])
    assert json.loads(next(replay(lines, rules_from(TABLE))))["topic"] == "rejected-signals"
    assert next(lines) == "never read"


def test_policies_take_effect_at_their_line() -> None:
    desk = Desk()
    desk.pnl("10000")
    assert desk.signal().approved
    desk.policy("state/global", {"state": "HALTED"})
    assert desk.signal().codes == ["TRADING_HALTED"]


def test_input_creates_no_account() -> None:
    gate = Replay(rules_from(TABLE))
    for topic, value in (("pnl", PNL), ("signals", SIGNAL), ("fills", {}), ("controls", {"command_id": "c"})):
        gate.feed(line(topic, {**value, "account_id": "ghost"}))
    assert gate.accounts == {}


def test_a_value_that_is_not_json_is_malformed_and_not_its_line() -> None:
    """So a log can hold what was sent, whatever it was, and its place is known."""
    text = '{"topic": "pnl", "timestamp": "2017-12-19T11:00:00Z", "key": "main", "value": {oops: [1,, "}"]}}'
    letter = run(text)[0]["value"]
    assert (letter["reason"], letter["topic"], letter["offset"], letter["account_id"]) == (
        "MALFORMED",
        "pnl",
        0,
        "main",
    )
    assert letter["payload"] == '{oops: [1,, "}"]}'


def test_a_topic_or_key_that_is_nested_without_end_is_an_unreadable_line() -> None:
    for field in ("topic", "key"):
        text = f'{{"topic": "pnl", "timestamp": "2017-12-19T11:00:00Z", "{field}": {"[" * 100_000}{"]" * 100_000}}}'
        assert run(text)[0]["value"]["reason"] == "MALFORMED"
