"""The topic ``requests``: what operators asked for, approved, rejected, signed and drilled, in one sequence for ever.

Only operator commands write and read it; the gate itself never does. A record says who, why and what (:class:`Entry`);
:func:`unlock_requests` folds the records of the unlock workflow:

    open ──approve──► approved ──the gate obeys──► done
      │                  └───────the gate refuses──► refused
      └──reject───► rejected

The first decision on a request stands: whoever decides appends, reads back, and acts only if theirs came first.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import orjson
from aiokafka.structs import ConsumerRecord, TopicPartition

from schemas.types import write_time
from streams.core.decode import parse_object
from streams.ops import broker
from streams.ops.exits import CommandError, ExitStatus
from streams.runtime.settings import Settings
from streams.runtime.topics import REQUESTS, TopicNames

SCHEMA_VERSION = 1

UNLOCK_REQUESTED, UNLOCK_APPROVED, UNLOCK_REJECTED, UNLOCK_ANSWERED = (
    "unlock-requested",
    "unlock-approved",
    "unlock-rejected",
    "unlock-answered",
)
CRITERION_SIGNED, ROLLOUT_CHANGED, DRILL_RUN = "criterion-signed", "rollout-changed", "drill-run"

OPEN, APPROVED, REJECTED, DONE, REFUSED = "open", "approved", "rejected", "done", "refused"


class Entry(NamedTuple):
    """One record. ``at_ms``: when the topic took it; ``detail``: what its kind adds.

    A ``drill-run`` has ``drill`` (its name), ``account_id`` and ``passed`` in its detail: the rollout asks for them.
    """

    kind: str
    operator: str
    reason: str
    detail: Mapping[str, Any]
    at_ms: int
    offset: int


class UnlockRequest(NamedTuple):
    """One request to unlock. ``held``: the locks that it was made for, as (reason, locked_at)."""

    request_id: str
    account_id: str
    rebase: str
    profile: str | None
    held: tuple[tuple[str, str], ...]
    requested: Entry
    decided: Entry | None = None
    answered: Entry | None = None

    @property
    def state(self) -> str:
        """``open``, ``approved``, ``rejected``, ``done`` or ``refused`` (by the gate)."""
        if self.answered is not None:
            return DONE if self.answered.detail.get("done") else REFUSED
        if self.decided is None:
            return OPEN
        return APPROVED if self.decided.kind == UNLOCK_APPROVED else REJECTED


def entry_of(record: ConsumerRecord) -> Entry | None:
    """A record as an entry; None for one that is not ours to read."""
    body, _ = parse_object(record.value)
    if body is None or not isinstance(body.get("kind"), str) or body.get("schema_version") != SCHEMA_VERSION:
        return None
    detail = body.get("detail")
    return Entry(
        body["kind"],
        str(body.get("operator") or ""),
        str(body.get("reason") or ""),
        detail if isinstance(detail, dict) else {},
        record.timestamp,
        record.offset,
    )


def unlock_requests(entries: Iterable[Entry]) -> dict[str, UnlockRequest]:
    """The requests by id, in the order in which they were made."""
    requests: dict[str, UnlockRequest] = {}
    for entry in entries:
        request_id = str(entry.detail.get("request_id") or "")
        if entry.kind == UNLOCK_REQUESTED:
            requests.setdefault(request_id, _request(request_id, entry))
            continue
        request = requests.get(request_id)
        if request is None:
            continue
        if entry.kind in (UNLOCK_APPROVED, UNLOCK_REJECTED) and request.decided is None:
            requests[request_id] = request._replace(decided=entry)
        elif entry.kind == UNLOCK_ANSWERED and request.answered is None:
            requests[request_id] = request._replace(answered=entry)
    return requests


def _request(request_id: str, entry: Entry) -> UnlockRequest:
    detail = entry.detail
    held = tuple((str(one.get("reason")), str(one.get("locked_at"))) for one in detail.get("locks") or ())
    return UnlockRequest(
        request_id,
        str(detail.get("account_id") or ""),
        str(detail.get("rebase") or "keep"),
        detail.get("profile"),
        held,
        entry,
    )


async def read_entries(settings: Settings) -> list[Entry]:
    """Everything on the topic, in its order. Raises CommandError without the topic, TopicsError, KafkaError."""
    place = TopicPartition(await topic_of(settings), 0)
    entries: list[Entry] = []

    def take(record: ConsumerRecord) -> None:
        entry = entry_of(record)
        if entry is not None:
            entries.append(entry)

    async with broker.reader(settings) as consumer:
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        await broker.read_to(consumer, await broker.ends_of(consumer, [place]), take)
    return entries


async def append(
    settings: Settings, kind: str, *, key: str, operator: str, reason: str, now_ms: int, **detail: Any
) -> int:
    """Write one record, durable on return; its offset. Raises like :func:`read_entries`."""
    value = {
        "kind": kind,
        "operator": operator,
        "reason": reason,
        "detail": detail,
        "at": write_time(now_ms),
        "schema_version": SCHEMA_VERSION,
    }
    written = await broker.publish(settings, await topic_of(settings), key, orjson.dumps(value))
    return int(written.offset)


async def topic_of(settings: Settings) -> str:
    """The topic's name on the broker. Raises CommandError where it is missing."""
    name = TopicNames.of(settings).physical(REQUESTS)
    if REQUESTS not in (await broker.layout_of(settings)).counts:
        raise CommandError(
            f"topic {name} is missing: requests, signatures and drills are kept there",
            ExitStatus.BROKER,
            "create it with `tidegate topics create`; the topics that exist are left as they are",
        )
    return name
