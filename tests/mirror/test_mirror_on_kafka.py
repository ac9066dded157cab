"""The mirror beside a real worker, on a real broker and a real Redis."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import ClientSession
from redis.asyncio import Redis

from infra.brokers import Broker, KafkaCluster, free_ports
from streams.core.records import LOCKED
from streams.mirror.status import HEARTBEAT_MAX_MS
from streams.mirror.view import account_document
from streams.runtime.store import changelog_key
from tests.integration.processes import DEADLINE_S
from tests.integration.support import Names, require_local_kafka, wait_for
from tests.mirror.processes import ACCOUNTS, PARTITIONS, Gate, Screen
from tests.mirror.servers import PASSWORD, Server, server
from tests.observe import scrape

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture
async def gate(kafka: Broker, topics: Names, tmp_path: Path, own_redis: Server) -> Gate:
    return await Gate(kafka, topics, tmp_path, own_redis.url).create()


@pytest.fixture
async def screen(gate: Gate) -> AsyncIterator[Screen]:
    client: Redis = Redis.from_url(gate.redis_url, decode_responses=True)
    yield Screen(gate, client)
    await client.aclose()


async def a_day(gate: Gate) -> str:
    """Equity, a position, an open order, a rejection, a lock; the order's id."""
    for account in ACCOUNTS:
        await gate.pnl(account, "10000", marks={"BTC-USD": "100"})
    await gate.fill("main", quantity="3")
    order_id = await gate.approved("main", quantity="2")
    await gate.signal("spare", quantity="0")
    await gate.pnl("main", "9950", marks={"BTC-USD": "98"})
    await gate.command("third", "lock")
    return order_id


async def settled(gate: Gate, screen: Screen) -> None:
    """Wait until all that ``a_day`` has sent is in the model."""
    await screen.wait_for_account("main", equity="9950", order_count="1", position_count="1")
    await screen.wait_for_account("third", trading_state="REDUCING", lock_reasons='["MANUAL"]')
    await wait_for(lambda: has_decision(screen, "spare"), DEADLINE_S, "the rejection")
    await wait_for(screen.locks, DEADLINE_S, "the lock in the stream")


async def has_decision(screen: Screen, account: str) -> bool:
    return "last_decision" in await screen.account(account)


async def test_an_account_is_shown_as_the_command_line_shows_it(gate: Gate, screen: Screen) -> None:
    http = f"127.0.0.1:{free_ports(1)[0]}"
    with gate.worker() as worker, gate.mirror(http=http):
        worker.wait_serving(PARTITIONS)
        order_id = await a_day(gate)
        await settled(gate, screen)
        await screen.wait_fresh()
        status, text = gate.answer("accounts", "--json")
        assert status == 0, text
        shown = {one["account_id"]: one for one in orjson.loads(text)["accounts"]}
        assert set(shown) == set(ACCOUNTS)
        for account, document in shown.items():
            document.pop("equity_stale")
            assert account_document(await screen.account(account)) == document
        main = await screen.account("main")
        assert (main["daily_pnl_pct"], main["weekly_pnl_pct"]) == ("-0.5", "-0.5")
        assert main["daily_room"] == "150"
        decision = orjson.loads(main["last_decision"])
        assert (decision["decision"], decision["order_id"]) == ("approved", order_id)
        rejection = orjson.loads((await screen.account("spare"))["last_decision"])
        assert (rejection["decision"], rejection["code"]) == ("rejected", "INVALID_QUANTITY")
        assert await screen.client.smembers(f"{screen.prefix}locked") == {"third"}
        assert (await screen.looker.ask("main", order_id)).allowed
        status, text = gate.answer("mirror", "status", "--json")
        assert status == 0, text
        assert orjson.loads(text)["behind_records"] is not None
        async with ClientSession(f"http://{http}") as session:
            assert (await session.get("/health")).status == 200
            assert (await session.get("/ready")).status == 200
            figures = await (await session.get("/metrics")).text()
            assert scrape.shown(figures) == scrape.listed("mirror")
            assert "tidegate_mirror_complete 1.0" in figures
            await screen.client.client_pause(3_600_000)

            async def has_lost_redis() -> bool:
                return "tidegate_mirror_redis_up 0.0" in await (await session.get("/metrics")).text()

            await wait_for(has_lost_redis, DEADLINE_S, "a mirror that has noticed")
            ready = await session.get("/ready")
            assert ready.status == 503
            assert "redis does not answer" in await ready.text()
            assert (await session.get("/health")).status == 200


