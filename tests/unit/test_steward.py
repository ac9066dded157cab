"""What the steward makes of the topics: which venue fails, who moves down, which change has ended."""

import asyncio
from typing import Any

import orjson
import pytest

from schemas.config import VenueWatchSection
from schemas.outputs import AccountLocked
from schemas.types import TEXT_BYTES_MAX, write_time
from streams.config import parse_config
from streams.core.records import FILLS, POLICIES, Record
from streams.core.rules import Rules
from streams.steward.downgrade import downgrade as answer_to
from streams.steward.rulebook import Rulebook
from streams.steward.venues import VenueWatch, down_policy
from tests.unit.desk import TUESDAY, Desk, rules_from

# -- venues --------------------------------------------------------------------------------------------------------

NOW_MS = 1_513_681_200_000
TERMS = VenueWatchSection.model_validate({"orders": 3, "window": "60s", "cool_down": "5m"})
ACCOUNTS = {
    "main": {"exchange": "binance", "failover": ["kraken"]},
    "homeless": {},
}


class Watched:
    """A watch, fed with fills and approvals by the second."""

    def __init__(self, **terms: Any) -> None:
        self.terms = VenueWatchSection.model_validate({"orders": 3, "window": "60s", "cool_down": "5m", **terms})
        rules = rules_from(
            {"accounts": ACCOUNTS, "strategies": {"routes": {"s": {"account": "main", "exchange": "ftx"}}}}
        )
        self.watch = VenueWatch(self.terms, rules)
        self._count = 0

    def fill(self, at_s: float, status: str = "rejected", **fields: Any) -> str | None:
        """The end of an order of its own at binance, unless ``fields`` say otherwise."""
        self._count += 1
        value = {
            "fill_id": f"f-{self._count}",
            "order_id": f"o-{self._count}",
            "account_id": "main",
            "instrument": "BTC-USD",
            "side": "buy",
            "venue": "binance",
            "quantity": "0",
            "price": None,
            "status": status,
            "filled_at": write_time(NOW_MS),
            **fields,
        }
        return self.raw(at_s, orjson.dumps(value))

    def raw(self, at_s: float, value: bytes | None) -> str | None:
        return self.watch.take_fill(Record(FILLS, 0, self._count, ms(at_s), b"main", value), ms(3_600))

    def trips(self, venue: str = "binance", since_s: float = -3_600) -> tuple[float, int, int] | None:
        """When (in seconds), how many rejected, how many expired."""
        trip = self.watch.trip(venue, ms(since_s))
        return None if trip is None else ((trip.at_ms - NOW_MS) / 1000, trip.rejected, trip.expired)


def ms(seconds: float) -> int:
    return NOW_MS + round(seconds * 1000)


def test_the_watch_is_off_unless_its_table_is_there() -> None:
    assert parse_config({}, {}).venue_watch is None
    defaults = parse_config({"venue_watch": {}}, {}).venue_watch
    assert defaults == VenueWatchSection(orders=5, window="60s", cool_down="5m")


def test_a_venue_trips_at_the_number_of_orders_and_not_below() -> None:
    watched = Watched()
    assert watched.fill(0) == "binance"
    assert watched.fill(1, "expired") == "binance"
    assert watched.trips() is None
    assert watched.fill(2) == "binance"
    assert watched.trips() == (2, 2, 1)


@pytest.mark.parametrize(("last_s", "trips"), [(59.999, True), (60, False)])
def test_the_window_is_open_at_its_start(last_s: float, trips: bool) -> None:
    watched = Watched()
    for at_s in (0, 30, last_s):
        watched.fill(at_s)
    assert (watched.trips() is not None) is trips


@pytest.mark.parametrize("order", [(0, 1, 2, 300), (300, 2, 0, 1), (2, 300, 1, 0)])
def test_failures_of_several_partitions_may_be_read_in_any_order(order: tuple[float, ...]) -> None:
    watched = Watched()
    for at_s in order:
        watched.fill(at_s)
    assert watched.trips() == (2, 3, 0)


