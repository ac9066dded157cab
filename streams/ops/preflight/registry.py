"""The checklist: every check there is, in the order in which it is run and shown. Later ones are added here."""

from collections.abc import Sequence

from streams.ops.preflight import accounts, cluster, operation, producers, rules
from streams.ops.preflight.check import Check

CHECKS: tuple[Check, ...] = (
    *cluster.CHECKS,
    *producers.CHECKS,
    *rules.CHECKS,
    *accounts.CHECKS,
    *operation.CHECKS,
)


def groups_of(checks: Sequence[Check]) -> list[str]:
    """The groups, in the order of their first check."""
    return list(dict.fromkeys(check.group for check in checks))
