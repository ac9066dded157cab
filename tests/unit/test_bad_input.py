"""Bad input: each ends as a rejection or a dead letter that names the field, and nothing ever raises."""

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.core.records import Record
from streams.replay import Replay
from tests.unit.desk import ABSENT, TUESDAY, Desk, Json, Out, Said, read_output, rules_from

NOW_MS = 1513681200000
TABLE: Json = {"accounts": {"main": {"exchange": "binance", "profile": "normal"}}}
INPUTS = ("signals", "fills", "pnl", "controls", "policies")


def sent(topic: str, value: bytes | None, key: bytes | None = b"main", gate: Replay | None = None) -> Said:
    """A record of raw bytes, as a broker would hand it over."""
    gate = gate or Replay(rules_from(TABLE))
    return Said(read_output(one) for one in gate.apply(Record(topic, 0, 7, NOW_MS, key, value)))


# -- not a JSON object ---------------------------------------------------------------------------------------------

MALFORMED: dict[str, bytes | None] = {
    "absent": None,
    "empty": b"",
    "not JSON": b"hello",
    "cut off": b'{"account_id": "main"',
    "two objects": b"{} {}",
    "a list": b"[]",
    "a string": b'"x"',
    "a number": b"7",
    "null": b"null",
    "bare NaN": b"NaN",
    "true": b"true",
    "not UTF-8": b'{"account_id": "\xff"}',
    "surrogates encoded": b'{"account_id": "\xed\xa0\x80"}',
    "UTF-16": '{"account_id": "main"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "binary": bytes(range(256)),
    "101 deep": b'{"a":' * 101 + b"1" + b"}" * 101,
    "a million deep": b'{"a":' + b"[" * 1_000_000,
    "a trailing comma": b'{"a": 1,}',
    "single quotes": b"{'a': 1}",
}


@pytest.mark.parametrize("topic", INPUTS)
@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED)
def test_malformed(topic: str, value: bytes | None) -> None:
    said = sent(topic, value, key=b"other")
    assert said.names == ["POLICY_UNUSABLE" if topic == "policies" else "MALFORMED"]
    letter = said.letter
    assert (letter["topic"], letter["partition"], letter["offset"]) == (topic, 0, 7)
    assert (letter["timestamp"], letter["key"], letter["account_id"]) == (TUESDAY, "other", None)
    assert letter["detail"]


@pytest.mark.parametrize("depth", [99, 100])
def test_100_levels_are_read(depth: int) -> None:
    """The object itself is the first level."""
    value = b'{"account_id": "ghost", "x": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
    assert sent("fills", value).names == ["UNKNOWN_ACCOUNT"]


def test_brackets_inside_strings_are_not_levels() -> None:
    value = json.dumps({"account_id": "ghost", "x": '[{"\\' * 500}).encode()
    assert sent("fills", value).names == ["UNKNOWN_ACCOUNT"]


def test_of_repeated_keys_the_last_wins() -> None:
    assert sent("fills", b'{"account_id": "main", "account_id": "ghost"}').letter["account_id"] == "ghost"


def test_the_key_names_the_account_of_malformed_fills_and_pnl_only() -> None:
    assert sent("fills", b"oops").names == ["MALFORMED", "FILL_UNUSABLE"]
    assert sent("fills", b"oops").letter["account_id"] == "main"
    assert sent("pnl", b"oops").letter["account_id"] == "main"
    assert sent("signals", b"oops").letter["account_id"] is None
    assert sent("controls", b"oops").letter["account_id"] is None


@pytest.mark.parametrize("account_id", [None, 7, "", "x" * 257, "\ud800", {}], ids=repr)
def test_an_account_that_cannot_be_read_is_taken_from_the_key_of_fills_and_pnl(account_id: Any) -> None:
    value = json.dumps({"account_id": account_id}).encode()
    said = sent("fills", value)
    assert said.names == ["SCHEMA", "FILL_UNUSABLE"]
    assert said.letter["account_id"] == "main"
    assert "account_id" in said.letter["detail"]
    assert sent("pnl", value).letter["account_id"] == "main"
    for topic in ("fills", "pnl"):
        stranger = sent(topic, value, key=b"stranger")
        assert stranger.names == ["SCHEMA"]
        assert stranger.letter["account_id"] is None


