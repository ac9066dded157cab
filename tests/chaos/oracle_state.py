"""The state changelog beside the model, transaction by transaction, and the workers' databases beside the changelog.

Each transaction's changes must be what the model's accounts and remembered ids became in it: nothing that changed may
be missing, nothing may be written that did not, and no id may be forgotten that could still come again. Figures are
compared exactly; an average price and a lock's drawdown to the 34 and 100 digits that the gate keeps.

A changelog that Kafka may have compacted (``compacted``) has lost changes that were made again later. What is left is
then held against the model as of the next transaction whose offsets are there, and whatever is missing has to come
again: the last change of every key is never compacted away. A change that was lost and made again later is not seen.

A database must hold, byte for byte, what the changelog said at its checkpoint, and one of each partition's databases
must be up to the changelog's end.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import groupby, pairwise
from typing import Any

import orjson

from tests.chaos.oracle_findings import STATE_MISMATCH, Findings
from tests.chaos.oracle_replay import Replay, Transaction
from tests.chaos.recording import JOURNAL, STATE, Rec, Recording, Store
from tests.model.naive import DAILY, TRAILING, WEEKLY, Account, Json, NaiveGate, Period, duration_ms, end_ms

TABLES = ("accounts", "drawdown", "positions", "orders")
_OFFSETS, _POLICIES, _PARTITIONS = b"partition\0offsets", b"partition\0policies", b"partition\0partitions"
# Quotients without an end are kept to so many digits: one less decides. All other figures must be equal.
_DIGITS = {"observed": Fraction(1, 10**98), "average_price": Fraction(1, 10**32)}
_MISSING = "nothing"


def key_of(table: str, *parts: str) -> bytes:
    """A changelog key."""
    return "\0".join((table, *parts)).encode()


def remembered_key(kind: str, account_id: str, one_id: str) -> bytes:
    """The changelog key of a remembered id."""
    return key_of("decisions", kind, str(len(account_id)), account_id, one_id)


# ----------------------------------------------------------------------------------------- what the model says of it


def tables_of(gate: NaiveGate, account: Account) -> dict[str, Json]:
    """An account's four records, as the model has them."""
    update, periods = account.update, account.periods
    breach = account.last_breach
    usable = update is not None and not account.equity_missing
    positions: dict[str, Json] = {}
    for instrument, venue, held in account.held:
        furthest: Callable[[list[Fraction]], Fraction] = min if held.quantity > 0 else max
        stop = furthest(held.stops) if held.stops else None
        value = {"quantity": held.quantity, "average_price": held.average_price, "stop": stop}
        positions.setdefault(instrument, {})[str(venue)] = value
    return {
        "accounts": {
            "profile": account.profile if account.profile_is_set else None,
            "locks": {
                reason: {
                    "reason": reason,
                    "at_ms": lock.at_ms,
                    "observed": lock.observed,
                    "limit": lock.limit,
                    "base": lock.base,
                    "period_start_ms": lock.period_start_ms,
                }
                for reason, lock in account.locks.items()
            },
            "halted": account.halted,
            "fill_unusable": account.fill_unusable,
            "last_breach": None if breach is None else {"reason": breach[0], "at_ms": breach[1]},
        },
        "drawdown": {
            "sequence": account.sequence,
            "usable": usable,
            "unfunded": account.unfunded,
            "equity": None if update is None else update.equity,
            "balance": None if update is None else update.balance,
            "as_of_ms": 0 if update is None else update.as_of_ms,
            "carried": account.carried_flow,
            "day": _period(account, "day", DAILY, periods.get("day")),
            "week": _period(account, "week", WEEKLY, periods.get("week")),
            "hwm": account.bases.get(TRAILING),
            "trailing_breaches": account.counts[TRAILING],
            "trailing_warned": sorted(account.warned[TRAILING]),
            "marks": account.marks,
            "rates": account.rates,
        },
        "positions": {"positions": positions, "fill_prices": account.fill_prices},
        "orders": {
            "open": {
                order.order_id: {
                    "instrument": order.instrument,
                    "venue": order.venue,
                    "side": order.side,
                    "quantity": order.quantity,
                    "price": order.price,
                    "stop": order.stop_loss,
                    "valid_until_ms": order.valid_until_ms,
                    "filled": order.filled,
                    "reduces": order.is_exit,
                    "overdue": order.warned,
                }
                for order in account.open_orders
            },
            "approvals": list(account.approvals_ms),
            "due_ms": min((one.valid_until_ms for one in account.open_orders if not one.warned), default=None),
        },
    }


