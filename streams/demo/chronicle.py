"""What happened, account by account: the material of the live view, the closing table and the report.

It is told the marks that the portfolio published and the records that the gate answered. Limits are the gate's own:
the base of a day or week is what its `PERIOD_CLOSED` event says, so nothing here computes a period.
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

from streams.demo.accounts import ACCOUNTS, PROFILES, Account, Profile
from streams.demo.market import time_ms

LOG_LENGTH = 400


class Heard(NamedTuple):
    """One record that the gate published."""

    topic: str
    value: Mapping[str, Any]


class Point(NamedTuple):
    """Equity at an instant, with the equities at which the daily and the weekly limit are reached."""

    at_ms: int
    equity: Decimal
    day_floor: Decimal
    week_floor: Decimal


class Lock(NamedTuple):
    """One reason that locked the account, and when it was unlocked (None: still locked at the end)."""

    at_ms: int
    reason: str
    equity: Decimal
    observed: Decimal | None
    limit: Decimal | None
    until_ms: int | None


class Moment(NamedTuple):
    """Something to draw or to list: `kind` is approved, exit, rejected, lock, unlock, warning, fill or dead-letter."""

    at_ms: int
    account: str
    kind: str
    text: str
    detail: str


@dataclass
class Story:
    """One account's month."""

    account: Account
    profile: Profile
    day_base: Decimal
    week_base: Decimal
    equity: Decimal
    curve: list[Point] = field(default_factory=list)
    locks: list[Lock] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    dead_letters: Counter[str] = field(default_factory=Counter)
    signals: int = 0
    approved: int = 0
    fills: int = 0
    last: str = ""

    @property
    def day_drawdown(self) -> Decimal:
        """The fall from the day's base as a fraction, never below 0."""
        return max(Decimal(0), 1 - self.equity / self.day_base)

    @property
    def week_drawdown(self) -> Decimal:
        """The fall from the week's base as a fraction, never below 0."""
        return max(Decimal(0), 1 - self.equity / self.week_base)

    @property
    def day_floor(self) -> Decimal:
        return self.day_base * (1 - self.profile.max_daily_drawdown)

    @property
    def week_floor(self) -> Decimal:
        return self.week_base * (1 - self.profile.max_weekly_drawdown)

    @property
    def is_locked(self) -> bool:
        return any(lock.until_ms is None for lock in self.locks)


class Chronicle:
    """All stories, the log of what happened last, and the totals over everyone."""

    def __init__(self) -> None:
        self.stories = {account.name: _opening(account) for account in ACCOUNTS}
        self.log: deque[Moment] = deque(maxlen=LOG_LENGTH)
        self.strangers: Counter[str] = Counter()

    def sent_signal(self, account: str) -> None:
        """A record for this account was published to `signals`."""
        if account in self.stories:
            self.stories[account].signals += 1
        else:
            self.strangers["signals"] += 1

    def sent_fill(self, at_ms: int, account: str, text: str, detail: str) -> None:
        """The executor reported a fill, a cancel or an expiry."""
        self.stories[account].fills += 1
        self._tell(Moment(at_ms, account, "fill", text, detail))

    def marked(self, account: str, equity: Decimal) -> None:
        """The portfolio marked the account at `equity`. Called before the gate's answer to the mark is heard."""
        self.stories[account].equity = equity

    def close_mark(self, at_ms: int, account: str) -> None:
        """The gate has answered the mark: its bases are up to date, so the point is complete."""
        story = self.stories[account]
        story.curve.append(Point(at_ms, story.equity, story.day_floor, story.week_floor))

    def heard(self, record: Heard) -> None:
        """Take one record of the gate's. Records of accounts that are not the demo's only count."""
        account = record.value.get("account_id") or record.value.get("key")
        story = self.stories.get(account) if account else None
        if story is None:
            self.strangers[record.topic] += 1
        elif record.topic == "approved-orders":
            self._approved(story, record.value)
        elif record.topic == "rejected-signals":
            self._rejected(story, record.value)
        elif record.topic == "account-locked":
            self._locked(story, record.value)
        elif record.topic == "account-events":
            self._event(story, record.value)
        elif record.topic == "dead-letters":
            self._dead_letter(story, record.value)

    def _approved(self, story: Story, value: Mapping[str, Any]) -> None:
        story.approved += 1
        kind = "exit" if value["stop_loss"] is None else "approved"
        text = f"{value['side']} {value['quantity']} {value['instrument']} @ {value['price']}"
        self._tell(Moment(time_ms(value["decided_at"]), story.account.name, kind, text, value["strategy_id"]))

    def _rejected(self, story: Story, value: Mapping[str, Any]) -> None:
        story.rejected[value["code"]] += 1
        first = next(reason for reason in value["reasons"] if reason["code"] == value["code"])
        self._tell(Moment(time_ms(value["decided_at"]), story.account.name, "rejected", value["code"], _figures(first)))

    def _locked(self, story: Story, value: Mapping[str, Any]) -> None:
        observed, limit = _amount(value["observed"]), _amount(value["limit"])
        lock = Lock(time_ms(value["locked_at"]), value["reason"], Decimal(value["equity"]), observed, limit, None)
        story.locks.append(lock)
        detail = f"{observed:.2%} of {limit:.2%}" if observed is not None and limit is not None else ""
        self._tell(Moment(lock.at_ms, story.account.name, "lock", lock.reason, detail))

    def _event(self, story: Story, value: Mapping[str, Any]) -> None:
        at_ms, name = time_ms(value["at"]), story.account.name
        if value["type"] == "PERIOD_CLOSED":
            self._period(story, value["detail"])
        elif value["type"] == "UNLOCKED":
            story.locks = [lock if lock.until_ms else lock._replace(until_ms=at_ms) for lock in story.locks]
            self._tell(Moment(at_ms, name, "unlock", "UNLOCKED", str(value["command_id"])))
        else:
            limit = value["detail"].get("limit") or value["order_id"] or ""
            self._tell(Moment(at_ms, name, "warning", value["type"], str(limit)))

    def _period(self, story: Story, detail: Mapping[str, Any]) -> None:
        base = Decimal(detail["close"])
        if detail["period"] == "day":
            story.day_base = base
        else:
            story.week_base = base

    def _dead_letter(self, story: Story, value: Mapping[str, Any]) -> None:
        story.dead_letters[value["reason"]] += 1
        at_ms = time_ms(value["timestamp"])
        self._tell(
            Moment(at_ms, story.account.name, "dead-letter", value["reason"], f"{value['topic']}: {value['detail']}")
        )

    def _tell(self, moment: Moment) -> None:
        story = self.stories[moment.account]
        story.moments.append(moment)
        if moment.kind != "fill":
            story.last = moment.text
        self.log.append(moment)


def _figures(reason: Mapping[str, Any]) -> str:
    """Observed and limit of a reason as a person reads them, where both are numbers."""
    observed, limit, unit = reason["observed"], reason["limit"], reason["unit"]
    if observed is None or limit is None or unit == "name":
        return ""
    if unit == "fraction":
        return f"{Decimal(observed):.2%} against {Decimal(limit):.2%}"
    return f"{Decimal(observed):,.2f} against {Decimal(limit):,.2f}"


def _opening(account: Account) -> Story:
    return Story(account, PROFILES[account.profile], account.capital, account.capital, account.capital)


def _amount(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
