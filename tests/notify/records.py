"""Records of the gate as a notifier reads them, made from the published examples."""

from pathlib import Path
from typing import Any

import orjson

from schemas.types import write_time
from streams.core.records import EVENTS, LOCKED
from streams.notify.messages import Message, message_of

EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples"


def lock(account: str = "main", number: int = 1, **fields: Any) -> dict[str, Any]:
    """A lock of ``account``; ``number`` makes its id."""
    body: dict[str, Any] = orjson.loads((EXAMPLES / "account-locked.json").read_bytes())
    return body | {"account_id": account, "lock_id": f"l-{account}-{number}"} | fields


def event(kind: str, account: str = "main", number: int = 1, **fields: Any) -> dict[str, Any]:
    """An event of ``account``."""
    body: dict[str, Any] = orjson.loads((EXAMPLES / "account-events.json").read_bytes())
    ids = {"account_id": account, "event_id": f"e-{account}-{number}", "type": kind}
    return body | {"command_id": None, "detail": {}} | ids | fields


def warning(account: str = "main", number: int = 1, **fields: Any) -> dict[str, Any]:
    """A warning of the daily limit's first tier."""
    figures = {"observed": "0.0104", "limit": "0.02", "unit": "fraction"}
    return event("WARNING", account, number, detail={"limit": "DAILY_DRAWDOWN", "tier": "0.5"}, **figures, **fields)


def message(topic: str, body: dict[str, Any]) -> Message:
    """The message of a record that makes one."""
    found = message_of(topic, orjson.dumps(body))
    assert found is not None
    return found


def locked_message(account: str = "main", at_ms: int | None = None) -> Message:
    """The message of a lock, of now if ``at_ms`` is given."""
    fields = {} if at_ms is None else {"locked_at": write_time(at_ms)}
    return message(LOCKED, lock(account, 1, **fields))


__all__ = ["EVENTS", "LOCKED", "event", "lock", "locked_message", "message", "warning"]
