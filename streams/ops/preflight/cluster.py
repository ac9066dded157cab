"""Checks of the brokers: there, enough of them, topics as the gate needs them, copies in sync, access rules."""

from collections.abc import Iterator, Mapping

from streams.core.records import CONTROLS, INPUTS, OUTPUTS, POLICIES, SIGNALS
from streams.ops.preflight.check import Finding, check, failed, passed, some, warned
from streams.ops.preflight.context import Context, NotRead, PartitionFacts, TopicFacts
from streams.runtime.topics import CO_PARTITIONED, JOURNAL, REQUESTS, STATE, TopicNames, TopicsError, check_counts

BROKER, REPLICATION, ACCESS = "broker", "replication", "access"

_ANSWER_SLOW_MS = 1_000
_BROKERS_MIN = 3
_COPIES_MIN = 3
_IN_SYNC_MIN = 2
_LOOPBACK = ("localhost", "127.", "[::1]", "::1")
_NO_AUTHORIZER = "set authorizer.class.name on the brokers and add ACLs, before anyone else can reach them"


@check(BROKER, "broker-answers")
def answers(context: Context) -> Finding:
    """The broker answers."""
    cluster = context.cluster.get()
    seen = f"{context.settings.bootstrap} answered in {cluster.answered_ms:.0f} ms"
    if cluster.answered_ms > _ANSWER_SLOW_MS:
        return warned(seen, "look at the network and the brokers' load: a decision takes at least one such answer")
    return passed(seen)


@check(BROKER, "brokers-enough")
def enough_brokers(context: Context) -> Finding:
    """A broker may be lost."""
    count = len(context.cluster.get().brokers)
    seen = f"{count} broker{'s' if count != 1 else ''}"
    if count < _BROKERS_MIN:
        return warned(seen, "run three or more: with fewer, one that is lost stops every decision")
    return passed(seen)


@check(BROKER, "topics-exist")
def topics_exist(context: Context) -> Finding:
    """Every topic is there."""
    names = TopicNames.of(context.settings)
    there = {topic.name for topic in context.topics.get().values()}
    missing = [name for name in names.all() if name not in there]
    if missing:
        return failed(f"missing: {some(missing)}", "tidegate topics create --partitions N --replication 3")
    if (requests := names.physical(REQUESTS)) not in there:
        return warned(f"missing: {requests}, where requests and drills are kept", "tidegate topics create")
    return passed(f"{len(there)} topics")


@check(BROKER, "topics-co-partitioned")
def co_partitioned(context: Context) -> Finding:
    """Partition counts fit together."""
    counts = {topic.name: len(topic.partitions) for topic in context.topics.get().values()}
    try:
        count, _ = check_counts(TopicNames.of(context.settings), counts)
    except TopicsError as error:
        return failed(str(error), "records of one account must share a partition number: recreate the odd topic")
    return passed(f"{count} partitions of {', '.join(CO_PARTITIONED)}; one of {POLICIES}")


@check(BROKER, "topics-not-auto-created")
def no_auto_create(context: Context) -> Finding:
    """Only operators create topics."""
    value = context.cluster.get().config.get("auto.create.topics.enable")
    if value == "true":
        return warned(
            "auto.create.topics.enable = true",
            "set it to false: a misspelt topic would be created, and its records never be decided",
        )
    return passed(f"auto.create.topics.enable = {value or 'not told'}")


@check(BROKER, "state-compacted")
def state_is_compacted(context: Context) -> Finding:
    """The state changelog is compacted."""
    policy = _topic(context, STATE).config.get("cleanup.policy", "")
    if policy != "compact":
        return failed(
            f"cleanup.policy = {policy}",
            f"set cleanup.policy=compact on {_topic(context, STATE).name}: retention would delete accounts' state",
        )
    return passed("cleanup.policy = compact")


@check(BROKER, "policies-kept")
def policies_are_kept(context: Context) -> Finding:
    """Policies are kept for ever."""
    topic = _topic(context, POLICIES)
    settings = {key: topic.config.get(key, "") for key in ("cleanup.policy", "retention.ms", "retention.bytes")}
    seen = ", ".join(f"{key} = {value}" for key, value in settings.items())
    if settings != {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}:
        return failed(
            seen,
            f"on {topic.name} set cleanup.policy=delete, retention.ms=-1, retention.bytes=-1: a rule that is deleted "
            "or compacted away is no longer in force after a restart",
        )
    return passed("cleanup.policy = delete, without retention")


