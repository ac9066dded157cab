"""What the command line makes of the gate's records: overviews, tables, answers to commands."""

from collections.abc import Iterable
from decimal import Decimal
from io import StringIO
from typing import Any

import orjson
import pytest
from rich.console import Console

from schemas.types import read_time, write_time
from streams.config import parse_config
from streams.core.records import CONTROLS, DEAD_LETTERS, EVENTS, FILLS, LOCKED, PNL, POLICIES, SIGNALS, Output, Record
from streams.core.rules import Rules, rules_of
from streams.core.state import NEW_ACCOUNT, changes_of
from streams.ops.answers import Answer, Sent, answer_to, comes_with, in_words, lock_in_words
from streams.ops.exits import CommandError
from streams.ops.overview import Overview, by_urgency, document, overview
from streams.ops.policy_change import Course, Terms, policy_value
from streams.ops.snapshot import Snapshot
from streams.ops.tables import account_page, accounts_table
from streams.ops.terminal import age, amount, money, percent
from streams.replay import Replay
from streams.runtime.store import changelog_key

AT = "2017-12-19T11:00:00Z"
AT_MS = read_time(AT)


def rules(**account: Any) -> Rules:
    terms = {"exchange": "binance", "profile": "normal"} | account
    return rules_of(parse_config({"accounts": {"main": terms, "spare": {"profile": "low"}}}, {}))


class Gate:
    """The gate as replay runs it, with the changelog that a worker would have written."""

    def __init__(self, in_force: Rules) -> None:
        self.replay = Replay(in_force)
        self._offsets: dict[str, int] = {}

    def take(self, topic: str, **value: Any) -> list[Output]:
        offset = self._offsets[topic] = self._offsets.get(topic, -1) + 1
        return self.replay.apply(Record(topic, 0, offset, AT_MS, b"main", orjson.dumps(value)))

    def pnl(self, equity: str, **fields: Any) -> list[Output]:
        sequence = self._offsets.get(PNL, -1) + 2
        return self.take(PNL, account_id="main", sequence=sequence, equity=equity, as_of=AT, **fields)

    def control(self, kind: str, **fields: Any) -> tuple[Sent, list[Output]]:
        body = {"command_id": f"c-{kind}", "account_id": "main", "type": kind, "operator": "ann", "reason": "test"}
        body |= {"issued_at": AT, **fields}
        outputs = self.take(CONTROLS, **body)
        return Sent("main", str(body["command_id"]), 0, self._offsets[CONTROLS]), outputs

    def changelog(self) -> Iterable[tuple[bytes, bytes | None]]:
        for account_id, account in self.replay.accounts.items():
            for table, key, value in changes_of(account_id, NEW_ACCOUNT, account):
                yield changelog_key(table, key), value

    def seen(self, in_force: Rules, account_id: str = "main", now_ms: int = AT_MS) -> Overview:
        snapshot = Snapshot(in_force)
        for key, value in self.changelog():
            snapshot.take_state(key, value)
        return overview(account_id, snapshot.account(account_id), snapshot.rules, now_ms)


@pytest.fixture
def gate() -> Gate:
    return Gate(rules())


def busy(gate: Gate) -> Gate:
    """A position, a working entry and a breach."""
    gate.pnl("10000", marks={"BTC-USD": "100"})
    signal = {"signal_id": "s-1", "strategy_id": "trend", "instrument": "BTC-USD", "side": "buy", "created_at": AT}
    gate.take(SIGNALS, account_id="main", quantity="1", price="100", stop_loss="99", **signal)
    fill = {"fill_id": "f-1", "instrument": "ETH-USD", "side": "sell", "status": "filled", "filled_at": AT}
    gate.take(FILLS, account_id="main", quantity="2.5", price="10", **fill)
    gate.pnl("9750")
    return gate


# -- overview ------------------------------------------------------------------------------------------------------


def test_a_configured_account_without_state_is_shown_with_its_profile() -> None:
    one = overview("spare", None, rules(), AT_MS)

    assert (one.seen, one.configured, one.profile, one.trading_state) == (False, True, "low", "ACTIVE")
    assert one.limits == ()


