"""Every metric of this release. Dashboards, alerts and preflight are held against this list, and it against a worker.

Names follow Prometheus' conventions: base units (seconds, bytes, ratios of 0 to 1 and above), ``_total`` for what only
grows. Labels are bounded: topics, closed codes, profiles, limits and tiers, partitions; never ids of signals or orders.
Labels that name accounts can be turned off (``TIDEGATE_METRICS_ACCOUNTS=0``); every alert has a figure without them.
"""

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]
Process = Literal["every", "worker", "mirror", "steward", "notifier"]


class Family(NamedTuple):
    """One metric. ``name`` as Prometheus stores it; a histogram's goes without ``_bucket``, ``_sum`` and ``_count``.

    ``account``: it names accounts, and is left out where that is not wanted.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    process: Process = "worker"
    account: bool = False

    @property
    def series(self) -> tuple[str, ...]:
        """The names that a query may use."""
        if self.kind != "histogram":
            return (self.name,)
        return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))


BUILD_INFO = Family(
    "tidegate_build_info",
    "gauge",
    "Always 1; its labels say what runs.",
    ("process", "version", "python"),
    "every",
)
HEALTHY = Family("tidegate_worker_healthy", "gauge", "1: alive and in reach of its brokers, as /health says.")
READY = Family("tidegate_worker_ready", "gauge", "1: serves all partitions that it was given, as /ready says.")
STARTS = Family(
    "tidegate_process_starts_total",
    "counter",
    "Starts of this process on this data directory, over restarts.",
    (),
)
ENDS = Family(
    "tidegate_process_ends_total",
    "counter",
    "Ends of former processes on this data directory, by what ended them; killed: it was not asked.",
    ("reason",),
)

# -- what was decided ----------------------------------------------------------------------------------------------

DECISIONS = Family(
    "tidegate_decisions_total",
    "counter",
    "Committed decisions; code APPROVED or the first reject code, profile none for accounts that are not configured.",
    ("code", "profile"),
)
LOCKS = Family("tidegate_locks_total", "counter", "Committed account-locked records.", ("reason", "profile"))
EVENTS = Family("tidegate_account_events_total", "counter", "Committed account-events records.", ("type",))
WARNINGS = Family(
    "tidegate_warnings_total",
    "counter",
    "Committed WARNING events, by drawdown limit and tier (a fraction of the limit); ORDER_OVERDUE has tier none.",
    ("limit", "tier"),
)
DEAD_LETTERS = Family(
    "tidegate_dead_letters_total", "counter", "Committed dead letters, by reason and input.", ("reason", "topic")
)
WRONG_PARTITION = Family(
    "tidegate_wrong_partition_records_total",
    "counter",
    "Records forwarded to their account's partition; routed: a signal without account, miskeyed: the producer's key or "
    "partitioner is wrong.",
    ("topic", "cause"),
)

# -- how fast ------------------------------------------------------------------------------------------------------

RECORDS = Family("tidegate_records_total", "counter", "Input records applied and committed.", ("topic",))
BATCH_RECORDS = Family("tidegate_batch_records", "histogram", "Input records of one transaction.")
FOLD = Family("tidegate_fold_duration_seconds", "histogram", "Deciding one batch: the pure step, record by record.")
COMMIT = Family(
    "tidegate_commit_duration_seconds", "histogram", "Sending, committing and storing what one batch decided."
)
END_TO_END = Family(
    "tidegate_end_to_end_seconds",
    "histogram",
    "From an input record's timestamp to the commit of what it did.",
    ("topic",),
)
LOCK_LATENCY = Family(
    "tidegate_lock_latency_seconds",
    "histogram",
    "From the timestamp of the record that locked to the commit of its account-locked.",
)

# -- partitions ----------------------------------------------------------------------------------------------------

PARTITIONS = Family("tidegate_partitions", "gauge", "Partitions of the inputs, whoever serves them.")
SERVING = Family(
    "tidegate_partition_serving", "gauge", "1: restored and deciding; 0: assigned, not there yet.", ("partition",)
)
LAG_RECORDS = Family(
    "tidegate_lag_records", "gauge", "Input records known to exist and not yet applied.", ("partition",)
)
LAG_SECONDS = Family(
    "tidegate_lag_seconds",
    "gauge",
    "Age of the oldest record that was read and is not decided; 0: none.",
    ("partition",),
)
RESTORE_REMAINING = Family(
    "tidegate_restore_remaining_records", "gauge", "Changelog offsets still to be restored.", ("partition",)
)
RESTORED = Family(
    "tidegate_restored_records", "gauge", "Changelog records read since the partition was assigned.", ("partition",)
)
STATE_BYTES = Family("tidegate_state_bytes", "gauge", "Size of the partition's RocksDB on disk.", ("partition",))
REBALANCES = Family("tidegate_rebalances_total", "counter", "Assignments that this worker got.")
FORGOTTEN = Family("tidegate_forgotten_ids_total", "counter", "Ids that no record can repeat any more, deleted.")

# -- rules ---------------------------------------------------------------------------------------------------------

POLICY_VERSION = Family("tidegate_policy_version", "gauge", "Version of the policies that decisions go by.")
POLICY_STATE = Family(
    "tidegate_policy_state",
    "gauge",
    "1 for each trading state that a policy sets, other than ACTIVE.",
    ("policy", "state"),
)
MAX_PNL_AGE = Family("tidegate_max_pnl_age_seconds", "gauge", "Age from which an account's P&L is stale.")

# -- accounts that this worker owns, without their names ------------------------------------------------------------

ACCOUNTS = Family(
    "tidegate_accounts", "gauge", "Configured accounts, by profile and trading state.", ("profile", "state")
)
LOCKED_ACCOUNTS = Family(
    "tidegate_accounts_locked", "gauge", "Accounts held by a lock reason (one account may have several).", ("reason",)
)
PNL_FEEDS = Family(
    "tidegate_pnl_feeds",
    "gauge",
    "Configured accounts by how their P&L stands: fresh, stale, unusable (the last update was), or never seen.",
    ("profile", "condition"),
)
DRAWDOWN_MAX = Family(
    "tidegate_drawdown_limit_ratio_max",
    "gauge",
    "The highest drawdown of any account as a fraction of its limit; 1 locks.",
    ("profile", "limit"),
)
OPEN_POSITIONS = Family("tidegate_open_positions", "gauge", "Open positions of all accounts.", ("profile",))
OPEN_ORDERS = Family("tidegate_open_orders", "gauge", "Working or reserved orders of all accounts.", ("profile",))
SURVEY_PENDING = Family(
    "tidegate_accounts_unsurveyed", "gauge", "Accounts that changed and are not in the account figures yet."
)

# -- accounts by name ----------------------------------------------------------------------------------------------

UNLABELLED = Family(
    "tidegate_accounts_unlabelled",
    "gauge",
    "Accounts beyond TIDEGATE_METRICS_ACCOUNTS: counted, but not shown by name.",
)
ACCOUNT_INFO = Family(
    "tidegate_account_info",
    "gauge",
    "Always 1; its labels are the account's profile, trading state and currency (none: it has no conversion).",
    ("account", "profile", "state", "currency"),
    account=True,
)
ACCOUNT_LOCK = Family(
    "tidegate_account_lock", "gauge", "1 for each reason that holds the account.", ("account", "reason"), account=True
)
ACCOUNT_DRAWDOWN = Family(
    "tidegate_account_drawdown_limit_ratio",
    "gauge",
    "The last update's drawdown as a fraction of its limit; 1 locks.",
    ("account", "limit"),
    account=True,
)
ACCOUNT_EQUITY = Family(
    "tidegate_account_equity", "gauge", "Equity of the last usable update, in its currency.", ("account",), account=True
)
ACCOUNT_HEADROOM = Family(
    "tidegate_account_headroom",
    "gauge",
    "Money that may still be put at risk before a stop-out of everything reaches the daily or weekly floor.",
    ("account",),
    account=True,
)
ACCOUNT_POSITIONS = Family(
    "tidegate_account_open_positions", "gauge", "Open positions, as the limit counts them.", ("account",), account=True
)
ACCOUNT_ORDERS = Family(
    "tidegate_account_open_orders", "gauge", "Working or reserved orders.", ("account",), account=True
)
ACCOUNT_AS_OF = Family(
    "tidegate_account_pnl_timestamp_seconds", "gauge", "as_of of the last usable update.", ("account",), account=True
)

# -- the Redis mirror ----------------------------------------------------------------------------------------------

MIRROR_LAG_RECORDS = Family(
    "tidegate_mirror_lag_records", "gauge", "Committed records that are not in Redis yet.", process="mirror"
)
MIRROR_LAG_SECONDS = Family(
    "tidegate_mirror_lag_seconds",
    "gauge",
    "Age of the model: whatever was committed longer ago is in Redis. Some tenths of a second are normal.",
    process="mirror",
)
MIRROR_COMPLETE = Family(
    "tidegate_mirror_complete",
    "gauge",
    "1: Redis holds a whole model; 0: it is being built, or is gone.",
    process="mirror",
)
MIRROR_REDIS_UP = Family(
    "tidegate_mirror_redis_up", "gauge", "1: the last request to Redis was answered.", process="mirror"
)
MIRROR_RECORDS = Family("tidegate_mirror_records_total", "counter", "Records written to Redis.", process="mirror")
MIRROR_ERRORS = Family("tidegate_mirror_errors_total", "counter", "Requests to Redis that failed.", process="mirror")
MIRROR_REBUILDS = Family(
    "tidegate_mirror_rebuilds_total", "counter", "Times that the model was built anew.", process="mirror"
)

# -- the steward ---------------------------------------------------------------------------------------------------

STEWARD_SERVING = Family(
    "tidegate_steward_serving",
    "gauge",
    "1: ends policies and watches; 0: starting, or a second one.",
    process="steward",
)
STEWARD_PUBLISHED = Family(
    "tidegate_steward_published_records_total",
    "counter",
    "Policies and commands that it published.",
    ("topic",),
    process="steward",
)

# -- the notifier --------------------------------------------------------------------------------------------------

NOTIFY_MESSAGES = Family(
    "tidegate_notify_messages_total",
    "counter",
    "Messages by route and fate: sent or given_up.",
    ("route", "fate"),
    process="notifier",
)
NOTIFY_FAILURES = Family(
    "tidegate_notify_failures_total",
    "counter",
    "Attempts that a route's service did not take.",
    ("route",),
    process="notifier",
)
NOTIFY_WAITING = Family(
    "tidegate_notify_waiting_messages", "gauge", "Messages not told yet.", ("route",), process="notifier"
)

FAMILIES: dict[str, Family] = {one.name: one for one in list(globals().values()) if isinstance(one, Family)}
