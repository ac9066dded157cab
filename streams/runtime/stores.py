"""The stores in one worker's data directory: which partitions' state is there, how far, and which stores are open.

A rebalance takes every partition from its owner and mostly gives it back. A store that was handed back stays open until
the next assignment says who needs it: its owner again, this worker as a standby, or nobody. That is safe, because
RocksDB's own lock keeps every other process out, because a store always holds exactly one committed transaction's
state, and because whoever gets it fences and restores before anything else: an open store only saves the opening.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from streams.runtime.store import Identity, Store, peek

log = logging.getLogger(__name__)


class Stores:
    """Lends stores out, one borrower at a time, and keeps what is handed back open."""

    def __init__(self, directory: Path, identity: Callable[[int], Identity], make: Callable[[int], Store]) -> None:
        """``directory`` has one database a partition, named by its number; ``make`` opens or creates one."""
        self._directory = directory
        self._identity = identity
        self._make = make
        self._open: dict[int, Store] = {}
        self._lent: set[int] = set()
        self._closed: dict[int, int] = {}

    def survey(self) -> None:
        """Look how far each database is that lies there. Blocks for some milliseconds each."""
        for path in self._directory.glob("*"):
            if path.name.isdecimal() and (offset := peek(path, self._identity(int(path.name)))):
                self._closed[int(path.name)] = offset
        if self._closed:
            log.info("found the state of partitions %s", sorted(self._closed))

    def warm(self) -> Mapping[int, int]:
        """The changelog offset up to which each partition's state is here."""
        return self._closed | {number: store.checkpoint for number, store in self._open.items() if store.checkpoint}

    def lend(self, number: int) -> Store:
        """The store of a partition, to one borrower. Raises StoreError if it cannot be opened."""
        if number in self._lent:
            raise RuntimeError(f"the store of partition {number} is lent already")
        store = self._open.get(number)
        if store is None:
            store = self._open[number] = self._make(number)
            self._closed.pop(number, None)
        self._lent.add(number)
        return store

    def hand_back(self, number: int) -> None:
        """It is not used any more; a second time does nothing."""
        self._lent.discard(number)

    def close_except(self, wanted: Collection[int]) -> None:
        """Close what is neither lent nor wanted. Its files stay."""
        for number in [number for number in self._open if number not in self._lent and number not in wanted]:
            store = self._open.pop(number)
            self._closed[number] = store.checkpoint
            store.close()
