"""The log of every process: structlog renders it, ours and the libraries' alike, as lines for a person or as JSON.

It goes to standard error, in UTC. Ours is told from the level asked for, the libraries' from WARNING: aiokafka and
Faust log every client at INFO, dozens per partition. At debug each decision has a line of its own, after its commit;
above debug decisions cost one comparison a batch.

No secret may get here: settings keep theirs out of ``repr``, and errors are raised without. Should one slip through
all the same, in a library's message or a traceback, the last step before the rendering blanks every secret that the
environment holds, and every password within a URL. Tracebacks carry no local variables.
"""

import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Literal

import orjson
import structlog
from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter, plain_traceback
from structlog.typing import EventDict, Processor

from streams.core.records import APPROVED, REJECTED, Output

Level = Literal["debug", "info", "warning", "error"]
Style = Literal["console", "json"]

BLANK = "***"

_OURS = ("streams", "tidegate")
_DECISIONS = "tidegate.decisions"
_LIBRARIES = ("aiokafka", "apprise", "asyncio", "faust", "mode")
_SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|_URLS?(_FILE)?$|_NOTIFY_")
_URL_PASSWORD = re.compile(r"(?<=://)([^\s/:@]*):([^\s/@]+)@")
# Shorter ones would blank half of every line; no broker should take them.
_SECRET_CHARS_MIN = 4
_TOKEN_CHARS_MIN = 8
_HOST = re.compile(r"[\w-]+(\.[\w-]+)+|localhost")

decisions = structlog.stdlib.get_logger(_DECISIONS)


def configure_logging(
    level: Level = "info", style: Style = "console", environ: Mapping[str, str] | None = None
) -> None:
    """Set up the log of this process. ``environ``: where the secrets to blank are."""
    env = os.environ if environ is None else environ
    colours = sys.stderr.isatty() and "NO_COLOR" not in env
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    ]
    last: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _with_traceback]
    last += [redactor(secrets_of(env)), _json if style == "json" else _console(colours=colours)]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(number)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def log_decisions(partition: int, outputs: Iterable[Output]) -> None:
    """One line per decision of a committed transaction, at debug."""
    if not logging.getLogger(_DECISIONS).isEnabledFor(logging.DEBUG):
        return
    for output in outputs:
        if output.topic in (APPROVED, REJECTED):
            decisions.debug("decided", **_told_of(output.topic, partition, orjson.loads(output.value)))


def _told_of(topic: str, partition: int, body: Mapping[str, Any]) -> dict[str, Any]:
    told = {
        "verdict": "approved" if topic == APPROVED else "rejected",
        "signal_id": body["signal_id"],
        "account_id": body["account_id"],
        "partition": partition,
        "offset": body["basis"]["offsets"]["signals"],
    }
    if topic == APPROVED:
        return told | {"order_id": body["order_id"], "profile": body["profile"]}
    return told | {"codes": [reason["code"] for reason in body["reasons"]]}


# -- secrets -------------------------------------------------------------------------------------------------------


def secrets_of(environ: Mapping[str, str]) -> frozenset[str]:
    """What must never be told: the values of TIDEGATE_… variables that hold secrets, and of the files they name."""
    found: set[str] = set()
    for name, value in environ.items():
        if not name.startswith("TIDEGATE_") or not _SECRET_NAME.search(name):
            continue
        text = _text_of(value) if name.endswith("_FILE") else value
        # A URL may be told, its password is not; a notification's address holds its token in any of its parts.
        if "://" not in text or name.startswith("TIDEGATE_NOTIFY_"):
            found.update(line.strip() for line in text.splitlines())
        found.update(password for _, password in _URL_PASSWORD.findall(text))
        if name.startswith("TIDEGATE_NOTIFY_"):
            found.update(part for part in _parts_of(text) if len(part) >= _TOKEN_CHARS_MIN)
    return frozenset(secret for secret in found if len(secret) >= _SECRET_CHARS_MIN)


def _parts_of(address: str) -> list[str]:
    """What may be a token in a notification's address; a host by its full name is none."""
    return [part for part in re.split(r"[/:@?&=#,\s]+", address) if not _HOST.fullmatch(part)]


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def redactor(secrets: Iterable[str]) -> Processor:
    """A processor that blanks ``secrets`` and the passwords of URLs, however deep in a line's values."""
    # Longest first: a secret that begins with another one must not leave its end behind.
    listed = sorted(secrets, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, listed))) if listed else None

    def blanked(value: Any) -> Any:
        if isinstance(value, str):
            text = pattern.sub(BLANK, value) if pattern else value
            return _URL_PASSWORD.sub(rf"\1:{BLANK}@", text) if "://" in text else text
        if isinstance(value, Mapping):
            return {name: blanked(one) for name, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [blanked(one) for one in value]
        return value if isinstance(value, (int, float, type(None))) else blanked(str(value))

    def redact(_logger: Any, _method: str, event: EventDict) -> MutableMapping[str, Any]:
        return {name: blanked(value) for name, value in event.items()}

    return redact


# -- rendering -----------------------------------------------------------------------------------------------------


def _with_traceback(logger: Any, method: str, event: EventDict) -> EventDict:
    return structlog.processors.format_exc_info(logger, method, event)


def _json(_logger: Any, _method: str, event: EventDict) -> str:
    first = {name: event[name] for name in ("at", "level", "logger", "event") if name in event}
    return orjson.dumps({**first, **event}, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _console(*, colours: bool) -> ConsoleRenderer:
    dim, bold, plain = ("\x1b[2m", "\x1b[1m", "\x1b[0m") if colours else ("", "", "")
    levels = ConsoleRenderer.get_default_level_styles(colours)

    def level(key: str, value: object) -> str:  # noqa: ARG001 - structlog names it
        return f"{levels.get(str(value), '')}{str(value).upper():<8}{plain}"

    def shown(style: str) -> KeyValueColumnFormatter:
        return KeyValueColumnFormatter(None, style, plain, str)

    return ConsoleRenderer(
        sort_keys=False,
        exception_formatter=plain_traceback,
        columns=[
            Column("at", shown(dim)),
            Column("level", level),
            Column("logger", KeyValueColumnFormatter(None, dim, plain, str, postfix=":")),
            Column("event", shown(bold if colours else "")),
            Column("", KeyValueColumnFormatter(dim, "", plain, _flat)),
        ],
    )


def _flat(value: object) -> str:
    return value if isinstance(value, str) and value and not re.search(r"[\s\"=]", value) else repr(value)
