"""A change of a policy before it is published: what it says, until when it holds, and what it loosens. Pure.

A policy is one rule under a name. A change either *replaces* that rule or *edits* it (one more strategy on a list, one
more limit), and may end by itself: the record then names ``expires_at`` and the rule that comes back, ``then``. That
is always the rule that stood before the change, so an expiry never brings what nobody had set.

Over time, too, nothing may be looser than it would have been without the change, unless a second operator agrees: at
each moment when a rule begins or ends, the rules with the change are compared with those without it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

from schemas.config import read_duration
from schemas.types import TEXT_BYTES_MAX, read_time, write_time
from streams.core.records import POLICIES, Record
from streams.core.rules import Rules, apply_policy
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.loosening import loosened
from streams.ops.snapshot import PolicyLine

ASK_SOMEBODY = "nothing was published; have a second operator agree and repeat with --approved-by THEIR_NAME"

Rule = Mapping[str, Any] | None
"""A rule as JSON; None: no policy, configuration counts."""


class Terms(NamedTuple):
    """Who, why, and until when (milliseconds since 1970; None: until it is changed)."""

    operator: str
    reason: str
    approved_by: str | None = None
    expires_at_ms: int | None = None


class Course(NamedTuple):
    """What stands under a name from now on: ``rule``, and from ``until_ms`` on ``then``."""

    rule: Rule
    until_ms: int | None = None
    then: Rule = None

    def at(self, at_ms: int) -> Rule:
        return self.rule if self.until_ms is None or at_ms < self.until_ms else self.then


def course_of(line: PolicyLine | None) -> Course:
    """The course that the record in force has set; ``None``: there is none."""
    if line is None or line.expires_at_ms is None:
        return Course(None if line is None else line.rule)
    return Course(line.rule, line.expires_at_ms, line.then)


def read_expiry(text: str, now_ms: int) -> int:
    """``--expires``: a duration from now (``2h``) or an RFC 3339 time. Raises CommandError; also for the past."""
    try:
        return now_ms + read_duration(text)
    except ValueError:
        pass
    try:
        at_ms = read_time(text)
    except ValueError:
        raise CommandError(
            f"--expires {text!r} is neither a duration nor a time",
            ExitStatus.USAGE,
            "write it as 30m, 2h, 1d or 2026-01-05T18:00:00Z",
        ) from None
    if at_ms <= now_ms:
        raise CommandError(
            f"--expires {text} is in the past; now is {write_time(now_ms)}",
            ExitStatus.USAGE,
            "nothing was published; name a later time, with its offset (Z for UTC), or a duration such as 2h",
        )
    return at_ms


def replaced(course: Course, rule: Rule, expires_at_ms: int | None) -> Course:
    """``rule`` in place of whatever stands. Raises CommandError where two expiries would contradict each other."""
    if expires_at_ms is None:
        return Course(rule)
    if course.until_ms is None:
        return Course(rule, expires_at_ms, course.rule)
    if course.until_ms > expires_at_ms:
        raise CommandError(
            f"the rule in force ends by itself at {write_time(course.until_ms)}, after this change would",
            ExitStatus.REFUSED,
            "nothing was published; let the change end no earlier, or leave --expires out and change it back by hand",
        )
    return Course(rule, expires_at_ms, course.then)


def edited(course: Course, edit: Callable[[Rule], Rule], expires_at_ms: int | None) -> Course:
    """One thing changed in the rule that stands, and in the one that will come back after it.

    So an edit for good outlives a rule that ends by itself, and that rule still ends. Raises CommandError where the
    edit itself is to end at another time than the rule.
    """
    if course.until_ms is None:
        rule = edit(course.rule)
        return Course(rule) if expires_at_ms is None else Course(rule, expires_at_ms, course.rule)
    if expires_at_ms is not None:
        raise CommandError(
            f"the rule in force ends by itself at {write_time(course.until_ms)}; a part of it cannot end on its own",
            ExitStatus.REFUSED,
            "nothing was published; leave --expires out, or replace the rule as a whole with `tidegate policy set`",
        )
    return Course(edit(course.rule), course.until_ms, edit(course.then))


def what_loosens(rules: Rules, name: str, before: Course, after: Course, now_ms: int) -> tuple[str, ...]:
    """What is looser with the change than without it, now or at any later moment."""
    moments = {now_ms, *(max(end, now_ms) for end in (before.until_ms, after.until_ms) if end is not None)}
    since_ms: dict[str, int] = {}
    for at_ms in sorted(moments):
        without, changed = (_as_the_gate_would(rules, name, course.at(at_ms)) for course in (before, after))
        for text in loosened(without, changed):
            since_ms.setdefault(text, at_ms)
    return tuple(text if at_ms == now_ms else f"{text} from {write_time(at_ms)} on" for text, at_ms in since_ms.items())


def require_second_operator(rules: Rules, terms: Terms, loosens: tuple[str, ...]) -> None:
    """The two-person rule. Raises CommandError where it asks for somebody else's agreement."""
    lacking = lacks_second_operator(terms)
    if loosens and rules.two_person and lacking is not None:
        raise CommandError(
            f"this loosens what holds now, and {lacking} (controls.two_person): {'; '.join(loosens)}",
            ExitStatus.REFUSED,
            ASK_SOMEBODY,
        )


