"""The checklist: a gate that is ready passes every check, and each fault is seen by the check that is there for it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka.structs import TopicPartition

from schemas.config import ConfigFile
from schemas.roles import ROLES
from schemas.types import write_time
from streams.config import parse_config
from streams.core.records import CONTROLS, DEAD_LETTERS, FILLS, INPUTS, LOCKED, OUTPUTS, PNL, POLICIES, SIGNALS, Record
from streams.core.rules import rules_of
from streams.core.state import NEW_ACCOUNT, changes_of
from streams.mirror.status import ServerFacts
from streams.mirror.status import Status as MirrorStatus
from streams.ops.drill import drill_signal, unfit
from streams.ops.exits import CommandError
from streams.ops.overview import overview
from streams.ops.preflight.check import Check, Finding, Status, check, passed, run_checks
from streams.ops.preflight.command import choose, document
from streams.ops.preflight.context import (
    Acl,
    Acls,
    Cluster,
    Context,
    Files,
    Group,
    Groups,
    Identity,
    Machine,
    Mirrored,
    NotRead,
    Part,
    PartitionFacts,
    Progress,
    Scraping,
    State,
    TopicFacts,
)
from streams.ops.preflight.registry import CHECKS, groups_of
from streams.ops.requests import DRILL_RUN, Entry
from streams.ops.snapshot import Snapshot
from streams.replay import Replay
from streams.runtime.access import Kind, Operation, entries_of
from streams.runtime.kafka import partition_of_key
from streams.runtime.settings import Security, Settings
from streams.runtime.store import changelog_key
from streams.runtime.topics import JOURNAL, NOTIFICATIONS, OPTIONAL, REQUESTS, STATE, TopicNames

NOW_MS = 1_800_000_000_000
PARTITIONS = 4
SETTINGS = Settings(broker="kafka://k1:9092,k2:9092", security=Security(protocol="SSL"), data_dir=Path("/var/lib/gate"))
CONFIG: dict[str, Any] = {
    "notify": {"routes": {"desk": {}}},
    "accounts": {
        "main": {"exchange": "binance", "failover": ["kraken"], "profile": "normal", "currency": "USD"},
        "spare": {"exchange": "kraken", "failover": ["binance"]},
    },
    "controls": {"two_person": True},
    "limits": {
        "max_notional_per_order": "50000",
        "price_collar": "0.05",
        "rate_limit": {"orders": 10, "per": "1s"},
    },
    "instruments": {"BTC-USD": {"fee_rate": "0.0005"}},
    "strategies": {
        "micro": {"whitelist": ["trend"]},
        "low": {"whitelist": ["trend"]},
        "normal": {"whitelist": ["trend"]},
        "aggressive": {"whitelist": ["trend"]},
        "routes": {"trend": {"account": "main", "exchange": "binance"}},
    },
}
ROLLOUT = {"name": "rollout", "rule": {"phase": "4"}}


# -- a gate that is ready -------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_NOTIFY_DESK", "json://127.0.0.1")


def config_with(**tables: Any) -> ConfigFile:
    return parse_config(CONFIG | tables, {})


def pnl(account: str, equity: str = "10000", age_ms: int = 1_000, **fields: Any) -> tuple[str, dict[str, Any]]:
    as_of = write_time(NOW_MS - age_ms)
    return PNL, {"account_id": account, "sequence": 1, "equity": equity, "as_of": as_of, **fields}


def fill(account: str, instrument: str = "BTC-USD") -> tuple[str, dict[str, Any]]:
    order = {"instrument": instrument, "side": "buy", "quantity": "1", "price": "100", "status": "filled"}
    return FILLS, {"account_id": account, "fill_id": "f-1", "filled_at": write_time(NOW_MS - 900), **order}


def command(kind: str, account: str = "main") -> tuple[str, dict[str, Any]]:
    who = {"operator": "ann", "reason": "test", "issued_at": write_time(NOW_MS - 500)}
    return CONTROLS, {"command_id": f"c-{kind}", "account_id": account, "type": kind, **who}


MARKED = (pnl("main", marks={"BTC-USD": "100"}), pnl("spare"))


def state_of(
    config: ConfigFile,
    events: Sequence[tuple[str, dict[str, Any]]] = MARKED,
    policies: Sequence[Mapping[str, Any]] = (ROLLOUT,),
    progress: Progress | None = None,
    configured: ConfigFile | None = None,
) -> Part[State]:
    """The state that the gate has after ``events``, as preflight reads it with the configuration ``configured``."""
    snapshot = Snapshot(rules_of(configured or config))
    gate = Replay(rules_of(config))
    for offset, policy in enumerate(policies):
        record = Record(POLICIES, 0, offset, NOW_MS - 10_000, b"p", orjson.dumps(policy))
        snapshot.take_policy(record)
        gate.apply(record)
    for offset, (topic, body) in enumerate(events):
        gate.apply(Record(topic, 0, offset, NOW_MS - 500, body["account_id"].encode(), orjson.dumps(body)))
    for account_id, account in gate.accounts.items():
        for table, key, value in changes_of(account_id, NEW_ACCOUNT, account):
            snapshot.take_state(changelog_key(table, key), value)
    one = progress or Progress(dict.fromkeys(INPUTS, 9), dict.fromkeys(INPUTS, 0), dict.fromkeys(INPUTS, 10), 0, None)
    return Part(State(snapshot, 8, {0: one}))


def topics_with(change: Callable[[str, TopicFacts], TopicFacts | None] = lambda _, facts: facts) -> Part[Any]:
    kept = {"retention.ms": "-1", "retention.bytes": "-1", "max.message.bytes": "1179648"}
    common = {"cleanup.policy": "delete", "min.insync.replicas": "2", "unclean.leader.election.enable": "false"}
    topics = {}
    for logical in (*INPUTS, POLICIES, *OUTPUTS, STATE, JOURNAL, *OPTIONAL):
        ours = logical in (STATE, JOURNAL, *OPTIONAL)
        count = 1 if logical in (POLICIES, *OPTIONAL) else PARTITIONS
        facts = TopicFacts(
            f"tidegate-{logical}" if ours else logical,
            {number: PartitionFacts(1, (1, 2, 3), (1, 2, 3)) for number in range(count)},
            common | kept | ({"cleanup.policy": "compact"} if logical == STATE else {}),
        )
        if (changed := change(logical, facts)) is not None:
            topics[logical] = changed
    return Part(topics)


def configured_topic(topic: str, **settings: str) -> Part[Any]:
    dotted = {name.replace("_", "."): value for name, value in settings.items()}
    return topics_with(
        lambda name, facts: facts._replace(config={**facts.config, **dotted}) if name == topic else facts
    )


def each_partition(**fields: Any) -> Part[Any]:
    return topics_with(
        lambda _, facts: facts._replace(
            partitions={number: one._replace(**fields) for number, one in facts.partitions.items()}
        )
    )


def cluster_with(brokers: int = 3, answered_ms: float = 2, **config: str) -> Part[Cluster]:
    settings = {
        "auto.create.topics.enable": "false",
        "transaction.state.log.replication.factor": "3",
        "transaction.state.log.min.isr": "2",
    }
    settings |= {name.replace("_", "."): value for name, value in config.items()}
    return Part(Cluster({number: f"k{number}:9092" for number in range(brokers)}, 0, answered_ms, settings))


def acls_with(*more: Acl) -> Part[Acls]:
    def write(principal: str, resource: str, *, prefixed: bool = False) -> Acl:
        return Acl(resource, prefixed, principal, "*", writes=True, allows=True)

    gate = [write("User:gate", topic) for topic in OUTPUTS] + [write("User:gate", "tidegate-", prefixed=True)]
    return Part(
        Acls(authorizer=True, rules=(*gate, write("User:trend", "signals"), write("User:ann", "controls"), *more))
    )


def groups_with(
    workers: int = 2,
    state: str = "Stable",
    steward: Sequence[str] = (),
    notifier: Sequence[str] = ("tidegate@10.0.0.9",),
    without: str = "",
    read_to: int = 10,
) -> Part[Groups]:
    places = [TopicPartition(topic, 0) for topic in OUTPUTS if topic != without]
    readers = {"executor": Group("", (), dict.fromkeys(places, read_to))}
    members = [f"tidegate@10.0.0.{number}" for number in range(workers)]
    beside = Group("", steward, {}), Group("", notifier, {})
    return Part(Groups(Group(state, members, {}), *beside, readers, dict.fromkeys(places, 10)))


def record_of(topic: str, account: str, partition: int | None = None, at_ms: int = NOW_MS - 500, **body: Any) -> Record:
    place = partition_of_key(account.encode(), PARTITIONS) if partition is None else partition
    return Record(topic, place, 0, at_ms, account.encode(), orjson.dumps({"account_id": account, **body}))


def recent_with(**changed: Sequence[Record]) -> Part[Any]:
    just_now = write_time(NOW_MS - 600)
    records = {
        SIGNALS: [record_of(SIGNALS, "main", created_at=just_now)],
        FILLS: [record_of(FILLS, "main")],
        PNL: [record_of(PNL, "main", as_of=just_now)],
        CONTROLS: [record_of(CONTROLS, "main")],
        JOURNAL: [record_of(JOURNAL, "main", now=just_now)],
    }
    return Part({**records, **{name.replace("_", "-"): found for name, found in changed.items()}})


def drilled(age_ms: int = 3_600_000, **detail: Any) -> Part[Sequence[Entry]]:
    kept = {"drill": "lock", "account_id": "spare", "passed": True, "lock_ms": Decimal("31.5"), **detail}
    return Part([Entry(DRILL_RUN, "ann", "monthly", kept, NOW_MS - age_ms, 0)])


def machine_with(**fields: Any) -> Part[Machine]:
    gib = 1024**3
    return Part(Machine(8 * gib, 100 * gib, data_dir_writable=True, open_files_max=65_536)._replace(**fields))


def identity_with(lacking: Sequence[str] = (), days_left: int = 90) -> Part[Identity]:
    return Part(Identity("User:ann", lacking, {"k1:9092": NOW_MS + days_left * 86_400_000}))


def mirrored(**fields: Any) -> Part[Mirrored]:
    server, status = (
        ServerFacts("valkey 9.1.2", "noeviction", 10**6, 0),
        MirrorStatus("live", heartbeat_age_ms=80, fresh_age_ms=90),
    )
    server = server._replace(**{name: value for name, value in fields.items() if name in ServerFacts._fields})
    status = status._replace(**{name: value for name, value in fields.items() if name in MirrorStatus._fields})
    return Part(Mirrored("redis://cache:6379/0", server, status))


def scraped(**fields: Any) -> Part[Scraping]:
    seen = Scraping("http://metrics:9090", ("gate1:9464", "gate2:9464"), (), ("TidegateLag",), ("http://alerts:9093",))
    return Part(seen._replace(**fields))


def secured_by(broker: str = "kafka://k1:9092", **security: Any) -> Settings:
    return replace(SETTINGS, broker=broker, security=Security(**security))


def ready(config: ConfigFile | None = None, **parts: Any) -> Context:
    """A gate that is ready to go live; ``parts`` and ``config`` are what is not as it should be."""
    found = config or config_with()
    context = Context(
        SETTINGS,
        found,
        rules_of(found),
        NOW_MS,
        cluster_with(),
        topics_with(),
        acls_with(),
        groups_with(),
        recent_with(),
        state_of(found),
        drilled(),
        machine_with(),
        identity_with(),
        mirrored(),
        Part(Files(alerts=("TidegateLag",))),
        scraped(),
    )
    return replace(context, **parts)


def findings(context: Context) -> dict[str, Finding]:
    return {result.check.name: result.finding for result in asyncio.run(run_checks(CHECKS, context))}


# -- faults ---------------------------------------------------------------------------------------------------------


def with_policies(*policies: Mapping[str, Any]) -> Context:
    return ready(state=state_of(config_with(), policies=(ROLLOUT, *policies)))


def with_events(*events: tuple[str, dict[str, Any]]) -> Context:
    return ready(state=state_of(config_with(), events))


def with_limits(**limits: Any) -> Context:
    return ready(config_with(limits=CONFIG["limits"] | limits))


def with_account(**fields: Any) -> Context:
    accounts = CONFIG["accounts"]
    return ready(config_with(accounts=accounts | {"main": accounts["main"] | fields}))


def with_strategies(**fields: Any) -> Context:
    return ready(config_with(strategies=CONFIG["strategies"] | fields))


def with_progress(**fields: Any) -> Context:
    fine = Progress(dict.fromkeys(INPUTS, 9), dict.fromkeys(INPUTS, 0), dict.fromkeys(INPUTS, 10), 0, None)
    return ready(state=state_of(config_with(), progress=fine._replace(**fields)))


def without_topic(topic: str) -> Part[Any]:
    return topics_with(lambda name, facts: None if name == topic else facts)


def misplaced(topic: str) -> Context:
    right = partition_of_key(b"main", PARTITIONS)
    return ready(recent=recent_with(**{topic: [record_of(topic, "main", (right + 1) % PARTITIONS)]}))


def two_partitions(name: str, facts: TopicFacts) -> TopicFacts:
    few = {number: one for number, one in facts.partitions.items() if number < 1}
    return facts._replace(partitions=few)


W, F = Status.WARN, Status.FAIL
NORMAL_BELOW_LOW = {"name": "profile/normal", "rule": {"max_daily_drawdown": "0.008"}}
VENUE_DOWN = {"name": "venue/binance", "rule": {"up": False}}
OLD_ORDER = {"strategy_id": "trend", "instrument": "BTC-USD", "side": "buy", "quantity": "0.1", "price": "100"}

FAULTS: list[tuple[str, Status, str, Context]] = [
    ("broker-answers", W, "5000 ms", ready(cluster=cluster_with(answered_ms=5_000))),
    ("brokers-enough", W, "1 broker", ready(cluster=cluster_with(1))),
    ("topics-exist", F, "missing: account-locked", ready(topics=without_topic(LOCKED))),
    ("topics-exist", W, "tidegate-requests", ready(topics=without_topic(REQUESTS))),
    (
        "topics-co-partitioned",
        F,
        "fills has 1 partitions",
        ready(topics=topics_with(lambda name, facts: two_partitions(name, facts) if name == FILLS else facts)),
    ),
    ("topics-not-auto-created", W, "true", ready(cluster=cluster_with(auto_create_topics_enable="true"))),
    ("state-compacted", F, "delete", ready(topics=configured_topic(STATE, cleanup_policy="delete"))),
    ("policies-kept", F, "86400000", ready(topics=configured_topic(POLICIES, retention_ms="86400000"))),
    ("inputs-kept", F, "fills keeps 60 s", ready(topics=configured_topic(FILLS, retention_ms="60000"))),
    ("inputs-kept", F, "pnl is compacted", ready(topics=configured_topic(PNL, cleanup_policy="compact"))),
    ("sizes-fit", F, "account-locked", ready(topics=configured_topic(LOCKED, max_message_bytes="1000"))),
    (
        "transactions-replicated",
        W,
        "factor = 1",
        ready(cluster=cluster_with(transaction_state_log_replication_factor="1")),
    ),
    ("partitions-led", F, "account-events/0", ready(topics=each_partition(leader=-1))),
    ("partitions-in-sync", F, "and", ready(topics=each_partition(in_sync=(1, 2)))),
    (
        "partitions-shareable",
        W,
        "1 partition",
        ready(topics=topics_with(two_partitions), recent=recent_with(signals=[], fills=[], pnl=[], controls=[])),
    ),
    ("replication", W, "2 copies", ready(topics=each_partition(replicas=(1, 2), in_sync=(1, 2)))),
    ("acknowledged", W, "signals", ready(topics=configured_topic(SIGNALS, min_insync_replicas="1"))),
    ("writable-after-loss", F, "signals", ready(topics=configured_topic(SIGNALS, min_insync_replicas="3"))),
    ("no-unclean-election", F, "pnl", ready(topics=configured_topic(PNL, unclean_leader_election_enable="true"))),
    ("authorizer", W, "no authorizer", ready(acls=Part(Acls(authorizer=False, rules=())))),
    (
        "outputs-owned",
        F,
        "User:trend",
        ready(acls=acls_with(Acl("approved-", True, "User:trend", "*", writes=True, allows=True))),
    ),
    (
        "controls-owned",
        F,
        "User:trend",
        ready(acls=acls_with(Acl("policies", False, "User:trend", "*", writes=True, allows=True))),
    ),
    (
        "controls-owned",
        F,
        "User:everything",
        ready(acls=acls_with(Acl("", True, "User:everything", "*", writes=True, allows=True))),
    ),
    ("encrypted", W, "PLAINTEXT", ready(settings=replace(SETTINGS, security=Security()))),
    ("own-rights", W, "User:ann may not READ topic fills", ready(identity=identity_with(["READ topic fills"]))),
    (
        "login-private",
        F,
        "PLAIN without TLS",
        ready(settings=secured_by(protocol="SASL_PLAINTEXT", sasl_username="ann", sasl_password="secret")),
    ),
    ("brokers-proved", F, "CHECK_HOSTNAME=0", ready(settings=secured_by(protocol="SSL", ssl_check_hostname=False))),
    ("certificates-valid", W, "k1:9092 in 20 d", ready(identity=identity_with(days_left=20))),
    ("certificates-valid", F, "k1:9092 in 2 d", ready(identity=identity_with(days_left=2))),
    ("partitioner-signals", F, "1 of the last 1", misplaced(SIGNALS)),
    ("partitioner-fills", F, "1 of the last 1", misplaced(FILLS)),
    ("partitioner-pnl", F, "1 of the last 1", misplaced(PNL)),
    ("partitioner-controls", F, "1 of the last 1", misplaced(CONTROLS)),
    ("partitioner-controls", W, "nothing was sent", ready(recent=recent_with(controls=[]))),
    (
        "clock-producers",
        F,
        "60000 ms ahead",
        ready(recent=recent_with(fills=[record_of(FILLS, "main", at_ms=NOW_MS + 60_000)])),
    ),
    (
        "clock-workers",
        F,
        "60000 ms ahead",
        ready(recent=recent_with(journal=[record_of(JOURNAL, "main", now=write_time(NOW_MS + 60_000))])),
    ),
    (
        "clock-pnl",
        F,
        "RISK_DATA_MISSING",
        ready(recent=recent_with(pnl=[record_of(PNL, "main", as_of=write_time(NOW_MS + 60_000))])),
    ),
    (
        "clock-pnl",
        F,
        "max_pnl_age",
        ready(recent=recent_with(pnl=[record_of(PNL, "main", as_of=write_time(NOW_MS - 600_000))])),
    ),
    (
        "clock-signals",
        W,
        "1 of the last 1",
        ready(recent=recent_with(signals=[record_of(SIGNALS, "main", created_at=write_time(NOW_MS - 600_000))])),
    ),
    ("clock-wall", F, "record", ready(config_with(clock="record"))),
    ("two-person", W, "false", ready(config_with(controls={}))),
    (
        "ladder-rises",
        F,
        "low 0.3 > normal 0.01",
        ready(config_with(profiles={"low": {"max_trade_risk": "0.3", "max_daily_drawdown": "0.4"}})),
    ),
    ("ladder-in-force", W, "max_daily_drawdown: low 0.010 > normal 0.008", with_policies(NORMAL_BELOW_LOW)),
    (
        "limits-nest",
        F,
        "micro: max_daily_drawdown 0.005 against max_weekly_drawdown 0.004",
        ready(config_with(profiles={"micro": {"max_weekly_drawdown": "0.004"}})),
    ),
    ("warnings", W, "micro", ready(config_with(profiles={"micro": {"warning": []}}))),
    ("ages", F, "max_signal_age", with_limits(max_signal_age="48h")),
    ("ages", W, "600 s", with_limits(max_pnl_age="10m")),
    ("fat-fingers", W, "limits.price_collar", ready(config_with(limits={}))),
    ("costs", W, "BTC-USD", ready(config_with(instruments={}))),
    ("policies-usable", F, "venue/binance (version 2)", with_policies({"name": "venue/binance", "rule": {}})),
    (
        "states-active",
        W,
        "state/global is REDUCING",
        with_policies({"name": "state/global", "rule": {"state": "REDUCING"}}),
    ),
    ("rollout-phase", W, "no rollout policy", ready(state=state_of(config_with(), policies=()))),
    ("venues-configured", F, "main", with_account(exchange=None, failover=[])),
    ("venues-failover", W, "main", with_account(failover=[])),
    ("venues-up", W, "down: binance", with_policies(VENUE_DOWN)),
    ("venues-up", F, "main", with_policies(VENUE_DOWN, {"name": "venue/kraken", "rule": {"up": False}})),
    ("routes", F, "trend → nobody", with_strategies(routes={"trend": {"account": "nobody"}})),
    ("routes", W, "trend → okx", with_strategies(routes={"trend": {"account": "main", "exchange": "okx"}})),
    ("routes-allowed", W, "trend on main", with_strategies(blacklist=["trend"])),
    (
        "routes-allowed",
        W,
        "new on spare",
        ready(config_with(fanout={"new": {"accounts": {"main": "0.5", "spare": "0.5"}}})),
    ),
    ("whitelists", W, "normal", with_strategies(normal={})),
    ("accounts-configured", F, "UNKNOWN_ACCOUNT", ready(parse_config({k: CONFIG[k] for k in ("controls",)}, {}))),
    (
        "accounts-known",
        F,
        "main",
        ready(
            state=state_of(
                config_with(),
                (*MARKED, fill("main")),
                configured=parse_config({"accounts": {"spare": CONFIG["accounts"]["spare"]}}, {}),
            )
        ),
    ),
    ("equity-known", F, "main", with_events(pnl("spare"))),
    ("equity-fresh", F, "main", with_events(pnl("main", age_ms=61_000), pnl("spare"))),
    ("equity-positive", F, "main", with_events(pnl("main", "-1"), pnl("spare"))),
    ("accounts-unlocked", W, "main (MANUAL)", with_events(*MARKED, command("lock"))),
    ("accounts-free", W, "halted by command", with_events(*MARKED, command("halt"))),
    (
        "limits-far",
        W,
        "main DAILY_DRAWDOWN 1.70 of 2.00 %",
        with_events(*MARKED, (PNL, pnl("main", "9830", 900)[1] | {"sequence": 2})),
    ),
    (
        "orders-answered",
        W,
        "o-",
        ready(
            now_ms=NOW_MS + 120_000,
            config=config_with(),
            state=state_of(
                config_with(),
                (
                    *MARKED,
                    (
                        SIGNALS,
                        {
                            "account_id": "main",
                            "signal_id": "s-1",
                            "created_at": write_time(NOW_MS - 500),
                            "stop_loss": "99",
                            **OLD_ORDER,
                        },
                    ),
                ),
            ),
        ),
    ),
    ("rates", F, "main JPY", with_events(*MARKED, fill("main", "BTC-JPY"))),
    ("state-readable", F, "lost connection", ready(state=Part(None, NotRead("lost connection")))),
    ("state-continues", F, "ends at 5, 9 was applied", with_progress(ends=dict.fromkeys(INPUTS, 5))),
    ("state-continues", F, "begins at 20, 10 is next", with_progress(first=dict.fromkeys(INPUTS, 20))),
    ("state-current", W, "3 or more", with_progress(pending=3, oldest_ms=NOW_MS - 5_000)),
    ("state-current", F, "60.0 s", with_progress(pending=3, oldest_ms=NOW_MS - 60_000)),
    ("workers-run", F, "none", ready(groups=groups_with(0, "Empty"))),
    ("workers-standby", W, "1 worker", ready(groups=groups_with(1))),
    ("workers-settled", W, "PreparingRebalance", ready(groups=groups_with(state="PreparingRebalance"))),
    ("workers-used", W, "5 workers, 4 partitions", ready(groups=groups_with(5))),
    ("steward-runs", F, "venue_watch", ready(config_with(venue_watch={}))),
    (
        "steward-runs",
        F,
        "expired, and still in force: venue/okx",
        with_policies({"name": "venue/okx", "rule": {"up": True}, "expires_at": write_time(NOW_MS - 60_000)}),
    ),
    ("routes-usable", W, "nobody is told", ready(config_with(notify=None))),
    ("routes-usable", F, "TIDEGATE_NOTIFY_DESK2", ready(config_with(notify={"routes": {"desk2": {}}}))),
    (
        "routes-usable",
        W,
        "no route is told of every account",
        ready(config_with(notify={"routes": {"desk": {"severity": "critical", "accounts": ["main"]}}})),
    ),
    ("notifier-runs", F, "tidegate-notifications", ready(topics=without_topic(NOTIFICATIONS))),
    ("notifier-runs", F, "1 routes ask for it", ready(groups=groups_with(notifier=()))),
    ("memory", F, "100 MiB", ready(machine=machine_with(memory_available_bytes=100 * 1024**2))),
    ("memory", W, "does not say", ready(machine=machine_with(memory_available_bytes=None))),
    ("disk", W, "2048 MiB", ready(machine=machine_with(disk_free_bytes=2 * 1024**3))),
    ("data-dir", F, "/var/lib/gate", ready(machine=machine_with(data_dir_writable=False))),
    ("open-files", F, "128 allowed", ready(machine=machine_with(open_files_max=128))),
    ("drill-passed", F, "never", ready(requests=Part([]))),
    ("drill-passed", F, "no answer", ready(requests=drilled(passed=False, fault="no answer"))),
    ("drill-passed", W, "40 d ago", ready(requests=drilled(40 * 86_400_000))),
    ("drill-quick", W, "4000 ms", ready(requests=drilled(lock_ms=Decimal(4_000)))),
    ("locks-heard", W, "account-locked", ready(groups=groups_with(without=LOCKED))),
    ("approvals-heard", W, "approved-orders", ready(groups=groups_with(without="approved-orders"))),
    ("dead-letters-heard", W, "executor by 1010 records", ready(groups=groups_with(read_to=-1_000))),
    (
        "dead-letters-few",
        W,
        "2 SCHEMA",
        ready(recent=recent_with(dead_letters=[record_of(DEAD_LETTERS, "main", reason="SCHEMA")] * 2)),
    ),
    ("redis", F, "redis 6.2.14", ready(mirror=mirrored(version="redis 6.2.14"))),
    ("redis-eviction", F, "allkeys-lru", ready(mirror=mirrored(maxmemory_policy="allkeys-lru"))),
    ("redis-eviction", F, "95%", ready(mirror=mirrored(used_memory_bytes=95, maxmemory_bytes=100))),
    ("mirror", F, "there is no model", ready(mirror=mirrored(phase=None))),
    ("mirror", F, "heard of for 60.0 s", ready(mirror=mirrored(heartbeat_age_ms=60_000))),
    ("mirror", F, "never complete", ready(mirror=mirrored(fresh_age_ms=None))),
    ("mirror", F, "complete 9.0 s ago", ready(mirror=mirrored(fresh_age_ms=9_000))),
    ("mirror", F, "being built", ready(mirror=mirrored(phase="building"))),
    ("dashboards", F, "fleet.json", ready(files=Part(Files(dashboards_differing=["fleet.json"])))),
    ("alert-rules", F, "no process shows", ready(files=Part(Files(alert_faults=["no process shows tidegate_x"])))),
    ("workers-scraped", W, "TIDEGATE_PROMETHEUS_URL", ready(scraping=Part(Scraping()))),
    ("workers-scraped", F, "1 of 2 workers", ready(scraping=scraped(workers=["gate1:9464"]))),
    ("workers-scraped", F, "gate2:9464", ready(scraping=scraped(down=["gate2:9464"]))),
    ("alerts-loaded", W, "TIDEGATE_PROMETHEUS_URL", ready(scraping=Part(Scraping()))),
    ("alerts-loaded", F, "1 of 1 are not loaded: TidegateLag", ready(scraping=scraped(alerts=[]))),
    ("alerts-loaded", W, "no Alertmanager", ready(scraping=scraped(receivers=[]))),
]


def test_a_gate_that_is_ready_passes_every_check() -> None:
    assert {name: finding for name, finding in findings(ready()).items() if finding.status is not Status.PASS} == {}


@pytest.mark.parametrize(("name", "status", "seen", "context"), FAULTS, ids=[f"{one[0]}-{one[1]}" for one in FAULTS])
def test_a_fault_is_seen_and_told_with_its_fix(name: str, status: Status, seen: str, context: Context) -> None:
    finding = findings(context)[name]

    assert finding.status is status, finding
    assert seen in finding.seen
    assert finding.fix or name == "state-readable"


def test_workers_and_operators_who_drill_may_write_signals_beside_controls() -> None:
    """The ACLs of the roles, as the brokers tell them, pass."""
    rules = tuple(
        Acl(entry.name, entry.prefixed, f"User:{role.name}", "*", entry.operation is Operation.WRITE, allows=True)
        for role in ROLES.values()
        for entry in entries_of(role, TopicNames.of(SETTINGS))
        if entry.kind is Kind.TOPIC
    )
    told = findings(ready(acls=Part(Acls(authorizer=True, rules=rules))))
    assert {name: told[name].status for name in ("outputs-owned", "controls-owned")} == dict.fromkeys(
        ("outputs-owned", "controls-owned"), Status.PASS
    )
    assert "strategies: User:pipeline" in told["controls-owned"].seen


def test_a_gate_without_a_mirror_passes_its_checks() -> None:
    told = findings(ready(mirror=Part(Mirrored())))
    assert {name: told[name].status for name in ("redis", "redis-eviction", "mirror")} == dict.fromkeys(
        ("redis", "redis-eviction", "mirror"), Status.PASS
    )


def test_every_check_has_a_fault_that_it_sees() -> None:
    assert {check.name for check in CHECKS} == {name for name, *_ in FAULTS}


def test_names_are_unique_and_groups_stay_together() -> None:
    names = [check.name for check in CHECKS]
    groups = [check.group for check in CHECKS]

    assert len(set(names)) == len(names) >= 29
    assert [group for n, group in enumerate(groups) if n == 0 or groups[n - 1] != group] == groups_of(CHECKS)
    assert all(check.title for check in CHECKS)


def test_an_account_that_is_kept_for_drills_needs_no_equity() -> None:
    unmarked = state_of(config_with(), (pnl("main"),))

    assert findings(ready(state=unmarked))["equity-known"].status is Status.PASS
    never = drilled(account_id="other")
    assert findings(ready(state=unmarked, requests=never))["equity-known"].status is Status.FAIL


# -- running them ---------------------------------------------------------------------------------------------------


def test_a_part_that_was_not_read_fails_the_checks_that_need_it_and_no_others() -> None:
    found = findings(ready(groups=Part(None, NotRead("not allowed", "grant DESCRIBE"))))

    blind = {name for name, finding in found.items() if finding.status is not Status.PASS}
    assert {"workers-run", "locks-heard"} <= blind
    assert found["workers-run"] == Finding(Status.FAIL, "could not be looked at: not allowed", "grant DESCRIBE")
    assert "topics-exist" not in blind


def test_later_work_adds_checks_of_its_own_that_may_wait() -> None:
    @check("read model", "redis-answers")
    async def redis_answers(context: Context) -> Finding:
        """Redis answers.

        It is a mirror.
        """
        await asyncio.sleep(0)
        return passed(context.settings.app_id)

    @check("read model", "redis-broken")
    def broken(_: Context) -> Finding:
        """Redis is there."""
        raise ConnectionRefusedError("refused")

    results = asyncio.run(run_checks((redis_answers, broken), ready()))

    assert [(one.check.title, one.finding.status) for one in results] == [
        ("Redis answers", Status.PASS),
        ("Redis is there", Status.FAIL),
    ]
    assert "refused" in results[1].finding.seen


def test_checks_are_chosen_by_group_and_left_out_by_name() -> None:
    chosen = choose(["venues"], ["venues-up"])

    assert [check.name for check in chosen] == ["venues-configured", "venues-failover"]
    assert choose([], []) == list(CHECKS)


@pytest.mark.parametrize(
    ("groups", "skipped", "told"),
    [
        (["venue"], [], "--group 'venue' is unknown"),
        ([], ["venues"], "--skip 'venues' is unknown"),
        (["drill"], ["drill-passed", "drill-quick"], "no check is left"),
    ],
)
def test_an_unknown_group_or_check_is_named(groups: list[str], skipped: list[str], told: str) -> None:
    with pytest.raises(CommandError, match=told):
        choose(groups, skipped)


def test_the_document_counts_and_says_whether_the_gate_is_ready() -> None:
    checks: list[Check] = [one for one in CHECKS if one.name in ("two-person", "clock-wall", "ages")]
    results = asyncio.run(run_checks(checks, ready(config_with(controls={}, clock="record"))))

    body = document(results, NOW_MS, ["memory"])

    counts = (body["ready"], body["passed"], body["warned"], body["failed"], body["skipped"])
    assert counts == (False, 1, 1, 1, ["memory"])
    assert body["checks"][0]["status"] == "fail"
    assert orjson.loads(orjson.dumps(body)) == body


# -- the drill ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "account", "approved_by", "why"),
    [
        (MARKED, "main", "bob", None),
        ((), "main", "bob", None),
        (MARKED, "nobody", "bob", "not configured"),
        ((*MARKED, command("lock")), "main", "bob", "locked by MANUAL"),
        ((*MARKED, fill("main")), "main", "bob", "holds BTC-USD"),
        (MARKED, "main", None, "second operator"),
        (MARKED, "main", "ann", "second operator"),
    ],
)
def test_a_drill_is_run_only_where_it_does_no_harm(
    events: Sequence[tuple[str, dict[str, Any]]], account: str, approved_by: str | None, why: str | None
) -> None:
    config = config_with()
    snapshot = state_of(config, events).get().snapshot
    seen = overview(account, snapshot.account(account), snapshot.rules, NOW_MS)

    fault = unfit(seen, rules_of(config), "ann", approved_by)

    assert fault is None if why is None else why in (fault or "")


def test_the_drills_signal_is_rejected_even_where_nothing_is_locked() -> None:
    gate = Replay(rules_of(config_with(strategies={})))
    for offset, (topic, body) in enumerate(MARKED):
        gate.apply(Record(topic, 0, offset, NOW_MS, body["account_id"].encode(), orjson.dumps(body)))

    value = orjson.dumps(drill_signal("main", "1f", NOW_MS))
    (output,) = gate.apply(Record(SIGNALS, 0, 0, NOW_MS, b"main", value))

    assert output.topic == "rejected-signals"
    codes = [reason["code"] for reason in orjson.loads(output.value)["reasons"]]
    assert codes == ["NO_VENUE", "RISK_DATA_MISSING", "STOP_LOSS_REQUIRED"]
