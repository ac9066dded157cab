"""The runbook: an entry for every alert and none besides, each whole, and commands that exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from streams.ops.cli import app
from streams.ops.preflight.registry import CHECKS, groups_of
from tests.observe import promql

RUNBOOK = Path(promql.INFRA / "runbook.md").read_text()
ENTRIES: dict[str, str] = dict(re.findall(r"^## (Tidegate\w+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
PARTS = ("**Symptom.**", "**Meaning.**", "**Command.**", "**Do not.**")
# What only the machinery around Tidegate can do.
ELSEWHERE = ("curl ", "docker ", "kafka-", "systemctl ", "journalctl ", "promtool ")


def commands(text: str) -> list[str]:
    """What an entry tells the operator to type."""
    return [
        line.removeprefix("$ ")
        for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


def test_every_alert_has_its_entry_and_every_entry_its_alert() -> None:
    assert list(ENTRIES) == [rule["alert"] for rule in promql.alerts()]


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_is_whole(name: str) -> None:
    entry = ENTRIES[name]
    places = [entry.find(part) for part in PARTS]
    assert -1 not in places, [part for part in PARTS if part not in entry]
    assert places == sorted(places)
    assert commands(entry), "no command"
    for block in re.findall(r"^```console\n(.*?)^```", entry, re.MULTILINE | re.DOTALL):
        for typed, output in re.findall(r"^(\$ .*\n)((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            assert re.search(r"\w", output), f"no expected output of {typed}"


def test_every_alert_is_in_the_table_of_contents_with_its_severity() -> None:
    lines = re.findall(r"^\| \[(\w+)\]\(#(\w+)\) \| (\w+) \|", RUNBOOK, re.MULTILINE)
    listed = [(rule["alert"], rule["alert"].lower(), rule["labels"]["severity"]) for rule in promql.alerts()]
    assert lines == listed


@pytest.mark.parametrize("line", sorted(set(commands(RUNBOOK))))
def test_every_command_is_one_that_the_program_takes(line: str) -> None:
    first = re.split(r"\s\|\s", line)[0]
    if first.startswith(ELSEWHERE):
        return
    name, *arguments = shlex.split(first, comments=True)
    assert name == "tidegate", line
    parse(arguments)


PREFLIGHT = {check.name: check for check in CHECKS}


@pytest.mark.parametrize("line", re.findall(r"^(?:PASS|WARN|FAIL) .*$", RUNBOOK, re.MULTILINE))
def test_a_finding_is_one_of_preflights_own(line: str) -> None:
    name, said = line.split(" ", 2)[1:]
    assert said.startswith(f"{PREFLIGHT[name].title}: ")


@pytest.mark.parametrize("group", sorted(set(re.findall(r"--group (\w+)", RUNBOOK))))
def test_a_group_of_checks_is_there(group: str) -> None:
    assert group in groups_of(CHECKS)


def parse(arguments: list[str]) -> None:
    """Let the command line read the words, down to the command that they name, without running it."""
    command = typer.main.get_command(app)
    context = command.make_context("tidegate", list(arguments), resilient_parsing=False)
    while True:
        group = context.command
        if not hasattr(group, "resolve_command"):
            return
        rest = [*context._protected_args, *context.args]
        _, command, rest = group.resolve_command(context, rest)
        assert command is not None
        context = type(context)(command, parent=context)
        command.parse_args(context, list(rest))


def test_a_command_that_does_not_exist_is_seen() -> None:
    parse(["accounts", "main", "--json"])
    for wrong, why in (
        (["acounts"], "No such command"),
        (["lock", "--account", "main"], "No such option"),
        (["policy", "lst"], "No such command"),
        (["order", "release", "main", "--reason", "gone"], "Missing parameter"),
    ):
        # The program's own parser is a copy of click's inside typer: its exceptions have no public name.
        with pytest.raises(Exception, match=why) as refused:
            parse(wrong)
        assert "UsageError" in {one.__name__ for one in type(refused.value).__mro__}
