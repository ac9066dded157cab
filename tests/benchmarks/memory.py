"""State in a dict, as the practical limit has it."""

from collections.abc import Mapping

from streams.core.fold import Commit
from streams.core.state import DECISIONS, Account, Remembered, decode_remembered


class MemoryView:
    """Live accounts; remembered ids encoded, as RocksDB has them."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.offsets: Mapping[str, int] = {}
        self._ids: dict[bytes, bytes] = {}

    def account(self, account_id: str) -> Account | None:
        """The live object, as a warm cache has it."""
        return self.accounts.get(account_id)

    def remembered(self, key: bytes) -> Remembered | None:
        """Decoded anew at each look-up."""
        value = self._ids.get(key)
        return None if value is None else decode_remembered(value)

    def apply(self, commit: Commit) -> None:
        """Take over what a batch has changed."""
        self.accounts.update(commit.accounts)
        self.offsets = commit.offsets
        for change in commit.changes:
            if change.table == DECISIONS and change.value is not None:
                self._ids[change.key] = change.value
