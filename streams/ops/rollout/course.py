"""Which phase is in force and since when, from the history of the ``rollout`` policy. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from streams.ops.snapshot import PolicyLine

POLICY = "rollout"


class Course(NamedTuple):
    """The rollout as it stands. ``label``: the phase in force.

    ``began_ms``: when the rollout did; ``since_ms``: when this phase did. Changing a phase's accounts does not begin it
    anew; removing the policy ends the rollout, and the next one begins from nothing.
    """

    label: str
    began_ms: int
    since_ms: int
    rule: Mapping[str, Any]
    line: PolicyLine


def course_of(history: Iterable[PolicyLine]) -> Course | None:
    """The course after all records of ``policies``; None: no rollout restricts anything."""
    course: Course | None = None
    for line in _effective(history):
        if line.rule is None:
            course = None
            continue
        label, at_ms = str(line.rule.get("phase")), line.timestamp_ms
        if course is None:
            course = Course(label, at_ms, at_ms, line.rule, line)
        else:
            since_ms = course.since_ms if label == course.label else at_ms
            course = Course(label, course.began_ms, since_ms, line.rule, line)
    return course


def labels_ever(history: Iterable[PolicyLine]) -> frozenset[str]:
    """Every phase that was ever in force, also in a rollout that has ended."""
    return frozenset(str(line.rule.get("phase")) for line in _effective(history) if line.rule is not None)


def _effective(history: Iterable[PolicyLine]) -> Iterator[PolicyLine]:
    return (line for line in history if line.name == POLICY and line.fault is None and not line.outdated)
