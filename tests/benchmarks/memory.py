"""State in a dict, as the practical limit has it, and folds of whole streams on it."""

from collections.abc import Callable, Iterable, Mapping

from streams.config import parse_config
from streams.core.fold import Batch, Commit, View
from streams.core.rules import Rules, rules_of
from streams.core.state import DECISIONS, Account, Remembered, decode_remembered
from tests.benchmarks.workload import configuration

Fold = Callable[[Batch, View, Rules, Callable[[str], int]], Commit]
"""``streams.core.fold.fold``, or what stands in for it."""


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


def rules_for(accounts: int) -> Rules:
    """The rules that the workload trades under."""
    return rules_of(parse_config(configuration(accounts), {}))


def fold_all(
    folding: Fold,
    prepared: Iterable[Batch],
    views: Mapping[int, MemoryView],
    rules: Rules,
    owner: Callable[[str], int],
) -> None:
    """Fold batch after batch, each on the state of its partition."""
    for batch in prepared:
        view = views[batch.partition]
        view.apply(folding(batch, view, rules, owner))