async def test_a_lock_reaches_the_last_look_the_stream_and_the_screens(gate: Gate, screen: Screen) -> None:
    with gate.worker() as worker, gate.mirror():
        worker.wait_serving(PARTITIONS)
        await gate.pnl("main", "10000")
        order_id = await gate.approved("main")
        await wait_for(lambda: allowed(screen, order_id), DEADLINE_S, "an order that may go out")
        async with screen.client.pubsub() as listening:
            await listening.psubscribe(f"{screen.prefix}updates:*")
            await gate.pnl("main", "9800")
            await wait_for(lambda: refused(screen, order_id), DEADLINE_S, "an order that may not go out")
            assert (await screen.looker.ask("main", order_id)).code == "ACCOUNT_LOCKED_DAILY_DRAWDOWN"
            told: dict[str, Any] = {}

            async def heard() -> bool:
                message = await listening.get_message(ignore_subscribe_messages=True, timeout=0.1)
                if message is not None:
                    told[message["channel"].removeprefix(screen.prefix)] = orjson.loads(message["data"])
                return {"updates:locks", "updates:accounts"} <= told.keys()

            await wait_for(heard, DEADLINE_S, "what screens are told")
        (lock,) = await screen.locks()
        assert (lock["account_id"], lock["reason"]) == ("main", "DAILY_DRAWDOWN")
        assert told["updates:locks"]["lock_id"] == lock["lock_id"]
        assert orjson.loads(lock["record"]) == (await gate.outputs(LOCKED))[0]
        await gate.command("main", "unlock", rebase="now")
        await wait_for(lambda: allowed(screen, order_id), DEADLINE_S, "an order that may go out again")


async def allowed(screen: Screen, order_id: str) -> bool:
    return (await screen.looker.ask("main", order_id)).allowed


async def refused(screen: Screen, order_id: str) -> bool:
    return not await allowed(screen, order_id)


async def test_a_wiped_redis_is_noticed_and_filled_again(gate: Gate, screen: Screen) -> None:
    with gate.worker() as worker, gate.mirror() as mirror:
        worker.wait_serving(PARTITIONS)
        order_id = await a_day(gate)
        await settled(gate, screen)
        await screen.wait_fresh()
        before, generation = await screen.dump(), (await screen.status()).generation
        await screen.client.flushall()
        assert not await allowed(screen, order_id)
        mirror.wait_for("the model is whole", times=2)
        await settled(gate, screen)
        await screen.wait_fresh()
        assert await screen.dump() == before
        assert (await screen.status()).generation != generation
        assert await allowed(screen, order_id)


async def test_the_gate_decides_on_while_redis_is_down_and_the_mirror_catches_up(
    gate: Gate, screen: Screen, own_redis: Server
) -> None:
    with gate.worker() as worker, gate.mirror() as mirror:
        worker.wait_serving(PARTITIONS)
        await gate.pnl("main", "10000")
        first = await gate.approved("main")
        await wait_for(lambda: allowed(screen, first), DEADLINE_S, "an order that may go out")
        own_redis.kill()
        second = await gate.approved("main")
        assert second != first
        assert await refused(screen, first)
        mirror.wait_for("trying until it answers")
        # It comes back empty, without data and without functions.
        own_redis.start()
        await screen.wait_fresh()
        await wait_for(lambda: allowed(screen, second), DEADLINE_S, "the order that was approved meanwhile")
        assert mirror.exit_status is None


