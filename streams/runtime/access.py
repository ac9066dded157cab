"""Who may do what on the brokers: the ACLs of the roles, and how a client is held against them.

ACLs (``tidegate access``), the table in ``infra/security/README.md``, the check that a process makes before it starts
and the words in which a denial is told are all made from ``schemas.roles``. Each role has just what its processes use;
the tests run every role with these entries alone on a broker that denies the rest.

What could break it: a new topic or client that nobody adds here is refused by the broker in production and nowhere
else. The tests ask the broker about every role and topic, so a role that is too wide shows there.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from shlex import quote
from typing import Any, NamedTuple

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import (
    BrokerResponseError,
    GroupAuthorizationFailedError,
    IncompatibleBrokerVersion,
    KafkaError,
    NodeNotReadyError,
    TransactionalIdAuthorizationFailed,
    for_code,
)
from aiokafka.protocol.admin import CreateAclsRequest, DescribeGroupsRequest_v3, DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

from schemas.roles import EVERY_TOPIC, ROLES, Role
from streams.runtime import kafka
from streams.runtime.settings import Security, Settings
from streams.runtime.topics import TopicNames

CLUSTER_NAME = "kafka-cluster"
"""What Kafka calls the one resource of type CLUSTER."""

_TOLD_MAX = 4
_LITERAL, _PREFIXED, _ALLOW, _ANY_HOST = 3, 4, 3, "*"


class Operation(IntEnum):
    """What an ACL allows; Kafka's numbers. READ and WRITE bring DESCRIBE with them."""

    READ = 3
    WRITE = 4
    CREATE = 5
    ALTER = 7
    DESCRIBE = 8
    DESCRIBE_CONFIGS = 10


class Kind(IntEnum):
    """What an ACL is about; Kafka's numbers."""

    TOPIC = 2
    GROUP = 3
    CLUSTER = 4
    TRANSACTIONAL_ID = 5

    @property
    def words(self) -> str:
        """As it is said in a sentence, and as ``kafka-acls.sh`` has it with dashes."""
        return self.name.lower().replace("_", " ")


class Entry(NamedTuple):
    """One ACL without its principal. ``prefixed``: ``name`` is the beginning of names."""

    kind: Kind
    name: str
    operation: Operation
    prefixed: bool = False

    @property
    def words(self) -> str:
        """``WRITE topic approved-orders``."""
        if self.kind is Kind.CLUSTER:
            return f"{self.operation.name} the cluster"
        return f"{self.operation.name} {self.kind.words} {self.name}{'…' if self.prefixed else ''}"


def entries_of(role: Role, names: TopicNames) -> Iterator[Entry]:
    """A role's ACLs for one gate. What READ or WRITE implies is left out."""
    gate = f"{names.prefix}{names.app_id}"
    for topic in EVERY_TOPIC:
        name = names.physical(topic)
        if topic in role.reads:
            yield Entry(Kind.TOPIC, name, Operation.READ)
        if topic in role.writes:
            yield Entry(Kind.TOPIC, name, Operation.WRITE)
        if role.describes and topic not in role.reads and topic not in role.writes:
            yield Entry(Kind.TOPIC, name, Operation.DESCRIBE)
        if role.inspects:
            yield Entry(Kind.TOPIC, name, Operation.DESCRIBE_CONFIGS)
    if role.group is not None:
        yield Entry(Kind.GROUP, f"{gate}{role.group}", Operation.READ, prefixed=not role.exact)
    if role.transactional:
        # WRITE brings DESCRIBE. The ids end in a partition's number.
        yield Entry(Kind.TRANSACTIONAL_ID, f"{gate}-", Operation.WRITE, prefixed=True)
    if role.inspects:
        yield Entry(Kind.GROUP, "*", Operation.DESCRIBE)
        yield Entry(Kind.CLUSTER, CLUSTER_NAME, Operation.DESCRIBE)
        yield Entry(Kind.CLUSTER, CLUSTER_NAME, Operation.DESCRIBE_CONFIGS)


