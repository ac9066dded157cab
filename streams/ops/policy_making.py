"""From a change of a policy to its record: read what is in force, judge the change against it, publish, tell.

Whatever speaks against a change is found before anything is written; :class:`CommandError` then says what to do.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import orjson

from streams.config import DEFAULT_PATH
from streams.core.records import POLICIES
from streams.core.rules import ACTIVE, HALTED, Rules
from streams.ops import broker as kafka_broker
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.options import rules_in
from streams.ops.policy_change import (
    Course,
    Rule,
    Terms,
    course_of,
    edited,
    plain,
    policy_value,
    replaced,
    require_second_operator,
    what_loosens,
)
from streams.ops.policy_edits import Edit
from streams.ops.snapshot import Snapshot, SnapshotReader
from streams.ops.terminal import listed, moment, note, print_json, say
from streams.runtime import clock
from streams.runtime.settings import Settings
from streams.runtime.topics import TopicNames

_NOT_IN_FORCE, _ALREADY = "is not in force", "allows that already"


class Change(NamedTuple):
    """One change that an operator asks for.

    ``course``: from what stands under ``name`` and the configuration to what shall stand. ``typed``: the rule digit by
    digit as it was typed. ``idle``: what is said of a change that only ends a restriction, where there is none.
    ``venue``: a name that must be the venue of an account.
    """

    name: str
    course: Callable[[Course, Rules], Course]
    terms: Terms
    typed: str | None = None
    idle: str | None = None
    venue: str | None = None


def replacing(
    name: str, rule: Rule, terms: Terms, *, typed: str | None = None, lifts: bool = False, venue: str | None = None
) -> Change:
    """A rule in place of whatever stands; None removes it. ``lifts``: it only ends a restriction."""
    idle = None if not lifts else _NOT_IN_FORCE if rule is None else _ALREADY
    return Change(name, lambda course, _rules: replaced(course, rule, terms.expires_at_ms), terms, typed, idle, venue)


def editing(name: str, edit: Callable[[Rules], Edit], terms: Terms, *, lifts: bool = False) -> Change:
    """One thing changed in the rule that stands; ``edit`` is made from the configuration."""
    idle = _ALREADY if lifts else None
    return Change(name, lambda course, rules: edited(course, edit(rules), terms.expires_at_ms), terms, idle=idle)


def make(settings: Settings, config: Path | None, change: Change, *, as_json: bool) -> int:
    """Check a change against the rules in force, publish it and tell; its version.

    Raises CommandError where it is refused; then nothing was published.
    """
    rules, fault = _configured(config, change.name)
    snapshot = read_policies(settings, rules)
    before = course_of(snapshot.stands(change.name))
    after = change.course(before, rules)
    _require_effect(snapshot, change, before, after)
    _require_known_venue(rules, change)
    at_ms = clock.now_ms()
    value = policy_value(change.name, after, change.terms, at_ms, change.typed)
    loosens = what_loosens(snapshot.rules, change.name, before, after, at_ms)
    if loosens and fault is not None:
        raise fault
    require_second_operator(rules, change.terms, loosens)
    version = kafka_broker.run(_append(settings, change.name, value), settings) + 1
    if version != snapshot.rules.version + 1:
        note("another policy was published in the same moment; compare with `tidegate policy history`")
    if as_json:
        print_json({"name": change.name, "version": version, "value": orjson.loads(value), "loosens": list(loosens)})
    else:
        _tell(snapshot, change.name, after, version)
    return version


def read_policies(settings: Settings, rules: Rules) -> Snapshot:
    """All policies up to now, over the configuration ``rules``. Raises CommandError."""
    return kafka_broker.run(_read(settings, rules), settings)


def _configured(config: Path | None, name: str) -> tuple[Rules, CommandError | None]:
    """The configuration's rules; a fault in them is only kept where they are not needed to judge a change.

    A kill switch must not wait for somebody else's spelling mistake, nor for the right directory.
    """
    try:
        rules = rules_in(config)
    except CommandError as error:
        if name.startswith(("profile/", "strategies")):
            raise
        return Rules(), error
    # Without a file, accounts come from QT_ACCOUNT_… alone.
    if config is None and not DEFAULT_PATH.exists() and not rules.accounts:
        return rules, CommandError(
            "this loosens what holds now, and no configuration was read that says who must agree (controls.two_person)",
            ExitStatus.USAGE,
            f"nothing was published; give the workers' --config, or go to the directory of their {DEFAULT_PATH}",
        )
    return rules, None


async def _read(settings: Settings, rules: Rules) -> Snapshot:
    reader = SnapshotReader(settings, rules, with_state=False)
    async with kafka_broker.reader(settings) as consumer:
        await reader.read(consumer)
    return reader.snapshot


async def _append(settings: Settings, name: str, value: bytes) -> int:
    """Publish a record of ``policies``; its offset."""
    written = await kafka_broker.publish(settings, TopicNames.of(settings).physical(POLICIES), name, value)
    return int(written.offset)


def _require_effect(snapshot: Snapshot, change: Change, before: Course, after: Course) -> None:
    """Lifting what is not there is refused, as ``unlock`` and ``resume`` are; restricting again is a new record."""
    if change.idle is None or change.name in snapshot.unusable:
        return
    goes_on = before.until_ms is None or before[1:] == after[1:]
    is_up = after.rule == {"up": True} and before.rule is None
    if goes_on and (before.rule == after.rule or is_up):
        names = listed(sorted(snapshot.policies)) or "none"
        raise CommandError(
            f"policy {change.name!r} {change.idle}",
            ExitStatus.REFUSED,
            f"nothing was published; rules in force: {names}",
        )


def _require_known_venue(rules: Rules, change: Change) -> None:
    """A misspelt venue would be ruled on, and nothing would happen. Nothing is asked where no venue is configured."""
    known = {name for account in rules.accounts.values() for name in account.venues}
    known |= {route.exchange for route in rules.routes.values() if route.exchange is not None}
    if change.venue is not None and known and change.venue not in known:
        rule = {"up": False} if change.name.startswith("venue/") else {"state": HALTED}
        raise CommandError(
            f"venue {change.venue!r} is not the venue of any account; configured are {listed(sorted(known))}",
            ExitStatus.REFUSED,
            "nothing was published; for a venue that only positions know: "
            f"tidegate policy set {change.name} '{json.dumps(rule)}'",
        )


def _tell(snapshot: Snapshot, name: str, after: Course, version: int) -> None:
    done = "is in force" if after.rule is not None else "is removed"
    say(f"{name} {done} for every decision with policy_version {version} or above")
    if after.until_ms is not None:
        back = "no rule" if after.then is None else json.dumps(plain(after.then), ensure_ascii=False)
        say(f"until {moment(after.until_ms)}; then `tidegate steward` puts back: {back}")
    if name.startswith("state/") and after.rule is None:
        others = sorted(scope for scope, state in snapshot.rules.states.items() if state != ACTIVE and scope != name)
        if others:
            say(f"still in force: {listed(others)}")
