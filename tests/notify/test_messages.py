"""What people are told, word by word: title, figures, and what to type next."""

from typing import Any, get_args

import orjson
import pytest

from schemas.outputs import EventType
from streams.notify.messages import digest, message_of
from tests.notify.records import EVENTS, LOCKED, event, lock, message, warning


def test_a_lock_says_who_why_and_what_to_do() -> None:
    told = message(LOCKED, lock("main"))

    assert (told.fact_id, told.account_id, told.severity) == ("l-main-1", "main", "critical")
    assert told.title == "main locked: daily drawdown 3.6 % of 3.5 %"
    assert told.body.splitlines() == [
        "Locked at 2017-12-19T11:30:00Z, profile aggressive, trading state REDUCING.",
        "Equity 9640, from 10000.",
        "Entries to cancel: 1. Positions held: 1.",
        "  cancel o-79f71026536aa5ef5a8689dcbd8a3a4c: buy 0.2 BTC-USD at binance",
        "  held 0.3 BTC-USD at binance, average 16490",
        "",
        "Look: tidegate accounts main",
        "Then: tidegate unlock main --reason '…' --dry-run",
    ]


def test_a_manual_lock_has_no_figures() -> None:
    figures = dict.fromkeys(("observed", "limit", "equity", "base_equity", "period_start"))
    told = message(LOCKED, lock("main", 1, reason="MANUAL", **figures))

    assert told.title == "main locked: by an operator"
    assert "Equity unknown." in told.body


def test_a_warning_says_how_far() -> None:
    told = message(EVENTS, warning("main"))

    assert told.severity == "warning"
    assert told.title == "main: daily drawdown 1.04 %, limit 2 %"
    assert "tier 0.5" in told.body


def test_an_overdue_order_says_how_to_release_it() -> None:
    body = event("WARNING", "main", order_id="o-1", observed="31.5", limit="0", unit="seconds")
    told = message(EVENTS, body)

    assert told.title == "main: an order is overdue"
    assert "Order o-1 is 31.5 s past its valid_until" in told.body
    assert "tidegate order release main o-1" in told.body


def test_an_unlock_says_who_did_it() -> None:
    told = message(EVENTS, event("UNLOCKED", "main", detail={"operator": "ann", "reason": "reviewed"}))

    assert (told.severity, told.title) == ("info", "main is unlocked")
    assert "operator: ann" in told.body


@pytest.mark.parametrize("kind", [one for one in get_args(EventType) if one != "PERIOD_CLOSED"])
def test_every_event_but_a_closed_period_is_told(kind: str) -> None:
    assert message(EVENTS, warning() if kind == "WARNING" else event(kind)).title


NO_NEWS: list[tuple[str, bytes | None]] = [
    (EVENTS, orjson.dumps(event("PERIOD_CLOSED"))),
    (EVENTS, None),
    (LOCKED, b""),
    (LOCKED, b"no JSON"),
    (LOCKED, orjson.dumps({"lock_id": "l-1"})),
    ("approved-orders", orjson.dumps(lock())),
]


@pytest.mark.parametrize(("topic", "value"), NO_NEWS)
def test_what_is_no_news_or_none_of_ours_makes_no_message(topic: str, value: bytes | None) -> None:
    assert message_of(topic, value) is None


def test_a_digest_names_every_account_and_the_gravest() -> None:
    together = [message(EVENTS, warning("c")), *(message(LOCKED, lock(one)) for one in ("a", "b", "a"))]

    told = digest(together)

    assert (told.severity, told.title) == ("critical", "2 accounts locked: a, b")
    lines = told.body.splitlines()
    assert [line.split(" ", 1)[1] for line in lines[:4]] == [one.title for one in together]
    assert lines[-1] == "Look: tidegate accounts"


def test_a_digest_without_locks_counts() -> None:
    assert digest([message(EVENTS, warning("a")), message(EVENTS, warning("b"))]).title == "2 events"


def test_a_digest_stays_readable_however_many_there_are() -> None:
    told = digest([message(LOCKED, lock(f"account{number}")) for number in range(200)])

    assert told.title.startswith("200 accounts locked: account0, account1,")
    assert told.title.endswith("account9…")
    assert "… and 150 more" in told.body


def test_long_lists_are_cut() -> None:
    order: dict[str, Any] = lock()["open_orders"][0]
    told = message(LOCKED, lock(open_orders=[order | {"order_id": f"o-{number}"} for number in range(30)]))

    assert "Entries to cancel: 30." in told.body
    assert told.body.count("  cancel o-") == 10
