"""The history of the policies: every change, what it changed, and who answers for it. Pure, but for its table."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from streams.core.rules import HALTED
from streams.ops.policy_change import Rule, plain
from streams.ops.snapshot import PolicyLine
from streams.ops.terminal import moment, plain_table

IN_FORCE, OUTDATED, UNUSABLE, UNUSABLE_HALTS = (
    "took effect",
    "came too late: another change had been made",
    "could not be used: the rule before it held",
    f"could not be used: its scope was {HALTED}",
)


class Change(NamedTuple):
    """One record, the rule that it found, and in words what it changed and which effect it had."""

    line: PolicyLine
    before: Rule
    diff: tuple[str, ...]
    effect: str


def changes(history: Iterable[PolicyLine]) -> list[Change]:
    """Every record of the topic, in its order."""
    standing: dict[str | None, Rule] = {}
    found = []
    for line in history:
        before = standing.get(line.name)
        effect, after = _effect(line, before)
        standing[line.name] = after
        found.append(Change(line, before, tuple(_diff(before, after)), effect))
    return found


def _effect(line: PolicyLine, before: Rule) -> tuple[str, Rule]:
    if line.outdated:
        return OUTDATED, before
    if line.fault is None:
        return IN_FORCE, line.rule
    if line.halts:
        return UNUSABLE_HALTS, {"state": HALTED}
    return UNUSABLE, before


def _diff(before: Rule, after: Rule) -> Iterator[str]:
    """What differs, key by key; of lists, what came and what went."""
    old, new = before or {}, after or {}
    for key in dict.fromkeys((*old, *new)):
        was, now = old.get(key), new.get(key)
        if was == now:
            continue
        if isinstance(was, list | None) and isinstance(now, list | None):
            yield _list_diff(key, was, now)
        else:
            yield f"{key}: {_shown(was)} → {_shown(now)}"


def _list_diff(key: str, was: list[Any] | None, now: list[Any] | None) -> str:
    went = [f"−{one}" for one in was or () if one not in (now or ())]
    came = [f"+{one}" for one in now or () if one not in (was or ())]
    note = " (no longer named)" if now is None else " (now named)" if was is None and not came else ""
    return f"{key}: {' '.join((*came, *went)) or 'empty'}{note}"


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    shown = plain(value)
    return shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)


def people(line: PolicyLine) -> str:
    """Who made the change, and who agreed."""
    by = line.operator or "–"
    return by if line.approved_by is None else f"{by}, approved by {line.approved_by}"


def table(listed: Iterable[Change]) -> Table:
    """A line for each change."""
    shown = plain_table()
    shown.add_column("Version", justify="right")
    shown.add_column("When", no_wrap=True)
    shown.add_column("Name", style="bold", overflow="fold")
    shown.add_column("Change", overflow="fold")
    shown.add_column("By", overflow="fold")
    shown.add_column("Why", overflow="fold")
    for one in listed:
        line = one.line
        shown.add_row(
            str(line.version),
            moment(line.timestamp_ms),
            Text(line.name or "–"),
            Text("\n".join((*(one.diff or ("nothing new",)), *_remarks(one)))),
            Text(people(line)),
            Text(line.reason or "–"),
        )
    return shown


def _remarks(one: Change) -> Iterator[str]:
    if one.effect != IN_FORCE:
        yield one.effect
    if one.line.reverts is not None:
        yield f"(end of version {one.line.reverts})"
    if one.line.expires_at_ms is not None:
        yield f"(until {moment(one.line.expires_at_ms)})"
