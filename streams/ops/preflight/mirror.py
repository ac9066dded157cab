"""Checks of the Redis mirror, where one is used: reachable, keeping what it is given, and fresh."""

import os

from redis.exceptions import RedisError

from streams.mirror.last_look import MAX_AGE_MS
from streams.mirror.model import connect, in_words
from streams.mirror.settings import MirrorSettings
from streams.mirror.status import NO_EVICTION, read_server, read_status
from streams.ops.preflight.check import Check, Finding, check, failed, passed
from streams.ops.preflight.context import Context, Mirrored, NotRead
from streams.runtime.settings import Settings, SettingsError

REDIS = "redis"

_UNUSED = "no mirror is used here: TIDEGATE_REDIS_URL is not set"
_VERSION_MIN = 7
_REMEDY = "is Redis running there? TIDEGATE_REDIS_URL names it. Without it the gate decides on; last looks refuse"


@check(REDIS, "redis")
def redis_answers(context: Context) -> Finding:
    """Redis answers, and has functions."""
    found = context.mirror.get()
    if found.server is None:
        return passed(_UNUSED)
    version = found.server.version
    number = version.rpartition(" ")[2].partition(".")[0]
    if not number.isdecimal() or int(number) < _VERSION_MIN:
        return failed(
            f"{found.address} runs {version}",
            f"the last look is a function: use Redis {_VERSION_MIN} or later, or Valkey",
        )
    return passed(f"{version} at {found.address}; losing its data costs a rebuild and nothing else")


@check(REDIS, "redis-eviction")
def redis_evicts_nothing(context: Context) -> Finding:
    """Redis refuses writes when it is full, rather than drop parts of the model."""
    found = context.mirror.get()
    if found.server is None:
        return passed(_UNUSED)
    policy = found.server.maxmemory_policy
    if policy != NO_EVICTION:
        return failed(
            f"maxmemory-policy is {policy}",
            f"redis-cli CONFIG SET maxmemory-policy {NO_EVICTION}, and in redis.conf: what is evicted is missing on "
            "screens, and last looks at it refuse",
        )
    used, most = found.server.used_memory_bytes, found.server.maxmemory_bytes
    if most and used > 0.9 * most:
        return failed(f"{used / most:.0%} of maxmemory is used", "raise maxmemory: a full Redis stops the mirror")
    return passed(f"maxmemory-policy {policy}, {used / 2**20:.0f} MiB used")


@check(REDIS, "mirror")
def mirror_is_fresh(context: Context) -> Finding:
    """The mirror is whole and fresh enough for a last look."""
    found = context.mirror.get()
    if found.status is None:
        return passed(_UNUSED)
    if faults := found.status.faults(MAX_AGE_MS):
        return failed("; ".join(faults), "run `tidegate mirror` beside the workers; `tidegate mirror status` says more")
    status = found.status
    return passed(f"{status.accounts} accounts, complete {status.fresh_age_ms} ms ago")


async def read_mirror(settings: Settings) -> Mirrored:
    """The server and the model. Raises NotRead; without a setting for it, nothing is read."""
    if not (os.environ.get("TIDEGATE_REDIS_URL") or os.environ.get("TIDEGATE_REDIS_URL_FILE")):
        return Mirrored()
    try:
        mirror = MirrorSettings.from_environment(settings)
    except SettingsError as error:
        raise NotRead(str(error)) from None
    try:
        async with connect(mirror) as client:
            return Mirrored(mirror.address, await read_server(client), await read_status(client, mirror.prefix))
    except (RedisError, OSError) as error:
        raise NotRead(f"{mirror.address}: {in_words(error)}", _REMEDY) from None


CHECKS: tuple[Check, ...] = (redis_answers, redis_evicts_nothing, mirror_is_fresh)