def test_what_failed_before_the_last_change_of_the_policy_is_forgotten() -> None:
    watched = Watched()
    for at_s in (0, 1, 2):
        watched.fill(at_s)
    assert watched.trips(since_s=0) is None
    watched.fill(3)
    assert watched.trips(since_s=0) == (3, 3, 0)


def test_an_order_counts_once_and_at_its_first_report() -> None:
    watched = Watched()
    watched.fill(0, order_id="o-a")
    watched.fill(1, order_id="o-a")
    watched.fill(200, order_id="o-a")
    watched.fill(201)
    watched.fill(202)
    assert watched.trips() is None


@pytest.mark.parametrize("status", ["filled", "partially_filled", "cancelled"])
def test_other_ends_are_no_failures(status: str) -> None:
    assert Watched(orders=1).fill(0, status) is None


def test_an_order_that_was_filled_in_part_may_expire() -> None:
    watched = Watched(orders=1)
    assert watched.fill(0, "partially_filled", order_id="o-a", quantity="0.1", price="100") is None
    assert watched.fill(1, "expired", order_id="o-a") is None
    assert watched.fill(2, "expired", order_id="o-b", quantity="0.1", price="100") is None
    assert watched.fill(3, "rejected", order_id="o-a") == "binance"


def test_the_venue_is_the_reports_else_the_orders_else_the_primary_of_a_report_without_order() -> None:
    watched = Watched(orders=1)
    watched.watch.take_approval("o-a", "kraken")
    assert watched.fill(0, order_id="o-a", venue=None) == "kraken"
    assert watched.fill(0, order_id="o-a", venue="ftx") == "ftx"
    assert watched.fill(0, order_id=None, venue=None) == "binance"
    assert watched.fill(0, order_id=None, venue=None, account_id="homeless") is None


def test_a_report_that_is_read_before_its_approval_counts_when_that_comes() -> None:
    watched = Watched(orders=1)
    assert watched.fill(5, order_id="o-a", venue=None) is None
    assert watched.watch.take_approval("o-a", "kraken") == "kraken"
    assert watched.trips("kraken") == (5, 1, 0)
    assert watched.trips("binance") is None


def test_accounts_and_venues_that_are_not_configured_count_for_nothing() -> None:
    watched = Watched(orders=1)
    assert watched.fill(0, venue="atlantis") is None
    assert watched.fill(0, account_id="stranger") is None


@pytest.mark.parametrize("value", [None, b"", b"[]", b"{}", b"\xff", b'{"status": "rejected"}'])
def test_what_cannot_be_read_counts_for_nothing(value: bytes | None) -> None:
    assert Watched(orders=1).raw(0, value) is None


def test_a_quantity_that_is_no_number_counts_for_nothing() -> None:
    assert Watched(orders=1).fill(0, quantity="NaN") is None


def test_a_record_from_the_future_does_not_hide_the_others() -> None:
    watched = Watched()
    watched.fill(10_000_000)
    for at_s in (3_580, 3_590):
        watched.fill(at_s)
    assert watched.trips() == (3_600, 3, 0)


def test_a_venue_that_trips_is_down_for_the_cool_down() -> None:
    watched = Watched()
    for at_s in (0, 1, 2):
        watched.fill(at_s)
    trip = watched.watch.trip("binance", ms(-1))
    assert trip is not None
    policy = down_policy(trip, TERMS, ms(10))
    assert policy == {
        "name": "venue/binance",
        "rule": {"up": False},
        "operator": "tidegate",
        "reason": "3 orders rejected and 0 expired unfilled at binance in the 60 s up to 2017-12-19T11:00:02Z",
        "issued_at": "2017-12-19T11:00:10Z",
        "expires_at": "2017-12-19T11:05:02Z",
        "then": None,
    }
    assert down_policy(trip, TERMS, ms(301.999)) is not None
    assert down_policy(trip, TERMS, ms(302)) is None