def _period(account: Account, name: str, limit: str, period: Period | None) -> Json | None:
    if period is None:
        return None
    return {
        "start_ms": period.start_ms,
        "end_ms": end_ms(account, name, period.start_ms),
        "base": account.bases[limit],
        "opened": period.open,
        "high": period.high,
        "low": period.low,
        "breaches": account.counts[limit],
        "warned": sorted(account.warned[limit]),
    }


def remembered_of(gate: NaiveGate, kind: str, account_id: str, one_id: str) -> Json:
    """What is kept of an id."""
    nothing: Json = {"venue": None, "stop": None, "instrument": None, "side": None, "reduces": False}
    if kind == "signal":
        first_id, expires_ms = gate.decided[account_id, one_id]
        return {"first_id": first_id, "expires_ms": expires_ms, **nothing}
    if kind == "order":
        order = gate.accounts[account_id].orders[one_id]
        return {
            "first_id": one_id,
            "expires_ms": order.closed_until_ms,
            "venue": order.venue,
            "stop": order.stop_loss,
            "instrument": order.instrument,
            "side": order.side,
            "reduces": order.is_exit,
        }
    memory = gate.filled if kind == "fill" else gate.commanded
    return {"first_id": one_id, "expires_ms": memory[account_id, one_id], **nothing}


# --------------------------------------------------------------------------------------------- what the changelog says

_DEFAULTS: dict[str, Json] = {
    "accounts": {"profile": None, "locks": [], "halted": False, "fill_unusable": False, "last_breach": None},
    "drawdown": {
        "sequence": None,
        "usable": False,
        "unfunded": False,
        "equity": None,
        "balance": None,
        "as_of_ms": 0,
        "carried": "0",
        "day": None,
        "week": None,
        "hwm": None,
        "trailing_breaches": 0,
        "trailing_warned": [],
        "marks": {},
        "rates": {},
    },
    "positions": {"positions": {}, "fill_prices": {}},
    "orders": {"open": {}, "approvals": [], "due_ms": None},
    "decisions": {"venue": None, "stop": None, "instrument": None, "side": None, "reduces": False},
}
_LOCK: Json = {"observed": None, "limit": None, "base": None, "period_start_ms": None}
_PERIOD: Json = {"breaches": 0, "warned": []}
_POSITION: Json = {"stop": None}
_ORDER: Json = {"filled": "0", "reduces": False, "overdue": False}


def written(table: str, value: bytes) -> Json:
    """A state record with its defaults. Raises ValueError."""
    record = orjson.loads(value)
    if not isinstance(record, dict) or record.pop("v", None) != 1:
        raise ValueError(f"is no record of version 1: {value[:80]!r}")
    record = _DEFAULTS[table] | record
    if table == "accounts":
        record["locks"] = {lock["reason"]: _LOCK | lock for lock in record["locks"]}
    if table == "drawdown":
        record |= {name: _PERIOD | record[name] for name in ("day", "week") if record[name] is not None}
    if table == "positions":
        held = record["positions"]
        record["positions"] = {
            name: {venue: _POSITION | one for venue, one in venues.items()} for name, venues in held.items()
        }
    if table == "orders":
        record["open"] = {order_id: _ORDER | order for order_id, order in record["open"].items()}
    return record


def unlike(actual: Any, expected: Any, path: str = "") -> str:
    """The first field that differs; "" if none does. The model's amounts are fractions, the record's are texts."""
    if isinstance(expected, Fraction):
        try:
            found = Fraction(actual) if isinstance(actual, str) else None
        except ValueError:
            found = None
        slack = _DIGITS.get(path.rpartition(".")[2], Fraction(0)) * abs(expected)
        if found is None or abs(found - expected) > slack:
            return f"{path} is {actual!r}, expected {_show(expected)}"
        return ""
    if isinstance(expected, dict) and isinstance(actual, dict):
        if actual.keys() != expected.keys():
            return f"{path or 'its'} fields are {sorted(actual)}, expected {sorted(expected)}"
        pairs: Iterable[tuple[Any, Any, Any]] = ((name, actual[name], expected[name]) for name in expected)
    elif isinstance(expected, list) and isinstance(actual, list) and len(actual) == len(expected):
        pairs = zip(range(len(actual)), actual, expected, strict=True)
    elif actual == expected and type(actual) is type(expected):
        return ""
    else:
        return f"{path} is {actual!r}, expected {_show(expected)}"
    return next(
        filter(None, (unlike(one, other, f"{path}.{name}" if path else str(name)) for name, one, other in pairs)), ""
    )


