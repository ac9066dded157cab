"""The lock drill: lock an account that holds nothing, see a signal refused, unlock it; all through the real topics.

    lock ──► account-locked ──► signal ──► rejected-signals ──► unlock ──► UNLOCKED
                   └───────── anything else, or too late ─────────┘

Whatever goes wrong once the lock is out, the unlock is still published: a drill leaves no account locked. With one
exception: an account that a drawdown locked meanwhile stays locked, for an unlock would clear that lock too.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from aiokafka.structs import TopicPartition

from schemas.types import write_time
from streams.core.decode import parse_object
from streams.core.drawdown import MANUAL
from streams.core.records import APPROVED, CONTROLS, DEAD_LETTERS, LOCKED, REJECTED, SIGNALS
from streams.core.rules import Rules
from streams.ops import broker
from streams.ops.answers import ANSWERS, Answer, Body, Sent, answer_to
from streams.ops.commanding import new_command
from streams.ops.overview import Overview
from streams.runtime import clock, kafka
from streams.runtime.settings import Settings
from streams.runtime.topics import Layout, TopicNames

LOCK_DRILL = "lock"
LOCKED_CODE = "ACCOUNT_LOCKED_MANUAL"
_LOCKED_BY = "ACCOUNT_LOCKED_"
DRILL_STRATEGY = "tidegate-drill"

# The time from publishing to reading is what a drill measures: no fetch may lie on the broker for long.
_FETCH_MAX_WAIT_MS = 50
_POLL_MS = 100


@dataclass(slots=True)
class DrillOutcome:
    """How a drill went, filled in step by step. Times are from publishing to reading the answer committed, in ms.

    ``codes``: every reason that the signal was rejected for. ``fault``: why the drill failed; ``unanswered``: because
    no worker answered in time. ``still_locked``: the drill could not, or must not, undo the lock.
    """

    account_id: str
    lock_ms: float | None = None
    reject_ms: float | None = None
    unlock_ms: float | None = None
    codes: tuple[str, ...] = ()
    fault: str | None = None
    unanswered: bool = False
    still_locked: bool = False

    @property
    def passed(self) -> bool:
        return self.fault is None


class DrillFailed(Exception):
    """The gate did not do as it has to; the message says what it did."""


class LockRefused(DrillFailed):
    """The drill's own lock was refused."""


def unfit(account: Overview, rules: Rules, operator: str, approved_by: str | None) -> str | None:
    """Why no drill may be run on the account as it is now; None if one may."""
    if not account.configured:
        return f"account {account.account_id!r} is not configured: its commands and signals are refused"
    if account.locks:
        return f"{account.account_id} is locked by {', '.join(lock.reason for lock in account.locks)}"
    if account.positions:
        return f"{account.account_id} holds {', '.join(line.instrument for line in account.positions)}"
    if account.orders:
        return f"{account.account_id} has {len(account.orders)} open orders, which executors would cancel at the lock"
    if any(line.drawdown is not None and line.drawdown >= line.limit for line in account.limits):
        return f"{account.account_id} has reached a drawdown limit: the unlock would be refused"
    if rules.two_person and approved_by in (None, "", operator):
        return "controls.two_person asks for a second operator, or the unlock would be refused"
    return None


def drill_signal(account_id: str, drill_id: str, now_ms: int) -> dict[str, Any]:
    """A signal that no gate can approve, locked or not: it names a venue that no account has, and no stop."""
    return {
        "signal_id": f"drill-{drill_id}",
        "account_id": account_id,
        "strategy_id": DRILL_STRATEGY,
        "instrument": "TIDEGATE-DRILL",
        "side": "buy",
        "quantity": "1",
        "price": "1",
        "venue": f"drill-{drill_id}",
        "created_at": write_time(now_ms),
    }


async def run_drill(
    settings: Settings,
    layout: Layout,
    account_id: str,
    *,
    operator: str,
    approved_by: str | None,
    reason: str,
    timeout_s: float,
) -> DrillOutcome:
    """Run the drill; each step may take ``timeout_s``. Raises KafkaError, TopicsError where Kafka fails."""
    drill_id = secrets.token_hex(8)
    lock = new_command("lock", account_id, operator, reason, command_id=f"drill-{drill_id}-lock")
    unlock = new_command(
        "unlock",
        account_id,
        operator,
        reason,
        rebase="keep",
        approved_by=approved_by,
        command_id=f"drill-{drill_id}-unlock",
    )
    outcome = DrillOutcome(account_id)
    async with _line(settings, layout, account_id) as line:
        try:
            await _lock_and_try(line, outcome, lock, drill_id, timeout_s)
        except LockRefused as error:
            outcome.fault = str(error)
            return outcome  # What holds the account is not the drill's to clear.
        except DrillFailed as error:
            outcome.fault = str(error)
        except TimeoutError:
            outcome.fault, outcome.unanswered = f"no worker answered within {timeout_s:g} s", True
        except BaseException:
            # Interrupted, or Kafka failed: the unlock is out before anything ends.
            if not line.drawdown_locks():
                await line.command(unlock)
            raise
        await _undo(line, outcome, unlock, timeout_s)
    return outcome


async def _lock_and_try(
    line: "_Line", outcome: DrillOutcome, lock: Mapping[str, Any], drill_id: str, timeout_s: float
) -> None:
    sent, started = await line.command(lock)
    try:
        await line.obeyed(sent, timeout_s)
    except DrillFailed as error:
        raise LockRefused(str(error)) from None
    outcome.lock_ms = _since(started)
    started = await line.signal(drill_signal(outcome.account_id, drill_id, clock.now_ms()))
    outcome.codes = await line.rejected(f"drill-{drill_id}", timeout_s)
    outcome.reject_ms = _since(started)
    if LOCKED_CODE not in outcome.codes:
        raise DrillFailed(f"the signal was rejected, but not for the lock: {', '.join(outcome.codes)}")