def test_the_key_is_no_account_where_the_value_names_another() -> None:
    assert sent("fills", b'{"account_id": "ghost"}').names == ["UNKNOWN_ACCOUNT"]


def test_a_malformed_pnl_makes_equity_missing_and_a_malformed_fill_reduces() -> None:
    desk = Desk()
    desk.pnl("10000")
    desk.raw("pnl", "[]")
    assert desk.signal().codes == ["RISK_DATA_MISSING"]
    desk.pnl("10000")
    desk.raw("fills", "[]")
    assert desk.signal().codes == ["TRADING_STATE_REDUCING"]
    desk.command("resume").event("RESUMED")
    desk.raw("pnl", "[]", key="other")
    desk.raw("fills", "[]", key=None)
    assert desk.signal().approved


# -- fields of signals ---------------------------------------------------------------------------------------------

UNREADABLE_IDS: list[Any] = [ABSENT, None, 7, True, "", "x" * 257, "å" * 129, "\ud800", ["s"], {}]


@pytest.mark.parametrize("signal_id", UNREADABLE_IDS, ids=repr)
def test_a_signal_without_id_is_a_schema_dead_letter(signal_id: Any) -> None:
    said = Desk().signal(signal_id)
    assert said.names == ["SCHEMA"]
    assert "signal_id" in said.letter["detail"]
    assert said.letter["account_id"] == "main"


@pytest.mark.parametrize("account_id", [one for one in UNREADABLE_IDS if one not in (ABSENT, None)], ids=repr)
def test_a_signal_of_an_unreadable_account_is_a_schema_dead_letter(account_id: Any) -> None:
    desk = Desk(strategies={"routes": {"trend": {"account": "main"}}})
    said = desk.signal(account_id=account_id)
    assert said.names == ["SCHEMA"]
    assert "account_id" in said.letter["detail"]


@pytest.mark.parametrize("strategy_id", UNREADABLE_IDS, ids=repr)
def test_a_signal_without_account_and_strategy_is_a_schema_dead_letter(strategy_id: Any) -> None:
    said = Desk().signal(account_id=None, strategy_id=strategy_id)
    assert said.names == ["SCHEMA"]
    assert "strategy_id" in said.letter["detail"]


@pytest.mark.parametrize("size", [256, 257])
def test_ids_have_at_most_256_bytes(size: int) -> None:
    desk = Desk()
    desk.pnl("10000")
    assert desk.signal("x" * size).names == (["APPROVED"] if size == 256 else ["SCHEMA"])
    assert desk.signal("å" * 128).names == ["APPROVED"]


FIELDS = ("strategy_id", "instrument", "side", "quantity", "price", "stop_loss", "leverage", "venue", "created_at")
UNREADABLE: dict[str, str] = {
    "a list": "[]",
    "an object": '{"a": [1]}',
    "false": "false",
    "a surrogate": '"\\udc00"',
    "1e999999999": "1e999999999",
    "-1e999999999": "-1e999999999",
    "1e-999999999": "1e-999999999",
    "1e9999999999999999999999": "1e9999999999999999999999",
    "41 digits": "0.12345678901234567890123456789012345678901",
    "a hundred digits": "1" * 100,
    "four thousand digits": "1" * 4_000,
    "ten thousand places": "0." + "1" * 10_000,
    "a long text": '"' + "9" * 300 + '"',
    "1e30": "1e30",
    "1e-31": "1e-31",
}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_field_of_a_signal_is_named(field: str, value: str) -> None:
    desk = Desk()
    desk.pnl("10000")
    record = {
        "signal_id": "s-1",
        "account_id": "main",
        "strategy_id": "trend",
        "instrument": "BTC-USD",
        "side": "buy",
        "quantity": "1",
        "price": "100",
        "stop_loss": "99",
        "created_at": TUESDAY,
        field: "@",
    }
    said = desk.raw("signals", json.dumps(record).replace('"@"', value))
    assert said.rejected["code"] == "INVALID_SIGNAL"
    assert [reason["observed"] for reason in said.checks("INVALID_SIGNAL")] == [field]


