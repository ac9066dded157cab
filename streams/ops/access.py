"""``tidegate access``: the roles, the ACLs that each of them needs, and whether the brokers grant them."""

from typing import Annotated, Any

import typer
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    SecurityDisabled,
)

from schemas.roles import ROLES, Role
from streams.ops import broker as kafka_broker
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.options import AppId, Broker, Config, Json, Prefix, connect, examples
from streams.ops.terminal import note, plain_table, print_json, say, stdout
from streams.runtime.access import Entry, commands, entries_of, grant, missing, principal_of
from streams.runtime.settings import Settings, SettingsError
from streams.runtime.topics import TopicNames

ROLES_EXAMPLES = examples("tidegate access roles", "tidegate access roles --json")
ACLS_EXAMPLES = examples(
    "# What an administrator of the brokers runs for a worker:",
    "tidegate access acls --role worker --principal User:gate",
    "",
    "# The same, done at once, as that administrator:",
    "tidegate access acls --role worker --principal User:gate --apply",
    "",
    "# One principal with two roles:",
    "tidegate access acls --role executor --role portfolio --principal User:binance",
)
CHECK_EXAMPLES = examples(
    "# With the worker's own settings, before it is started or after a password was changed:",
    "tidegate access check --role worker",
)

access = typer.Typer(no_args_is_help=True, help="Who may do what on the brokers: roles and their ACLs.")

RoleNames = Annotated[
    list[str],
    typer.Option(
        "--role", metavar="ROLE", help=f"{', '.join(ROLES)}; may be repeated. `tidegate access roles` says more."
    ),
]


@access.callback()
def _access() -> None:
    """Who may do what on the brokers: roles and their ACLs."""


@access.command("roles", epilog=ROLES_EXAMPLES)
def roles(as_json: Json = False) -> None:
    """List the roles: who they are for, what they read and write.

    Each has just what its processes use. Give every process a principal of its own, and each principal its role's
    ACLs: then a strategy cannot unlock itself, and nobody but a worker can write an approval.
    """
    if as_json:
        print_json({"roles": [_document(role) for role in ROLES.values()]})
        return
    table = plain_table()
    for title in ("Role", "Reads", "Writes", "For"):
        table.add_column(title, overflow="fold")
    for role in ROLES.values():
        table.add_row(role.name, _listed(role.reads), _listed(role.writes), role.who.replace("`", ""))
    stdout().print(table)


@access.command("acls", epilog=ACLS_EXAMPLES)
def acls(
    role: RoleNames,
    principal: Annotated[
        str,
        typer.Option("--principal", metavar="User:NAME", help="Who gets them: the user of SASL, or of a certificate."),
    ],
    apply: Annotated[
        bool, typer.Option("--apply", help="Create them now, with this command's own access to the brokers.")
    ] = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
    as_json: Json = False,
) -> None:
    """Print the ACLs of a role as kafka-acls.sh commands, or create them.

    They hold for the topics, groups and transactional ids of this gate alone (--prefix, --app-id). Creating them twice
    changes nothing; only who may ALTER the cluster can. No app id should be the beginning of another one's and a dash:
    the worker's transactional ids are granted by their beginning.
    """
    wanted = [_role(name) for name in role]
    if not principal.startswith("User:") or principal == "User:":
        raise CommandError(f"--principal {principal!r} must look like User:NAME", ExitStatus.USAGE)
    settings = connect(config, broker, prefix, app_id)
    names = TopicNames.of(settings)
    entries = list(dict.fromkeys(entry for one in wanted for entry in entries_of(one, names)))
    if apply:
        kafka_broker.run(_grant(settings, principal, entries), settings)
    if as_json:
        print_json({"principal": principal, "applied": apply, "acls": [_acl(entry) for entry in entries]})
    elif apply:
        say(f"{principal}: {len(entries)} ACLs of {', '.join(one.name for one in wanted)} are in force")
    else:
        say(*commands(settings.bootstrap, principal, entries))


@access.command("check", epilog=CHECK_EXAMPLES)
def check(
    role: RoleNames,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
    as_json: Json = False,
) -> None:
    """Ask the brokers whether this client may do what a role does; status 1 and a list if not.

    It goes by the settings that it is run with (TIDEGATE_KAFKA_…), so run it as the process in question. Nothing is
    read or written. Brokers without an authorizer allow everything.
    """
    wanted = [_role(name) for name in role]
    settings = connect(config, broker, prefix, app_id)
    lacking = kafka_broker.run(_missing(settings, wanted), settings)
    who, whole = principal_of(settings.security), ", ".join(one.name for one in wanted)
    if as_json:
        print_json({"principal": who, "roles": list(role), "missing": [_acl(entry) for entry in lacking]})
    elif lacking:
        say(*(f"{who} may not {entry.words}" for entry in lacking))
        asked = " ".join(f"--role {one}" for one in role)
        note(f"`tidegate access acls {asked} --principal User:NAME` has what it needs")
    else:
        say(f"{who} may do what {whole} does")
    raise typer.Exit(ExitStatus.REFUSED if lacking else ExitStatus.DONE)


def _role(name: str) -> Role:
    if name not in ROLES:
        raise CommandError(f"--role {name!r} is none of {', '.join(ROLES)}", ExitStatus.USAGE)
    return ROLES[name]


async def _grant(settings: Settings, principal: str, entries: list[Entry]) -> None:
    try:
        await grant(settings, principal, entries)
    except SecurityDisabled:
        raise CommandError(
            "the brokers have no authorizer, so ACLs would rule nothing",
            ExitStatus.REFUSED,
            "set authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer and super.users on them",
        ) from None
    except ClusterAuthorizationFailedError:
        raise CommandError(
            f"{principal_of(settings.security)} may not ALTER the cluster, so it cannot create ACLs",
            ExitStatus.REFUSED,
            "run it as one of the brokers' super.users, or hand the printed commands to one",
        ) from None


async def _missing(settings: Settings, wanted: list[Role]) -> list[Entry]:
    try:
        found = [entry for one in wanted for entry in await missing(settings, one.name)]
    except (IncompatibleBrokerVersion, SettingsError) as error:
        raise CommandError(str(error), ExitStatus.BROKER) from None
    return list(dict.fromkeys(found))


def _listed(topics: Any) -> str:
    return ", ".join(topics) or "–"


def _document(role: Role) -> dict[str, Any]:
    return {"role": role.name, "for": role.who, "reads": list(role.reads), "writes": list(role.writes)}


def _acl(entry: Entry) -> dict[str, Any]:
    return {
        "resource": entry.kind.words,
        "name": entry.name,
        "pattern": "prefixed" if entry.prefixed else "literal",
        "operation": entry.operation.name,
    }
