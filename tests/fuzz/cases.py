"""Rounds worth keeping, as files: those that once failed, and one of each kind of damage. Tests play them for ever.

A case is JSON that a person can read where its bytes are text: values are text, or base64 where they are not UTF-8.
"""

import base64
import json
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import Sent
from tests.fuzz.sessions import Round

CASES = Path(__file__).parent / "regressions"


def save(one: Round, name: str) -> Path:
    """Keep a round among the regressions."""
    path = CASES / f"{name}.json"
    path.write_text(json.dumps(_written(one), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def load(path: Path) -> Round:
    """A round as it was kept."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    return Round(raw["config"], raw["batches"], raw["cold"], tuple(map(_sent, raw["sent"])))


def _written(one: Round) -> dict[str, Any]:
    return {
        "config": dict(one.config),
        "batches": one.batches,
        "cold": one.cold,
        "sent": [
            {
                "topic": sent.topic,
                "partition": sent.partition,
                "timestamp_ms": sent.timestamp_ms,
                "wall_ms": sent.wall_ms,
                "key": text_of(sent.key),
                "value": text_of(sent.value),
                "headers": [[name, text_of(value)] for name, value in sent.headers],
            }
            for sent in one.sent
        ],
    }


def _sent(raw: dict[str, Any]) -> Sent:
    headers = tuple((name, bytes_of(value) or b"") for name, value in raw["headers"])
    key, value = bytes_of(raw["key"]), bytes_of(raw["value"])
    return Sent(raw["topic"], raw["partition"], raw["timestamp_ms"], key, value, headers, raw["wall_ms"])


def text_of(data: bytes | None) -> Any:
    """Bytes for JSON: text, base64 where they are not UTF-8, or null."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def bytes_of(text: Any) -> bytes | None:
    """The bytes of :func:`text_of`."""
    if text is None:
        return None
    return base64.b64decode(text["base64"]) if isinstance(text, dict) else str(text).encode()