# -- automatic downgrade -------------------------------------------------------------------------------------------


def downgrade(lock: dict[str, Any]) -> dict[str, Any] | None:
    return answer_to(AccountLocked.model_validate_json(orjson.dumps(lock)), NOW_MS)


def test_a_breach_moves_one_rung_down() -> None:
    desk = Desk("normal")
    desk.pnl("10000")
    lock = desk.later(seconds=1).pnl("9790").lock
    command = downgrade(lock)
    assert command == {
        "command_id": f"downgrade-{lock['lock_id']}",
        "account_id": "main",
        "type": "set_profile",
        "profile": "low",
        "down_only": True,
        "operator": "tidegate",
        "reason": "DAILY_DRAWDOWN: 0.021 of at most 0.02 on profile normal",
        "issued_at": "2017-12-19T11:00:00Z",
    }
    assert desk.send("controls", command).event("PROFILE_CHANGED")["detail"]["after"] == "low"
    assert desk.send("controls", command).names == ["DUPLICATE_COMMAND"]


def test_micro_and_manual_locks_are_left_alone() -> None:
    desk = Desk("micro")
    desk.pnl("10000")
    assert downgrade(desk.pnl("9000").of("account-locked")[0]) is None
    assert downgrade(Desk("normal").command("lock").lock) is None


def test_two_locks_of_one_update_move_one_rung_together() -> None:
    desk = Desk("normal")
    desk.pnl("10000")
    locks = desk.pnl("9400").of("account-locked")
    assert [lock["reason"] for lock in locks] == ["DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN"]
    for lock in locks:
        command = downgrade(lock)
        assert command is not None
        assert command["profile"] == "low"


def test_locks_that_a_lower_profile_causes_do_not_run_down_the_ladder() -> None:
    desk = Desk("aggressive")
    desk.pnl("10000")
    breach = desk.pnl("9400").lock
    assert breach["reason"] == "DAILY_DRAWDOWN"
    command = downgrade(breach)
    assert command is not None
    follow = desk.send("controls", command).lock
    assert (follow["reason"], follow["profile"]) == ("WEEKLY_DRAWDOWN", "normal")
    assert downgrade(follow) is None


def test_a_breach_after_a_command_is_a_breach() -> None:
    desk = Desk("normal")
    desk.pnl("10000")
    desk.command("set_profile", profile="low")
    command = downgrade(desk.pnl("9890").lock)
    assert command is not None
    assert command["profile"] == "micro"


def test_a_late_downgrade_never_moves_an_account_up() -> None:
    desk = Desk("aggressive")
    desk.pnl("10000")
    late = downgrade(desk.pnl("9640").lock)
    assert late is not None
    desk.command("set_profile", profile="low")
    desk.later(days=7).pnl("9640")
    desk.command("unlock", rebase="now")
    said = desk.send("controls", late)
    assert said.names == ["COMMAND_REFUSED"]
    assert "down_only" in said.letter["detail"]
    assert desk.account.standing.profile == "low"


# -- changes that end ----------------------------------------------------------------------------------------------


class Book:
    """A rulebook, and the records that it was given."""

    def __init__(self) -> None:
        self.rules = Rules()
        self.rulebook = Rulebook()

    def put(self, name: str, rule: Any, at_s: float = 0, **fields: Any) -> int:
        """One record of ``policies``; its version."""
        return self.raw(name, orjson.dumps({"name": name, "rule": rule, **fields}), at_s)

    def raw(self, key: str, value: bytes, at_s: float = 0) -> int:
        record = Record(POLICIES, 0, self.rulebook.version, ms(at_s), key.encode(), value)
        self.rules, _ = self.rulebook.apply(self.rules, record)
        return self.rulebook.version

    def ends(self, at_s: float) -> list[dict[str, Any]]:
        return self.rulebook.ends(ms(at_s))


