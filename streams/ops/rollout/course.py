"""Which phase is in force and since when, from the history of the ``rollout`` policy. Pure."""

from collections.abc import Iterable, Mapping
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
    for line in history:
        if line.name != POLICY or line.fault is not None or line.outdated:
            continue
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
