"""Checks of the running gate: state, workers, the machine, the lock drill, and whether anyone listens to alarms."""

from collections import Counter
from collections.abc import Callable
from decimal import Decimal

from streams.core.decode import parse_object
from streams.core.records import APPROVED, DEAD_LETTERS, LOCKED, SIGNALS
from streams.ops.drill import LOCK_DRILL
from streams.ops.preflight.check import Check, Finding, check, failed, passed, some, warned
from streams.ops.preflight.context import Context, Machine
from streams.ops.requests import DRILL_RUN, Entry
from streams.ops.terminal import age
from streams.runtime.topics import TopicNames

STATE_GROUP, WORKERS, MACHINE, DRILL, ALERTS = "state", "workers", "machine", "drill", "alerts"

_MIB = 1024 * 1024
_MEMORY_LITTLE_BYTES, _MEMORY_NONE_BYTES = 1024 * _MIB, 256 * _MIB
_DISK_LITTLE_BYTES, _DISK_NONE_BYTES = 5 * 1024 * _MIB, 512 * _MIB
_FILES_PER_PARTITION, _FILES_BESIDE = 9, 256
_PENDING_LONG_MS, _PENDING_TOO_LONG_MS = 2_000, 30_000
_DRILL_OLD_MS = 30 * 86_400_000
_LOCK_SLOW_MS = 2_000
_DAY_MS = 86_400_000
_READER_BEHIND = 100
_EXPIRY_LATE_MS = 5_000
_STABLE = "Stable"


@check(STATE_GROUP, "state-readable")
def state_is_readable(context: Context) -> Finding:
    """The state changelog can be read whole."""
    state = context.state.get()
    snapshot = state.snapshot
    known = [one for one in snapshot.account_ids if snapshot.account(one) is not None]
    return passed(f"{state.records} records, {len(known)} accounts")


@check(STATE_GROUP, "state-continues")
def inputs_are_there(context: Context) -> Finding:
    """Inputs go on where the state ends.

    What was applied must still be there, and what comes next too.
    """
    lost, gone = [], []
    for number, one in context.state.get().partitions.items():
        for topic, applied in one.applied.items():
            if topic not in one.ends:
                continue  # It has fewer partitions than the state, which is a finding of its own.
            if applied >= one.ends[topic]:
                lost.append(f"{topic}/{number} ends at {one.ends[topic]}, {applied} was applied")
            if applied + 1 < one.first[topic]:
                gone.append(f"{topic}/{number} begins at {one.first[topic]}, {applied + 1} is next")
    if lost:
        return failed(
            some(lost, 3), "the topic lost records or was recreated: restore it, or start anew with another app id"
        )
    if gone:
        return failed(
            some(gone, 3),
            "retention deleted what was never decided: lengthen it; TIDEGATE_ACCEPT_GAPS=1 goes on without",
        )
    return passed("every partition can go on where its state ends")


@check(STATE_GROUP, "state-current")
def nothing_waits(context: Context) -> Finding:
    """Nothing waits to be decided."""
    partitions = context.state.get().partitions
    pending = sum(one.pending for one in partitions.values())
    oldest_ms = min((one.oldest_ms for one in partitions.values() if one.oldest_ms is not None), default=None)
    if not pending or oldest_ms is None:
        return passed("inputs are applied to their ends")
    waited_ms = max(0, context.now_ms - oldest_ms)
    seen = f"{pending} or more records are not applied, the oldest for {waited_ms / 1000:.1f} s"
    if waited_ms > _PENDING_TOO_LONG_MS:
        return failed(seen, "start workers, or see their log: nothing is decided meanwhile")
    if waited_ms > _PENDING_LONG_MS:
        return warned(seen, "run it again: if it stays, add workers")
    return passed(seen)


# -- workers -------------------------------------------------------------------------------------------------------


@check(WORKERS, "workers-run")
def a_worker_runs(context: Context) -> Finding:
    """A worker runs."""
    group = context.groups.get().workers
    if not group.members:
        return failed("none", "tidegate worker --config tidegate.toml")
    return passed(f"{len(group.members)}: {some(group.members)}")