@check(BROKER, "inputs-kept")
def inputs_outlive_the_horizon(context: Context) -> Finding:
    """Inputs are kept long enough."""
    horizon_ms = context.rules.limits.dedup_horizon_ms
    short: dict[str, str] = {}
    for topic in (*INPUTS, JOURNAL):
        facts = _topic(context, topic)
        kept_ms = int(facts.config.get("retention.ms", "-1"))
        if "compact" in facts.config.get("cleanup.policy", ""):
            return failed(
                f"{facts.name} is compacted", f"set cleanup.policy=delete on {facts.name}: every record counts"
            )
        if 0 <= kept_ms < horizon_ms:
            short[facts.name] = f"{kept_ms // 1000} s"
    if short:
        return failed(
            "; ".join(f"{name} keeps {kept}" for name, kept in short.items()),
            f"raise retention.ms above limits.dedup_horizon ({horizon_ms // 1000} s) and above any outage: a worker "
            "that finds its next offset deleted refuses to go on",
        )
    return passed(f"inputs and journal outlive limits.dedup_horizon, {horizon_ms // 1000} s")


@check(BROKER, "sizes-fit")
def outputs_take_what_inputs_bring(context: Context) -> Finding:
    """What comes in fits on its way out."""
    most = max(_max_bytes(_topic(context, topic)) for topic in INPUTS)
    small = [_topic(context, one).name for one in (*OUTPUTS, STATE) if _max_bytes(_topic(context, one)) < most]
    if small:
        return failed(
            f"max.message.bytes is below the inputs' {most} on {some(small, 3)}",
            "raise it there: a decision repeats its signal's headers and adds its checks; one that does not fit stops "
            "the worker",
        )
    return passed(f"inputs bring at most {most} bytes, outputs and state take more")


@check(BROKER, "transactions-replicated")
def transactions_survive(context: Context) -> Finding:
    """The transaction log survives a broker."""
    config = context.cluster.get().config
    factor = int(config.get("transaction.state.log.replication.factor", "0"))
    in_sync = int(config.get("transaction.state.log.min.isr", "0"))
    seen = f"transaction.state.log.replication.factor = {factor}, transaction.state.log.min.isr = {in_sync}"
    if factor < _COPIES_MIN or in_sync < _IN_SYNC_MIN:
        return warned(seen, "use 3 and 2: without the transaction log no worker commits anything")
    return passed(seen)


# -- partitions and replication ------------------------------------------------------------------------------------


@check(REPLICATION, "replication")
def replicated(context: Context) -> Finding:
    """Every partition has three copies."""
    copies = {where: len(one.replicas) for where, one in _partitions(context)}
    fewest = min(copies.values(), default=0)
    if fewest < _COPIES_MIN:
        few = {where.rsplit("/", 1)[0] for where, count in copies.items() if count < _COPIES_MIN}
        return warned(
            f"{fewest} cop{'y' if fewest == 1 else 'ies'} of {some(few, 3)}",
            "three copies survive a lost broker: tidegate topics create --replication 3 on new topics, "
            "kafka-reassign-partitions on these",
        )
    return passed(f"{fewest} copies or more of every partition")


@check(REPLICATION, "acknowledged")
def acknowledged_twice(context: Context) -> Finding:
    """A write is on two brokers before it counts."""
    alone = [
        topic.name
        for topic in _topics(context).values()
        if int(topic.config.get("min.insync.replicas", "1")) < _IN_SYNC_MIN
    ]
    if alone:
        return warned(
            f"min.insync.replicas is below {_IN_SYNC_MIN} on {some(alone, 3)}",
            "set it to 2 (with three copies): a lock that only one broker has is lost with it",
        )
    return passed(f"min.insync.replicas is {_IN_SYNC_MIN} or more everywhere")


@check(REPLICATION, "writable-after-loss")
def writable_after_a_loss(context: Context) -> Finding:
    """A lost broker stops no write.

    With as many copies asked for as there are, one lost broker stops every write.
    """
    tight = [
        topic.name
        for topic in _topics(context).values()
        for wanted in (int(topic.config.get("min.insync.replicas", "1")),)
        if wanted > 1 and any(len(one.replicas) <= wanted for one in topic.partitions.values())
    ]
    if tight:
        return failed(
            f"min.insync.replicas is as high as the number of copies on {some(tight, 3)}",
            "add a copy or lower it by one: as it is, one lost broker stops the gate",
        )
    return passed("no topic asks for all of its copies to be written")


@check(REPLICATION, "partitions-led")
def led(context: Context) -> Finding:
    """Every partition has a leader."""
    headless = [where for where, one in _partitions(context) if one.leader < 0]
    if headless:
        return failed(f"no leader: {some(headless)}", "bring their brokers back: nothing is read or written there")
    return passed(f"{sum(1 for _ in _partitions(context))} partitions")


@check(REPLICATION, "partitions-in-sync")
def in_sync(context: Context) -> Finding:
    """Every copy is in sync."""
    behind = [where for where, one in _partitions(context) if len(one.in_sync) < len(one.replicas)]
    if behind:
        return failed(f"copies are missing or behind: {some(behind)}", "wait until they have caught up, or see why not")
    return passed(f"{sum(len(one.in_sync) for _, one in _partitions(context))} copies")


