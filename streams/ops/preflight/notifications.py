"""Will people be told? Routes whose addresses can be used, the topic that remembers, a notifier that runs."""

import os

from streams.ops.preflight.check import Finding, check, failed, passed, some, warned
from streams.ops.preflight.context import Context
from streams.runtime.settings import SettingsError
from streams.runtime.topics import NOTIFICATIONS, TopicNames

NOTIFICATIONS_GROUP = "notifications"


@check(NOTIFICATIONS_GROUP, "routes-usable")
def routes_are_usable(context: Context) -> Finding:
    """Every route of people to tell has an address that can be used."""
    # apprise is slow to import; a desk without routes does without it.
    from streams.notify.routes import route_of  # noqa: PLC0415
    from streams.notify.sender import sender_of  # noqa: PLC0415

    section = context.config.notify
    if section is None or not section.routes:
        return warned("nobody is told of a lock", "add [notify.routes.NAME] and run `tidegate notify`")
    faults = []
    for name in section.routes:
        try:
            sender_of(route_of(name, section, os.environ))
        except SettingsError as error:
            faults.append(str(error))
    if faults:
        return failed("; ".join(faults), "run preflight with the notifier's environment, then `tidegate notify test`")
    if all(route.severity == "critical" and route.accounts for route in section.routes.values()):
        return warned("no route is told of every account", "add one without `accounts`")
    return passed(f"{some(section.routes)}; `tidegate notify test` tries them")


@check(NOTIFICATIONS_GROUP, "notifier-runs")
def the_notifier_runs(context: Context) -> Finding:
    """A notifier runs, with the topic that remembers what was told."""
    section = context.config.notify
    if section is None or not section.routes:
        return passed("nothing waits for it")
    if NOTIFICATIONS not in context.topics.get():
        name = TopicNames.of(context.settings).physical(NOTIFICATIONS)
        return failed(f"topic {name} is missing: what was told is kept there", "tidegate topics create")
    members = context.groups.get().notifier.members
    if not members:
        return failed(f"none, though {len(section.routes)} routes ask for it", "tidegate notify --config tidegate.toml")
    return passed(some(members))


CHECKS = (routes_are_usable, the_notifier_runs)
