"""One rung down after a breach (pure): a ``set_profile`` made from an ``account-locked`` record.

Its ``command_id`` and profile come from the lock alone, so that a repeat is a duplicate or changes nothing. It never
moves an account up: the gate refuses that to the steward, as an operator may have acted in the meantime.
"""

from typing import Any

from schemas.config import LADDER
from schemas.outputs import AccountLocked
from schemas.types import write_amount, write_time
from streams.core.outputs import digest
from streams.core.records import CONTROLS
from streams.steward import STEWARD

# Of one step's outputs; only warnings of overdue orders can come before its locks in such numbers.
_OUTPUTS_MAX = 1_000


def downgrade(lock: AccountLocked, now_ms: int) -> dict[str, Any] | None:
    """The ``controls`` record that answers a lock; None where nothing is to be done.

    That is: a manual lock, profile micro, or a lock that a ``set_profile`` has caused. Lower limits that are breached
    already are no further loss, and moving down because of them would run down the whole ladder at once.
    """
    rung = LADDER.index(lock.profile)
    if lock.observed is None or lock.limit is None or rung == 0 or _is_made_by_command(lock):
        return None
    figures = f"{write_amount(lock.observed)} of at most {write_amount(lock.limit)}"
    return {
        "command_id": f"downgrade-{lock.lock_id}",
        "account_id": lock.account_id,
        "type": "set_profile",
        "profile": LADDER[rung - 1],
        # It may arrive after an operator has moved the account further down and unlocked it.
        "down_only": True,
        "operator": STEWARD,
        "reason": f"{lock.reason}: {figures} on profile {lock.profile}",
        "issued_at": write_time(now_ms),
    }


def _is_made_by_command(lock: AccountLocked) -> bool:
    """Whether the record that locked is the last command in its basis: a lock's id is made from that record's place."""
    offset = lock.basis.offsets.get("controls")
    if offset is None:
        return False
    place = (lock.account_id, CONTROLS, str(lock.basis.partition), str(offset))
    return any(lock.lock_id == "l-" + digest(*place, str(number)) for number in range(_OUTPUTS_MAX))
