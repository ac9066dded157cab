"""What checks may look at: read once before they run, so that all of them judge the same moment.

Each part is read on its own. A part that could not be read fails the checks that need it and no others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from aiokafka.structs import TopicPartition

from schemas.config import ConfigFile
from streams.core.records import Record
from streams.core.rules import Rules
from streams.mirror.status import ServerFacts, Status
from streams.ops.overview import Overview, overview
from streams.ops.requests import DRILL_RUN, Entry
from streams.ops.snapshot import Snapshot
from streams.runtime.settings import Settings

T = TypeVar("T")


class NotRead(Exception):
    """A part could not be read; ``remedy`` says what to do about it."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """Something that was read, or why it could not be."""

    value: T | None = None
    fault: NotRead | None = None

    def get(self) -> T:
        """What was read. Raises NotRead."""
        if self.fault is not None or self.value is None:
            raise self.fault or NotRead("it was not read")
        return self.value


class Cluster(NamedTuple):
    """The brokers, and how long they took to answer."""

    brokers: Mapping[int, str]
    controller: int
    answered_ms: float
    config: Mapping[str, str]
    """Of one broker."""


class PartitionFacts(NamedTuple):
    """Who leads and who has copies of one partition; ``leader`` -1: nobody."""

    leader: int
    replicas: Sequence[int]
    in_sync: Sequence[int]


class TopicFacts(NamedTuple):
    """One topic as the broker has it."""

    name: str
    partitions: Mapping[int, PartitionFacts]
    config: Mapping[str, str]


class Acl(NamedTuple):
    """One access rule for topics. ``prefixed``: ``resource`` is the beginning of names."""

    resource: str
    prefixed: bool
    principal: str
    host: str
    writes: bool
    allows: bool

    def covers(self, topic: str) -> bool:
        return self.resource == "*" or (topic.startswith(self.resource) if self.prefixed else topic == self.resource)


class Acls(NamedTuple):
    """Whether the brokers have an authorizer, and its rules for topics."""

    authorizer: bool
    rules: Sequence[Acl]

    def writers(self, topic: str) -> set[str]:
        """Who may write a topic. Denials are not subtracted: what a wildcard grants is not to be relied on."""
        return {acl.principal for acl in self.rules if acl.allows and acl.writes and acl.covers(topic)}


class Group(NamedTuple):
    """A consumer group: how it stands, who is in it, and what it has read."""

    state: str
    members: Sequence[str]
    offsets: Mapping[TopicPartition, int]


class Groups(NamedTuple):
    """The groups of workers, steward and notifier, and everyone else who commits offsets of the gate's outputs."""

    workers: Group
    steward: Group
    notifier: Group
    readers: Mapping[str, Group]
    ends: Mapping[TopicPartition, int]
    """Of the outputs."""


class Progress(NamedTuple):
    """How far the state of one partition has come.

    ``pending``: records of an input that are not applied, at least; ``oldest_ms``: timestamp of the first of them.
    """

    applied: Mapping[str, int]
    first: Mapping[str, int]
    ends: Mapping[str, int]
    pending: int
    oldest_ms: int | None


class State(NamedTuple):
    """The state changelog and the policies, folded."""

    snapshot: Snapshot
    records: int
    partitions: Mapping[int, Progress]


class Machine(NamedTuple):
    """The machine that this runs on; None where the system does not say."""

    memory_available_bytes: int | None
    disk_free_bytes: int
    data_dir_writable: bool
    open_files_max: int


class Identity(NamedTuple):
    """Who this client is to the brokers, and who they are to it.

    ``lacking``: ACLs of an operator that it does not have, in words; ``expiries``: by address, when a broker's
    certificate ends, in ms.
    """

    principal: str
    lacking: Sequence[str]
    expiries: Mapping[str, int]


class Mirrored(NamedTuple):
    """The Redis mirror; without ``server`` none is used here."""

    address: str = ""
    server: ServerFacts | None = None
    status: Status | None = None


class Files(NamedTuple):
    """The dashboards and alerts on this machine, beside what this release shows.

    ``dashboards_differing``: files; ``alert_faults``: in words; ``alerts``: their names, if nothing is wrong with them.
    """

    dashboards_differing: Sequence[str] = ()
    alert_faults: Sequence[str] = ()
    alerts: Sequence[str] = ()


class Scraping(NamedTuple):
    """What Prometheus sees; without ``address`` nobody has said where it is.

    ``workers``, ``down``: instances that answer as workers, and any that do not answer; ``alerts``: those that it has
    loaded; ``receivers``: the Alertmanagers that it tells.
    """

    address: str = ""
    workers: Sequence[str] = ()
    down: Sequence[str] = ()
    alerts: Sequence[str] = ()
    receivers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Context:
    """Everything that was read."""

    settings: Settings
    config: ConfigFile
    rules: Rules
    """Of the configuration, before any policy."""
    now_ms: int
    cluster: Part[Cluster]
    topics: Part[Mapping[str, TopicFacts]]
    """By logical name; those that are missing are left out."""
    acls: Part[Acls]
    groups: Part[Groups]
    recent: Part[Mapping[str, Sequence[Record]]]
    """The last records of inputs, dead letters and journal, by logical topic, in offset order per partition."""
    state: Part[State]
    requests: Part[Sequence[Entry]]
    """What operators asked for, signed and drilled, oldest first."""
    machine: Part[Machine]
    identity: Part[Identity] = Part()
    mirror: Part[Mirrored] = Part(Mirrored())
    files: Part[Files] = Part(Files())
    scraping: Part[Scraping] = Part(Scraping())

    def in_force(self) -> Rules:
        """Configuration and policies. Raises NotRead."""
        return self.state.get().snapshot.rules

    def accounts(self) -> list[Overview]:
        """Every account that is configured. Raises NotRead, and CommandError for state of a newer program."""
        snapshot = self.state.get().snapshot
        return [
            overview(one, snapshot.account(one), snapshot.rules, self.now_ms) for one in sorted(snapshot.rules.accounts)
        ]

    def drill_accounts(self) -> set[str]:
        """Accounts that were drilled on and hold nothing: they need neither equity nor a feed. Raises like above."""
        drilled = {str(one.detail.get("account_id")) for one in self.requests.value or () if one.kind == DRILL_RUN}
        return {one.account_id for one in self.accounts() if not one.positions and not one.orders} & drilled

    def strangers(self) -> list[Overview]:
        """Accounts that have state and are not configured. Raises like :meth:`accounts`."""
        snapshot = self.state.get().snapshot
        names = [one for one in snapshot.account_ids if one not in snapshot.rules.accounts]
        return [overview(one, snapshot.account(one), snapshot.rules, self.now_ms) for one in names]