def test_an_account_that_is_not_configured_has_no_limits(gate: Gate) -> None:
    one = busy(gate).seen(Rules())

    assert (one.configured, one.profile, one.limits) == (False, None, ())
    assert one.trading_state == "REDUCING"


def test_a_breach_is_shown_beside_its_limit(gate: Gate) -> None:
    one = busy(gate).seen(rules())

    daily, weekly = one.limits
    assert (daily.drawdown, daily.limit, daily.floor, daily.held) == (*map(Decimal, ("0.025", "0.02", "9800")), True)
    assert (weekly.limit, weekly.held) == (Decimal("0.05"), False)
    assert one.causes == ("DAILY_DRAWDOWN",)
    assert one.last_breach is not None
    assert one.last_breach.at_ms == AT_MS


def test_positions_and_open_orders_are_listed(gate: Gate) -> None:
    one = busy(gate).seen(rules())

    assert [(line.instrument, line.venue, line.quantity, line.mark) for line in one.positions] == [
        ("ETH-USD", "binance", Decimal("-2.5"), Decimal(10))
    ]
    assert [(line.instrument, line.side, line.left, line.reduces) for line in one.orders] == [
        ("BTC-USD", "buy", Decimal(1), False)
    ]


def test_unusable_equity_shows_no_drawdown(gate: Gate) -> None:
    gate.pnl("10000")
    gate.pnl("NaN")

    one = gate.seen(rules())

    assert (one.has_equity, one.equity) == (False, Decimal(10000))
    assert [line.drawdown for line in one.limits] == [None, None]


def test_equity_is_stale_only_when_it_is_older_than_the_limit(gate: Gate) -> None:
    gate.pnl("10000")

    assert not gate.seen(rules(), now_ms=AT_MS + 60_000).is_stale
    assert gate.seen(rules(), now_ms=AT_MS + 60_001).is_stale


def test_every_cause_is_named(gate: Gate) -> None:
    gate.control("lock")
    gate.control("halt")
    gate.take(FILLS, account_id="main", fill_id="f-1", status="filled")
    gate.take(POLICIES, name="state/global", rule={"state": "HALTED"})

    one = gate.seen(gate.replay.rules)

    assert one.causes == ("MANUAL", "halted by command", "a fill could not be used", "policy state/global")
    assert one.trading_state == "HALTED"


def test_a_profile_set_by_command_outlives_configuration(gate: Gate) -> None:
    gate.control("set_profile", profile="micro")

    one = gate.seen(rules())

    assert (one.profile, one.profile_by_command) == ("micro", True)


def test_the_document_is_json_with_amounts_as_strings(gate: Gate) -> None:
    read = orjson.loads(orjson.dumps(document(busy(gate).seen(rules()))))

    assert read["equity"] == "9750"
    assert read["drawdowns"][0]["observed"] == "0.025"
    assert read["locks"][0]["locked_at"] == AT
    assert read["positions"][0]["quantity"] == "-2.5"
    assert read["open_orders"][0]["left"] == "1"


def test_accounts_that_are_held_come_first_then_those_near_a_limit(gate: Gate) -> None:
    locked = busy(gate).seen(rules())._replace(account_id="z-locked")
    near = overview("y-near", None, rules(), AT_MS)._replace(limits=locked.limits)
    quiet = overview("a-quiet", None, rules(), AT_MS)

    assert sorted([quiet, near, locked], key=by_urgency) == [locked, near, quiet]


# -- tables --------------------------------------------------------------------------------------------------------


def printed(renderable: Any, columns: int) -> str:
    written = StringIO()
    Console(width=columns, file=written, force_terminal=False).print(renderable)
    return written.getvalue()


