"""The four dashboards. What is on them is named by `streams.observe.families`, so a metric cannot be misspelt here."""

from collections.abc import Sequence

from infra.grafana.model import RED, YELLOW, Dashboard, Panel, Query, Row, Variable, quantile, rate, series
from streams.observe import families as f

UP = "up"
DRAWDOWN_STEPS = ((0.5, YELLOW), (0.8, "orange"), (1, RED))
LATENCY_STEPS = ((1, YELLOW), (5, RED))
ANY = ((1, RED),)

# An account is shown by one worker; during a hand-over for a moment by two, and the greater of two figures is shown.
_BY_ACCOUNT = "max by (job, account, profile)"


def _of_profile(figure: str, labels: str = "account") -> str:
    """Account figures of the accounts that have the chosen profile now."""
    info = f"{_BY_ACCOUNT} ({series(f.ACCOUNT_INFO, profile='$profile')})"
    return f"max by (job, {labels}) ({figure}) * on (job, account) group_left (profile) {info}"


def _stat(
    title: str, expr: str, description: str, *, unit: str = "short", steps: Sequence[tuple[float, str]] = ()
) -> Panel:
    return Panel(title, "stat", (Query(expr),), unit, description, width=4, height=4, steps=steps)


def _by_instance(how: str, figure: str, name: str = "") -> Query:
    """A line for each process; ``how``: sum, min or max of its series; ``name``: which, on a panel with several."""
    return Query(f"{how} by (instance) ({figure})", f"{name} {{{{instance}}}}".lstrip())


