"""The last look: may this approved order still go out? For executors, just before they send.

    looker = LastLook(Redis.from_url(url), prefix="tidegate:")
    look = await looker.ask("main_binance", "o-…")
    if look.allowed:
        …send…

One round trip, one atomic read in Redis. It fails closed: whatever is missing, half-built, stale, slow or wrong
refuses. The answer is as old as ``age_ms`` says, at most ``max_age_ms`` and the round trip: what the gate committed
before then is in it, what came later is not. So it narrows the time in which a lock is missed, and cannot close it:
executors go on reading ``account-locked`` and cancel what it names. It says nothing of whether the order was sent
already: that is the executor's to know (``order_id`` as client order id makes a second sending harmless).

Imports nothing of Tidegate's, only redis-py.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

MAX_AGE_MS: Final = 2_000
TIMEOUT_MS: Final = 250
_RETRY_S = 0.01
# The mirror has not got there yet, or not for a moment: the same question may soon have another answer.
_PASSING = ("ORDER_UNKNOWN", "MIRROR_STALE", "REDIS_UNAVAILABLE", "UNKNOWN_ACCOUNT")

Code = Literal[
    "ALLOWED",
    "REDIS_UNAVAILABLE",
    "MIRROR_MISSING",
    "MIRROR_BUILDING",
    "MIRROR_STALE",
    "MIRROR_INCOMPLETE",
    "UNKNOWN_ACCOUNT",
    "ORDER_UNKNOWN",
    "ORDER_CLOSED",
    "ORDER_FILLED",
    "ORDER_EXPIRED",
    "TRADING_HALTED",
    "TRADING_STATE_REDUCING",
    "ROLLOUT_PHASE",
    "ACCOUNT_LOCKED_DAILY_DRAWDOWN",
    "ACCOUNT_LOCKED_WEEKLY_DRAWDOWN",
    "ACCOUNT_LOCKED_TRAILING_DRAWDOWN",
    "ACCOUNT_LOCKED_MANUAL",
    "REDUCE_ONLY_WOULD_INCREASE_POSITION",
    "STRATEGY_BLACKLISTED",
    "STRATEGY_NOT_WHITELISTED",
    "VENUE_UNAVAILABLE",
    "RISK_DATA_MISSING",
    "RISK_DATA_STALE",
    "DRAWDOWN_UNCONFIRMED",
    "DAILY_DRAWDOWN_REACHED",
    "WEEKLY_DRAWDOWN_REACHED",
    "TRAILING_DRAWDOWN_REACHED",
]
"""Why not; those that the gate has too mean the same as in ``rejected-signals``."""

_WORDS: dict[str, str] = {
    "ALLOWED": "nothing known speaks against it",
    "REDIS_UNAVAILABLE": "Redis gave no answer in time",
    "MIRROR_MISSING": "there is no model under this prefix: is `tidegate mirror` running, and the prefix right?",
    "MIRROR_BUILDING": "the model is being built",
    "MIRROR_STALE": "the model is too old: the mirror, Kafka or Redis is slow or away",
    "MIRROR_INCOMPLETE": "a part of the model is missing",
    "UNKNOWN_ACCOUNT": "the account is not configured, or not mirrored yet",
    "ORDER_UNKNOWN": "the account has no such open order here, or its approval was not mirrored yet",
    "ORDER_CLOSED": "the order is closed: cancelled, rejected, expired, filled, or released by an operator",
    "ORDER_FILLED": "nothing of the order is left to be filled",
    "ORDER_EXPIRED": "its valid_until has passed",
    "TRADING_HALTED": "trading is halted",
    "TRADING_STATE_REDUCING": "only orders that reduce may go out",
    "ROLLOUT_PHASE": "the present rollout phase does not include it",
    "REDUCE_ONLY_WOULD_INCREASE_POSITION": "the position has shrunk: this exit would open or enlarge one",
    "STRATEGY_BLACKLISTED": "the strategy is blacklisted",
    "STRATEGY_NOT_WHITELISTED": "the strategy is not on the whitelist",
    "VENUE_UNAVAILABLE": "the venue is marked down",
    "RISK_DATA_MISSING": "the account has no usable equity",
    "RISK_DATA_STALE": "the account's equity is too old",
    "DRAWDOWN_UNCONFIRMED": "a limit was breached and waits for its confirmation",
}


@dataclass(frozen=True, slots=True)
class Look:
    """The answer. ``age_ms``: how old it is by now; None: there was none to be had."""

    code: Code
    detail: str = ""
    age_ms: int | None = None
    valid_until_ms: int | None = None
    """The order's, ms since 1970 by the gate's clock: send nothing later."""
    policy_version: int | None = None

    @property
    def allowed(self) -> bool:
        """Whether the order may go out."""
        return self.code == "ALLOWED"

    @property
    def reason(self) -> str:
        """The code in words, for a log."""
        words = _WORDS.get(self.code)
        if words is None:
            lock = self.code.removeprefix("ACCOUNT_LOCKED_")
            words = f"the account is locked: {lock}" if lock != self.code else "a drawdown limit is reached"
        return f"{words} ({self.detail})" if self.detail else words


class LastLook:
    """Asks for one gate. Safe to share among tasks."""

    def __init__(
        self, redis: Redis, *, prefix: str = "tidegate:", max_age_ms: int = MAX_AGE_MS, timeout_ms: int = TIMEOUT_MS
    ) -> None:
        """``redis``: give it short timeouts and no retries of its own; ``timeout_ms`` bounds the wait in any case.

        ``max_age_ms``: an older model refuses. The mirror confirms itself ten times a second.
        """
        if max_age_ms <= 0 or timeout_ms <= 0:
            raise ValueError("max_age_ms and timeout_ms must be above 0")
        self._redis = redis
        self._key = f"{prefix}status"
        self._max_age_ms = max_age_ms
        self._timeout_s = timeout_ms / 1000

    async def ask(self, account_id: str, order_id: str) -> Look:
        """One round trip. Never raises for what Redis does: no answer refuses."""
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await self._redis.fcall_ro(
                    "tidegate_last_look", 1, self._key, account_id, order_id, str(self._max_age_ms)
                )
            return _look(reply, took_ms=round((time.monotonic() - began_s) * 1000))
        except ResponseError as error:
            missing = "function not found" in str(error).lower()
            return Look("MIRROR_MISSING" if missing else "REDIS_UNAVAILABLE", str(error))
        except (RedisError, OSError, TimeoutError, ValueError, TypeError) as error:
            return Look("REDIS_UNAVAILABLE", str(error) or type(error).__name__)

    async def ask_within(self, account_id: str, order_id: str, patience_ms: int) -> Look:
        """Ask again while the mirror may only not have got there yet, at most ``patience_ms``; the last answer.

        An executor reads the approval from Kafka at the same moment as the mirror does, and may be the faster one.
        """
        until_s = time.monotonic() + patience_ms / 1000
        while True:
            look = await self.ask(account_id, order_id)
            if look.code not in _PASSING or time.monotonic() >= until_s:
                return look
            await asyncio.sleep(_RETRY_S)


def _look(reply: Sequence[object], *, took_ms: int) -> Look:
    """The library's five texts. Raises ValueError or TypeError for anything else."""
    texts = [one.decode() if isinstance(one, bytes) else str(one) for one in reply]
    code, detail, age_ms, valid_until_ms, version = texts
    return Look(
        code or "ALLOWED",  # type: ignore[arg-type]  # the library's codes are those above; a test compares them
        detail,
        int(age_ms) + took_ms if age_ms else None,
        int(valid_until_ms) if valid_until_ms else None,
        int(version) if version else None,
    )
