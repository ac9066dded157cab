"""What the oracle has against a run: six counts of harm, and findings that a person can look up."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

LOST: Final = "lost"
DUPLICATED: Final = "duplicated"
CONTRADICTED: Final = "contradicted"
APPROVED_WHILE_LOCKED: Final = "approvals_after_lock"
STATE_MISMATCH: Final = "state_mismatches"
DEAD_LETTER_WRONG: Final = "dead_letters_wrong"
HARM: Final = (LOST, DUPLICATED, CONTRADICTED, APPROVED_WHILE_LOCKED, STATE_MISMATCH, DEAD_LETTER_WRONG)

FINDINGS_MAX: Final = 20
_TEXT_MAX: Final = 600


@dataclass
class Findings:
    """Counts by kind of harm, with the first findings of each kind."""

    counts: Counter[str] = field(default_factory=Counter)
    texts: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, where: str, what: str, count: int = 1) -> None:
        """Count harm of one kind; ``where`` is topic-partition@offset, ``what`` says what was expected and found."""
        self.counts[kind] += count
        texts = self.texts.setdefault(kind, [])
        if len(texts) < FINDINGS_MAX:
            texts.append(f"{kind}: {where}: {what}"[:_TEXT_MAX])

    def take(self, other: "Findings") -> None:
        """Add those of another part of the run."""
        self.counts.update(other.counts)
        for kind, texts in other.texts.items():
            mine = self.texts.setdefault(kind, [])
            mine += texts[: FINDINGS_MAX - len(mine)]

    def first(self) -> list[str]:
        """At most twenty, with every kind that there is among them."""
        found: list[str] = []
        for number in range(FINDINGS_MAX):
            found += [texts[number] for texts in self.texts.values() if number < len(texts)]
        return found[:FINDINGS_MAX]