@pytest.mark.parametrize(
    "written", ["NaN", "Infinity", "-Infinity", '"NaN"', '"nan"', '"-nan"', '"inf"', '"-INF"', '"+Infinity"']
)
def test_not_finite_bare_or_quoted_is_read_and_refused(written: str) -> None:
    desk = Desk()
    desk.pnl("10000")
    for field, code in (("price", "INVALID_PRICE"), ("quantity", "INVALID_QUANTITY"), ("leverage", "INVALID_SIGNAL")):
        record = f'{{"signal_id": "{field}", "account_id": "main", "strategy_id": "trend", "instrument": "B", '
        record += f'"side": "buy", "quantity": 1, "price": 100, "stop_loss": 99, "created_at": "{TUESDAY}", '
        said = desk.raw("signals", record + f'"{field}": {written}}}')
        assert said.rejected["code"] == code
    assert desk.raw("pnl", f'{{"account_id": "main", "sequence": 2, "as_of": "{TUESDAY}", "equity": {written}}}').names
    assert desk.signal().check("RISK_DATA_MISSING")["observed"] == "equity"


@pytest.mark.parametrize("number", ["1e999999999", "-1e999999999", "1e30", "9" * 4_000, "1e-31"])
def test_an_absurd_number_in_pnl_or_fills_is_a_dead_letter_of_its_field(number: str) -> None:
    desk = Desk()
    desk.pnl("10000")
    said = desk.raw("pnl", f'{{"account_id": "main", "sequence": 2, "as_of": "{TUESDAY}", "equity": {number}}}')
    assert said.names == ["SCHEMA"]
    assert "equity" in said.letter["detail"]
    said = desk.raw(
        "fills",
        f'{{"fill_id": "f", "account_id": "main", "instrument": "B", "side": "buy", "price": 1, "quantity": {number}, '
        f'"status": "filled", "filled_at": "{TUESDAY}"}}',
    )
    assert said.names == ["SCHEMA", "FILL_UNUSABLE"]
    assert "quantity" in said.letter["detail"]


def test_an_absurd_sequence_makes_equity_missing() -> None:
    desk = Desk()
    desk.pnl("10000")
    huge = "9" * 4_000
    said = desk.raw("pnl", f'{{"account_id": "main", "sequence": {huge}, "as_of": "{TUESDAY}", "equity": "1"}}')
    assert said.names == ["SCHEMA"]
    assert "sequence" in said.letter["detail"]
    assert desk.signal().codes == ["RISK_DATA_MISSING"]


@pytest.mark.parametrize("bounds", ["1e-30", "999999999999999999999999999999", "0." + "1" * 40])
def test_the_widest_amounts_are_read(bounds: str) -> None:
    desk = Desk()
    desk.pnl(bounds)
    desk.fill(quantity=bounds, price=bounds)
    assert desk.position() is not None
    assert "INVALID_SIGNAL" not in desk.signal(price=bounds, quantity=bounds, leverage=bounds, stop_loss=bounds).names
    for _ in range(3):
        assert "SCHEMA" not in desk.pnl("1e-30", cash_flow="-9e29").names
        assert "SCHEMA" not in desk.pnl("9e29", cash_flow="9e29").names
    assert len(desk.signal()) == 1


# -- dead letters --------------------------------------------------------------------------------------------------


def test_a_dead_letter_shows_the_record() -> None:
    value = b'{"account_id": "ghost", "type": "halt", "command_id": "c"}'
    letter = sent("controls", value).letter
    assert letter["payload"] == value.decode()
    assert letter["payload_sha256"] == hashlib.sha256(value).hexdigest()
    assert letter["payload_size"] == len(value)
    assert set(letter) == {
        "reason",
        "detail",
        "topic",
        "partition",
        "offset",
        "timestamp",
        "key",
        "account_id",
        "first_id",
        "payload",
        "payload_sha256",
        "payload_size",
        "schema_version",
    }


