"""The records that Tidegate writes, as plain dicts for orjson (contract, section 1).

Tests check every one of them against the models of ``schemas.outputs``. Ids are functions of the input: the same
record always makes the same ids, so a consumer can tell a repeat from a new fact.
"""

import base64
import hashlib
from typing import Any

import orjson

from schemas.types import write_time
from streams.core.records import DEAD_LETTERS, Output, Record, text_of

SCHEMA_VERSION = 1
PAYLOAD_BYTES_MAX = 4096


def digest(*parts: str) -> str:
    """The first 32 hex digits of SHA-256 over the parts joined by NUL."""
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:32]


def order_id_of(account_id: str, signal_id: str) -> str:
    """The id of the order that an approval of this signal makes."""
    return "o-" + digest(account_id, signal_id)


def encode(topic: str, key: bytes | None, value: dict[str, Any]) -> Output:
    """A record to publish, with its schema version."""
    value["schema_version"] = SCHEMA_VERSION
    return Output(topic, key, orjson.dumps(value))


def dead_letter(
    record: Record,
    reason: str,
    detail: str,
    *,
    account_id: str | None = None,
    first_id: str | None = None,
) -> Output:
    """Input that could not be read or used: why, where it came from, and enough of it to recognise."""
    return encode(DEAD_LETTERS, record.key, dead_letter_body(record, reason, detail, account_id, first_id))


def dead_letter_body(
    record: Record, reason: str, detail: str, account_id: str | None, first_id: str | None
) -> dict[str, Any]:
    """The fields of a dead letter: coordinates, an excerpt, and a digest of the whole."""
    value = record.value
    return {
        "reason": reason,
        "detail": detail.encode(errors="backslashreplace").decode(),
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": write_time(record.timestamp_ms),
        "key": _readable(record.key),
        "account_id": account_id,
        "first_id": first_id,
        "payload": None if value is None else _excerpt(value),
        "payload_sha256": None if value is None else hashlib.sha256(value).hexdigest(),
        "payload_size": 0 if value is None else len(value),
    }


def _readable(data: bytes | None) -> str | None:
    text = text_of(data)
    return text if text is not None or data is None else base64.b64encode(data).decode()


def _excerpt(value: bytes) -> str:
    """The first 4 KiB: text cut at a character's boundary, base64 if the value is not UTF-8."""
    head = value[:PAYLOAD_BYTES_MAX]
    try:
        value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(head).decode()
    return head.decode(errors="ignore")
