"""The loop on the pure core: what the issue asks of the demo's month, and that a run is a function of the market."""

from collections import Counter
from decimal import Decimal

import orjson

from streams.demo.accounts import ACCOUNTS, CONTROL, PROFILES, UNLOCKED
from streams.demo.desk import Desk
from streams.demo.market import time_text
from tests.demo.inprocess import InProcessGate, play

HOUR_MS = 3_600_000


def test_the_cast() -> None:
    assert len(ACCOUNTS) >= 8
    assert {account.profile for account in ACCOUNTS} == set(PROFILES)
    assert len({account.timezone for account in ACCOUNTS}) >= 2


def test_locks_come_at_different_hours_and_never_to_the_control(month: tuple[Desk, InProcessGate]) -> None:
    stories = month[0].chronicle.stories
    first = {name: story.locks[0].at_ms // HOUR_MS for name, story in stories.items() if story.locks}
    assert set(first) == set(stories) - {CONTROL}
    assert len(set(first.values())) == len(first)


def test_one_account_is_unlocked_the_next_morning_and_trades_again(two_days: tuple[Desk, InProcessGate]) -> None:
    story = two_days[0].chronicle.stories[UNLOCKED]
    (lock,) = story.locks
    assert lock.until_ms is not None
    assert time_text(lock.until_ms) == "2017-12-02T08:00:00Z"
    assert any(moment.kind == "approved" and moment.at_ms > lock.until_ms for moment in story.moments)


def test_a_lock_refuses_entries_lets_exits_pass_and_cancels_what_rests(month: tuple[Desk, InProcessGate]) -> None:
    desk, gate = month
    stories = desk.chronicle.stories.values()
    held = Counter[str]()
    for story in stories:
        for lock in story.locks:
            inside = [moment for moment in story.moments if lock.at_ms < moment.at_ms < (lock.until_ms or 2**62)]
            held.update(moment.kind for moment in inside)
            assert not any(moment.kind == "approved" for moment in inside), story.account.name
    assert held["rejected"] > 100
    assert held["exit"] > 5
    statuses = Counter(orjson.loads(message.value)["status"] for message in gate.messages if message.topic == "fills")
    assert set(statuses) == {"filled", "partially_filled", "expired", "cancelled"}


def test_what_goes_wrong_on_a_normal_day_is_answered(month: tuple[Desk, InProcessGate]) -> None:
    chronicle = month[0].chronicle
    codes: Counter[str] = sum((story.rejected for story in chronicle.stories.values()), Counter())
    letters: Counter[str] = sum((story.dead_letters for story in chronicle.stories.values()), Counter())
    assert {
        "INVALID_SIGNAL",
        "STALE_SIGNAL",
        "INVALID_QUANTITY",
        "ACCOUNT_LOCKED_DAILY_DRAWDOWN",
        "STRATEGY_BLACKLISTED",
        "SPOT_ONLY",
        "LEVERAGE_EXCEEDED",
        "STOP_LOSS_REQUIRED",
        "RISK_HEADROOM_EXCEEDED",
        "PRICE_COLLAR_EXCEEDED",
    } <= set(codes)
    assert {"MALFORMED", "SCHEMA", "DUPLICATE_SIGNAL", "DUPLICATE_FILL", "STALE_SEQUENCE"} <= set(letters)
    assert chronicle.strangers["rejected-signals"] == 1


def test_every_signal_of_an_account_is_in_its_table_row(month: tuple[Desk, InProcessGate]) -> None:
    for story in month[0].chronicle.stories.values():
        on_signals = sum(
            moment.kind == "dead-letter" and moment.detail.startswith("signals:") for moment in story.moments
        )
        assert story.signals == story.approved + story.rejected.total() + on_signals, story.account.name


def test_equity_is_what_the_fills_say(month: tuple[Desk, InProcessGate]) -> None:
    desk, gate = month
    cash = {account.name: account.capital for account in ACCOUNTS}
    held: Counter[tuple[str, str]] = Counter()
    seen: set[str] = set()
    for message in gate.messages:
        if message.topic == "fills":
            fill = orjson.loads(message.value)
            if fill["fill_id"] in seen:
                continue
            seen.add(fill["fill_id"])
            signed = Decimal(fill["quantity"]) * (1 if fill["side"] == "buy" else -1)
            cash[message.key] -= signed * Decimal(fill["price"]) + Decimal(fill["fee"])
            held[message.key, fill["instrument"]] += signed  # type: ignore[assignment]
    last = {"BTC-USD": Decimal("13863.13"), "EUR-USD": Decimal("1.20075")}
    for account in ACCOUNTS:
        worth = sum((held[account.name, name] * price for name, price in last.items()), cash[account.name])
        assert desk.chronicle.stories[account.name].equity == worth.quantize(Decimal("0.01"))


def test_a_run_is_a_function_of_the_market(two_days: tuple[Desk, InProcessGate]) -> None:
    _, again = play(48)
    assert again.messages == two_days[1].messages
    assert again.records == two_days[1].records