def test_an_absent_value_has_no_payload() -> None:
    letter = sent("signals", None, key=None).letter
    assert (letter["payload"], letter["payload_sha256"], letter["payload_size"]) == (None, None, 0)
    assert letter["key"] is None


def test_a_payload_is_the_first_4_kib() -> None:
    letter = sent("signals", b"x" * 5000).letter
    assert (letter["payload"], letter["payload_size"]) == ("x" * 4096, 5000)


def test_a_payload_is_cut_at_a_characters_boundary() -> None:
    letter = sent("signals", b"x" + "å".encode() * 2500).letter
    assert letter["payload"] == "x" + "å" * 2047


def test_a_payload_that_is_not_utf_8_is_base64_of_its_first_4_kib() -> None:
    value = b"\xff" * 5000
    letter = sent("signals", value).letter
    assert base64.b64decode(letter["payload"]) == value[:4096]


def test_a_key_that_is_not_utf_8_is_base64() -> None:
    gate = Replay(rules_from(TABLE))
    output = gate.apply(Record("signals", 0, 0, NOW_MS, b"\xff\x00", b"x"))[0]
    assert output.key == b"\xff\x00", "the original key"
    assert json.loads(output.value)["key"] == base64.b64encode(b"\xff\x00").decode()


@pytest.mark.parametrize(
    ("topic", "make"),
    [
        ("signals", lambda desk, text: desk.signal(text)),
        ("fills", lambda desk, text: desk.fill(status=text)),
        ("pnl", lambda desk, text: desk.pnl(text)),
        ("controls", lambda desk, text: desk.command(text)),
        ("policies", lambda desk, text: desk.policy(text, None)),
    ],
)
def test_a_lone_surrogate_is_answered(topic: str, make: Callable[[Desk, str], Said]) -> None:
    said = make(Desk(), "\ud800")
    assert said.letter["topic"] == topic


BIG = "x" * 900_000
ANSWER_BYTES_MAX = 16_384


ECHOES: dict[str, Callable[[Desk], Said]] = {
    "fields of a signal": lambda desk: desk.signal(
        **dict.fromkeys(("strategy_id", "instrument", "side", "price", "venue"), BIG)
    ),
    "signal_id": lambda desk: desk.signal(BIG),
    "unknown field": lambda desk: desk.signal("s-1", note=BIG),
    "key in a status": lambda desk: desk.fill(status={BIG: BIG}),
    "fields of a fill": lambda desk: desk.fill(instrument=BIG, side=BIG, venue=BIG),
    "key of marks": lambda desk: desk.pnl(marks={BIG: "1"}),
    "value of marks": lambda desk: desk.pnl(marks={"BTC-USD": BIG}),
    "key in rates": lambda desk: desk.pnl(rates={"USD": {BIG: BIG}}),
    "type": lambda desk: desk.command(BIG),
    "profile": lambda desk: desk.command("set_profile", profile=BIG),
    "reason": lambda desk: desk.command("halt", reason=BIG),
    "state": lambda desk: desk.policy("state/global", {"state": BIG}),
    "rule of a state": lambda desk: desk.policy("state/global", BIG),
    "up": lambda desk: desk.policy("venue/binance", {"up": BIG}),
    "phase, a list": lambda desk: desk.policy("rollout", {"phase": [BIG]}),
    "phase": lambda desk: desk.policy("rollout", {"phase": BIG}),
    "limit of a profile": lambda desk: desk.policy("profile/micro", {"max_leverage": BIG}),
    "key of a profile": lambda desk: desk.policy("profile/micro", {BIG: 1}),
    "name in a list": lambda desk: desk.policy("strategies", {"blacklist": [BIG]}),
    "name": lambda desk: desk.send("policies", {"name": BIG, "rule": None}),
}


@pytest.mark.parametrize("make", ECHOES.values(), ids=ECHOES)
def test_a_value_near_the_brokers_limit_is_answered_by_small_records(make: Callable[[Desk], Said]) -> None:
    """An answer that echoed the value would not fit where the value did: no transaction could ever commit it."""
    said = make(Desk())
    assert [name for name, size in zip(said.names, map(_size, said), strict=True) if size > ANSWER_BYTES_MAX] == []


