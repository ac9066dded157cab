"""What-if and the figures of its checks, without a broker."""

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from streams.audit import Transaction
from streams.core.guard import CODES
from streams.core.records import APPROVED, REJECTED, SIGNALS, Record
from streams.core.state import NEW_ACCOUNT, Remembered, changes_of
from streams.ops import broker, explain, whatif
from streams.ops.checks import MEANINGS, published_line
from streams.ops.cli import app
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.overview import overview
from streams.ops.snapshot import Snapshot
from streams.ops.whatif import Answer, answer, completed
from streams.runtime.store import changelog_key
from tests.unit.desk import ACCOUNT, Desk, Json
from tests.unit.test_fold import T0

SIGNAL: Json = {
    "signal_id": "s-x",
    "strategy_id": "trend",
    "instrument": "BTC-USD",
    "side": "buy",
    "quantity": "1",
    "price": "100",
    "stop_loss": "99",
}


def ask(desk: Desk, memory: Remembered | None = None, account: str = ACCOUNT, **fields: Any) -> Answer:
    """What the gate would say to a signal of the desk's account now."""
    value, _ = completed(json.dumps({**SIGNAL, "created_at": desk.time(), **fields}).encode(), account, T0)
    record = Record(SIGNALS, 0, 0, T0, account.encode(), value)
    return answer(record, account, desk.gate.accounts.get(account), memory, desk.gate.rules)


def margins(found: Answer) -> dict[str, str | None]:
    return {f"{line.code} {line.scope}": line.margin for line in found.checks}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"quantity": "3"},
        {"quantity": "1000"},
        {"side": "sell", "stop_loss": "101"},
        {"side": "sell", "stop_loss": "99"},
        {"quantity": "NaN", "price": "0"},
        {"leverage": "7", "venue": "kraken"},
        {"side": "sell", "quantity": "0.5", "reduce_only": True},
    ],
)
def test_it_says_what_the_gate_then_says_check_by_check(fields: Json) -> None:
    desk = Desk()
    desk.pnl("10000")
    desk.hold("0.5")
    found = ask(desk, **fields)
    said = desk.signal(**{**SIGNAL, **fields})
    if said.of(APPROVED):
        listed = said.approved["checks"]
        made = [{**line._asdict(), "margin": None} for line in found.checks]
        assert made == [{**one, "margin": None} for one in listed]
        assert (found.verdict, found.code, found.venue) == ("approved", None, said.approved["venue"])
    else:
        assert said.of(REJECTED)
        failed = [line for line in found.checks if not line.passed]
        assert [line.code for line in failed] == said.codes
        assert [line.observed for line in failed] == [one["observed"] for one in said.rejected["reasons"]]
        assert (found.verdict, found.code) == ("rejected", said.rejected["code"])


def test_a_margin_is_what_is_left_and_below_0_what_is_too_much() -> None:
    desk = Desk(limits={"max_notional_per_order": "500", "price_collar": "0.05"})
    desk.pnl("10000", marks={"BTC-USD": "98"})
    expires_at = desk.time(seconds=7)
    left = margins(ask(desk, quantity="6", leverage="2", expires_at=expires_at))
    expected = {
        "STALE_SIGNAL signal": "30",
        "EXPIRED_SIGNAL signal": "7",
        "INVALID_PRICE signal": "100",
        "INVALID_QUANTITY signal": "6",
        "RISK_DATA_STALE account": "60",
        "DAILY_DRAWDOWN_REACHED account": "0.02",
        "LEVERAGE_EXCEEDED signal": "1",
        "LEVERAGE_EXCEEDED account": "2.94",
        "MAX_OPEN_POSITIONS_EXCEEDED account": "5",
        "STOP_LOSS_REQUIRED signal": "1",
        "TRADE_RISK_EXCEEDED signal": "0.0094",
        "RISK_HEADROOM_EXCEEDED account": "194",
        "NOTIONAL_EXCEEDS_MAX_PER_ORDER signal": "-100",
        "NO_VENUE venue": None,
        "ACCOUNT_LOCKED_MANUAL account": None,
    }
    assert {name: left[name] for name in expected} == expected
    assert margins(ask(desk, side="sell", stop_loss="103"))["STOP_LOSS_REQUIRED signal"] == "3"
    assert margins(ask(desk, side="sell", stop_loss="98"))["STOP_LOSS_REQUIRED signal"] == "-2"


def test_an_exit_is_asked_as_an_exit() -> None:
    desk = Desk().hold("2")
    found = ask(desk, side="sell", quantity="2", stop_loss=None)
    assert (found.verdict, found.reduces) == ("approved", True)
    assert "RISK_DATA_MISSING" not in [line.code for line in found.checks]


def test_a_used_id_would_be_a_dead_letter_until_it_is_forgotten() -> None:
    desk = Desk()
    desk.pnl("10000")
    found = ask(desk, Remembered("o-1", T0 + 1))
    assert (found.verdict, found.code, found.checks) == ("dead-lettered", "DUPLICATE_SIGNAL", ())
    assert "s-x" in (found.detail or "")
    assert ask(desk, Remembered("o-1", T0 - 1)).verdict == "approved"


