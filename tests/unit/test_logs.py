"""The log: two renderings of the same lines, decisions at debug only, and no secret in any of them."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from streams.core.records import APPROVED, LOCKED, REJECTED, Output
from streams.runtime.logs import BLANK, Level, Style, configure_logging, log_decisions, secrets_of

BASIS = {"partition": 3, "offsets": {"signals": 17, "pnl": 40}, "policy_version": 0}


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    for name in ("streams", "tidegate", "aiokafka", "apprise", "asyncio", "faust", "mode"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def configured(monkeypatch: pytest.MonkeyPatch, level: Level, style: Style, **environ: str) -> io.StringIO:
    told = io.StringIO()
    monkeypatch.setattr("sys.stderr", told)
    configure_logging(level, style, environ)
    return told


def decision(topic: str, **fields: Any) -> Output:
    body = {"signal_id": "s-1", "account_id": "main", "basis": BASIS} | fields
    return Output(topic, b"main", orjson.dumps(body))


def approval_and_rejection() -> tuple[Output, ...]:
    return (
        decision(APPROVED, order_id="o-1", profile="micro"),
        Output(LOCKED, b"main", b"not for this log"),
        decision(REJECTED, signal_id="s-2", reasons=[{"code": "NO_VENUE"}, {"code": "STALE_SIGNAL"}]),
    )


def test_console_lines_end_with_the_event_and_what_belongs_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = configured(monkeypatch, "debug", "console")
    logging.getLogger("streams.runtime.reader").info("serving partition %d", 3)
    log_decisions(3, approval_and_rejection()[:1])

    first, second = told.getvalue().splitlines()

    assert first.endswith("Z INFO     streams.runtime.reader: serving partition 3")
    assert second.endswith(
        "decided verdict=approved signal_id=s-1 account_id=main partition=3 offset=17 order_id=o-1 profile=micro"
    )


def test_json_is_one_object_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    told = configured(monkeypatch, "debug", "json")
    logging.getLogger("tidegate").critical("worker failed: %s", "ReaderError: two\nlines")
    log_decisions(3, approval_and_rejection())

    failed, approved, rejected = map(json.loads, told.getvalue().splitlines())

    assert (failed["level"], failed["logger"]) == ("critical", "tidegate")
    assert failed["event"] == "worker failed: ReaderError: two\nlines"
    assert (approved["verdict"], approved["offset"]) == ("approved", 17)
    assert rejected["codes"] == ["NO_VENUE", "STALE_SIGNAL"]


def test_above_debug_decisions_are_neither_told_nor_read(monkeypatch: pytest.MonkeyPatch) -> None:
    told = configured(monkeypatch, "info", "console")

    log_decisions(3, [Output(APPROVED, b"main", b"would fail to be read")])

    assert told.getvalue() == ""


def test_libraries_are_told_from_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    told = configured(monkeypatch, "info", "console")

    logging.getLogger("aiokafka.consumer").info("hidden")
    logging.getLogger("aiokafka.consumer").warning("shown")

    assert "shown" in told.getvalue()
    assert "hidden" not in told.getvalue()


@pytest.mark.parametrize("style", ["console", "json"])
def test_no_secret_passes_whatever_carries_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, style: Style) -> None:
    (tmp_path / "key").write_text("canary-key\n")
    told = configured(
        monkeypatch,
        "debug",
        style,
        TIDEGATE_KAFKA_SASL_PASSWORD="canary-sasl",
        TIDEGATE_KAFKA_SSL_KEY_PASSWORD_FILE=str(tmp_path / "key"),
        TIDEGATE_REDIS_URL="redis://desk:canary-redis@host/0",
        TIDEGATE_NOTIFY_DESK="json://host/canary-path",
    )
    log = logging.getLogger("tidegate")

    log.info("password %s, url redis://desk:canary-redis@host/0", "canary-sasl")
    log.info("the server refuses canary-redis")
    log.info("%s", {"nested": ["canary-key", ("json://host/canary-path",)]})
    try:
        raise ValueError("canary-sasl within an error")
    except ValueError:
        log.exception("failed")

    assert "canary" not in told.getvalue()
    assert f"redis://desk:{BLANK}@host/0" in told.getvalue()
    assert "within an error" in told.getvalue()


def test_the_parts_of_a_notification_s_address_are_blanked_but_not_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    told = configured(
        monkeypatch,
        "info",
        "console",
        TIDEGATE_NOTIFY_DESK="slack://canary-a/canary-b/canary-c/#risk?key=canary-d",
        TIDEGATE_NOTIFY_MAIL="mailtos://ann:canary-e@mail.example.com/",
    )

    logging.getLogger("apprise").warning(
        "no answer from mail.example.com: canary-a/canary-b, canary-c; canary-d canary-e"
    )

    assert "canary" not in told.getvalue()
    assert "no answer from mail.example.com" in told.getvalue()


def test_tracebacks_carry_no_local_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    told = configured(monkeypatch, "info", "json")

    def fails() -> None:
        local = "canary-" + "local"
        raise ValueError(str(len(local)))

    try:
        fails()
    except ValueError:
        logging.getLogger("tidegate").exception("failed")

    assert "ValueError: 12" in told.getvalue()
    assert "canary-local" not in told.getvalue()


def test_short_values_are_no_secrets() -> None:
    assert secrets_of({"TIDEGATE_KAFKA_SASL_PASSWORD": "abc", "OTHER_PASSWORD": "long enough"}) == frozenset()
