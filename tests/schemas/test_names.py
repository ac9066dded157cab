"""The closed sets of names are the contract's, and the gate's."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from schemas import outputs
from schemas.config import LADDER, ProfileName
from schemas.inputs import CommandType, OrderStatus
from streams.core import guard, lock, records, rules
from streams.core.controls import _COMMANDS
from streams.core.outputs import SCHEMA_VERSION

CONTRACT = " ".join((Path(outputs.__file__).parent / "contract.md").read_text(encoding="utf-8").split())


def named(pattern: str) -> list[str]:
    """The names in the one passage of the contract that the pattern finds, without what stands in brackets."""
    passages = re.findall(pattern, CONTRACT)
    assert len(passages) == 1, passages
    return re.findall(r"\w+", re.sub(r"\([^)]*\)", "", passages[0]))


@pytest.mark.parametrize(
    ("names", "passage"),
    [
        (outputs.RejectCode, r"in the order they are checked ((?:`\w+` · )+`\w+`)"),
        (outputs.LockReason, r"### account-locked `lock_id`, `account_id`, `reason` \(([^)]+)\)"),
        (outputs.Unit, r"unit one of ([\w, ]+);"),
        (outputs.Scope, r"scope one of ([\w, ]+)\."),
        (outputs.EventType, r"Types: (.+?)\. ###"),
        (outputs.DeadLetterReason, r"Reasons: ([`\w, ]+)\."),
        (outputs.TradingState, r'state/strategy/S` \| `\{"state": ([^}]+)\}'),
        (CommandType, r"`type`: (`lock`, .+?)\. Every command"),
        (OrderStatus, r"state after this report: ([`\w, ]+)\."),
    ],
)
def test_names_are_those_of_the_contract_in_its_order(names: Any, passage: str) -> None:
    assert named(passage) == list(get_args(names))


def test_names_are_those_of_the_gate() -> None:
    assert get_args(outputs.RejectCode) == guard.CODES
    assert get_args(outputs.LockReason) == lock.REASONS
    assert get_args(outputs.TradingState) == rules.STATES
    assert get_args(CommandType) == tuple(_COMMANDS)
    assert set(get_args(outputs.InputTopic)) == set(records.INPUTS)
    assert set(get_args(outputs.AnyInputTopic)) == {*records.INPUTS, records.POLICIES}
    assert get_args(outputs.SchemaVersion) == (SCHEMA_VERSION,)
    assert get_args(ProfileName) == LADDER


def test_the_gate_asks_for_no_event_or_dead_letter_that_is_not_in_the_sets() -> None:
    known = {*get_args(outputs.EventType), *get_args(outputs.DeadLetterReason)}
    asked = {name for path in Path(guard.__file__).parent.rglob("*.py") for name in _names_asked_for(path)}
    assert asked <= known
    assert {"MALFORMED", "POLICY_UNUSABLE", "PERIOD_CLOSED", "UNLOCKED"} <= asked


def _names_asked_for(path: Path) -> Iterator[str]:
    """Upper-case strings given to the functions that make events and dead letters."""
    makers = {"dead_letter", "dead_letter_body", "event", "_event", "_odd", "unusable_fill", "_equity_missing"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", None)) in makers:
            for argument in node.args:
                if isinstance(argument, ast.Constant) and str(argument.value).isupper():
                    yield str(argument.value)