@pytest.mark.parametrize("columns", [100, 160])
def test_the_table_of_accounts_fits_and_hides_nothing(gate: Gate, columns: int) -> None:
    trailing = rules_of(
        parse_config(
            {
                "accounts": {"friend1_firi_1": {"profile": "aggressive"}},
                "profiles": {"aggressive": {"max_trailing_drawdown": "0.06"}},
            },
            {},
        )
    )
    busy(gate)
    one = overview("friend1_firi_1", gate.replay.accounts["main"], trailing, AT_MS)

    text = printed(accounts_table([one], policy_version=7, now_ms=AT_MS, columns=columns), columns)

    assert "…" not in text
    row = next(text_line for text_line in text.splitlines() if text_line.startswith("friend1_firi_1"))
    for shown in ("REDUCING", "aggressive", "9,750.00", "2.50", "3.50", "8.00", "6.00"):
        assert shown in row
    assert "DAILY_DRAWDOWN" in text
    assert "2017-12-19 11:00:00 UTC" in text
    assert "policy version 7" in text


@pytest.mark.parametrize("columns", [100, 160])
def test_the_page_of_an_account_fits_and_hides_nothing(gate: Gate, columns: int) -> None:
    text = printed(
        account_page(
            busy(gate).seen(rules()),
            policy_version=7,
            now_ms=AT_MS,
        ),
        columns,
    )

    assert "…" not in text
    for shown in ("Locks", "Drawdown", "Positions", "Open orders", "9,800.00", "-50.00", "ETH-USD", "-2.5", "o-"):
        assert shown in text


def test_a_limit_is_not_shown_as_reached_before_it_is() -> None:
    assert percent(Decimal("0.0199999999")) == "1.99"
    assert percent(Decimal("0.02")) == "2.00"


def test_figures_and_ages() -> None:
    assert amount(Decimal("-1234567.8900")) == "-1,234,567.89"
    assert money(Decimal("1234.5")) == "1,234.50"
    assert (amount(None), money(None)) == ("–", "–")
    assert [age(0, ms) for ms in (999, 59_000, 60_000, 3_600_000, 90_000_000)] == [
        "now",
        "59 s ago",
        "1 min ago",
        "1 h ago",
        "1 d ago",
    ]


# -- snapshot ------------------------------------------------------------------------------------------------------


def test_the_last_record_of_a_key_stands_and_a_tombstone_removes_it(gate: Gate) -> None:
    gate.pnl("10000")
    before = list(gate.changelog())
    gate.pnl("9990")
    snapshot = Snapshot(Rules())
    for key, value in (*before, *gate.changelog()):
        snapshot.take_state(key, value)

    account = snapshot.account("main")
    assert account is not None
    assert account.drawdown.equity == 9990

    for key, _ in before:
        snapshot.take_state(key, None)
    assert snapshot.account_ids == []


def test_other_tables_of_the_changelog_are_passed_over() -> None:
    snapshot = Snapshot(Rules())
    snapshot.take_state(changelog_key("decisions", b"main\0signal\0s-1"), b"{}")
    snapshot.take_state(changelog_key("partition", b"offsets"), b"{}")

    assert snapshot.account_ids == []


def test_state_of_a_newer_program_is_refused_by_name() -> None:
    snapshot = Snapshot(Rules())
    snapshot.take_state(changelog_key("accounts", b"main"), b'{"v":99}')

    with pytest.raises(CommandError, match=r"main: .*unknown version"):
        snapshot.account("main")


def policy(offset: int, name: str, rule: str) -> Record:
    value = b'{"name": "%b", "rule": %b, "operator": "ann", "reason": "why"}' % (name.encode(), rule.encode())
    return Record(POLICIES, 0, offset, AT_MS, name.encode(), value)


def test_policies_in_force_are_the_last_usable_ones() -> None:
    snapshot = Snapshot(Rules())
    for offset, (name, rule) in enumerate(
        [
            ("venue/v", '{"up": false}'),
            ("venue/v", '{"up": "maybe"}'),
            ("venue/w", '{"up": false}'),
            ("venue/w", "null"),
            ("state/global", '{"state": "ACTIVE"}'),
            ("state/global", '{"state": "?"}'),
        ]
    ):
        snapshot.take_policy(policy(offset, name, rule))

    assert {name: (line.rule, line.version) for name, line in snapshot.policies.items()} == {
        "venue/v": ({"up": False}, 1),
        "state/global": ({"state": "HALTED"}, 6),
    }
    assert {line.version: line.name for line in snapshot.unusable.values()} == {2: "venue/v", 6: "state/global"}
    assert snapshot.rules.version == 6


