"""Dead letters as an operator deals with them, without a broker: places, reasons, what may be sent again."""

from typing import Any, get_args

import orjson
import pytest
from aiokafka.structs import ConsumerRecord
from typer.testing import CliRunner

from schemas.outputs import DeadLetterReason
from streams.config import parse_config
from streams.core.fold import FORWARDED
from streams.core.outputs import dead_letter
from streams.core.records import CONTROLS, FILLS, INPUTS, PNL, POLICIES, SIGNALS, Record
from streams.core.rules import Rules, rules_of
from streams.ops.cli import app
from streams.ops.dead_letters import since_ms
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.letters import (
    REASONS,
    Draft,
    Letter,
    Place,
    account_and_id,
    aftermath_of,
    caution,
    key_of,
    objection,
    read_place,
    remedy_of,
)
from streams.ops.letters_reading import RESUBMITTED, headers_for, letter_of, resubmitted_from

AT_MS = 1_513_681_200_000
SIGNAL = {
    "signal_id": "s-1",
    "account_id": "main",
    "strategy_id": "trend",
    "instrument": "BTC-USD",
    "side": "buy",
    "quantity": "1",
    "price": "100",
    "stop_loss": "99",
    "created_at": "2017-12-19T11:00:00Z",
}
FILL = {
    "fill_id": "f-1",
    "account_id": "main",
    "instrument": "BTC-USD",
    "side": "buy",
    "quantity": "1",
    "price": "100",
    "status": "filled",
    "filled_at": "2017-12-19T11:00:00Z",
}


def rules(*accounts: str) -> Rules:
    return rules_of(parse_config({"accounts": {name: {"exchange": "x"} for name in accounts}}, {}))


def record(topic: str = SIGNALS, value: Any = None, **fields: Any) -> Record:
    body = value if isinstance(value, bytes) else orjson.dumps((SIGNAL if value is None else value) | fields)
    return Record(topic, 2, 17, AT_MS, b"main", body)


def letter(reason: str, about: Record, account_id: str | None = "main") -> Letter:
    written = dead_letter(about, reason, "price is odd", account_id=account_id)
    return Letter(Place(None, 0, 5), AT_MS, orjson.loads(written.value))


def asked(reason: str, about: Record, repaired: Record | None = None, in_force: Rules | None = None) -> str | None:
    draft = Draft(repaired or about, repaired is not None, account_and_id(about)[1])
    return objection(letter(reason, about), draft, in_force or Rules())


# -- places --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["2@17", *(f"{topic}/0@9" for topic in (*INPUTS, POLICIES))])
def test_a_place_is_read_as_it_is_shown(text: str) -> None:
    assert str(read_place(text)) == text


@pytest.mark.parametrize(
    "text", ["", "17", "@", "2@", "a@1", "2@-1", "orders/2@17", "signals/2", "signals:2@17", "2@17 "]
)
def test_what_is_no_place_is_refused_with_how_to_write_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"2@17.*signals/2@17"):
        read_place(text)


def test_a_letter_knows_its_own_place_and_its_inputs() -> None:
    one = letter("SCHEMA", record())
    assert (str(one.place), str(one.source)) == ("0@5", "signals/2@17")


def consumed(value: bytes | None) -> ConsumerRecord:
    return ConsumerRecord("dead-letters", 1, 8, AT_MS, 0, b"main", value, None, 0, 0, ())


@pytest.mark.parametrize("value", [None, b"", b"[]", b"{}", b"not json", b'{"reason": "SCHEMA"}'])
def test_a_record_that_is_none_of_the_gates_is_left_out(value: bytes | None) -> None:
    assert letter_of(consumed(value)) is None


def test_a_letter_is_read_from_its_record() -> None:
    written = dead_letter(record(), "SCHEMA", "x", account_id="main").value
    found = letter_of(consumed(written))
    assert found is not None
    assert (str(found.place), found.reason, found.account_id) == ("1@8", "SCHEMA", "main")


# -- reasons -------------------------------------------------------------------------------------------------------


def test_every_reason_of_the_schema_is_explained() -> None:
    assert set(REASONS) == set(get_args(DeadLetterReason))
    for reason in REASONS:
        said = remedy_of(reason)
        assert said.meaning.endswith(".")
        assert said.remedy.endswith(".")
    assert "does not know" in remedy_of("INVENTED").meaning


@pytest.mark.parametrize(
    ("topic", "reason", "account_id", "word"),
    [
        (FILLS, "SCHEMA", "main", "resume"),
        (FILLS, "MALFORMED", "main", "resume"),
        (PNL, "SCHEMA", "main", "RISK_DATA_MISSING"),
        (PNL, "STALE_SEQUENCE", "main", None),
        (FILLS, "MALFORMED", None, None),
        (SIGNALS, "SCHEMA", "main", None),
    ],
)
def test_what_a_letter_has_left_behind_is_told(
    topic: str, reason: str, account_id: str | None, word: str | None
) -> None:
    found = aftermath_of(letter(reason, record(topic, FILL), account_id))
    assert found is None if word is None else word in (found or "")


# -- what may be sent again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [one for one in REASONS if one != "UNKNOWN_ACCOUNT"])
def test_only_an_unknown_account_may_be_sent_as_it_was(reason: str) -> None:
    assert asked(reason, record()) == remedy_of(reason).as_it_was
    assert asked("UNKNOWN_ACCOUNT", record()) is None


def test_an_account_that_is_still_not_configured_is_refused() -> None:
    assert "'main' is not in the configuration" in (asked("UNKNOWN_ACCOUNT", record(), in_force=rules("other")) or "")
    assert asked("UNKNOWN_ACCOUNT", record(), in_force=rules("main")) is None