async def test_the_gate_decides_on_while_redis_is_slow(gate: Gate, screen: Screen, own_redis: Server) -> None:
    with gate.worker() as worker, gate.mirror():
        worker.wait_serving(PARTITIONS)
        await gate.pnl("main", "10000")
        first = await gate.approved("main")
        await wait_for(lambda: allowed(screen, first), DEADLINE_S, "an order that may go out")
        await screen.client.client_pause(3_600_000)
        # Several decisions, one after the other, none of which Redis hears of.
        orders = [await gate.approved("main", quantity="0.1") for _ in range(3)]
        look = await screen.looker.ask("main", first)
        assert look.code == "REDIS_UNAVAILABLE"
        own_redis.kill()
        own_redis.start()

        async def all_allowed() -> bool:
            return all([await allowed(screen, order_id) for order_id in orders])

        await wait_for(all_allowed, DEADLINE_S, "the orders that were approved meanwhile")


async def test_a_killed_mirror_goes_on_where_it_was_and_repeats_nothing(gate: Gate, screen: Screen) -> None:
    with gate.worker() as worker:
        worker.wait_serving(PARTITIONS)
        with gate.mirror():
            await a_day(gate)
            await settled(gate, screen)
            await screen.wait_fresh()
        await screen.wait_not_fresh()
        generation = (await screen.status()).generation
        await gate.pnl("main", "9700", marks={"BTC-USD": "98"})
        await gate.command("fourth", "lock")
        with gate.mirror("second") as second:
            await screen.wait_for_account("main", equity="9700")
            await screen.wait_for_account("fourth", lock_reasons='["MANUAL"]')
            await screen.wait_fresh()
            assert (await screen.status()).generation == generation
            assert "the model is whole" not in second.log
            locked = sorted(one["account_id"] for one in await screen.locks())
            assert locked == ["fourth", "main", "third"]
            assert second.end(signal.SIGTERM) == 0
            assert "mirror stopped" in second.log


async def test_two_mirrors_and_one_that_wakes_up_late_do_no_harm(gate: Gate, screen: Screen) -> None:
    with gate.worker() as worker, gate.mirror("one") as one, gate.mirror("two") as two:
        worker.wait_serving(PARTITIONS)
        await a_day(gate)
        await settled(gate, screen)
        one.send(signal.SIGSTOP)
        await gate.pnl("main", "9700", marks={"BTC-USD": "98"})
        await gate.command("third", "unlock")
        await screen.wait_for_account("main", equity="9700")
        await screen.wait_for_account("third", trading_state="ACTIVE")
        after = await screen.dump()
        two.end(signal.SIGTERM)
        # What it was about to write is older than what stands.
        one.send(signal.SIGCONT)

        async def is_by_the_one() -> bool:
            return (await screen.status()).writer == f"{socket.gethostname()}:{one.pid}"

        await wait_for(is_by_the_one, DEADLINE_S, "a heartbeat of the one that woke up")
        await screen.wait_fresh()
        assert await screen.dump() == after
        assert len(await screen.locks()) == len(await gate.outputs(LOCKED)) == 2
        assert one.exit_status is None


async def test_policies_reach_screens_and_the_last_look(gate: Gate, screen: Screen) -> None:
    with gate.worker() as worker, gate.mirror():
        worker.wait_serving(PARTITIONS)
        await gate.pnl("main", "10000")
        order_id = await gate.approved("main")
        await wait_for(lambda: allowed(screen, order_id), DEADLINE_S, "an order that may go out")
        await gate.policy("state/global", {"state": "HALTED"})
        await wait_for(lambda: refused(screen, order_id), DEADLINE_S, "a halt")
        assert (await screen.looker.ask("main", order_id)).code == "TRADING_HALTED"
        for account in ACCOUNTS:
            await screen.wait_for_account(account, trading_state="HALTED", policy_version="1")
        await gate.policy("state/global", None)
        await wait_for(lambda: allowed(screen, order_id), DEADLINE_S, "the end of the halt")


