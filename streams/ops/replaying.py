"""``tidegate replay``: fold a recorded log, with no broker."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, TextIO

import typer

from streams.ops.exits import CommandError, ExitStatus
from streams.ops.options import Config, examples, rules_in
from streams.ops.terminal import note
from streams.replay import replay

_STDIN = "-"

EXAMPLES = examples(
    "# Decisions, locks, events and dead letters of a recorded day, a JSON line each:",
    "tidegate replay 2017-12-22.jsonl --config tidegate.toml --out decided.jsonl",
    "",
    "# What would other limits have done? Change the configuration, compare:",
    "tidegate replay 2017-12-22.jsonl --config tighter.toml | diff decided.jsonl -",
    "",
    "# Only the locks, from a log that comes through a pipe:",
    "zcat 2017-12.jsonl.gz | tidegate replay - | jq -c 'select(.topic == \"account-locked\").value'",
)


def replay_command(
    events: Annotated[
        str,
        typer.Argument(metavar="EVENTS.jsonl", help="The log, one record a line; [bold]-[/bold] reads standard input."),
    ],
    config: Config = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Write there instead of standard output; the file appears only when it is complete.",
        ),
    ] = None,
) -> None:
    """Fold a recorded log through the gate's own rules, offline and at record time.

    In:  {"topic": "pnl", "timestamp": "2017-12-19T11:00:00Z", "value": {…}}, optionally "key";
         topics signals, fills, pnl, controls, policies, in the order of the file.
    Out: {"topic": "approved-orders", "key": "main_binance", "value": {…}}, in order.

    A line that cannot be read comes out on dead-letters. Exit status 0: the whole file was folded.
    """
    rules = rules_in(config)
    with _opened(events) as lines:
        if out is None:
            sys.stdout.flush()
            _write(replay(lines, rules), sys.stdout.buffer)
            return
        with _replaced(out) as target:
            count = _write(replay(lines, rules), target)
    note(f"{count} records in {out}")


def _write(lines: Iterator[str], target: BinaryIO) -> int:
    count = 0
    for line in lines:
        target.write(line.encode() + b"\n")
        count += 1
    target.flush()
    return count


@contextmanager
def _opened(events: str) -> Iterator[TextIO]:
    """The log as lines; bytes that are not UTF-8 are kept for the dead letter that they end in."""
    if events == _STDIN:
        lines = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="surrogateescape", newline="\n")
        yield lines
        lines.detach()
        return
    with _readable(events) as log:
        yield log


def _readable(events: str) -> TextIO:
    try:
        return Path(events).open(encoding="utf-8", errors="surrogateescape", newline="\n")
    except OSError as error:
        remedy = "give the path of a log, or - for standard input"
        raise CommandError(f"{events}: {error.strerror}", ExitStatus.USAGE, remedy) from None


@contextmanager
def _replaced(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name only when it is complete; a failure leaves the former one untouched."""
    target = path.resolve()
    if target.exists() and not target.is_file():
        # A device or a pipe takes what is written to it; renamed over, it would be gone.
        with _writable(path, target) as stream:
            yield stream
        return
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    stream = _writable(path, draft)
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _writable(path: Path, target: Path) -> BinaryIO:
    try:
        return target.open("wb")
    except OSError as error:
        raise CommandError(f"--out {path}: {error.strerror}", ExitStatus.USAGE) from None
