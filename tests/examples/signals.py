"""Signals that the examples' tests send."""

from datetime import UTC, datetime
from typing import Any


def now() -> str:
    return datetime.now(UTC).isoformat()


def order(account: str, signal_id: str, **fields: Any) -> dict[str, Any]:
    """A signal that the gate approves."""
    return {
        "signal_id": signal_id,
        "account_id": account,
        "strategy_id": "trend",
        "instrument": "BTC-USD",
        "side": "buy",
        "quantity": "0.01",
        "price": "16500",
        "stop_loss": "16400",
        "created_at": now(),
        **fields,
    }