def test_a_change_ends_at_its_expiry() -> None:
    book = Book()
    then = {"state": "REDUCING"}
    version = book.put("state/global", {"state": "HALTED"}, expires_at=write_time(ms(10)), then=then, reason="CPI")
    assert book.ends(9.999) == []
    (end,) = book.ends(10)
    assert end == {
        "name": "state/global",
        "rule": then,
        "reverts": version,
        "operator": "tidegate",
        "reason": "version 1 has expired (CPI)",
        "issued_at": "2017-12-19T11:00:10Z",
    }
    book.raw("state/global", orjson.dumps(end))
    assert book.rules.states == {"state/global": "REDUCING"}
    assert book.ends(20) == []


def test_without_then_the_rule_is_removed() -> None:
    book = Book()
    book.put("venue/kraken", {"up": False}, expires_at=write_time(ms(10)))
    (end,) = book.ends(10)
    assert end["rule"] is None
    book.raw("venue/kraken", orjson.dumps(end))
    assert book.rules.venues_up == {}


def test_the_removal_of_a_rule_may_end_too() -> None:
    book = Book()
    book.put("venue/kraken", {"up": False})
    book.put("venue/kraken", None, expires_at=write_time(ms(10)), then={"up": False})
    assert book.rules.venues_up == {}
    (end,) = book.ends(10)
    book.raw("venue/kraken", orjson.dumps(end))
    assert book.rules.venues_up == {"kraken": False}


def test_a_change_that_was_replaced_does_not_end() -> None:
    book = Book()
    book.put("venue/kraken", {"up": False}, expires_at=write_time(ms(10)))
    book.put("venue/kraken", {"up": False})
    assert book.ends(20) == []


def test_an_unusable_change_leaves_the_end_of_the_one_before() -> None:
    book = Book()
    version = book.put("venue/kraken", {"up": False}, expires_at=write_time(ms(10)))
    book.put("venue/kraken", {"up": "perhaps"}, expires_at=write_time(ms(5)))
    assert [end["reverts"] for end in book.ends(20)] == [version]


def test_an_end_that_cannot_be_used_is_published_once() -> None:
    book = Book()
    book.put("venue/kraken", {"up": False}, expires_at=write_time(ms(10)), then={"up": "perhaps"})
    (end,) = book.ends(10)
    book.raw("venue/kraken", orjson.dumps(end))
    assert book.rules.venues_up == {"kraken": False}
    assert book.ends(20) == []


@pytest.mark.parametrize("fields", [{"expires_at": "soon"}, {"expires_at": TUESDAY, "then": "as before"}])
def test_an_end_that_cannot_be_read_is_left_to_an_operator(fields: dict[str, Any]) -> None:
    book = Book()
    book.put("venue/kraken", {"up": False}, **fields)
    assert book.ends(10_000_000) == []


def test_the_reason_of_an_end_is_a_readable_text_however_long_that_of_the_change() -> None:
    book = Book()
    book.put("venue/kraken", {"up": False}, expires_at=write_time(ms(1)), reason="𝔸" * (TEXT_BYTES_MAX // 4))
    (end,) = book.ends(1)
    assert len(end["reason"].encode()) <= TEXT_BYTES_MAX


async def test_who_has_published_waits_until_the_rulebook_holds_it() -> None:
    book = Book()
    waiting = asyncio.create_task(book.rulebook.reach(2))
    book.put("venue/kraken", {"up": False}, at_s=6)
    assert not (await asyncio.wait({waiting}, timeout=0))[0]
    book.put("venue/kraken", {"up": True}, at_s=7)
    await asyncio.wait_for(waiting, 10)
    assert book.rulebook.changed_ms("venue/kraken") == ms(7)
    assert book.rulebook.changed_ms("venue/binance") == -1