def test_a_repaired_payload_may_be_sent_and_a_broken_one_not() -> None:
    broken = record(value=b'{"signal_id": "s-1"')
    assert asked("MALFORMED", broken, record()) is None
    assert "is not JSON" in (asked("MALFORMED", broken, broken) or "")
    assert "price" in (asked("MALFORMED", broken, record(price="ten")) or "")
    policy = {"name": "venue/x", "rule": {"up": True}}
    assert asked("POLICY_UNUSABLE", record(POLICIES, b"["), record(POLICIES, policy)) is None
    assert "rule" in (asked("POLICY_UNUSABLE", record(POLICIES, b"["), record(POLICIES, {"name": "venue/x"})) or "")
    assert "is not JSON" in (asked("POLICY_UNUSABLE", record(POLICIES, b"["), record(POLICIES, b"[")) or "")


@pytest.mark.parametrize("reason", ["DUPLICATE_SIGNAL", "TOO_OLD", "COMMAND_REFUSED"])
def test_an_id_that_was_used_needs_another_also_when_edited(reason: str) -> None:
    command = {"command_id": "c-1", "account_id": "main", "type": "halt", "operator": "ann", "reason": "x"}
    command |= {"issued_at": "2017-12-19T11:00:00Z"}
    for topic, body, field in (
        (SIGNALS, SIGNAL, "signal_id"),
        (FILLS, FILL, "fill_id"),
        (CONTROLS, command, "command_id"),
    ):
        first = record(topic, body)
        assert f"still has {field}" in (asked(reason, first, record(topic, body, reason="other")) or "")
        assert asked(reason, first, record(topic, body, **{field: "another"})) is None


def test_the_key_is_the_payloads_account_or_the_policys_name() -> None:
    assert key_of(record(account_id="other")) == b"other"
    assert key_of(record(account_id=None)) == b"main", "the original's, where the payload names none"
    assert key_of(record(value=b"broken")) == b"main"
    assert key_of(record(POLICIES, {"name": "venue/x", "rule": None})) == b"venue/x"
    assert key_of(record(POLICIES, b"broken")) == b"main"


@pytest.mark.parametrize(
    ("age_ms", "word"),
    [(1_000, "prices have moved"), (31_000, "STALE_SIGNAL"), (86_400_001, "TOO_OLD")],
)
def test_the_staleness_of_a_signal_is_told(age_ms: int, word: str) -> None:
    assert word in (caution(record(), rules("main"), AT_MS + age_ms) or "")


def test_what_others_should_know_is_told() -> None:
    late = AT_MS + 86_400_001
    assert "TOO_OLD" in (caution(record(FILLS, FILL), rules("main"), late) or "")
    assert caution(record(FILLS, FILL), rules("main"), AT_MS) is None
    update = {"account_id": "main", "sequence": 1, "equity": "1", "as_of": "2017-12-19T11:00:00Z"}
    assert "STALE_SEQUENCE" in (caution(record(PNL, update), rules("main"), AT_MS) or "")
    assert "newest rule" in (caution(record(POLICIES, b"{}"), rules("main"), AT_MS) or "")
    assert caution(record(value=b"broken"), rules("main"), AT_MS) is None


# -- the header ----------------------------------------------------------------------------------------------------


def test_the_header_names_the_source_and_replaces_what_the_gate_added() -> None:
    old = (("traceparent", b"00"), (FORWARDED, b"signals/0/3"), (RESUBMITTED, b"signals/0/1"))
    new = headers_for(letter("SCHEMA", record()), old)
    assert new == (("traceparent", b"00"), (RESUBMITTED, b"signals/2/17"))
    assert resubmitted_from(new) == Place("signals", 2, 17)


@pytest.mark.parametrize(
    "value", [None, b"", b"signals", b"signals/2", b"/2/17", b"signals/a/1", b"\xff/1/2", b"signals/2/-1"]
)
def test_a_header_that_names_no_source_is_none(value: bytes | None) -> None:
    assert resubmitted_from(((RESUBMITTED, value), ("other", b"signals/2/17"))) is None


# -- the command line ----------------------------------------------------------------------------------------------


def test_since_is_a_duration_or_a_time() -> None:
    assert since_ms("2h", AT_MS) == AT_MS - 7_200_000
    assert since_ms("2017-12-19T11:00:00Z", 0) == AT_MS
    with pytest.raises(CommandError, match="neither a duration nor a time"):
        since_ms("yesterday", AT_MS)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("list", "--topic", "orders"), "use one of"),
        (("list", "--reason", "BAD"), "MALFORMED"),
        (("list", "--since", "soon"), "2h"),
        (("show", "17"), "2@17"),
        (("show", "2@17", "--raw", "--json"), "use one of them"),
        (("resubmit",), "name places"),
        (("resubmit", "2@17", "--reason", "SCHEMA"), "name places"),
        (("resubmit", "--reason", "SCHEMA", "--edit", "f"), "name its place"),
        (("resubmit", "2@17", "2@18", "--key", "main"), "name its place"),
        (("resubmit", "2@17", "--edit", "/nowhere/at/all"), "--edit /nowhere/at/all"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_told_before_any_broker_is_asked(arguments: tuple[str, ...], word: str) -> None:
    result = CliRunner().invoke(
        app, ["dead-letters", *arguments, "--broker", "kafka://127.0.0.1:1"], env={"COLUMNS": "160"}
    )
    assert result.exit_code == ExitStatus.USAGE, result.output
    assert word in result.stderr


@pytest.mark.parametrize("command", ["list", "show", "resubmit"])
def test_every_command_teaches_with_an_example_of_itself(command: str) -> None:
    result = CliRunner().invoke(app, ["dead-letters", command, "--help"])
    assert result.exit_code == ExitStatus.DONE
    assert f"tidegate dead-letters {command} " in result.stdout.split("Examples")[1]
