"""The gate as the properties see it: records in, records out, and the state between."""

import base64
from typing import Any

import orjson

from schemas.types import write_amount
from streams.config import parse_config
from streams.core.records import Output, Record, text_of
from streams.core.rules import rules_of
from streams.core.state import NEW_ACCOUNT, Account, changes_of, decode_account
from streams.replay import Replay
from tests.model import strategies

Json = dict[str, Any]


class Gate:
    """A replay that keeps what it was given, so that a record can be given again."""

    def __init__(self, config: Json) -> None:
        self.replay = Replay(rules_of(parse_config(config, {})))

    def feed(self, record: strategies.Record) -> list[Json]:
        """The records that one record yields, decoded."""
        return [_decoded(output) for output in self.replay.apply(as_record(record))]

    def account(self, account_id: str) -> Account:
        """The live account."""
        return self.replay.accounts.get(account_id, NEW_ACCOUNT)

    def restored(self, account_id: str) -> Account:
        """The account as a restart would find it."""
        changes = changes_of(account_id, NEW_ACCOUNT, self.account(account_id))
        return decode_account({one.table: one.value for one in changes if one.value is not None})

    def state_of(self, account_id: str) -> Json:
        """What the naive model's ``state_of`` says, of the gate."""
        account = self.account(account_id)
        standing, drawdown = account.standing, account.drawdown
        usable = drawdown.usable and not drawdown.unfunded and drawdown.equity is not None
        breach = standing.last_breach
        return {
            "profile": standing.profile or self.replay.rules.accounts[account_id].profile,
            "locks": sorted(lock.reason for lock in standing.locks),
            "halted": standing.halted,
            "fill_unusable": standing.fill_unusable,
            "equity": write_amount(drawdown.equity) if usable and drawdown.equity is not None else None,
            "base_daily": write_amount(drawdown.day.base) if drawdown.day else None,
            "base_weekly": write_amount(drawdown.week.base) if drawdown.week else None,
            "hwm": write_amount(drawdown.hwm) if drawdown.hwm is not None else None,
            "positions": {
                (instrument, venue): write_amount(position.quantity)
                for instrument, venue, position in account.book.each()
            },
            "open_orders": {order_id: write_amount(order.left) for order_id, order in account.orders.open.items()},
            "last_breach": (breach.reason, breach.at_ms) if breach else None,
        }


def as_record(record: strategies.Record) -> Record:
    """A generated record as the log would hold it."""
    return Record(record.topic, 0, record.offset, record.timestamp_ms, record.key, record.value)


def _decoded(output: Output) -> Json:
    key = text_of(output.key)
    if key is None and output.key is not None:
        key = base64.b64encode(output.key).decode()
    return {"topic": output.topic, "key": key, "value": orjson.loads(output.value)}