async def test_rebuild_makes_the_same_model_and_adds_no_lock_twice(gate: Gate, screen: Screen) -> None:
    with gate.worker() as worker, gate.mirror() as mirror:
        worker.wait_serving(PARTITIONS)
        await a_day(gate)
        await settled(gate, screen)
        await screen.wait_fresh()
        before = await screen.dump()
        await screen.client.hset(f"{screen.prefix}account:main", "equity", "1")
        await screen.client.sadd(f"{screen.prefix}accounts", "ghost")
        await screen.client.hset(f"{screen.prefix}account:ghost", "equity", "1")
        status, text = gate.answer("mirror", "rebuild")
        assert status == 0, text
        assert "whole after" in text
        mirror.wait_for("the model is not as it was left")
        await screen.wait_fresh()
        await wait_for(lambda: same(screen, before), DEADLINE_S, "the same model")
        mirror.end(signal.SIGTERM)
        # And without any mirror.
        assert gate.answer("mirror", "rebuild")[0] == 0
        assert await screen.dump() == before


async def same(screen: Screen, before: dict[str, Any]) -> bool:
    return await screen.dump() == before


async def test_the_model_of_another_gate_is_left_alone(gate: Gate, screen: Screen) -> None:
    other: dict[Any, Any] = {"source": "elsewhere/tidegate", "layout": "1", "generation": "7", "phase": "live"}
    await screen.client.hset(f"{screen.prefix}status", mapping=other)
    status, text = gate.answer("mirror")
    assert status == 1
    assert "elsewhere/tidegate" in text
    assert await screen.client.hgetall(f"{screen.prefix}status") == other


async def test_state_of_a_newer_release_ends_the_mirror_and_not_the_model(gate: Gate, screen: Screen) -> None:
    """Read by guesswork it would be wrong; the last looks grow stale, and refuse."""
    with gate.mirror() as mirror:
        mirror.wait_for("the model is whole")
        await gate.send_state(changelog_key("accounts", b"main"), b'{"v":99}')
        await wait_for(lambda: mirror.exit_status is not None, DEADLINE_S, "a mirror that has ended")
    assert mirror.exit_status == 1
    assert "unknown version" in mirror.log.splitlines()[-1]
    assert (await screen.account("main"))["seen"] == "0"
    await screen.wait_not_fresh()


async def test_while_kafka_is_away_the_model_grows_stale_though_the_mirror_lives(
    topics: Names, tmp_path: Path, own_redis: Server
) -> None:
    """Whoever hears nothing from the brokers may not call a model fresh, however often it says that it is alive."""
    require_local_kafka()
    with KafkaCluster() as cluster:
        gate = await Gate(Broker(cluster.bootstrap, "kafka", ""), topics, tmp_path, own_redis.url).create()
        async with Redis.from_url(gate.redis_url, decode_responses=True) as client:
            screen = Screen(gate, client)
            with gate.worker() as worker, gate.mirror() as mirror:
                worker.wait_serving(PARTITIONS)
                await gate.pnl("main", "10000")
                order_id = await gate.approved("main")
                await wait_for(lambda: allowed(screen, order_id), DEADLINE_S, "an order that may go out")
                cluster.kill()
                await screen.wait_not_fresh()
                status = await screen.status()
                assert status.phase == "live"
                assert status.heartbeat_age_ms is not None
                assert status.heartbeat_age_ms < HEARTBEAT_MAX_MS
                assert (await screen.looker.ask("main", order_id)).code == "MIRROR_STALE"
                await asyncio.to_thread(cluster.restart)
                await wait_for(lambda: allowed(screen, order_id), DEADLINE_S, "a model that is fresh again")
                assert mirror.exit_status is None


async def test_no_password_is_told(kafka: Broker, topics: Names, tmp_path: Path) -> None:
    with server(password=PASSWORD) as one:
        gate = await Gate(kafka, topics, tmp_path, one.url).create()
        with gate.mirror() as mirror:
            mirror.wait_for("the model is whole")
            one.kill()
            mirror.wait_for("trying until it answers")
        status, text = gate.answer("mirror", "status")
        assert status == 3
        wrong = gate.tidegate("mirror", "status", name="wrong", redis_url=one.url.replace(PASSWORD, "not-this-one"))
        one.start()
        wrong.start()
        assert wrong.wait_exit() == 3
        for said in (mirror.log, text, wrong.log):
            assert PASSWORD not in said
            assert "not-this-one" not in said
