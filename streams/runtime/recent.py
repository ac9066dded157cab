"""What was used last, up to a number."""

from collections.abc import Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A bounded cache of two generations; what is used is in the young one.

    When it is full the young generation becomes the old one, and from then on old entries make room for new ones,
    those that came in last first: among accounts they are the rare ones. As long as all entries fit, a look-up is one
    of a dict; an exact order of use would be written at each, to memory that is cold among a million entries.
    """

    def __init__(self, limit: int) -> None:
        """``limit``: how many entries stay after an update, or that update's own where they are more."""
        self._limit = limit
        self._young: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: Key) -> Value | None:
        """What is held under a key, which counts as a use."""
        found = self._young.get(key)
        if found is None and (found := self._old.pop(key, None)) is not None:
            self._young[key] = found
        return found

    def update(self, entries: Mapping[Key, Value]) -> None:
        """Put entries in, in place of those under the same keys, and drop others that are too many."""
        if self._old:
            for key in entries:
                self._old.pop(key, None)
        self._young.update(entries)
        while len(self) > self._limit and (self._old or len(self._young) > len(entries)):
            if not self._old:
                self._old, self._young = self._young, dict(entries)
                for key in entries:
                    del self._old[key]
            self._old.popitem()

    def clear(self) -> None:
        """Hold nothing."""
        self._young, self._old = {}, {}
