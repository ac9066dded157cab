"""The command line without a broker: help, usage, exit statuses, replay."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from streams.ops.cli import app
from streams.ops.exits import MEANINGS, ExitStatus
from streams.replay import replay

COMMANDS = (
    ("worker",),
    ("topics", "create"),
    ("replay",),
    ("accounts",),
    ("whatif",),
    ("explain",),
    ("lock",),
    ("unlock",),
    ("requests",),
    ("approve",),
    ("reject",),
    ("rollout", "show"),
    ("rollout", "start"),
    ("rollout", "advance"),
    ("rollout", "accounts"),
    ("rollout", "sign"),
    ("halt",),
    ("resume",),
    ("profile", "set"),
    ("order", "release"),
    ("policy", "set"),
    ("policy", "clear"),
    ("policy", "list"),
    ("policy", "history"),
    ("policy", "limit"),
    ("policy", "venue"),
    ("policy", "halt"),
    ("policy", "reduce"),
    ("policy", "resume"),
    ("policy", "strategy", "allow"),
    ("policy", "strategy", "block"),
)
NOBODY_LISTENS = "kafka://127.0.0.1:1"
CONFIG = '[accounts.main]\nexchange = "binance"\nprofile = "normal"\n'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to work in, and an environment that names nothing."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("TIDEGATE_", "QT_ACCOUNT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path


def tidegate(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


# -- help ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_teaches_with_an_example_of_itself(here: Path, command: tuple[str, ...]) -> None:
    result = tidegate(*command, "--help")

    assert result.exit_code == ExitStatus.DONE
    assert f"tidegate {' '.join(command)} " in result.stdout.split("Examples")[1] + " "


def test_the_help_explains_every_exit_status(here: Path) -> None:
    text = tidegate("--help").stdout

    for status, meaning in MEANINGS.items():
        assert f"{status.value}  {meaning}" in text
    assert set(MEANINGS) == set(ExitStatus)


def test_the_version_is_told(here: Path) -> None:
    result = tidegate("--version")

    assert result.exit_code == 0
    assert result.stdout.startswith("tidegate")


# -- usage and configuration ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("lock", "main"),
        ("unlock", "main"),
        ("unlock", "main", "--dry-run", "--request"),
        ("unlock", "main", "--request", "--reason", "x", "--approved-by", "bob"),
        ("rollout", "advance"),
        ("rollout", "show", "--phases", "nowhere.toml"),
        ("unlock", "main", "--reason", "x", "--rebase", "tomorrow"),
        ("profile", "set", "main", "huge", "--reason", "x"),
        ("topics", "create", "--partitions", "0"),
        ("replay",),
        ("frobnicate",),
        ("accounts", "--watch", "--json"),
        ("accounts", "--watch"),
        ("topics", "create", "--broker", NOBODY_LISTENS, "--retention", "a while"),
        ("worker", "--broker", "localhost:9092"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(here: Path, arguments: tuple[str, ...]) -> None:
    assert tidegate(*arguments).exit_code == ExitStatus.USAGE


@pytest.mark.parametrize(
    "command",
    [("accounts",), ("worker",), ("topics", "create"), ("lock", "main", "-r", "x"), ("policy", "list")],
    ids=" ".join,
)
def test_a_missing_broker_is_told_with_the_ways_to_name_one(here: Path, command: tuple[str, ...]) -> None:
    result = tidegate(*command)

    assert result.exit_code == ExitStatus.USAGE
    assert "--broker" in result.stderr
    assert "TIDEGATE_BROKER" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("accounts",),
        ("worker",),
        ("topics", "create"),
        ("lock", "main", "-r", "x"),
        ("policy", "list"),
        ("policy", "set", "venue/v", '{"up": false}', "-r", "x"),
    ],
    ids=" ".join,
)
def test_a_broker_that_is_away_is_status_3(here: Path, command: tuple[str, ...]) -> None:
    result = tidegate(*command, "--broker", NOBODY_LISTENS)

    assert result.exit_code == ExitStatus.BROKER
    assert f"cannot connect to {NOBODY_LISTENS}" in result.stderr
    assert "Traceback" not in result.output


def test_the_broker_may_come_from_the_configuration(here: Path) -> None:
    (here / "tidegate.toml").write_text(f'broker = "{NOBODY_LISTENS}"\n')

    assert f"cannot connect to {NOBODY_LISTENS}" in tidegate("policy", "list").stderr


@pytest.mark.parametrize("command", ["worker", "accounts"])
def test_a_faulty_configuration_stops_the_start_and_names_every_key(here: Path, command: str) -> None:
    (here / "bad.toml").write_text('[accounts.main]\nprofil = "micro"\n[limits]\nmax_pnl_age = 3\n')

    result = tidegate(command, "--config", "bad.toml", "--broker", NOBODY_LISTENS)

    assert result.exit_code == ExitStatus.USAGE
    assert "accounts.main.profil" in result.stderr
    assert "limits.max_pnl_age" in result.stderr


def test_a_lock_does_not_wait_for_a_faulty_configuration(here: Path) -> None:
    (here / "tidegate.toml").write_text("[limits]\nmax_pnl_age = 3\n")

    assert tidegate("lock", "main", "-r", "x", "--broker", NOBODY_LISTENS).exit_code == ExitStatus.BROKER


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("lock", "main", "--reason", " "), "--reason"),
        (("lock", "", "--reason", "x"), "account_id"),
        (("halt", "main", "--reason", "x" * 2000), "reason"),
        (("order", "release", "main", "o" * 300, "--reason", "x"), "order_id"),
    ],
)
def test_a_command_that_no_gate_could_read_is_not_published(here: Path, command: tuple[str, ...], named: str) -> None:
    result = tidegate(*command, "--broker", NOBODY_LISTENS)

    assert result.exit_code == ExitStatus.USAGE
    assert named in result.stderr


@pytest.mark.parametrize(
    ("name", "rule", "named"),
    [
        ("state/globl", '{"state": "HALTED"}', "state/globl"),
        ("state/global", '{"state": "HALT"}', "HALT"),
        ("state/global", "HALTED", "RULE"),
        ("state/global", '["HALTED"]', "RULE"),
        ("venue/binance", '{"up": "no"}', "up"),
        ("profile/normal", '{"max_daily_drawdwn": "0.01"}', "max_daily_drawdwn"),
        ("profile/normal", '{"max_daily_drawdown": NaN}', "max_daily_drawdown"),
        ("rollout", "{}", "phase"),
    ],
)
def test_a_policy_that_the_gate_could_not_use_is_not_published(here: Path, name: str, rule: str, named: str) -> None:
    result = tidegate("policy", "set", name, rule, "--reason", "x", "--broker", NOBODY_LISTENS)

    assert result.exit_code == ExitStatus.USAGE
    assert named in result.stderr


# -- replay --------------------------------------------------------------------------------------------------------


def line(topic: str, **value: Any) -> str:
    return json.dumps({"topic": topic, "timestamp": "2017-12-19T11:00:00Z", "value": value})


LOG = "\n".join(
    (
        line("pnl", account_id="main", sequence=1, equity="10000", as_of="2017-12-19T11:00:00Z"),
        "not a record",
        line("pnl", account_id="main", sequence=2, equity="9800", as_of="2017-12-19T11:00:00Z"),
        "",
    )
)


@pytest.fixture
def log(here: Path) -> Path:
    (here / "tidegate.toml").write_text(CONFIG)
    path = here / "events.jsonl"
    path.write_text(LOG)
    return path


def topics_of(text: str) -> list[str]:
    return [json.loads(one)["topic"] for one in text.splitlines()]


DECIDED = ["dead-letters", "account-events", "account-events", "account-locked"]


def test_replay_writes_what_the_gate_would_publish(log: Path) -> None:
    result = tidegate("replay", str(log))

    assert result.exit_code == ExitStatus.DONE
    assert topics_of(result.stdout) == DECIDED


def test_replay_reads_standard_input(log: Path) -> None:
    assert tidegate("replay", "-", stdin=LOG.encode()).stdout == tidegate("replay", str(log)).stdout


def test_replay_splits_lines_at_line_feeds_only(log: Path) -> None:
    # A carriage return and U+2028 are white space and text inside of a record, not its end.
    pnl = line("pnl", account_id="main", sequence=1, equity="10000", as_of="2017-12-19T11:00:00Z")
    log.write_bytes(pnl.replace('"value":', '"value":\r').replace("main", "main\u2028").encode() + b"\r\n")

    record = json.loads(tidegate("replay", str(log)).stdout)

    assert record["value"]["reason"] == "UNKNOWN_ACCOUNT"
    assert record["value"]["account_id"] == "main\u2028"


def test_replay_answers_bytes_that_are_not_utf_8(log: Path) -> None:
    log.write_bytes(b"\xff\xfe\n" + LOG.encode())

    result = tidegate("replay", str(log))

    assert result.exit_code == ExitStatus.DONE
    first = json.loads(result.stdout.splitlines()[0])
    assert first["value"]["reason"] == "MALFORMED"


def test_replay_uses_the_configuration_that_it_is_given(log: Path) -> None:
    (log.parent / "other.toml").write_text(CONFIG.replace("normal", "aggressive"))

    result = tidegate("replay", str(log), "--config", "other.toml")

    assert "account-locked" not in topics_of(result.stdout)


def test_replay_out_is_the_same_and_leaves_no_draft(log: Path) -> None:
    out = log.parent / "decided.jsonl"

    result = tidegate("replay", str(log), "--out", str(out))

    assert result.exit_code == ExitStatus.DONE
    assert result.stdout == ""
    assert out.read_text() == tidegate("replay", str(log)).stdout
    assert sorted(path.name for path in log.parent.iterdir()) == ["decided.jsonl", "events.jsonl", "tidegate.toml"]


def test_replay_that_fails_keeps_the_former_out(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = log.parent / "decided.jsonl"
    out.write_text("the former one")

    def breaks_off(*arguments: Any) -> Any:
        yield from list(replay(*arguments))[:1]
        raise OSError("the disk is gone")

    monkeypatch.setattr("streams.ops.replaying.replay", breaks_off)
    result = tidegate("replay", str(log), "--out", str(out))

    assert result.exit_code != ExitStatus.DONE
    assert out.read_text() == "the former one"
    assert not list(log.parent.glob("*.part")) + list(log.parent.glob(".*.part"))


def test_replay_out_follows_a_link_and_spares_a_device(log: Path) -> None:
    target = log.parent / "elsewhere.jsonl"
    target.write_text("")
    (log.parent / "link").symlink_to(target)

    assert tidegate("replay", str(log), "--out", "link").exit_code == ExitStatus.DONE
    assert tidegate("replay", str(log), "--out", os.devnull).exit_code == ExitStatus.DONE

    assert topics_of(target.read_text())
    assert (log.parent / "link").is_symlink()
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ("missing.jsonl",),
        (".",),
        ("events.jsonl", "--out", "no/such/directory"),
        ("events.jsonl", "-c", "missing.toml"),
    ],
)
def test_replay_of_what_cannot_be_opened_is_status_2(log: Path, arguments: tuple[str, ...]) -> None:
    result = tidegate("replay", *arguments)

    assert result.exit_code == ExitStatus.USAGE
    assert result.stderr.startswith("error: ")


def test_replay_into_a_pipe_that_closes_is_quiet(log: Path) -> None:
    log.write_text(LOG + "garbage\n" * 20_000)
    replaying = subprocess.Popen(
        [sys.executable, "-m", "streams.ops.cli", "replay", str(log)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert replaying.stdout is not None
    assert replaying.stderr is not None
    with replaying.stdout as out, replaying.stderr as messages:
        out.readline()
        out.close()
        assert messages.read() == b""
    assert replaying.wait() == ExitStatus.REFUSED