def _show(expected: Any) -> str:
    return f"about {float(expected)}" if isinstance(expected, Fraction) else repr(expected)


def runs_of(recording: Recording, partition: int) -> Iterator[list[Rec]]:
    """The changelog by transactions: a marker, which is not handed out, follows each of them.

    A stretch that does not say its offsets is a part of what follows it.
    """
    run: list[Rec] = []
    for rec in recording.records(STATE, partition):
        if run and rec.offset != run[-1].offset + 1 and any(one.key == _OFFSETS for one in run):
            yield run
            run = []
        run.append(rec)
    if run:
        yield run


def _joined(runs: Iterable[list[Rec]]) -> Iterator[list[Rec]]:
    """Runs that name the same offsets as one: what compaction leaves of them cannot be told apart."""
    for _, same in groupby(runs, lambda run: [rec.value for rec in run if rec.key == _OFFSETS][-1:]):
        yield [rec for run in same for rec in run]


def _before_policies_alone(recording: Recording, partition: int) -> set[str]:
    """The transactions after which one applied no input, and so names the same offsets; the last of them is judged."""
    names = [(f"{JOURNAL}-{partition}@{rec.offset}", _json(rec.value)) for rec in recording.records(JOURNAL, partition)]
    return {
        where for (where, _), (_, entry) in pairwise(names) if isinstance(entry, dict) and entry.get("offsets") == {}
    }


def is_thinned(recording: Recording, partition: int) -> bool:
    """Whether the changelog lacks what some transaction wrote: each of them writes its offsets."""
    written_offsets = sum(rec.key == _OFFSETS for rec in recording.records(STATE, partition))
    return written_offsets < sum(1 for _ in recording.records(JOURNAL, partition))