@check(WORKERS, "workers-standby")
def a_standby_runs(context: Context) -> Finding:
    """Another one stands by."""
    group = context.groups.get().workers
    if len(group.members) < 2:
        return warned(
            f"{len(group.members)} worker{'s' if len(group.members) != 1 else ''}",
            "run a second one on another machine: it takes over within seconds, where a restart takes a person",
        )
    return passed(f"{len(group.members)} workers share the partitions")


@check(WORKERS, "workers-settled")
def the_group_is_settled(context: Context) -> Finding:
    """The workers have settled."""
    group = context.groups.get().workers
    if group.members and group.state != _STABLE:
        return warned(
            f"the workers' group is {group.state}", "run it again in a minute; if it stays, see the workers' logs"
        )
    return passed(f"the workers' group is {group.state}")


@check(WORKERS, "workers-used")
def no_more_workers_than_partitions(context: Context) -> Finding:
    """No worker is idle."""
    workers = len(context.groups.get().workers.members)
    partitions = len(context.topics.get()[SIGNALS].partitions) if SIGNALS in context.topics.get() else 0
    if workers > partitions:
        return warned(
            f"{workers} workers, {partitions} partitions", "the rest stand by; more partitions need new topics"
        )
    return passed(f"{workers} workers, {partitions} partitions")


@check(WORKERS, "steward-runs")
def the_steward_runs(context: Context) -> Finding:
    """The steward does what it is configured for."""
    late = [
        line.name or ""
        for line in context.state.get().snapshot.policies.values()
        if line.expires_at_ms is not None and context.now_ms - line.expires_at_ms > _EXPIRY_LATE_MS
    ]
    if late:
        return failed(f"expired, and still in force: {some(late)}", "tidegate steward --config tidegate.toml")
    config = context.config
    duties = {"venue_watch": config.venue_watch is not None, "controls.auto_downgrade": config.controls.auto_downgrade}
    wanted = [name for name, asked in duties.items() if asked]
    members = context.groups.get().steward.members
    if wanted and not members:
        return failed(f"none, though {some(wanted)} asks for it", "tidegate steward --config tidegate.toml")
    return passed(f"{some(members)} for {some(wanted)}" if wanted else "nothing waits for it")


# -- machine -------------------------------------------------------------------------------------------------------


@check(MACHINE, "memory")
def memory(context: Context) -> Finding:
    """This machine has memory."""
    free = context.machine.get().memory_available_bytes
    if free is None:
        return warned("this system does not say", "see that a worker has 1 GiB")
    return _enough("memory", free, _MEMORY_LITTLE_BYTES, _MEMORY_NONE_BYTES, "a worker takes some hundred MiB")


@check(MACHINE, "disk")
def disk(context: Context) -> Finding:
    """This machine has disk."""
    machine = context.machine.get()
    return _enough(
        "disk",
        machine.disk_free_bytes,
        _DISK_LITTLE_BYTES,
        _DISK_NONE_BYTES,
        "a worker that cannot write its state ends",
    )


@check(MACHINE, "data-dir")
def data_dir_is_writable(context: Context) -> Finding:
    """This machine's data directory can be written."""
    where = context.settings.data_dir
    if not context.machine.get().data_dir_writable:
        return failed(f"{where} cannot be written", "set TIDEGATE_DATA_DIR to a directory of this user")
    return passed(str(where))


@check(MACHINE, "open-files")
def open_files(context: Context) -> Finding:
    """This machine allows enough open files."""
    machine: Machine = context.machine.get()
    partitions = len(context.topics.get()[SIGNALS].partitions) if SIGNALS in context.topics.get() else 0
    needed = partitions * _FILES_PER_PARTITION + _FILES_BESIDE
    seen = f"{machine.open_files_max} allowed, {needed} for one worker with all {partitions} partitions"
    if machine.open_files_max < needed:
        return failed(
            seen, "raise the hard limit (LimitNOFILE, ulimit -Hn): a worker that takes everything over would end"
        )
    return passed(seen)


def _enough(what: str, free: int, little: int, none: int, why: str) -> Finding:
    seen = f"{free // _MIB} MiB of {what} are free"
    if free < none:
        return failed(seen, f"free at least {little // _MIB} MiB: {why}")
    if free < little:
        return warned(seen, f"have {little // _MIB} MiB: {why}")
    return passed(seen)