class AccessDenied(RuntimeError):
    """The brokers deny something. The message names the principal, the resource and the ACL that is missing."""

    def __init__(self, security: Security, entries: Iterable[Entry]) -> None:
        self.principal = principal_of(security)
        self.entries = tuple(entries)
        listed = "; ".join(entry.words for entry in self.entries[:_TOLD_MAX])
        more = f" and {len(self.entries) - _TOLD_MAX} more" if len(self.entries) > _TOLD_MAX else ""
        super().__init__(f"{self.principal} may not {listed}{more}: the brokers have no ACL that allows it")


def principal_of(security: Security) -> str:
    """Whom the brokers take a client for, as far as the client can know."""
    if security.uses_sasl:
        return f"User:{security.sasl_username}"
    if security.ssl_certfile and security.uses_tls:
        return f"the principal of the certificate {security.ssl_certfile}"
    return "User:ANONYMOUS"


async def require(settings: Settings, role: str) -> None:
    """Check that this client may do what a role does. Raises AccessDenied that names all that is missing, KafkaError.

    Brokers that do not tell (older than 2.3, or emulated) are taken at the first denied request instead.
    """
    lacking = await missing(settings, role)
    if lacking:
        raise AccessDenied(settings.security, lacking)


async def missing(settings: Settings, role: str) -> list[Entry]:
    """The entries of a role that the brokers do not grant to this client. Empty without an authorizer.

    Topics that do not exist are left out: nothing is known of them. Raises KafkaError.
    """
    entries = list(entries_of(ROLES[role], TopicNames.of(settings)))
    try:
        async with kafka.client(settings) as client:
            return [entry async for entry in _missing(client, entries)]
    except (IncompatibleBrokerVersion, NotImplementedError):
        return []


async def allowed(settings: Settings, topics: Iterable[str]) -> Mapping[str, frozenset[Operation] | None]:
    """What this client may do with topics (names on the broker); None for one that does not exist. Raises KafkaError.

    Raises also IncompatibleBrokerVersion or NotImplementedError where the brokers do not tell.
    """
    async with kafka.client(settings) as client:
        return (await _metadata(client, sorted(topics))).topics


async def grant(settings: Settings, principal: str, entries: Iterable[Entry]) -> None:
    """Create the ACLs for ``principal`` (``User:name``); those that are there stay.

    Raises KafkaError where the brokers refuse: only who may ALTER the cluster may do this.
    """
    async with kafka.client(settings) as client:
        await asyncio.gather(*(_create(client, principal, entry) for entry in entries))


async def _create(client: AIOKafkaClient, principal: str, entry: Entry) -> None:
    pattern = _PREFIXED if entry.prefixed else _LITERAL
    request = CreateAclsRequest(entry.kind, entry.name, pattern, principal, _ANY_HOST, entry.operation, _ALLOW)
    response = await kafka.ask_any_broker(lambda: client.send(client.get_random_node(), request))
    for code, message in response.creation_responses:
        if code:
            raise for_code(code)(f"{entry.words} for {principal}: {message or for_code(code).__name__}")


def commands(bootstrap: str, principal: str, entries: Iterable[Entry]) -> list[str]:
    """The entries as ``kafka-acls.sh`` commands, one for each resource."""
    operations: dict[tuple[Kind, str, bool], list[str]] = {}
    for entry in entries:
        operations.setdefault((entry.kind, entry.name, entry.prefixed), []).append(entry.operation.name)
    head = f"kafka-acls.sh --bootstrap-server {bootstrap} --command-config admin.properties --add"
    lines = []
    for (kind, name, prefixed), granted in operations.items():
        resource = "--cluster" if kind is Kind.CLUSTER else f"--{kind.words.replace(' ', '-')} {quote(name)}"
        pattern = " --resource-pattern-type prefixed" if prefixed else ""
        lines.append(
            f"{head} --allow-principal {quote(principal)} {' '.join(f'--operation {one}' for one in granted)}{pattern} "
            + resource
        )
    return lines


# -- what the brokers say --------------------------------------------------------------------------------------------


class _Metadata(NamedTuple):
    topics: Mapping[str, frozenset[Operation] | None]
    cluster: frozenset[Operation]


