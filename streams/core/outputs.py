"""The records that Tidegate writes, as plain dicts for orjson (contract, section 1).

Tests check every one of them against the models of ``schemas.outputs``. Ids are functions of the input: the same
record always makes the same ids, so a consumer can tell a repeat from a new fact.
"""

import base64
import codecs
import hashlib
from typing import Any

import orjson

from schemas.types import write_time
from streams.core.records import DEAD_LETTERS, Headers, Output, Record

SCHEMA_VERSION = 1
PAYLOAD_BYTES_MAX = 4096
DETAIL_CHARS_MAX = 500
_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


def digest(*parts: str) -> str:
    """The first 32 hex digits of SHA-256 over the parts joined by NUL."""
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:32]


def order_id_of(account_id: str, signal_id: str) -> str:
    """The id of the order that an approval of this signal makes."""
    return "o-" + digest(account_id, signal_id)


def encode(
    topic: str, key: bytes | None, value: dict[str, Any], tally: tuple[str, ...] = (), headers: Headers = ()
) -> Output:
    """A record to publish, with its schema version."""
    value["schema_version"] = SCHEMA_VERSION
    return Output(topic, key, orjson.dumps(value), headers, tally=tally)


def dead_letter(
    record: Record,
    reason: str,
    detail: str,
    *,
    account_id: str | None = None,
    first_id: str | None = None,
) -> Output:
    """Input that could not be read or used: why, where it came from, and enough of it to recognise."""
    body = dead_letter_body(record, reason, detail, account_id, first_id)
    return encode(DEAD_LETTERS, record.key, body, (reason, record.topic))


def dead_letter_body(
    record: Record, reason: str, detail: str, account_id: str | None, first_id: str | None
) -> dict[str, Any]:
    """The fields of a dead letter: coordinates, an excerpt, and a digest of the whole."""
    value = record.value
    return {
        "reason": reason,
        # An answer that echoed a value near the broker's limit would itself not fit, and no transaction could commit.
        "detail": detail[:DETAIL_CHARS_MAX].encode(errors="backslashreplace").decode(),
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": write_time(record.timestamp_ms),
        "key": None if record.key is None else _excerpt(record.key),
        "account_id": account_id,
        "first_id": first_id,
        "payload": None if value is None else _excerpt(value),
        "payload_sha256": None if value is None else hashlib.sha256(value).hexdigest(),
        "payload_size": 0 if value is None else len(value),
    }


def _excerpt(value: bytes) -> str:
    """The first 4 KiB as text, cut at a character's boundary; base64 if they are not UTF-8."""
    head = value[:PAYLOAD_BYTES_MAX]
    try:
        # What an incremental decoder keeps back is a character that the cut went through.
        return _Utf8Decoder().decode(head, final=len(value) <= PAYLOAD_BYTES_MAX)
    except UnicodeDecodeError:
        return base64.b64encode(head).decode()