def test_an_unknown_account_and_an_unreadable_id_are_answered_too() -> None:
    assert ask(Desk(), account="ghost").code == "UNKNOWN_ACCOUNT"
    found = ask(Desk(), signal_id=5)
    assert (found.verdict, found.code, found.signal_id) == ("dead-lettered", "SCHEMA", None)


def test_what_is_missing_is_added_and_all_else_stays_as_it_was_written() -> None:
    value, signal_id = completed(b' {"price": 0.10, "n": 12345678901234567890123, "account_id": "other"}\n', "main", T0)
    assert signal_id == "whatif"
    assert value == (
        b'{"price": 0.10, "n": 12345678901234567890123, "account_id": "other","account_id":"main",'
        b'"signal_id":"whatif","created_at":"2017-12-19T11:00:00Z"}'
    )
    assert completed(b"{}", "main", T0)[0].startswith(b'{"account_id":"main"')
    assert completed(b'{"signal_id": "s", "created_at": "x"}', "main", T0)[1] == "s"


class Reader:
    """What ``tidegate whatif`` reads of the desk's account, without a broker."""

    def __init__(self, desk: Desk) -> None:
        self.snapshot = Snapshot(desk.gate.rules)
        self.memory = None
        self.partition = 0
        for table, key, value in changes_of(ACCOUNT, NEW_ACCOUNT, desk.account):
            self.snapshot.take_state(changelog_key(table, key), value)

    async def read(self, _settings: Any) -> None:
        pass


def breached() -> Desk:
    """An account that was locked by its daily limit and unlocked again."""
    desk = Desk()
    desk.pnl("10000")
    desk.pnl("9700")
    desk.command("unlock", rebase="now")
    return desk


BREACH = {"reason": "DAILY_DRAWDOWN", "at": "2017-12-19T11:00:00Z"}


@pytest.mark.parametrize(("desk", "breach"), [(breached(), BREACH), (Desk(), None)], ids=["breached", "never"])
def test_whatif_names_the_last_breach_beside_the_state(
    desk: Desk, breach: Json | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whatif, "_AccountReader", lambda *_: Reader(desk))
    monkeypatch.setattr(broker, "run", lambda coroutine, _settings: asyncio.run(coroutine))
    line = ["whatif", "--account", ACCOUNT, "--signal", "-", "--broker", "kafka://127.0.0.1:1"]

    told = CliRunner().invoke(app, line, input=json.dumps(SIGNAL))
    as_json = CliRunner().invoke(app, [*line, "--json"], input=json.dumps(SIGNAL))

    assert ("last breach: DAILY_DRAWDOWN, 2017-12-19 11:00:00 UTC\n" in told.stdout) == (breach is not None)
    assert json.loads(as_json.stdout)["last_breach"] == breach


def test_explain_names_the_last_breach_in_the_state_that_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = breached()
    body = {
        "signal_id": "s-1",
        "account_id": ACCOUNT,
        "code": "STALE_SIGNAL",
        "decided_at": desk.time(),
        "reasons": [],
        "basis": {"partition": 0, "offsets": {}, "policy_version": 0},
    }
    value = json.dumps(body).encode()
    again = explain.Recomputed(
        Transaction(0, {}, T0, 0),
        value,
        Record(SIGNALS, 0, 0, T0, None, b"{}"),
        overview(ACCOUNT, desk.account, desk.gate.rules, T0),
        T0,
        0,
        (),
    )

    def found(coroutine: Coroutine[Any, Any, Any], _settings: Any) -> Any:
        coroutine.close()
        return explain.Decision(REJECTED, ACCOUNT.encode(), value, body), again, None

    monkeypatch.setattr(broker, "run", found)
    line = ["explain", "s-1", "--broker", "kafka://127.0.0.1:1"]

    told = CliRunner().invoke(app, line).stdout

    assert "DAILY_DRAWDOWN, 2017-12-19 11:00:00 UTC" in told.split("Last breach")[1]
    assert json.loads(CliRunner().invoke(app, [*line, "--json"]).stdout)["state"]["last_breach"] == BREACH


@pytest.mark.parametrize("value", [b"", b"[]", b"nonsense", b"\xff"])
def test_what_is_no_json_object_is_refused_with_how_to_write_it(value: bytes) -> None:
    with pytest.raises(CommandError, match="--signal") as raised:
        completed(value, "main", T0)
    assert raised.value.status == ExitStatus.USAGE
    assert "schemas/README.md" in raised.value.remedy


def test_a_signal_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    line = ["whatif", "--account", "main", "--signal", str(tmp_path / "none.json"), "--broker", "kafka://127.0.0.1:1"]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == ExitStatus.USAGE
    assert "none.json" in result.stderr


def test_every_code_says_in_words_what_has_to_hold() -> None:
    assert tuple(MEANINGS) == CODES
    assert all(sentence.endswith(".") for sentence in MEANINGS.values())


def test_a_published_reason_has_its_margin_too() -> None:
    reason = {"code": "TRADE_RISK_EXCEEDED", "observed": "0.05", "limit": "0.01", "unit": "fraction", "scope": "signal"}
    assert published_line(reason, None)[1:5] == (False, "0.05", "0.01", "-0.04")
    nothing = reason | {"observed": None}
    assert published_line(nothing, None).margin is None
    endless = reason | {"code": "INVALID_QUANTITY", "observed": "NaN", "limit": "0", "unit": "amount"}
    assert published_line(endless, None).margin is None