FLEET = Dashboard(
    uid="tidegate-fleet",
    title="Tidegate: fleet",
    description="Is the gate deciding, and what holds accounts? All workers and accounts of a gate.",
    rows=(
        Row(
            "Now",
            (
                _stat(
                    "Workers that do not answer",
                    f"count({series(UP)} == 0) or vector(0)",
                    "Runbook: TidegateWorkerDown.",
                    steps=ANY,
                ),
                _stat(
                    "Partitions that nobody serves",
                    f"max({series(f.PARTITIONS)}) - (sum({series(f.SERVING)}) or vector(0))",
                    "Their signals are not decided. Runbook: TidegatePartitionsUnserved.",
                    steps=ANY,
                ),
                _stat(
                    "Account locks held",
                    f"sum({series(f.LOCKED_ACCOUNTS)}) or vector(0)",
                    "An account may be held by several reasons. Runbook: TidegateAccountLocked.",
                    steps=ANY,
                ),
                _stat(
                    "Accounts without fresh P&L",
                    f"sum({series(f.PNL_FEEDS, condition='=~stale|unusable')}) or vector(0)",
                    "Their entries are refused. Runbook: TidegatePnlStale.",
                    steps=ANY,
                ),
                _stat(
                    "Nearest to a limit",
                    f"max({series(f.DRAWDOWN_MAX)})",
                    "The highest drawdown of any account as a fraction of its limit; 100 % locks.",
                    unit="percentunit",
                    steps=DRAWDOWN_STEPS,
                ),
                _stat(
                    "Dead letters, last hour",
                    f"sum(increase({series(f.DEAD_LETTERS)}[1h]))",
                    "Runbook: TidegateDeadLetterBurst.",
                    steps=((1, YELLOW), (100, RED)),
                ),
            ),
        ),
        Row(
            "Decisions",
            (
                Panel(
                    "Approvals by profile",
                    "timeseries",
                    (Query(f"sum by (profile) ({rate(f.DECISIONS, code='APPROVED')})", "{{profile}}"),),
                    unit="ops",
                    stacked=True,
                ),
                Panel(
                    "Rejections by code",
                    "timeseries",
                    (Query(f"sum by (code) ({rate(f.DECISIONS, code='!=APPROVED')}) > 0", "{{code}}"),),
                    unit="ops",
                    description="The first failing check of each rejected signal.",
                    stacked=True,
                ),
                Panel(
                    "Locks and warnings, an hour",
                    "timeseries",
                    (
                        Query(f"sum by (reason) (increase({series(f.LOCKS)}[1h]))", "{{reason}}"),
                        Query(
                            f"sum by (limit, tier) (increase({series(f.WARNINGS)}[1h])) > 0",
                            "warning {{limit}} {{tier}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Accounts",
            (
                Panel(
                    "Accounts by profile and state",
                    "bargauge",
                    (Query(f"sum by (profile, state) ({series(f.ACCOUNTS)})", "{{profile}} {{state}}", instant=True),),
                    width=6,
                ),
                Panel(
                    "Highest drawdown as a fraction of its limit",
                    "timeseries",
                    (Query(f"max by (profile, limit) ({series(f.DRAWDOWN_MAX)})", "{{profile}} {{limit}}"),),
                    unit="percentunit",
                    width=10,
                    steps=DRAWDOWN_STEPS,
                ),
                Panel(
                    "Accounts nearest to a limit",
                    "table",
                    (Query(f"topk(20, max by (account, limit) ({series(f.ACCOUNT_DRAWDOWN)}))"),),
                    unit="percentunit",
                    description="By name, as far as TIDEGATE_METRICS_ACCOUNTS goes.",
                    steps=DRAWDOWN_STEPS,
                ),
                Panel(
                    "Accounts that are held",
                    "table",
                    (Query(f"max by (account, reason) ({series(f.ACCOUNT_LOCK)})"),),
                    hidden=("Value",),
                    empty="none",
                ),
                Panel(
                    "P&L feeds",
                    "timeseries",
                    (Query(f"sum by (condition) ({series(f.PNL_FEEDS)})", "{{condition}}"),),
                    stacked=True,
                ),
                Panel(
                    "Trading states set by policy",
                    "table",
                    (Query(f"max by (policy, state) ({series(f.POLICY_STATE)})"),),
                    hidden=("Value",),
                    empty="all ACTIVE",
                ),
            ),
        ),
        Row(
            "How fast",
            (
                Panel(
                    "Signal to committed decision",
                    "timeseries",
                    tuple(
                        Query(quantile(share, f.END_TO_END, topic="signals"), f"p{share * 100:g}")
                        for share in (0.5, 0.99, 0.999)
                    ),
                    unit="s",
                    description="From the record's timestamp to the commit.",
                    steps=LATENCY_STEPS,
                ),
                Panel(
                    "Breach to committed lock",
                    "timeseries",
                    tuple(Query(quantile(share, f.LOCK_LATENCY), f"p{share * 100:g}") for share in (0.5, 0.99)),
                    unit="s",
                    description="From the timestamp of the record that locked. Locks are rare: so are points.",
                    steps=LATENCY_STEPS,
                ),
                Panel(
                    "Oldest undecided record",
                    "timeseries",
                    (Query(f"max({series(f.LAG_SECONDS)})", "age"),),
                    unit="s",
                    steps=((5, RED),),
                ),
            ),
        ),
    ),
)

PROFILE = Dashboard(
    uid="tidegate-profile",
    title="Tidegate: profile",
    description="One rung of the ladder: what it approves and refuses, and how near its accounts are to their limits.",
    variables=(Variable("profile", "Profile", f.ACCOUNTS, "profile"),),
    rows=(
        Row(
            "Accounts",
            (
                _stat(
                    "Accounts",
                    f"sum({series(f.ACCOUNTS, profile='$profile')})",
                    "Configured with, or set to, this profile.",
                ),
                _stat(
                    "Not ACTIVE",
                    f"sum({series(f.ACCOUNTS, profile='$profile', state='!=ACTIVE')}) or vector(0)",
                    "REDUCING or HALTED, by lock, command or policy.",
                    steps=ANY,
                ),
                _stat(
                    "Without fresh P&L",
                    f"sum({series(f.PNL_FEEDS, profile='$profile', condition='=~stale|unusable')}) or vector(0)",
                    "Their entries are refused.",
                    steps=ANY,
                ),
                _stat(
                    "Open positions",
                    f"sum({series(f.OPEN_POSITIONS, profile='$profile')})",
                    "As the limit counts them.",
                ),
                _stat("Open orders", f"sum({series(f.OPEN_ORDERS, profile='$profile')})", "Working or reserved."),
                _stat(
                    "Locks, last day",
                    f"sum(increase({series(f.LOCKS, profile='$profile')}[1d]))",
                    "New account-locked records.",
                    steps=ANY,
                ),
            ),
        ),
        Row(
            "Limits",
            (
                Panel(
                    "Highest drawdown as a fraction of its limit",
                    "timeseries",
                    (Query(f"max by (limit) ({series(f.DRAWDOWN_MAX, profile='$profile')})", "{{limit}}"),),
                    unit="percentunit",
                    width=12,
                    steps=DRAWDOWN_STEPS,
                ),
                Panel(
                    "Accounts, nearest to a limit first",
                    "table",
                    (Query(f"topk(50, {_of_profile(series(f.ACCOUNT_DRAWDOWN), 'account, limit')})"),),
                    unit="percentunit",
                    width=12,
                    hidden=("job", "profile"),
                    steps=DRAWDOWN_STEPS,
                ),
                Panel(
                    "Headroom as a fraction of equity",
                    "timeseries",
                    (
                        Query(
                            f"bottomk(10, {_of_profile(f'{series(f.ACCOUNT_HEADROOM)} / {series(f.ACCOUNT_EQUITY)}')})",
                            "{{account}}",
                        ),
                    ),
                    unit="percentunit",
                    description="What may still be put at risk; the ten accounts with the least.",
                    width=12,
                ),
                Panel(
                    "Open positions by account",
                    "timeseries",
                    (Query(f"topk(10, {_of_profile(series(f.ACCOUNT_POSITIONS))})", "{{account}}"),),
                    width=12,
                ),
            ),
        ),
        Row(
            "Decisions",
            (
                Panel(
                    "Share approved",
                    "timeseries",
                    (
                        Query(
                            f"sum({rate(f.DECISIONS, code='APPROVED', profile='$profile')}) / "
                            f"sum({rate(f.DECISIONS, profile='$profile')})",
                            "approved",
                        ),
                    ),
                    unit="percentunit",
                    maximum=1,
                ),
                Panel(
                    "Rejections by code",
                    "timeseries",
                    (
                        Query(
                            f"sum by (code) ({rate(f.DECISIONS, code='!=APPROVED', profile='$profile')}) > 0",
                            "{{code}}",
                        ),
                    ),
                    unit="ops",
                    width=16,
                    stacked=True,
                ),
            ),
        ),
    ),
)

_ACCOUNT = {"account": "$account"}

ACCOUNT = Dashboard(
    uid="tidegate-account",
    title="Tidegate: account",
    description="One account: what holds it, how near its limits it is, what it holds.",
    variables=(Variable("account", "Account", f.ACCOUNT_INFO, "account"),),
    rows=(
        Row(
            "Now",
            (
                Panel(
                    "Profile and state",
                    "table",
                    (Query(f"max by (profile, state, currency) ({series(f.ACCOUNT_INFO, **_ACCOUNT)})"),),
                    width=8,
                    height=4,
                    hidden=("Value",),
                ),
                Panel(
                    "Held by",
                    "table",
                    (Query(f"max by (reason) ({series(f.ACCOUNT_LOCK, **_ACCOUNT)})"),),
                    width=4,
                    height=4,
                    hidden=("Value",),
                    empty="nothing",
                ),
                _stat(
                    "Age of its P&L",
                    f"time() - max({series(f.ACCOUNT_AS_OF, **_ACCOUNT)})",
                    "Stale from tidegate_max_pnl_age_seconds on: entries are then refused.",
                    unit="s",
                    steps=((60, RED),),
                ),
                _stat("Open positions", f"max({series(f.ACCOUNT_POSITIONS, **_ACCOUNT)})", "As the limit counts them."),
                _stat("Open orders", f"max({series(f.ACCOUNT_ORDERS, **_ACCOUNT)})", "Working or reserved."),
            ),
        ),
        Row(
            "Limits",
            (
                Panel(
                    "Drawdown as a fraction of its limit",
                    "gauge",
                    (Query(f"max by (limit) ({series(f.ACCOUNT_DRAWDOWN, **_ACCOUNT)})", "{{limit}}", instant=True),),
                    unit="percentunit",
                    steps=DRAWDOWN_STEPS,
                    maximum=1,
                ),
                Panel(
                    "Drawdown over time",
                    "timeseries",
                    (Query(f"max by (limit) ({series(f.ACCOUNT_DRAWDOWN, **_ACCOUNT)})", "{{limit}}"),),
                    unit="percentunit",
                    width=16,
                    steps=DRAWDOWN_STEPS,
                ),
                Panel(
                    "Equity",
                    "timeseries",
                    (Query(f"max({series(f.ACCOUNT_EQUITY, **_ACCOUNT)})", "equity"),),
                    description="In the account's currency.",
                    width=12,
                ),
                Panel(
                    "Headroom",
                    "timeseries",
                    (Query(f"max({series(f.ACCOUNT_HEADROOM, **_ACCOUNT)})", "headroom"),),
                    description="Money that may still be put at risk before a stop-out of everything reaches a floor.",
                    width=12,
                ),
            ),
        ),
        Row(
            "Activity",
            (
                Panel(
                    "Positions and orders",
                    "timeseries",
                    (
                        Query(f"max({series(f.ACCOUNT_POSITIONS, **_ACCOUNT)})", "open positions"),
                        Query(f"max({series(f.ACCOUNT_ORDERS, **_ACCOUNT)})", "open orders"),
                    ),
                    width=12,
                ),
                Panel(
                    "Reasons that hold it",
                    "state-timeline",
                    (Query(f"max by (reason) ({series(f.ACCOUNT_LOCK, **_ACCOUNT)})", "{{reason}}"),),
                    width=12,
                    steps=ANY,
                    empty="nothing",
                ),
            ),
        ),
    ),
)

_OF = {"instance": "=~$instance"}

RUNTIME = Dashboard(
    uid="tidegate-runtime",
    title="Tidegate: runtime",
    description="The machinery: partitions, transactions, state, processes, and what runs beside the gate.",
    variables=(Variable("instance", "Instance", f.BUILD_INFO, "instance", several=True),),
    rows=(
        Row(
            "Partitions",
            (
                Panel(
                    "Who serves",
                    "state-timeline",
                    (
                        Query(
                            f"sum by (instance, partition) ({series(f.SERVING, **_OF)})", "{{partition}} {{instance}}"
                        ),
                    ),
                    description="Green serves, red is being taken over.",
                    width=12,
                    steps=((0, RED), (1, "green")),
                ),
                Panel(
                    "Restore: offsets left",
                    "timeseries",
                    (Query(f"sum by (partition) ({series(f.RESTORE_REMAINING, **_OF)})", "{{partition}}"),),
                    description="Runbook: TidegateRestoreStuck.",
                    width=6,
                ),
                Panel(
                    "Restored records",
                    "timeseries",
                    (Query(f"sum by (partition) ({series(f.RESTORED, **_OF)})", "{{partition}}"),),
                    width=6,
                ),
                Panel(
                    "Records that wait",
                    "timeseries",
                    (Query(f"sum by (partition) ({series(f.LAG_RECORDS, **_OF)})", "{{partition}}"),),
                    description="Known to exist and not decided. Runbook: TidegateLag.",
                ),
                Panel(
                    "Age of the oldest that waits",
                    "timeseries",
                    (Query(f"max by (partition) ({series(f.LAG_SECONDS, **_OF)})", "{{partition}}"),),
                    unit="s",
                    steps=((5, RED),),
                ),
                Panel(
                    "State on disk",
                    "timeseries",
                    (Query(f"sum by (partition) ({series(f.STATE_BYTES, **_OF)})", "{{partition}}"),),
                    unit="bytes",
                    stacked=True,
                ),
            ),
        ),
        Row(
            "Transactions",
            (
                Panel(
                    "Records applied",
                    "timeseries",
                    (Query(f"sum by (topic) ({rate(f.RECORDS, **_OF)})", "{{topic}}"),),
                    unit="ops",
                    stacked=True,
                ),
                Panel(
                    "Decide one record",
                    "timeseries",
                    (
                        Query(
                            f"sum by (instance) ({rate(f.FOLD, '_sum', **_OF)}) / "
                            f"sum by (instance) ({rate(f.RECORDS, **_OF)})",
                            "{{instance}}",
                        ),
                    ),
                    unit="s",
                    description="The pure step with its share of the batch's overhead.",
                ),
                Panel(
                    "Records in a transaction",
                    "timeseries",
                    (
                        Query(
                            f"sum by (instance) ({rate(f.BATCH_RECORDS, '_sum', **_OF)}) / "
                            f"sum by (instance) ({rate(f.BATCH_RECORDS, '_count', **_OF)})",
                            "{{instance}}",
                        ),
                    ),
                ),
                Panel(
                    "Fold",
                    "timeseries",
                    tuple(Query(quantile(share, f.FOLD, **_OF), f"p{share * 100:g}") for share in (0.5, 0.99)),
                    unit="s",
                    description="Deciding one batch: the event loop does nothing else meanwhile.",
                ),
                Panel(
                    "Commit",
                    "timeseries",
                    tuple(Query(quantile(share, f.COMMIT, **_OF), f"p{share * 100:g}") for share in (0.5, 0.99)),
                    unit="s",
                    description="Sending, committing and storing one batch.",
                ),
                Panel(
                    "From a record's timestamp to its commit, p99",
                    "timeseries",
                    (
                        Query(
                            f"histogram_quantile(0.99, sum by (le, topic) ({rate(f.END_TO_END, '_bucket', **_OF)}))",
                            "{{topic}}",
                        ),
                    ),
                    unit="s",
                ),
            ),
        ),
        Row(
            "What should not happen",
            (
                Panel(
                    "Dead letters by reason, an hour",
                    "timeseries",
                    (
                        Query(
                            f"sum by (reason, topic) (increase({series(f.DEAD_LETTERS, **_OF)}[1h])) > 0",
                            "{{reason}} {{topic}}",
                        ),
                    ),
                ),
                Panel(
                    "Records on the wrong partition, an hour",
                    "timeseries",
                    (
                        Query(
                            f"sum by (topic, cause) (increase({series(f.WRONG_PARTITION, **_OF)}[1h]))",
                            "{{topic}} {{cause}}",
                        ),
                    ),
                    description="routed: signals without account, as meant. miskeyed: TidegatePartitionerMismatch.",
                ),
                Panel(
                    "Ends of workers by reason, a day",
                    "timeseries",
                    (Query(f"sum by (reason) (increase({series(f.ENDS, **_OF)}[1d]))", "{{reason}}"),),
                    description="Written down by each worker, shown by its successor on the same data directory.",
                ),
                Panel(
                    "Assignments, an hour",
                    "timeseries",
                    (_by_instance("sum", f"increase({series(f.REBALANCES, **_OF)}[1h])"),),
                ),
                Panel(
                    "Health and readiness",
                    "timeseries",
                    (
                        _by_instance("min", series(f.HEALTHY, **_OF), "healthy"),
                        _by_instance("min", series(f.READY, **_OF), "ready"),
                    ),
                    maximum=1,
                ),
                Panel(
                    "Starts, a day",
                    "timeseries",
                    (_by_instance("sum", f"increase({series(f.STARTS, **_OF)}[1d])"),),
                ),
            ),
        ),
        Row(
            "Events",
            (
                Panel(
                    "account-events by type",
                    "timeseries",
                    (Query(f"sum by (type) ({rate(f.EVENTS, **_OF)}) > 0", "{{type}}"),),
                    unit="ops",
                    stacked=True,
                ),
                Panel(
                    "Ids forgotten",
                    "timeseries",
                    (_by_instance("sum", rate(f.FORGOTTEN, **_OF)),),
                    unit="ops",
                ),
                Panel(
                    "Policy version",
                    "timeseries",
                    (_by_instance("max", series(f.POLICY_VERSION, **_OF)),),
                    description="The same on all workers, within a second.",
                ),
            ),
        ),
        Row(
            "Redis mirror",
            (
                Panel(
                    "Behind the topics",
                    "timeseries",
                    (_by_instance("max", series(f.MIRROR_LAG_SECONDS, **_OF)),),
                    unit="s",
                    description="The last look refuses while the mirror is stale. Runbook: TidegateMirrorBehind.",
                    steps=((10, RED),),
                ),
                Panel(
                    "Records to write",
                    "timeseries",
                    (_by_instance("max", series(f.MIRROR_LAG_RECORDS, **_OF)),),
                ),
                Panel(
                    "Redis answers, and holds a whole model",
                    "timeseries",
                    (
                        _by_instance("min", series(f.MIRROR_REDIS_UP, **_OF), "answers"),
                        _by_instance("min", series(f.MIRROR_COMPLETE, **_OF), "whole"),
                    ),
                    maximum=1,
                ),
                Panel(
                    "Written, failed, rebuilt",
                    "timeseries",
                    (
                        _by_instance("sum", rate(f.MIRROR_RECORDS, **_OF), "records/s"),
                        _by_instance("sum", rate(f.MIRROR_ERRORS, **_OF), "errors/s"),
                        _by_instance("sum", f"increase({series(f.MIRROR_REBUILDS, **_OF)}[1h])", "rebuilds/h"),
                    ),
                ),
            ),
        ),
        Row(
            "Notifier and steward",
            (
                Panel(
                    "Messages not told yet",
                    "timeseries",
                    (Query(f"max by (route) ({series(f.NOTIFY_WAITING, **_OF)})", "{{route}}"),),
                    description="Runbook: TidegateNotifierBehind.",
                ),
                Panel(
                    "Messages and failures, an hour",
                    "timeseries",
                    (
                        Query(
                            f"sum by (route, fate) (increase({series(f.NOTIFY_MESSAGES, **_OF)}[1h]))",
                            "{{route}} {{fate}}",
                        ),
                        Query(f"sum by (route) (increase({series(f.NOTIFY_FAILURES, **_OF)}[1h]))", "{{route}} failed"),
                    ),
                ),
                Panel(
                    "The steward serves, and published within a day",
                    "timeseries",
                    (
                        _by_instance("sum", series(f.STEWARD_SERVING, **_OF), "serving"),
                        Query(f"sum by (topic) (increase({series(f.STEWARD_PUBLISHED, **_OF)}[1d]))", "{{topic}}"),
                    ),
                ),
            ),
        ),
        Row(
            "Processes",
            (
                Panel(
                    "CPU",
                    "timeseries",
                    (_by_instance("sum", rate("process_cpu_seconds_total", **_OF)),),
                    unit="percentunit",
                    description="100 % is one core; a worker uses no more than one.",
                ),
                Panel(
                    "Memory",
                    "timeseries",
                    (_by_instance("sum", series("process_resident_memory_bytes", **_OF)),),
                    unit="bytes",
                ),
                Panel(
                    "Open files",
                    "timeseries",
                    (_by_instance("sum", series("process_open_fds", **_OF)),),
                ),
                Panel(
                    "What runs",
                    "table",
                    (Query(f"max by (instance, process, version, python) ({series(f.BUILD_INFO, **_OF)})"),),
                    width=24,
                    height=6,
                    hidden=("Value",),
                ),
            ),
        ),
    ),
)

DASHBOARDS = (FLEET, PROFILE, ACCOUNT, RUNTIME)