def test_a_policy_keeps_the_digits_that_were_typed() -> None:
    rule = '{"max_daily_drawdown": 0.010000000000000000000000000001}'

    value = policy_value("profile/normal", Course(None), Terms("ann", "CPI day"), AT_MS, rule)

    assert rule.encode() in value
    assert orjson.loads(value)["issued_at"] == write_time(AT_MS)


# -- answers -------------------------------------------------------------------------------------------------------


def answers(sent: Sent, outputs: Iterable[Output]) -> list[Answer]:
    found = (answer_to(sent, output.topic, orjson.loads(output.value)) for output in outputs)
    return [answer for answer in found if answer is not None]


@pytest.mark.parametrize(
    ("before", "kind", "fields", "topic", "words"),
    [
        ((), "lock", {}, LOCKED, "locked at 2017-12-19T11:00:00Z, now REDUCING"),
        (("lock",), "unlock", {}, EVENTS, "was held by MANUAL; bases kept"),
        ((), "halt", {}, EVENTS, "halted at"),
        (("halt",), "resume", {}, EVENTS, "resumed at"),
        ((), "set_profile", {"profile": "micro"}, EVENTS, "profile normal → micro"),
        ((), "unlock", {}, DEAD_LETTERS, "refused: the account is not locked"),
        ((), "release_order", {"order_id": "o-1"}, DEAD_LETTERS, "refused: order_id 'o-1' is not an open order"),
    ],
)
def test_every_command_is_answered_once_and_in_words(
    gate: Gate, before: tuple[str, ...], kind: str, fields: dict[str, str], topic: str, words: str
) -> None:
    for earlier in before:
        gate.control(earlier)

    (answer,) = answers(*gate.control(kind, **fields))

    assert answer.topic == topic
    assert answer.done == (topic != DEAD_LETTERS)
    assert words in in_words(answer)


def test_a_released_order_is_answered(gate: Gate) -> None:
    (order_id,) = busy(gate).replay.accounts["main"].orders.open

    (answer,) = answers(*gate.control("release_order", order_id=order_id))

    assert in_words(answer).startswith(f"main: order {order_id} released")


def test_what_follows_a_command_is_not_its_answer(gate: Gate) -> None:
    gate.pnl("10000")
    lock, _ = gate.control("lock")

    later = gate.pnl("9000")
    _, refused = gate.control("lock", command_id="c-other")

    assert [output.topic for output in later if output.topic == LOCKED]
    assert answers(lock, [*later, *refused]) == []


def test_the_answer_to_another_account_s_command_at_the_same_offset_is_not_taken(gate: Gate) -> None:
    _, outputs = gate.control("lock")

    assert answers(Sent("other", "c-lock", 0, 0), outputs) == []
    assert answers(Sent("main", "c-lock", 1, 0), outputs) == []


def test_a_repeat_is_told_from_a_refusal(gate: Gate) -> None:
    gate.control("lock")

    (answer,) = answers(*gate.control("lock"))

    assert answer.repeats
    assert not answer.done


def test_locks_that_a_change_of_profile_brings_belong_to_its_answer(gate: Gate) -> None:
    gate.pnl("10000")
    gate.pnl("9900")
    sent, outputs = gate.control("set_profile", profile="micro")

    (answer,) = answers(sent, outputs)
    locks = [orjson.loads(output.value) for output in outputs if output.topic == LOCKED]

    assert answer.may_lock
    assert [comes_with(answer, lock) for lock in locks] == [True]
    assert lock_in_words(locks[0]) == "main: locked by DAILY_DRAWDOWN, 1.00 % of at most 0.50 %"
    assert not any(comes_with(answer, orjson.loads(output.value)) for output in gate.pnl("9000"))