async def _undo(line: "_Line", outcome: DrillOutcome, unlock: Mapping[str, Any], timeout_s: float) -> None:
    # Topics are heard in any order: the rejection may know of a lock whose own record is still to come.
    told = {code.removeprefix(_LOCKED_BY) for code in outcome.codes if code.startswith(_LOCKED_BY)} - {MANUAL}
    if drawn := told.union(line.drawdown_locks()):
        outcome.fault = f"{', '.join(sorted(drawn))} locked the account meanwhile; the drill does not clear that"
        outcome.still_locked = True
        return
    try:
        sent, started = await line.command(unlock)
        await line.obeyed(sent, timeout_s)
        outcome.unlock_ms = _since(started)
    except DrillFailed as error:
        outcome.fault, outcome.still_locked = outcome.fault or str(error), True
    except TimeoutError:
        outcome.fault = outcome.fault or f"no worker answered the unlock within {timeout_s:g} s"
        outcome.unanswered, outcome.still_locked = True, True


class _Line:
    """One account's wire: what is sent to it, and everything that the gate has said of it since the drill began."""

    def __init__(self, settings: Settings, account_id: str, consumer: Any, producer: Any) -> None:
        self._names = TopicNames.of(settings)
        self._account_id = account_id
        self._consumer = consumer
        self._producer = producer
        self._heard: list[tuple[str, Body]] = []

    async def command(self, command: Mapping[str, Any]) -> tuple[Sent, float]:
        """Publish a command; its place, and when it was handed over. Raises DrillFailed, KafkaError."""
        started = time.perf_counter()
        written = await self._send(CONTROLS, command)
        return Sent(self._account_id, command["command_id"], written.partition, written.offset), started

    async def signal(self, signal: Mapping[str, Any]) -> float:
        """Publish a signal; when it was handed over. Raises DrillFailed, KafkaError."""
        started = time.perf_counter()
        await self._send(SIGNALS, signal)
        return started

    async def obeyed(self, sent: Sent, timeout_s: float) -> None:
        """Wait until a command is done. Raises DrillFailed if it was refused, TimeoutError without an answer."""

        def answer(topic: str, body: Body) -> Answer | None:
            return answer_to(sent, topic, body) if topic in ANSWERS else None

        done = await self._hear(answer, timeout_s)
        if not done.done:
            raise DrillFailed(f"{sent.command_id} was refused: {done.body.get('detail')}")

    async def rejected(self, signal_id: str, timeout_s: float) -> tuple[str, ...]:
        """Wait for a signal's rejection; its codes. Raises DrillFailed for any other fate, TimeoutError."""

        def decision(topic: str, body: Body) -> tuple[str, Body] | None:
            if topic in (APPROVED, REJECTED) and body.get("signal_id") == signal_id:
                return topic, body
            if topic == DEAD_LETTERS and signal_id in str(body.get("payload")):
                return topic, body
            return None

        topic, body = await self._hear(decision, timeout_s)
        if topic == APPROVED:
            raise DrillFailed(f"the locked account's signal was approved, as {body.get('order_id')}")
        if topic == DEAD_LETTERS:
            raise DrillFailed(f"the signal was not decided: {body.get('detail')}")
        return tuple(str(reason["code"]) for reason in body["reasons"])

    def drawdown_locks(self) -> tuple[str, ...]:
        """Locks other than the drill's own that were heard of."""
        reasons = [str(body.get("reason")) for topic, body in self._heard if topic == LOCKED]
        return tuple(reason for reason in reasons if reason != MANUAL)

    async def _send(self, topic: str, value: Mapping[str, Any]) -> Any:
        try:
            async with asyncio.timeout(broker.REACH_DEADLINE_S):
                return await self._producer.send_and_wait(
                    self._names.physical(topic), orjson.dumps(value), self._account_id.encode()
                )
        except TimeoutError:
            raise DrillFailed(f"the broker did not take the record for {topic}") from None

    async def _hear(self, match: Callable[[str, Body], Any], timeout_s: float) -> Any:
        """The first thing heard that matches, also of what came earlier than it was asked for."""
        checked = 0
        async with asyncio.timeout(timeout_s):
            while True:
                for topic, body in self._heard[checked:]:
                    if (found := match(topic, body)) is not None:
                        return found
                checked = len(self._heard)
                for records in (await self._consumer.getmany(timeout_ms=_POLL_MS)).values():
                    for record in records:
                        value, _ = parse_object(record.value)
                        if value is not None and value.get("account_id") == self._account_id:
                            self._heard.append((self._names.logical(record.topic), value))


@asynccontextmanager
async def _line(settings: Settings, layout: Layout, account_id: str) -> AsyncIterator[_Line]:
    names = TopicNames.of(settings)
    places = [
        TopicPartition(names.physical(topic), layout.partition_in(topic, account_id))
        for topic in (*ANSWERS, REJECTED, APPROVED)
    ]
    producer = kafka.producer(settings)
    async with broker.reader(settings, fetch_max_wait_ms=_FETCH_MAX_WAIT_MS) as consumer:
        consumer.assign(places)
        for place, end in (await broker.ends_of(consumer, places)).items():
            consumer.seek(place, end)
        try:
            async with asyncio.timeout(broker.REACH_DEADLINE_S):
                await producer.start()
                # The first send of a topic waits for its metadata: that is no part of what a step takes.
                for topic in (CONTROLS, SIGNALS):
                    await producer.partitions_for(names.physical(topic))
            yield _Line(settings, account_id, consumer, producer)
        finally:
            await producer.stop()


def _since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 1)
