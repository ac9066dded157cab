"""The stores of a worker's directory: lent to one at a time, kept open over a rebalance, told how far they are."""

from pathlib import Path

import pytest

from streams.core.state import Change
from streams.runtime.store import Identity, RocksEnvironment, RocksStore, StoreError, peek
from streams.runtime.stores import Stores

ENVIRONMENT = RocksEnvironment(8 * 1024 * 1024)


def identity(number: int) -> Identity:
    return Identity("cluster", "app", "topic", number)


def make(directory: Path, number: int) -> RocksStore:
    return RocksStore(directory / str(number), identity(number), ENVIRONMENT, lambda _value: 0)


def stores_in(directory: Path) -> Stores:
    return Stores(directory, identity, lambda number: make(directory, number))


def left_behind(directory: Path, number: int, checkpoint: int) -> None:
    store = make(directory, number)
    store.write([Change("accounts", b"a", b"{}")], checkpoint)
    store.close()


def is_locked(directory: Path, number: int) -> bool:
    """Whether another process could not open it. RocksDB locks against its own process too."""
    try:
        make(directory, number).close()
    except StoreError:
        return True
    return False


def test_a_survey_finds_what_a_former_process_left(tmp_path: Path) -> None:
    left_behind(tmp_path, 3, 70)
    left_behind(tmp_path, 5, 9)
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "7").mkdir()
    stores = stores_in(tmp_path)
    assert stores.warm() == {}
    stores.survey()
    assert stores.warm() == {3: 70, 5: 9}


def test_a_directory_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    stores = stores_in(tmp_path / "state")
    stores.survey()
    assert stores.warm() == {}


def test_what_is_lent_is_told_as_far_as_it_is_now(tmp_path: Path) -> None:
    left_behind(tmp_path, 0, 5)
    stores = stores_in(tmp_path)
    stores.survey()
    store = stores.lend(0)
    store.write([], 12)
    assert stores.warm() == {0: 12}
    store.wipe()
    assert stores.warm() == {}


def test_a_store_is_lent_to_one_at_a_time(tmp_path: Path) -> None:
    stores = stores_in(tmp_path)
    store = stores.lend(0)
    with pytest.raises(RuntimeError, match="partition 0 is lent already"):
        stores.lend(0)
    stores.hand_back(0)
    assert stores.lend(0) is store


def test_what_was_handed_back_stays_open_until_it_is_clear_that_nobody_wants_it(tmp_path: Path) -> None:
    stores = stores_in(tmp_path)
    for number in range(3):
        stores.lend(number).write([], 10 + number)
    stores.hand_back(0)
    stores.hand_back(1)
    assert [is_locked(tmp_path, number) for number in range(3)] == [True, True, True]
    stores.close_except({0})
    assert [is_locked(tmp_path, number) for number in range(3)] == [True, False, True]
    assert stores.warm() == {0: 10, 1: 11, 2: 12}
    stores.hand_back(2)
    stores.close_except(())
    assert [is_locked(tmp_path, number) for number in range(3)] == [False, False, False]
    assert stores.lend(1).checkpoint == 11


def test_a_store_that_cannot_be_opened_is_not_lent(tmp_path: Path) -> None:
    other = make(tmp_path, 0)
    stores = stores_in(tmp_path)
    with pytest.raises(StoreError, match="in use by another process"):
        stores.lend(0)
    other.close()
    assert stores.lend(0).checkpoint == 0


# -- looking without opening


def test_a_peek_needs_no_lock_and_leaves_none(tmp_path: Path) -> None:
    store = make(tmp_path, 0)
    store.write([], 42)
    store.close()
    again = make(tmp_path, 0)
    assert peek(tmp_path / "0", identity(0)) == 42
    again.close()
    assert peek(tmp_path / "0", identity(0)) == 42
    assert not is_locked(tmp_path, 0)


def test_a_peek_at_what_is_not_ours_or_not_there_finds_nothing(tmp_path: Path) -> None:
    left_behind(tmp_path, 0, 42)
    assert peek(tmp_path / "0", identity(1)) == 0
    assert peek(tmp_path / "1", identity(1)) == 0
    assert not (tmp_path / "1").exists()


def test_a_peek_at_a_damaged_store_finds_nothing(tmp_path: Path) -> None:
    left_behind(tmp_path, 0, 42)
    left_behind(tmp_path, 1, 42)
    (tmp_path / "0.damaged").touch()
    assert peek(tmp_path / "0", identity(0)) == 0
    for file in (tmp_path / "1").glob("MANIFEST-*"):
        file.write_bytes(b"nonsense")
    assert peek(tmp_path / "1", identity(1)) == 0
