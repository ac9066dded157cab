"""Whose turn it is on the event loop that a worker's partitions share.

A lock after a breach is a transaction of one or two records, and takes the loop some twenty times between the record's
arrival and its commit. Beside a burst of another partition each of these times waits for a slice of a long fold, so the
slices are short while a transaction of few records is under way, and longer when nobody waits.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

SLICE_RECORDS = 3
"""A tenth of a millisecond: how long a fold keeps the loop while a short transaction is under way."""
_SLICES_ALONE = 4
_LONG_RECORDS = 100


class Turns:
    """Shared by the partitions of one worker."""

    def __init__(self) -> None:
        self._long_fold = asyncio.Lock()
        self._short = 0

    @contextmanager
    def transaction(self, records: int) -> Iterator[None]:
        """The time of a whole transaction, from its fold to its commit."""
        if records >= _LONG_RECORDS:
            yield
            return
        self._short += 1
        try:
            yield
        finally:
            self._short -= 1

    @asynccontextmanager
    async def fold(self, records: int) -> AsyncIterator[None]:
        """The time of a fold. Only one long fold at a time: in turns, both would end late, and brokers would have
        nothing to do meanwhile."""
        if records < _LONG_RECORDS:
            yield
            return
        async with self._long_fold:
            yield

    def is_over(self, slices: int, records: int) -> bool:
        """Whether a fold of so many records, so many slices of which are done, should let others have the loop."""
        own = records < _LONG_RECORDS
        return self._short > own or slices % _SLICES_ALONE == 0
