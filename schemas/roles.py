"""Who reads and writes which topic: the roles of a desk, from which ACLs, AsyncAPI operations and tables are made.

Topics are named as in the contract; ``state``, ``journal``, ``requests`` and ``notifications`` are
the gate's own. Pure data: what Kafka
makes of it is in ``streams.runtime.access``.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

INPUTS = ("controls", "fills", "pnl", "signals")
OUTPUTS = ("approved-orders", "rejected-signals", "account-locked", "account-events", "dead-letters")
EVERY_TOPIC = (*INPUTS, "policies", *OUTPUTS, "state", "journal", "requests", "notifications")
_DECISIONS = ("approved-orders", "rejected-signals")


class Role(NamedTuple):
    """What the processes of one kind do with the topics, and what else they need of the brokers.

    ``group``: what follows the gate's name in the consumer groups that it may join (None: it joins none; "": the
    workers' own). ``exact``: that one group only, else every group that begins so. ``describes``: it checks at its
    start that all topics fit together. ``inspects``: it looks at brokers, topic settings, ACLs and groups too.
    """

    name: str
    who: str
    reads: Sequence[str] = ()
    writes: Sequence[str] = ()
    group: str | None = None
    exact: bool = False
    transactional: bool = False
    describes: bool = True
    inspects: bool = False


ROLES: Mapping[str, Role] = {
    role.name: role
    for role in (
        Role(
            "worker",
            "`tidegate worker`: decides. It also writes the inputs: a record on the wrong partition is forwarded, a "
            "shared signal divided, in the transaction that read it.",
            reads=(*INPUTS, "policies", "state"),
            writes=(*INPUTS, *OUTPUTS, "state", "journal"),
            group="",
            exact=True,
            transactional=True,
        ),
        Role(
            "steward",
            "`tidegate steward`: ends temporary policies, marks venues down, moves breached accounts a rung down.",
            reads=("fills", "policies", "approved-orders", "account-locked"),
            writes=("controls", "policies"),
            group="-steward",
            exact=True,
        ),
        Role(
            "mirror",
            "`tidegate mirror`: copies accounts, locks and decisions into Redis.",
            reads=("policies", *_DECISIONS, "account-locked", "state"),
        ),
        Role(
            "notifier",
            "`tidegate notify`: tells people of locks, warnings and unlocks.",
            reads=("account-locked", "account-events", "notifications"),
            writes=("notifications",),
            group="-notify",
            exact=True,
        ),
        Role(
            "pipeline",
            "A strategy's or desk's order flow: asks, and hears what was decided.",
            reads=_DECISIONS,
            writes=("signals",),
            group="-pipeline",
            describes=False,
        ),
        Role(
            "portfolio",
            "The feed of equity marks.",
            writes=("pnl",),
            describes=False,
        ),
        Role(
            "executor",
            "Sends approved orders to venues, cancels entries when an account locks, reports fills.",
            reads=("approved-orders", "account-locked", "account-events"),
            writes=("fills",),
            group="-executor",
            describes=False,
        ),
        Role(
            "operator",
            "A person with the command line: reads everything, gives commands, sets policies.",
            reads=EVERY_TOPIC,
            writes=("controls", "policies", "requests"),
            inspects=True,
        ),
        Role(
            "drill",
            "An operator who runs `tidegate drill`, which publishes one signal too.",
            reads=EVERY_TOPIC,
            writes=("signals", "controls", "policies", "requests"),
            inspects=True,
        ),
        Role(
            "repair",
            "Whoever resubmits dead letters: it may write every input, so keep it apart, and for the hour of need.",
            reads=EVERY_TOPIC,
            writes=(*INPUTS, "policies", "requests"),
            inspects=True,
        ),
        Role(
            "observer",
            "Support, auditors, dashboards: every command that only looks.",
            reads=EVERY_TOPIC,
            group="-observer",
            inspects=True,
        ),
    )
}