@check(REPLICATION, "no-unclean-election")
def no_unclean_election(context: Context) -> Finding:
    """No acknowledged record is undone."""
    unclean = [t.name for t in _topics(context).values() if t.config.get("unclean.leader.election.enable") == "true"]
    if unclean:
        return failed(
            f"unclean.leader.election.enable = true on {some(unclean, 3)}",
            "set it to false: a copy that lacks acknowledged records could take over, and locks would be undone",
        )
    return passed("unclean.leader.election.enable = false")


@check(REPLICATION, "partitions-shareable")
def shareable(context: Context) -> Finding:
    """Workers can share the partitions."""
    count = len(_topic(context, SIGNALS).partitions)
    if count < 2:
        return warned(
            "1 partition", "a second worker would have nothing to do; the count is for ever, so choose it now"
        )
    return passed(f"{count} partitions")


# -- access --------------------------------------------------------------------------------------------------------


@check(ACCESS, "authorizer")
def authorized(context: Context) -> Finding:
    """The brokers ask who may do what."""
    acls = context.acls.get()
    if not acls.authorizer:
        return warned("the brokers have no authorizer: whoever reaches them may publish an unlock", _NO_AUTHORIZER)
    return passed(f"{len(acls.rules)} access rules for topics")


@check(ACCESS, "outputs-owned")
def outputs_are_the_gates(context: Context) -> Finding:
    """Only the gate writes its outputs."""
    return _written_by(
        context,
        (*OUTPUTS, STATE, JOURNAL),
        "grant WRITE on outputs, state and journal to the workers' principal alone: an approval that another wrote "
        "passed no check",
    )


@check(ACCESS, "controls-owned")
def controls_are_the_operators(context: Context) -> Finding:
    """Strategies cannot command."""
    acls = context.acls.get()
    if not acls.authorizer:
        return warned("no authorizer, so everyone may", _NO_AUTHORIZER)
    names = TopicNames.of(context.settings)

    def writers(topic: str) -> set[str]:
        return acls.writers(names.physical(topic))

    # Workers forward what is on the wrong partition, so they write all inputs; operators who drill write a signal.
    # Whoever is both, or everyone, is not excused.
    gates, keepers = writers(STATE), writers(REQUESTS)
    excused = (gates ^ keepers) - {"User:*"}
    strategies = writers(SIGNALS) - excused
    operators = (writers(CONTROLS) | writers(POLICIES)) - (gates - keepers)
    if both := strategies & operators:
        return failed(
            f"both signals and controls or policies may be written by {some(both)}",
            "give strategies and operators principals of their own: a strategy must not unlock itself",
        )
    return passed(f"operators: {some(operators) or 'nobody'}; strategies: {some(strategies) or 'nobody'}")


@check(ACCESS, "encrypted")
def encrypted(context: Context) -> Finding:
    """Nothing crosses the network in the clear."""
    security, servers = context.settings.security, context.settings.bootstrap.split(",")
    if security.uses_tls:
        return passed(f"{security.protocol}")
    if all(server.startswith(_LOOPBACK) for server in servers):
        return passed(f"{security.protocol}, but on this machine only")
    return warned(
        f"{security.protocol} over the network", "set TIDEGATE_KAFKA_SECURITY_PROTOCOL=SASL_SSL and its TLS settings"
    )


def _written_by(context: Context, topics: tuple[str, ...], fix: str) -> Finding:
    acls = context.acls.get()
    if not acls.authorizer:
        return warned("no authorizer, so everyone may", _NO_AUTHORIZER)
    names = TopicNames.of(context.settings)
    writers = {topic: acls.writers(names.physical(topic)) for topic in topics}
    everyone = set().union(*writers.values())
    if len(everyone) > 1 or "User:*" in everyone:
        open_to = {f"{names.physical(topic)} by {some(who)}" for topic, who in writers.items() if who}
        return failed(some(open_to, 3), fix)
    return passed(f"written by {some(everyone) or 'super users only'}")


# -- shared --------------------------------------------------------------------------------------------------------


def _topics(context: Context) -> Mapping[str, TopicFacts]:
    return context.topics.get()


def _topic(context: Context, logical: str) -> TopicFacts:
    topics = context.topics.get()
    if logical not in topics:
        raise NotRead(f"topic {TopicNames.of(context.settings).physical(logical)} is missing", "tidegate topics create")
    return topics[logical]


def _partitions(context: Context) -> Iterator[tuple[str, PartitionFacts]]:
    for topic in context.topics.get().values():
        for number, one in topic.partitions.items():
            yield f"{topic.name}/{number}", one


def _max_bytes(topic: TopicFacts) -> int:
    return int(topic.config.get("max.message.bytes", "1048588"))


CHECKS = (
    answers,
    enough_brokers,
    topics_exist,
    co_partitioned,
    no_auto_create,
    state_is_compacted,
    policies_are_kept,
    inputs_outlive_the_horizon,
    outputs_take_what_inputs_bring,
    transactions_survive,
    led,
    in_sync,
    shareable,
    replicated,
    acknowledged_twice,
    writable_after_a_loss,
    no_unclean_election,
    authorized,
    outputs_are_the_gates,
    controls_are_the_operators,
    encrypted,
)