async def _missing(client: AIOKafkaClient, entries: Sequence[Entry]) -> Any:
    told = await _metadata(client, sorted({entry.name for entry in entries if entry.kind is Kind.TOPIC}))
    for entry in entries:
        match entry.kind:
            case Kind.TOPIC:
                granted = told.topics.get(entry.name)
                lacks = granted is not None and entry.operation not in granted
            case Kind.CLUSTER:
                lacks = entry.operation not in told.cluster
            case Kind.GROUP:
                lacks = entry.name != "*" and not await _may_join(client, entry.name)
            case Kind.TRANSACTIONAL_ID:
                lacks = not await _may_transact(client, f"{entry.name}0")
        if lacks:
            yield entry


async def _may_join(client: AIOKafkaClient, group: str) -> bool:
    try:
        coordinator = await _coordinator(client, CoordinationType.GROUP, group)
        if coordinator is None:
            return True
        response = await client.send(coordinator, _DescribeGroup(group))
        (described,) = response.to_object()["groups"]
        if described["error_code"]:
            raise for_code(described["error_code"])
        return Operation.READ in _operations(described["authorized_operations"])
    except GroupAuthorizationFailedError:
        return False
    except (BrokerResponseError, NodeNotReadyError):
        # It does not tell now; joining will.
        return True


async def _may_transact(client: AIOKafkaClient, transactional_id: str) -> bool:
    """Only whether it may ask for the coordinator: whether it may write, asked, would fence the partition's owner."""
    try:
        await _coordinator(client, CoordinationType.TRANSACTION, transactional_id)
    except TransactionalIdAuthorizationFailed:
        return False
    return True


async def _coordinator(client: AIOKafkaClient, kind: int, key: str) -> int | None:
    """None on a cluster that has yet to make its first coordinators."""
    try:
        node: int = await client.coordinator_lookup(kind, key)
    except (GroupAuthorizationFailedError, TransactionalIdAuthorizationFailed):
        raise
    except KafkaError:
        return None
    return node


async def _metadata(client: AIOKafkaClient, topics: Sequence[str]) -> _Metadata:
    request = _MetadataRequest(topics)
    response = await kafka.ask_any_broker(lambda: client.send(client.get_random_node(), request))
    return _Metadata(
        {name: _granted(code, operations) for code, name, _, _, operations in response.topics},
        _operations(response.cluster_authorized_operations),
    )


def _granted(code: int, operations: int) -> frozenset[Operation] | None:
    if not code:
        return _operations(operations)
    return frozenset() if for_code(code).__name__ == "TopicAuthorizationFailedError" else None


def _operations(bits: int) -> frozenset[Operation]:
    if bits == -(2**31):
        # The broker was asked and did not tell.
        raise IncompatibleBrokerVersion("the brokers do not tell what a client may do")
    return frozenset(operation for operation in Operation if bits >> operation & 1)


class _MetadataResponseV8(Response):
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            Array(("node_id", Int32), ("host", String("utf-8")), ("port", Int32), ("rack", String("utf-8"))),
        ),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class _MetadataRequestV8(RequestStruct):
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _MetadataResponseV8
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class _MetadataRequest(Request[_MetadataRequestV8]):
    """Metadata of named topics with what the asking client may do; the client library's own stops at version 5."""

    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: type[_MetadataRequestV8]) -> _MetadataRequestV8:
        return request_struct_class(self._topics, False, True, True)


class _DescribeGroupAsAnswered(RequestStruct):
    """Version 3 of the client library's request, which decodes its answer as version 2: without what is allowed."""

    API_KEY = DescribeGroupsRequest_v3.API_KEY
    API_VERSION = 3
    RESPONSE_TYPE = DescribeGroupsResponse_v3
    SCHEMA = DescribeGroupsRequest_v3.SCHEMA


class _DescribeGroup(Request[_DescribeGroupAsAnswered]):
    API_KEY = DescribeGroupsRequest_v3.API_KEY

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[_DescribeGroupAsAnswered]) -> _DescribeGroupAsAnswered:
        return request_struct_class([self._group], True)