@dataclass
class StateCheck:
    """Follows a partition's changelog while its transactions are replayed."""

    recording: Recording
    replay: Replay
    findings: Findings
    compacted: bool = False
    _owed: dict[bytes, str] = field(default_factory=dict)
    """Changes that were compacted away if their key is written again, by the transaction that made them."""
    _known: dict[bytes, Json] = field(default_factory=dict)
    """What the model last said of each record."""
    _reported: int = -1
    """The last unusable policy that was said to be dead-lettered."""
    _counted: bool = False
    """Whether the number of partitions was written, which is done once."""

    def __post_init__(self) -> None:
        runs = runs_of(self.recording, self.replay.partition)
        self._runs = _joined(runs) if self.compacted else runs
        self._followed = _before_policies_alone(self.recording, self.replay.partition)
        self._waiting: list[Rec] | None = next(self._runs, None)
        gate = self.replay.gate
        for account in gate.accounts.values():
            for table, record in tables_of(gate, account).items():
                self._known[key_of(table, account.account_id)] = record

    def follow(self, transaction: Transaction) -> None:
        """Compare the changes of the transaction that was replayed last."""
        gate = self.replay.gate
        expected, allowed = self._changes(gate)
        if self.compacted:
            if transaction.where in self._followed or not self._is_written_by_the_last():
                self._owed |= dict.fromkeys(expected, transaction.where)
                return
            allowed = self._known
        run = self._run(transaction)
        if run is None:
            return
        if self.compacted:
            run = list({rec.key: rec for rec in run}.values())
        seen: set[bytes] = set()
        for rec in run:
            key = rec.key or b""
            where = f"{STATE}-{self.replay.partition}@{rec.offset}"
            if key in seen:
                self.findings.add(STATE_MISMATCH, where, f"{key!r} is written twice in one transaction")
            seen.add(key)
            if fault := self._fault(key, rec.value, expected, allowed, transaction):
                self.findings.add(STATE_MISMATCH, where, f"{key!r} after {transaction.where}: {fault}")
        for key in self._owed.keys() & seen:
            del self._owed[key]
        if self.compacted:
            self._owed |= dict.fromkeys(expected.keys() - seen, transaction.where)
            return
        for key in expected.keys() - seen:
            where = f"{STATE}-{self.replay.partition}@{run[-1].offset}"
            self.findings.add(STATE_MISMATCH, where, f"{key!r} changed with {transaction.where} and was not written")

    def finish(self) -> None:
        """All transactions are replayed."""
        while self._waiting is not None:
            where = f"{STATE}-{self.replay.partition}@{self._waiting[0].offset}"
            self.findings.add(STATE_MISMATCH, where, "was written by no transaction of the journal")
            self._waiting = next(self._runs, None)
        if not self._counted and any(True for _ in self.recording.records(STATE, self.replay.partition)):
            self.findings.add(STATE_MISMATCH, f"{STATE}-{self.replay.partition}", f"{_PARTITIONS!r} was never written")
        for key, where in self._owed.items():
            place = f"{STATE}-{self.replay.partition}"
            self.findings.add(STATE_MISMATCH, place, f"{key!r} changed with {where} and was never written after it")

    def _is_written_by_the_last(self) -> bool:
        """Whether what comes next on the changelog names the offsets of the transaction that was replayed last."""
        wanted = {"v": 1, "offsets": self.replay.offsets}
        return any(rec.key == _OFFSETS and _json(rec.value) == wanted for rec in self._waiting or ())

    def _changes(self, gate: NaiveGate) -> tuple[dict[bytes, Json], dict[bytes, Json]]:
        """What the transaction must write, and what it may write besides because it was looked at."""
        expected: dict[bytes, Json] = {}
        allowed: dict[bytes, Json] = {}
        for account_id in self.replay.touched:
            for table, record in tables_of(gate, gate.accounts[account_id]).items():
                key = key_of(table, account_id)
                allowed[key] = record
                if _essence(record) != _essence(self._known[key]):
                    expected[key] = record
                self._known[key] = record
        for kind, account_id, one_id in gate.noted:
            key = remembered_key(kind, account_id, one_id)
            allowed[key] = expected[key] = self._known[key] = remembered_of(gate, kind, account_id, one_id)
        gate.noted.clear()
        return expected, allowed

    def _run(self, transaction: Transaction) -> list[Rec] | None:
        run = self._waiting
        if run is None:
            where = f"{STATE}-{self.replay.partition}"
            self.findings.add(STATE_MISMATCH, where, f"nothing was written with {transaction.where}")
            return None
        self._waiting = next(self._runs, None)
        if not any(rec.key == _OFFSETS for rec in run):
            where = f"{STATE}-{self.replay.partition}@{run[0].offset}"
            self.findings.add(STATE_MISMATCH, where, f"{transaction.where} did not write its offsets")
        return run

    def _fault(
        self,
        key: bytes,
        value: bytes | None,
        expected: Mapping[bytes, Json],
        allowed: Mapping[bytes, Json],
        transaction: Transaction,
    ) -> str:
        if key == _OFFSETS:
            wanted = {"v": 1, "offsets": self.replay.offsets}
            return "" if _json(value) == wanted else f"is {value!r}, expected {wanted}"
        if key == _POLICIES:
            # Once a bare number, now a record with its version.
            held = _json(value)
            reported = held.get("reported") if isinstance(held, dict) and held.get("v") == 1 else held
            if type(reported) is not int or reported not in self.replay.unusable_policies or reported <= self._reported:
                return f"is {value!r} after {self._reported}"
            self._reported = reported
            return ""
        if key == _PARTITIONS:
            if self._counted:
                return "is written again"
            self._counted = True
            wanted = {"v": 1, "partitions": self.recording.partitions("signals")}
            return "" if _json(value) == wanted else f"is {value!r}, expected {wanted}"
        if value is None:
            return self._forgetting(key, transaction)
        if key not in allowed:
            return f"did not change, and was written: {value[:200]!r}"
        table = key.partition(b"\0")[0].decode("utf-8", "replace")
        try:
            record = written(table, value)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return str(error)
        known = allowed[key]
        if table == "drawdown":
            record["trailing_warned"] = sorted(record["trailing_warned"], key=Fraction)
            for name in ("day", "week"):
                if record[name] is not None:
                    record[name] |= {"warned": sorted(record[name]["warned"], key=Fraction)}
        if table == "orders":
            kept = _recent(self.replay.gate, record["approvals"], known["approvals"], transaction)
            known = known | {"approvals": kept}
        return unlike(record, known)

    def _forgetting(self, key: bytes, transaction: Transaction) -> str:
        """Only an id whose repeat would be ``TOO_OLD`` may go."""
        record = self._known.pop(key, None)
        if not key.startswith(b"decisions\0") or record is None:
            return "is deleted, and nothing was remembered under it"
        if int(record["expires_ms"]) >= transaction.now_ms:
            return f"is forgotten at {transaction.now_ms} and expires at {record['expires_ms']}"
        return ""


