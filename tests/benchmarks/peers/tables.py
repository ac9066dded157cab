"""The gate's state in an engine's own tables, as a user of that engine would lay it out: one value an account, which is
read and written once an event, and remembered ids under keys of their own."""

from typing import Protocol

from streams.core.state import DECISIONS, NEW_ACCOUNT, TABLES, Account, Change, Remembered, decode_account
from streams.core.state import decode_remembered as decode

ACCOUNTS, IDS = "accounts", "ids"
# No encoded part has a line break of its own: it is JSON.
_BREAK = b"\n"


class Table(Protocol):
    """What is asked of a table."""

    def get(self, key: bytes) -> bytes | None: ...

    def __setitem__(self, key: bytes, value: bytes) -> None: ...


class TableState:
    """Reads an account from its table and writes back what changed; each event in one go, without a pause between."""

    def __init__(self, accounts: Table, ids: Table) -> None:
        self._accounts = accounts
        self._ids = ids
        self._parts: dict[str, bytes] = {}

    def read(self, account_id: str) -> Account:
        """The account as it is stored; the next ``write`` is about it."""
        value = self._accounts.get(account_id.encode())
        if value is None:
            self._parts = {}
            return NEW_ACCOUNT
        self._parts = {name: part for name, part in zip(TABLES, value.split(_BREAK), strict=True) if part}
        return decode_account(self._parts)

    def recall(self, key: bytes) -> Remembered | None:
        """A remembered id."""
        value = self._ids.get(key)
        return None if value is None else decode(value)

    def write(self, account_id: str, changes: list[Change]) -> None:
        """Store what an event changed."""
        parts = {}
        for table, key, value in changes:
            assert value is not None  # a step deletes nothing
            if table == DECISIONS:
                self._ids[key] = value
            else:
                parts[table] = value
        if parts:
            parts = self._parts | parts
            self._accounts[account_id.encode()] = _BREAK.join(parts.get(name, b"") for name in TABLES)
