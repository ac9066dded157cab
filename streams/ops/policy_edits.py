"""Edits of one thing in a rule: a strategy on a list, a limit of a profile. Pure: a rule in, a rule out.

A key that a rule does not name is as configured. So an edit writes only the keys that it changes, and starts from what
counts now: adding to a list that was configured keeps what the configuration had on it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from schemas.config import ProfileSection
from streams.core.rules import NO_LISTS, Rules
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.policy_change import Rule

Edit = Callable[[Rule], Rule]

CONFIGURED = "configured"
"""Value of a limit that is given back to the configuration."""
_FLAGS = {"true": True, "false": False}


def block(rules: Rules, scope: str, strategy: str) -> Edit:
    """Put a strategy on the blacklist of ``scope`` (a profile, ``""``: all)."""

    def edit(rule: Rule) -> Rule:
        blacklist = _in_force(rules, scope, rule, "blacklist")
        return rule if strategy in blacklist else {**(rule or {}), "blacklist": [*blacklist, strategy]}

    return edit


def allow(rules: Rules, scope: str, strategy: str) -> Edit:
    """Take a strategy off the blacklist, and put it on the whitelist where there is one."""

    def edit(rule: Rule) -> Rule:
        blacklist, whitelist = (_in_force(rules, scope, rule, key) for key in ("blacklist", "whitelist"))
        changed = dict(rule or {})
        if strategy in blacklist:
            changed["blacklist"] = [one for one in blacklist if one != strategy]
        # An empty whitelist allows all already; one entry on it would forbid the others.
        if whitelist and strategy not in whitelist:
            changed["whitelist"] = [*whitelist, strategy]
        return rule if changed == (rule or {}) else changed

    return edit


def limits(values: Mapping[str, Any]) -> Edit:
    """Set limits of a profile; None gives one back to the configuration."""

    def edit(rule: Rule) -> Rule:
        merged = {key: value for key, value in {**(rule or {}), **values}.items() if value is not None}
        return merged or None

    return edit


def read_limits(pairs: Iterable[str]) -> dict[str, Any]:
    """``KEY=VALUE`` arguments as limits. Raises CommandError that names the argument and how to write it."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or key not in ProfileSection.model_fields:
            raise CommandError(
                f"{pair!r} does not set a limit of a profile",
                ExitStatus.USAGE,
                f"write KEY=VALUE, without spaces; the keys are {', '.join(ProfileSection.model_fields)}",
            )
        values[key] = _value(key, text)
    return values


def _value(key: str, text: str) -> Any:
    """A value as JSON carries it. What cannot be right is left as text, for the gate's own check to name."""
    if text == CONFIGURED:
        return None
    if key == "warning":
        return [one.strip() for one in text.split(",") if one.strip()]
    if key in ("spot_only", "headroom"):
        return _FLAGS.get(text, text)
    if key in ("max_open_positions", "confirmations") and text.isascii() and text.isdigit():
        return int(text)
    return text


def _in_force(rules: Rules, scope: str, rule: Rule, key: str) -> list[str]:
    """A list under this rule: the rule's own, else the configured one."""
    named = (rule or {}).get(key)
    if named is not None:
        return list(named)
    configured = rules.configured_lists.get(scope, NO_LISTS)
    return sorted(getattr(configured, key))