def _essence(record: Json) -> Json:
    """What must be written when it changes; the times of approvals need not be kept, the next due time follows."""
    return {name: value for name, value in record.items() if name not in ("approvals", "due_ms")}


def _recent(gate: NaiveGate, kept: list[int], all_of_them: list[int], transaction: Transaction) -> list[int]:
    """The times of approvals that had to be kept: those that the rate limit still counts. More may be kept."""
    rate = gate.limits.get("rate_limit")
    since_ms = transaction.now_ms - duration_ms(rate["per"]) if rate is not None else transaction.now_ms
    needed = [at_ms for at_ms in all_of_them if at_ms > since_ms] if rate is not None else []
    if kept == all_of_them[len(all_of_them) - len(kept) :] and len(kept) >= len(needed):
        return kept
    return needed


def _json(value: bytes | None) -> Any:
    try:
        return orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None


# ------------------------------------------------------------------------------------------------ databases


def check_stores(recording: Recording, partition: int, findings: Findings, *, compacted: bool = False) -> None:
    """Every database of a partition beside the changelog.

    Of a compacted one it is not known any more what a key held before its last record: where that record comes after
    a database's checkpoint, the key is not looked at.
    """
    changelog = [(rec.offset, rec.key or b"", rec.value) for rec in recording.records(STATE, partition)]
    end = changelog[-1][0] + 1 if changelog else 0
    newest = -1
    for store in recording.stores(partition):
        where = f"store {store.worker}-{partition}"
        checkpoint = _checkpoint(store)
        if checkpoint is None:
            findings.add(STATE_MISMATCH, where, "names no checkpoint, or is of another partition")
            continue
        newest = max(newest, checkpoint)
        unknown = {key for offset, key, _ in changelog if offset >= checkpoint} if compacted else set()
        _check_store(store, where, checkpoint, changelog, unknown, findings)
    if newest < end:
        findings.add(STATE_MISMATCH, f"store of {partition}", f"is up to {newest}, the changelog to {end}")


def _checkpoint(store: Store) -> int | None:
    if not store.entries:
        return 0  # opened, and ended before anything was written to it
    meta = _json(next((entry.value for entry in store.entries if entry.key == b"\0meta"), None))
    if not isinstance(meta, list) or len(meta) != 6 or meta[4] != store.partition or not isinstance(meta[5], int):
        return None
    return meta[5]


def _record_key(key: bytes) -> bytes:
    """The changelog key that a database's key comes from: an entry of the index by expiry stands for its id's."""
    return b"decisions\0" + key[9:] if key.startswith(b"\x01") else key


def _check_store(
    store: Store,
    where: str,
    checkpoint: int,
    changelog: list[tuple[int, bytes, bytes | None]],
    unknown: set[bytes],
    findings: Findings,
) -> None:
    wanted: dict[bytes, bytes] = {}
    for offset, key, value in changelog:
        if offset >= checkpoint:
            break
        if value is None:
            wanted.pop(key, None)
        else:
            wanted[key] = value
    for key, value in list(wanted.items()):
        if key.startswith(b"decisions\0"):
            expires_ms = max(0, int(orjson.loads(value)["expires_ms"]))
            wanted[b"\x01" + expires_ms.to_bytes(8, "big") + key.partition(b"\0")[2]] = b""
    held = {entry.key: entry.value for entry in store.entries if entry.key != b"\0meta"}
    for key in sorted(wanted.keys() | held.keys()):
        if held.get(key) != wanted.get(key) and _record_key(key) not in unknown:
            text = f"{key!r} at {checkpoint} is {held.get(key, _MISSING)!r}, expected {wanted.get(key, _MISSING)!r}"
            findings.add(STATE_MISMATCH, where, text)
