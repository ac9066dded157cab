import re

import pytest

from streams.demo.accounts import ACCOUNTS
from streams.demo.desk import Desk
from streams.demo.market import hours
from streams.demo.report import render
from streams.demo.verify import verify
from tests.demo.conftest import MONTH, TWO_DAYS
from tests.demo.inprocess import InProcessGate, play
from tests.demo.page import Page


@pytest.fixture(scope="module")
def text(month: tuple[Desk, InProcessGate]) -> str:
    desk, gate = month
    return render(desk.chronicle, hours(MONTH), verify(gate.records))


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def marks(page: Page, kind: str) -> int:
    return sum(path["d"].count("M") for path in page.of_class("rug") if kind in path["class"].split())


def test_it_needs_no_network(page: Page, text: str) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "img"), tag
        assert "src" not in attributes
        assert not attributes.get("href", "#").startswith(("http", "//"))
    assert not re.search(r"@import|url\((?!data:)|fetch\(|XMLHttpRequest|https?://(?!www\.w3\.org)", text)


def test_it_is_made_for_phones_and_for_the_dark(page: Page, text: str) -> None:
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [
        attributes for _, attributes in page.elements
    ]
    assert "prefers-color-scheme: dark" in text
    assert "max-width: 620px" in text


def test_every_account_has_a_curve_with_its_limits(page: Page) -> None:
    assert [attributes["id"] for attributes in page.of_class("card")] == [account.name for account in ACCOUNTS]
    for kind in ("day", "week"):
        assert len(page.of_class(kind)) == len(ACCOUNTS)
    assert len(page.of_class("equity")) == len(ACCOUNTS) + 1
    assert set(page.data["stories"]) == {"market", *(account.name for account in ACCOUNTS)}


def test_locks_and_rejections_are_drawn(page: Page, month: tuple[Desk, InProcessGate]) -> None:
    stories = month[0].chronicle.stories.values()
    flags = page.of_class("flag")
    assert sum("open" not in flag["class"] for flag in flags) == sum(len(story.locks) for story in stories)
    assert sum("open" in flag["class"] for flag in flags) == 1
    rejected = sum(story.rejected.total() for story in stories)
    held = sum(
        count for story in stories for code, count in story.rejected.items() if code.startswith("ACCOUNT_LOCKED_")
    )
    assert marks(page, "rejected") + marks(page, "held") == rejected
    assert marks(page, "held") == held
    assert marks(page, "approved") == sum(story.approved for story in stories)


def test_hover_has_what_it_points_at(page: Page, month: tuple[Desk, InProcessGate]) -> None:
    for name, story in month[0].chronicle.stories.items():
        drawn = page.data["stories"][name]
        assert len(drawn["times"]) == len(drawn["equity"]) == len(drawn["day"]) > 1
        assert drawn["times"] == sorted(drawn["times"])
        assert drawn["low"] < min(drawn["equity"]) <= max(drawn["equity"]) < drawn["high"]
        assert sum(kind == "rejected" for _, kind, _ in drawn["moments"]) == story.rejected.total()


def test_what_is_drawn_lies_in_its_frame(page: Page) -> None:
    for kind in ("equity", "day"):
        for path in page.of_class(kind):
            for number in re.findall(r"-?\d+\.?\d*", path["d"]):
                assert -0.01 <= float(number) <= 100.01, path["d"][:80]


def test_the_verdict_is_told(page: Page, month: tuple[Desk, InProcessGate]) -> None:
    assert page.texts["Verified"] == 1
    desk, gate = month
    index = next(index for index, seen in enumerate(gate.records) if seen.topic == "approved-orders")
    verdict = verify(gate.records[:index] + gate.records[index + 1 :])
    failed = Page(render(desk.chronicle, hours(MONTH), verdict))
    assert not failed.texts["Verified"]
    assert failed.of_class("findings")
    assert failed.texts[verdict.findings[0]] == 1


def test_short_runs_have_a_report_too(two_days: tuple[Desk, InProcessGate]) -> None:
    for bars, (desk, gate) in ((TWO_DAYS, two_days), (1, play(1))):
        page = Page(render(desk.chronicle, hours(bars), verify(gate.records)))
        assert len(page.of_class("card")) == len(ACCOUNTS)
