"""State records: they encode and decode to themselves, and an unknown version is refused."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.core.state import (
    DECISIONS,
    NEW_ACCOUNT,
    TABLES,
    Account,
    Book,
    Breach,
    Drawdown,
    Lock,
    Order,
    Orders,
    Period,
    Position,
    Remembered,
    Standing,
    changes_of,
    decode_account,
    decode_remembered,
    decode_state,
    encode_state,
    remembered_key,
)
from tests.unit.desk import Desk

amounts = st.decimals(allow_nan=False, allow_infinity=False)
times = st.integers(min_value=0, max_value=2**53)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


def mapping(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(names, values, max_size=3)


def several(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, max_size=3).map(tuple)


maybe_amounts = st.none() | amounts
locks = st.builds(
    Lock,
    reason=names,
    at_ms=times,
    observed=maybe_amounts,
    limit=maybe_amounts,
    base=maybe_amounts,
    period_start_ms=st.none() | times,
)
standings = st.builds(
    Standing,
    profile=st.none() | names,
    locks=several(locks),
    halted=st.booleans(),
    fill_unusable=st.booleans(),
    last_breach=st.none() | st.builds(Breach, reason=names, at_ms=times),
)
periods = st.builds(
    Period,
    start_ms=times,
    end_ms=times,
    base=amounts,
    opened=amounts,
    high=amounts,
    low=amounts,
    breaches=st.integers(0, 9),
    warned=several(amounts),
)
drawdowns = st.builds(
    Drawdown,
    sequence=st.none() | st.integers(-(2**63) + 1, 2**63 - 1),
    usable=st.booleans(),
    unfunded=st.booleans(),
    equity=maybe_amounts,
    balance=maybe_amounts,
    as_of_ms=times,
    carried=amounts,
    day=st.none() | periods,
    week=st.none() | periods,
    hwm=maybe_amounts,
    trailing_breaches=st.integers(0, 9),
    trailing_warned=several(amounts),
    marks=mapping(amounts),
    rates=mapping(amounts),
)
positions = st.builds(Position, quantity=amounts, average_price=amounts, stop=maybe_amounts)
books = st.builds(Book, positions=mapping(mapping(positions)), fill_prices=mapping(amounts))
working = st.builds(
    Order,
    instrument=names,
    venue=names,
    side=names,
    quantity=amounts,
    price=amounts,
    stop=maybe_amounts,
    valid_until_ms=times,
    filled=amounts,
    reduces=st.booleans(),
    overdue=st.booleans(),
)
orders = st.builds(Orders, open=mapping(working), approvals=several(times), due_ms=st.none() | times)
memories = st.builds(
    Remembered,
    first_id=names,
    expires_ms=times,
    venue=st.none() | names,
    stop=maybe_amounts,
    instrument=st.none() | names,
    side=st.sampled_from([None, "buy", "sell"]),
    reduces=st.booleans(),
)
ACCOUNTS = st.builds(Account, standings, drawdowns, books, orders)


def stored(account: Account) -> Account:
    """Through the records of its tables and back."""
    return decode_account({table: encode_state(part) for table, part in zip(TABLES, account, strict=True)})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ACCOUNTS)
def test_an_account_encodes_and_decodes_to_itself(account: Account) -> None:
    assert stored(account) == account
    assert list(stored(account).orders.open) == list(account.orders.open), "in order of approval"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(memories)
def test_a_remembered_id_encodes_and_decodes_to_itself(memory: Remembered) -> None:
    assert decode_remembered(encode_state(memory)) == memory


def test_every_field_of_the_state_is_drawn() -> None:
    """A field that these strategies forgot would round-trip untested."""
    drawn: Mapping[type[msgspec.Struct], st.SearchStrategy[Any]] = {
        Lock: locks,
        Standing: standings,
        Period: periods,
        Drawdown: drawdowns,
        Position: positions,
        Book: books,
        Order: working,
        Orders: orders,
        Remembered: memories,
    }
    for struct, strategy in drawn.items():
        for field in struct.__struct_fields__:
            assert f"{field}=" in repr(strategy), f"{struct.__name__}.{field}"


def test_a_new_account_needs_no_records() -> None:
    assert decode_account({}) == NEW_ACCOUNT
    assert stored(NEW_ACCOUNT) == NEW_ACCOUNT


@pytest.mark.parametrize("table", [*TABLES, DECISIONS])
@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{}",
        b'{"v":0}',
        b'{"v":2}',
        b'{"v":10}',
        b'{"v":"1"}',
        b'{"v":1',
        b'{"profile":"low","v":1}',
        b"null",
        b"\x00",
        b'{"v":1,"locks":7,"day":7,"positions":7,"open":7,"first_id":7}',
    ],
)
def test_an_unknown_version_or_shape_is_refused(table: str, value: bytes) -> None:
    with pytest.raises(ValueError, match=table):
        decode_state(table, value)


def test_every_record_starts_with_its_version() -> None:
    for part in NEW_ACCOUNT:
        assert encode_state(part) == b'{"v":1}'
    assert encode_state(Standing(halted=True)).startswith(b'{"v":1,')


def test_only_the_tables_that_changed_are_written() -> None:
    after = NEW_ACCOUNT._replace(standing=Standing(halted=True))
    changes = list(changes_of("main", NEW_ACCOUNT, after))
    assert [(one.table, one.key) for one in changes] == [("accounts", b"main")]
    assert decode_state("accounts", changes[0].value or b"") == after.standing
    assert list(changes_of("main", after, after)) == []


def test_remembered_ids_have_keys_of_their_own() -> None:
    keys = [remembered_key(account, kind, "x") for account in "ab" for kind in ("signal", "fill", "command", "order")]
    assert len(set(keys)) == 8


# -- after a replay ------------------------------------------------------------------------------------------------


def busy() -> Desk:
    """An account in which nearly everything has happened."""
    desk = Desk(
        account={"failover": ["kraken"], "base": "max"},
        profiles={"normal": {"confirmations": 2, "max_trailing_drawdown": "0.5", "headroom": False}},
        limits={"rate_limit": {"orders": 9, "per": "1h"}},
    )
    desk.pnl("10000", balance="9999", marks={"BTC-USD": "100.5"}, rates={"JPY": "0.0067"})
    desk.hold("3", "33.333333").hold("-1", "7", instrument="ETH-USD", venue="kraken")
    first = desk.working(quantity="0.1")
    desk.fill(order_id=first, quantity="0.04", status="partially_filled")
    desk.fill(order_id=desk.working(instrument="ADA-USD"), instrument="ADA-USD", quantity="0.5")
    desk.working(side="sell", stop_loss=None)
    desk.pnl("NaN", cash_flow="1.5")
    desk.pnl("9700", balance="9700")
    desk.pnl("9700", balance="9700")
    desk.pnl("9400", balance="9400")
    desk.command("lock")
    desk.command("halt")
    desk.command("set_profile", profile="low")
    desk.fill(price="0")
    desk.later(hours=20).pnl("9399", balance="9399")
    return desk


def test_an_account_after_a_replay_round_trips() -> None:
    account = busy().account
    assert account.standing.locks
    assert account.standing.profile == "low"
    assert len(account.orders.open) == 2
    assert account.drawdown.marks
    assert stored(account) == account


def test_an_account_that_was_stored_decides_like_one_that_was_not() -> None:
    kept, restored = busy(), busy()
    restored.gate.accounts = {name: stored(account) for name, account in restored.gate.accounts.items()}
    for desk in (kept, restored):
        desk.later(minutes=1)
    assert kept.pnl("9000", balance="9000") == restored.pnl("9000", balance="9000")
    assert kept.command("resume") == restored.command("resume")
    assert kept.signal(side="sell", stop_loss=None) == restored.signal(side="sell", stop_loss=None)
    assert kept.at("2017-12-26T00:00:00Z").pnl("1", balance="1") == restored.at("2017-12-26T00:00:00Z").pnl(
        "1", balance="1"
    )
    assert kept.account == restored.account
