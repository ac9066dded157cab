"""The gate's state in an engine's own tables: one value a table and account, remembered ids under keys of their own."""

from collections.abc import Mapping
from typing import Protocol

from streams.core.state import DECISIONS, NEW_ACCOUNT, TABLES, Account, Change, Remembered, decode_account
from streams.core.state import decode_remembered as decode

ALL_TABLES = (*TABLES, DECISIONS)


class Table(Protocol):
    """What is asked of a table."""

    def get(self, key: bytes) -> bytes | None: ...

    def __setitem__(self, key: bytes, value: bytes) -> None: ...


class TableState:
    """Reads accounts from tables and writes changes to them."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self._tables = tables

    def read(self, account_id: str) -> Account:
        """The account as it is stored."""
        key = account_id.encode()
        parts = {name: value for name in TABLES if (value := self._tables[name].get(key)) is not None}
        return decode_account(parts) if parts else NEW_ACCOUNT

    def recall(self, key: bytes) -> Remembered | None:
        """A remembered id."""
        value = self._tables[DECISIONS].get(key)
        return None if value is None else decode(value)

    def write(self, changes: list[Change]) -> None:
        """Put every change into its table."""
        for table, key, value in changes:
            if value is not None:
                self._tables[table][key] = value