def _size(out: Out) -> int:
    return len(json.dumps(out.value))


@pytest.mark.parametrize("phase", ["\ud800", "x" * 257, ""], ids=["a surrogate", "257 bytes", "empty"])
def test_a_rollouts_phase_is_a_name_that_every_decision_can_carry(phase: str) -> None:
    desk = Desk()
    assert desk.policy("rollout", {"phase": phase}).names == ["POLICY_UNUSABLE"]
    assert desk.signal().rejected["code"] == "RISK_DATA_MISSING"


# -- anything at all -----------------------------------------------------------------------------------------------

LIKELY: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(
            "main",
            "ghost",
            "buy",
            "sell",
            "filled",
            "BTC-USD",
            "lock",
            "unlock",
            "halt",
            "resume",
            "set_profile",
            "low",
        ),
        *(
            "1",
            "100",
            "99",
            "-1",
            "0",
            "NaN",
            "1e30",
            "1e999",
            TUESDAY,
            "2017-12-19T11:00:00",
            "state/global",
            "\ud800",
        ),
        *(0, 1, -1, 2**64, 10**400, 1.5, float("nan"), float("inf"), True, None, [], {}, {"BTC-USD": "1"}),
    ]
)
JSON = LIKELY | st.text(max_size=5) | st.floats() | st.lists(LIKELY, max_size=2) | st.dictionaries(st.text(), LIKELY)
VALID: dict[str, Json] = {
    "signals": {
        "signal_id": "s",
        "account_id": "main",
        "strategy_id": "trend",
        "instrument": "BTC-USD",
        "side": "buy",
        "quantity": "1",
        "price": "100",
        "stop_loss": "99",
        "leverage": "1",
        "reduce_only": False,
        "venue": None,
        "created_at": TUESDAY,
        "expires_at": None,
    },
    "fills": {
        "fill_id": "f",
        "order_id": "o",
        "account_id": "main",
        "instrument": "BTC-USD",
        "side": "buy",
        "venue": "binance",
        "quantity": "1",
        "price": "100",
        "fee": "1",
        "status": "filled",
        "filled_at": TUESDAY,
    },
    "pnl": {
        "account_id": "main",
        "sequence": 1,
        "equity": "10000",
        "balance": "10000",
        "cash_flow": "0",
        "marks": {"BTC-USD": "100"},
        "rates": {"JPY": "1"},
        "as_of": TUESDAY,
    },
    "controls": {
        "command_id": "c",
        "account_id": "main",
        "type": "lock",
        "operator": "ann",
        "approved_by": "bob",
        "reason": "r",
        "rebase": "keep",
        "profile": "low",
        "order_id": "o",
        "issued_at": TUESDAY,
    },
    "policies": {"name": "profile/micro", "rule": {"max_leverage": "1"}, "operator": "ann", "reason": "r"},
}
KEYS = st.sampled_from([None, b"main", b"ghost", b"\xff", b"state/global"])


@st.composite
def broken(draw: st.DrawFn) -> tuple[str, bytes | None, Json]:
    """A sound record with up to three fields replaced."""
    topic = draw(st.sampled_from(INPUTS))
    fields = draw(st.lists(st.sampled_from(sorted(VALID[topic])), max_size=3))
    return topic, draw(KEYS), VALID[topic] | {field: draw(JSON) for field in fields}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(broken(), min_size=1, max_size=6))
def test_no_record_raises_and_every_signal_and_command_is_answered(
    records: list[tuple[str, bytes | None, Json]],
) -> None:
    gate = Replay(rules_from(TABLE))
    for topic, key, value in records:
        said = sent(topic, json.dumps(value).encode(), key, gate)
        if topic in ("signals", "controls"):
            assert said, "a signal is decided or dead-lettered, a command done or dead-lettered"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(INPUTS), KEYS, st.binary(max_size=64) | st.none())
def test_no_bytes_raise(topic: str, key: bytes | None, value: bytes | None) -> None:
    said = sent(topic, value, key)
    assert said.names[0] in ("MALFORMED", "SCHEMA", "POLICY_UNUSABLE", "UNKNOWN_ACCOUNT")
