"""What is missing before the next phase: each criterion with what the topics show and what would meet it. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from streams.ops.requests import CRITERION_SIGNED, DRILL_RUN, Entry
from streams.ops.rollout.course import Course
from streams.ops.rollout.phases import DRILL_PREFIX, Phase
from streams.ops.terminal import age, listed, moment

_WEEK_MS = 7 * 86_400_000
# Longer than any batch takes: what waits for more than this is not just in flight.
UNREAD_MAX_AGE_MS = 10_000
# These say themselves what they are: a repeat of something that was done, or a command whose operator was told why.
EXPLAINED_REASONS = frozenset(("DUPLICATE_SIGNAL", "DUPLICATE_FILL", "DUPLICATE_COMMAND", "COMMAND_REFUSED"))


class DrawdownLock(NamedTuple):
    """One ``account-locked`` of a drawdown limit."""

    account_id: str
    reason: str
    at_ms: int


class Letter(NamedTuple):
    """One dead letter, and its place among them."""

    reason: str
    partition: int
    offset: int


class Unread(NamedTuple):
    """Input that no worker has applied. ``records`` is exact up to a bound; ``oldest_ms`` None: not looked at."""

    records: int
    oldest_ms: int | None


class Evidence(NamedTuple):
    """What was read: locks and dead letters since the phase began, unread input, everything of ``requests``."""

    now_ms: int
    locks: Sequence[DrawdownLock]
    letters: Sequence[Letter]
    unread: Unread
    entries: Sequence[Entry]


class Criterion(NamedTuple):
    """``seen``: what there is; ``remedy``: how to meet it; ``signed``: an operator's word counts."""

    name: str
    met: bool
    seen: str
    remedy: str
    signed: bool = False


def criteria(phase: Phase, following: Phase, course: Course, evidence: Evidence) -> list[Criterion]:
    """All exit criteria of ``phase`` and entry criteria of the one that follows."""
    entries = [one for one in evidence.entries if one.at_ms >= course.since_ms]
    signatures = {
        str(one.detail.get("criterion")): one
        for one in entries
        if one.kind == CRITERION_SIGNED and str(one.detail.get("phase")) == phase.label
    }
    return [
        *_time(phase, course, evidence),
        *_week(following, course, evidence.now_ms),
        _dead_letters(evidence.letters, signatures.get("dead-letters")),
        _lag(evidence.unread, evidence.now_ms),
        *(_drill(name, entries) for name in phase.drills),
        *(_signature(name, sentence, signatures) for name, sentence in phase.sign.items()),
    ]


def signable(phase: Phase) -> dict[str, str]:
    """What an operator may sign in a phase: name and sentence."""
    return {**phase.sign, "dead-letters": "The dead letters so far are explained"}


def weeks(duration_ms: int) -> str:
    """A duration in weeks to one place, cut: it is never shown as over before it is."""
    tenths = duration_ms * 10 // _WEEK_MS
    return format(Decimal(tenths) / 10, "f")


def _time(phase: Phase, course: Course, evidence: Evidence) -> list[Criterion]:
    if phase.lasts is None:
        return []
    last = max(evidence.locks, key=lambda lock: lock.at_ms, default=None)
    since_ms = max(course.since_ms, last.at_ms) if last is not None else course.since_ms
    quiet_ms = evidence.now_ms - since_ms
    seen = f"{weeks(quiet_ms)} of {weeks(phase.lasts)} weeks without breach"
    if last is not None:
        seen += f"; {last.account_id} was locked by {last.reason} at {moment(last.at_ms)}"
    return [Criterion("time", quiet_ms >= phase.lasts, seen, f"wait until {moment(since_ms + phase.lasts)}")]


def _week(following: Phase, course: Course, now_ms: int) -> list[Criterion]:
    if following.not_before is None:
        return []
    passed_ms = now_ms - course.began_ms
    seen = f"{weeks(passed_ms)} of {weeks(following.not_before)} weeks since the rollout began"
    remedy = f"wait until {moment(course.began_ms + following.not_before)}"
    return [Criterion("week", passed_ms >= following.not_before, seen, remedy)]


def _dead_letters(letters: Sequence[Letter], signature: Entry | None) -> Criterion:
    through: Mapping[str, int] = signature.detail.get("through", {}) if signature is not None else {}
    unexplained = [
        letter
        for letter in letters
        if letter.reason not in EXPLAINED_REASONS and letter.offset >= through.get(str(letter.partition), 0)
    ]
    counts = Counter(letter.reason for letter in unexplained)
    seen = listed([f"{count} {reason}" for reason, count in counts.most_common()]) or "none unexplained"
    remedy = "find out why; then `tidegate rollout sign dead-letters --reason …`"
    return Criterion("dead-letters", not unexplained, seen, remedy)


def _lag(unread: Unread, now_ms: int) -> Criterion:
    met = not unread.records or (unread.oldest_ms is not None and now_ms - unread.oldest_ms <= UNREAD_MAX_AGE_MS)
    seen = "everything is applied"
    if unread.records:
        waits = f", the oldest from {age(unread.oldest_ms, now_ms)}" if unread.oldest_ms is not None else ""
        seen = f"{unread.records} records are not applied{waits}"
    return Criterion("lag", met, seen, "are workers running? `tidegate worker`; then look again")


def _drill(name: str, entries: Sequence[Entry]) -> Criterion:
    runs = [one for one in entries if one.kind == DRILL_RUN and one.detail.get("drill") == name]
    passed = [one for one in runs if one.detail.get("passed") is True]
    seen = "not run in this phase"
    if passed:
        seen = f"passed at {moment(passed[-1].at_ms)} by {passed[-1].operator}"
    elif runs:
        seen = f"failed at {moment(runs[-1].at_ms)}"
    return Criterion(f"{DRILL_PREFIX}{name}", bool(passed), seen, f"`tidegate drill {name} --account DRILL`")


def _signature(name: str, sentence: str, signatures: Mapping[str, Entry]) -> Criterion:
    signature = signatures.get(name)
    seen = "not signed"
    if signature is not None:
        seen = f"signed by {signature.operator} at {moment(signature.at_ms)}: {signature.reason}"
    remedy = f"`tidegate rollout sign {name} --reason …`: {sentence}"
    return Criterion(name, signature is not None, seen, remedy, signed=True)