# -- lock drill ----------------------------------------------------------------------------------------------------


@check(DRILL, "drill-passed")
def drilled(context: Context) -> Finding:
    """A lock drill has passed lately."""
    last = _last_drill(context)
    if last is None:
        return failed("never", "tidegate drill lock --account ACCOUNT, on an account that holds nothing")
    when = f"{age(last.at_ms, context.now_ms)} on {last.detail.get('account_id')} by {last.operator}"
    if last.detail.get("passed") is not True:
        return failed(f"failed {when}: {last.detail.get('fault')}", "mend it and repeat `tidegate drill lock`")
    if context.now_ms - last.at_ms > _DRILL_OLD_MS:
        return warned(f"passed {when}", "repeat it: tidegate drill lock --account ACCOUNT")
    return passed(f"passed {when}")


@check(DRILL, "drill-quick")
def locks_quickly(context: Context) -> Finding:
    """A lock takes effect at once."""
    last = _last_drill(context)
    took_ms = None if last is None else last.detail.get("lock_ms")
    if not isinstance(took_ms, int | Decimal):
        return warned("not known", "tidegate drill lock --account ACCOUNT")
    seen = f"{took_ms:.0f} ms from the command to the lock that executors read"
    if took_ms > _LOCK_SLOW_MS:
        return warned(seen, "see the workers' load and the brokers' latency")
    return passed(seen)


def _last_drill(context: Context) -> Entry | None:
    drills = [one for one in context.requests.get() if one.kind == DRILL_RUN and one.detail.get("drill") == LOCK_DRILL]
    return drills[-1] if drills else None


# -- alerts --------------------------------------------------------------------------------------------------------


def somebody_reads(topic: str, who: str, why: str) -> Callable[[Context], Finding]:
    """The check that a consumer group reads an output, and keeps up."""

    def check(context: Context) -> Finding:
        groups = context.groups.get()
        name = TopicNames.of(context.settings).physical(topic)
        behind = {
            group: sum(max(0, groups.ends.get(place, 0) - offset) for place, offset in read.items())
            for group, one in groups.readers.items()
            if (read := {place: offset for place, offset in one.offsets.items() if place.topic == name})
        }
        if not behind:
            return warned(
                f"no consumer group has committed an offset of {name}",
                f"connect {who}: {why} (a reader that commits no offsets is not seen here)",
            )
        late = {f"{group} by {count} records" for group, count in behind.items() if count > _READER_BEHIND}
        if late:
            return warned(f"behind: {some(late)}", f"see why: {why}")
        return passed(f"read by {some(behind)}")

    return check


@check(ALERTS, "dead-letters-few")
def few_dead_letters(context: Context) -> Finding:
    """No dead letter is left unexplained."""
    reasons: Counter[str] = Counter()
    for record in context.recent.get().get(DEAD_LETTERS, ()):
        body, _ = parse_object(record.value)
        if body is not None and context.now_ms - record.timestamp_ms < _DAY_MS:
            reasons[str(body.get("reason"))] += 1
    if reasons:
        return warned(
            "in the last day: " + some((f"{count} {reason}" for reason, count in reasons.items()), 6),
            "read their `detail` on dead-letters: each names field, value and remedy",
        )
    return passed("none in the last day")


CHECKS = (
    state_is_readable,
    inputs_are_there,
    nothing_waits,
    a_worker_runs,
    a_standby_runs,
    the_group_is_settled,
    no_more_workers_than_partitions,
    the_steward_runs,
    memory,
    disk,
    data_dir_is_writable,
    open_files,
    drilled,
    locks_quickly,
    Check(
        ALERTS,
        "locks-heard",
        "Executors hear of locks",
        somebody_reads(LOCKED, "executors and the pager", "entries that work at a lock are cancelled by them alone"),
    ),
    Check(
        ALERTS,
        "approvals-heard",
        "Executors hear of approvals",
        somebody_reads(APPROVED, "executors", "an approval that nobody reads in time is an order that is never sent"),
    ),
    Check(
        ALERTS,
        "dead-letters-heard",
        "Somebody hears of dead letters",
        somebody_reads(DEAD_LETTERS, "an alert", "a fill or a command that could not be used is told nowhere else"),
    ),
    few_dead_letters,
)
