"""The checklist: every check there is, in the order in which it is run and shown. Later ones are added here."""

from collections.abc import Sequence

from streams.ops.preflight import access, accounts, cluster, notifications, observation, operation, producers, rules
from streams.ops.preflight import mirror as redis_mirror
from streams.ops.preflight.check import Check

CHECKS: tuple[Check, ...] = (
    *cluster.CHECKS,
    *access.CHECKS,
    *producers.CHECKS,
    *rules.CHECKS,
    *accounts.CHECKS,
    *operation.CHECKS,
    *redis_mirror.CHECKS,
    *notifications.CHECKS,
    *observation.CHECKS,
)


def groups_of(checks: Sequence[Check]) -> list[str]:
    """The groups, in the order of their first check."""
    return list(dict.fromkeys(check.group for check in checks))
