"""When a fold lets others have the event loop."""

import asyncio

from streams.runtime.turns import Turns


def slices_in_a_row(turns: Turns, records: int = 500) -> int:
    """How many slices a fold does before it lets go."""
    return next(number for number in range(1, 100) if turns.is_over(number, records))


def test_a_fold_that_nobody_waits_for_does_several_slices_in_a_row() -> None:
    turns = Turns()
    with turns.transaction(500):
        assert slices_in_a_row(turns) == 4
    with turns.transaction(99):
        assert slices_in_a_row(turns, 99) == 4


def test_beside_a_short_transaction_a_fold_lets_go_after_every_slice() -> None:
    turns = Turns()
    with turns.transaction(500):
        with turns.transaction(1), turns.transaction(2):
            pass
        with turns.transaction(99):
            assert slices_in_a_row(turns) == 1
        assert slices_in_a_row(turns) == 4


def test_a_short_transaction_that_fails_is_over() -> None:
    turns = Turns()
    try:
        with turns.transaction(1):
            raise TimeoutError
    except TimeoutError:
        assert slices_in_a_row(turns) == 4


async def test_long_folds_go_one_after_the_other_and_short_ones_when_they_like() -> None:
    turns = Turns()
    order: list[str] = []

    async def fold(name: str, records: int) -> None:
        async with turns.fold(records):
            order.append(f"{name} begins")
            for _ in range(3):
                await asyncio.sleep(0)
            order.append(f"{name} ends")

    await asyncio.gather(fold("long", 100), fold("longer", 500), fold("short", 99))
    assert order == ["long begins", "short begins", "long ends", "short ends", "longer begins", "longer ends"]
