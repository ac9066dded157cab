"""Which record decides about each policy name, and when its change ends (pure but for waiting)."""

import asyncio
from typing import Any, NamedTuple

from schemas.inputs import Policy, read_fields
from schemas.types import write_time
from streams.core.decode import parse_object
from streams.core.records import Output, Record
from streams.core.rules import Rules, apply_policy
from streams.steward import STEWARD

# A text has at most 1,024 bytes, a character at most four.
_REASON_CHARS_MAX = 256


class Change(NamedTuple):
    """The record that decides about a name. ``published_ms``: its timestamp; ``then``: the rule after its end."""

    version: int
    published_ms: int
    expires_ms: int | None
    then: dict[str, Any] | None
    reason: str


class Rulebook:
    """The policies as the steward follows them."""

    def __init__(self) -> None:
        self.changes: dict[str, Change] = {}
        self.version = 0
        self._ended: set[int] = set()
        self._grown = asyncio.Event()

    def apply(self, rules: Rules, record: Record) -> tuple[Rules, Output | None]:
        """As ``apply_policy``, and note what it did."""
        rules, letter = apply_policy(rules, record)
        raw, _ = parse_object(record.value)
        policy: Any
        policy, faults = read_fields(Policy, raw or {})
        name = next((name for name, version in rules.versions.items() if version == rules.version), None)
        if name is not None:
            # What should follow cannot be guessed: such a change stays until an operator ends it.
            expires_ms = None if "then" in faults else policy.expires_at
            reason = policy.reason or "no reason was given"
            self.changes[name] = Change(rules.version, record.timestamp_ms, expires_ms, policy.then, reason)
        if policy.reverts is not None:
            # An end that the gate cannot use would otherwise be published for ever.
            self._ended.add(policy.reverts)
        self.version = rules.version
        self._grown.set()
        return rules, letter

    async def reach(self, version: int) -> None:
        """Wait until the records up to ``version`` are applied: who has just published must see it before he acts
        again."""
        while self.version < version:
            self._grown.clear()
            await self._grown.wait()

    def changed_ms(self, name: str) -> int:
        """When the rule of that name was last changed; -1 if it never was."""
        return self.changes[name].published_ms if name in self.changes else -1

    def ends(self, now_ms: int) -> list[dict[str, Any]]:
        """The ``policies`` records that end the changes which have expired."""
        return [
            {
                "name": name,
                "rule": change.then,
                "reverts": change.version,
                "operator": STEWARD,
                "reason": f"version {change.version} has expired ({change.reason})"[:_REASON_CHARS_MAX],
                "issued_at": write_time(now_ms),
            }
            for name, change in self.changes.items()
            if change.expires_ms is not None and change.expires_ms <= now_ms and change.version not in self._ended
        ]