def lacks_second_operator(terms: Terms) -> str | None:
    """Why ``terms`` name nobody beside the operator, in words; None if they do."""
    approved_by = (terms.approved_by or "").strip()
    if not approved_by:
        return "no second operator is named"
    if approved_by.casefold() == terms.operator.strip().casefold():
        return f"--approved-by {approved_by} is the operator too"
    return None


def _as_the_gate_would(rules: Rules, name: str, rule: Rule) -> Rules:
    """The rules with this one under its name; one that cannot be used has the effect that it has in the gate."""
    return apply_policy(rules, _record(name, orjson.dumps({"name": name, "rule": plain(rule)})))[0]


def _record(name: str, value: bytes) -> Record:
    return Record(POLICIES, 0, 0, 0, name.encode(), value)


def policy_value(name: str, course: Course, terms: Terms, now_ms: int, rule_as_typed: str | None = None) -> bytes:
    """The value of a ``policies`` record, its rule exactly as it was typed. Raises CommandError if it is unusable."""
    texts = {"--reason": terms.reason, "--operator": terms.operator}
    if terms.approved_by is not None:
        texts["--approved-by"] = terms.approved_by
    for option, text in texts.items():
        if not text.strip() or not _is_utf_8(text) or len(text.encode()) > TEXT_BYTES_MAX:
            raise CommandError(f"{option} has 1 to {TEXT_BYTES_MAX} bytes, not {text[:40]!r}", ExitStatus.USAGE)
    if not _is_utf_8(name):
        raise CommandError(f"{name!r} is not valid UTF-8", ExitStatus.USAGE, "nothing was published")
    fields: dict[str, Any] = {
        "name": name,
        "rule": plain(course.rule) if rule_as_typed is None else orjson.Fragment(rule_as_typed),
        "operator": terms.operator,
        "approved_by": terms.approved_by,
        "reason": terms.reason,
        "issued_at": write_time(now_ms),
    }
    if course.until_ms is not None:
        fields |= {"expires_at": write_time(course.until_ms), "then": plain(course.then)}
    value = orjson.dumps(fields)
    _, letter = apply_policy(Rules(), _record(name, value))
    if letter is not None:
        fault = str(orjson.loads(letter.value)["detail"])
        raise CommandError(fault, ExitStatus.USAGE, "nothing was published; see `tidegate policy set --help`")
    return value


def _is_utf_8(text: str) -> bool:
    """Arguments that are no UTF-8 arrive with lone surrogates, which no record can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain(rule: Any) -> Any:
    """A rule as JSON; decimals are strings, as Tidegate writes them."""
    return orjson.loads(orjson.dumps(rule, default=str))
