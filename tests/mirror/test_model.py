"""What Redis does with writes: repeats, older writers, wiped and set-back models, and locks that are told once."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import orjson
import pytest
from msgspec.structs import replace
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from streams.core.records import APPROVED, LOCKED, REJECTED, Record
from streams.mirror.content import KEPT_AFTER_MS, decisions_content, locks_content, refreshed, touched
from streams.mirror.model import Model, ModelError, Progress, Stretch, Superseded
from streams.mirror.settings import MirrorSettings
from streams.runtime.topics import STATE
from tests.integration.container import NoDockerEngine
from tests.mirror.servers import Server, container
from tests.mirror.stage import SOURCE, Stage, now_text
from tests.unit.desk import Desk

STATE_PLACE = f"{STATE}/0"


@pytest.fixture
async def stage(mirror_settings: MirrorSettings) -> AsyncIterator[Stage]:
    desk = Desk(at=now_text())
    async with Stage(mirror_settings, desk) as one:
        desk.pnl()
        await one.publish()
        yield one


async def equity(stage: Stage) -> str:
    return (await stage.hash("account:main"))["equity"]


# -- positions -----------------------------------------------------------------------------------------------------


async def test_a_repeated_stretch_writes_nothing(stage: Stage, redis: Redis) -> None:
    stage.desk.later(seconds=1).pnl("10100")
    batch = stage.state_records()
    stretch = await stage.put_state(batch)
    key = f"{stage.settings.prefix}account:main"
    await redis.hset(key, "equity", "marked by the test")
    await stage.put_batch(stretch, batch)
    assert await equity(stage) == "marked by the test"


async def test_an_older_writer_cannot_overwrite(stage: Stage) -> None:
    stage.desk.later(seconds=1).pnl("10100")
    older = stage.state_records()
    stage.desk.later(seconds=1).pnl("10200")
    newer = [replace(record, offset=older[-1].offset + 1 + n) for n, record in enumerate(stage.state_records())]
    await stage.put_state(older)
    await stage.put_state(newer)
    await stage.put_batch(Stretch(STATE_PLACE, older[0].offset, older[-1].offset + 1), older)
    assert await equity(stage) == "10200"


async def test_a_longer_stretch_that_began_earlier_is_written(stage: Stage) -> None:
    """A second mirror, with other batches: what it brings beyond the position counts."""
    stage.desk.later(seconds=1).pnl("10100")
    first = stage.state_records()
    stage.desk.later(seconds=1).pnl("10200")
    second = [replace(record, offset=first[-1].offset + 1 + n) for n, record in enumerate(stage.state_records())]
    await stage.put_state(first)
    both = [*first, *second]
    await stage.put_batch(Stretch(STATE_PLACE, both[0].offset, both[-1].offset + 1), both)
    assert await equity(stage) == "10200"


async def test_a_stretch_beyond_the_position_is_refused(stage: Stage, redis: Redis) -> None:
    """The model was set back, to an older copy say: the writer has to go back too."""
    stage.desk.later(seconds=1).pnl("10100")
    batch = stage.state_records()
    await redis.hset(f"{stage.settings.prefix}positions", STATE_PLACE, str(batch[0].offset - 1))
    with pytest.raises(Superseded, match="gap"):
        await stage.put_state(batch)
    assert await equity(stage) == "10000"


@pytest.mark.parametrize("what", ["state", "outputs", "locks", "rules", "refresh", "finish", "beat"])
async def test_a_writer_of_another_generation_is_refused(what: str, stage: Stage) -> None:
    rejected = stage.desk.signal(quantity="0").rejected
    lock = stage.desk.command("lock").lock
    await stage.model.rebuild()
    writes: dict[str, Callable[[], Awaitable[object]]] = {
        "state": stage.put_state,
        "outputs": lambda: stage.put_outputs(REJECTED, [rejected]),
        "locks": lambda: stage.put_outputs(LOCKED, [lock]),
        "rules": stage.put_rules,
        "refresh": stage.refresh,
        "finish": lambda: stage.model.finish(stage.generation),
        "beat": stage.beat,
    }
    with pytest.raises(Superseded, match="generation"):
        await writes[what]()


async def test_older_rules_do_not_take_the_place_of_newer_ones(stage: Stage) -> None:
    older = stage.desk.gate.rules
    stage.desk.policy("state/global", {"state": "HALTED"})
    await stage.publish()
    stage.desk.gate.rules = older
    await stage.put_rules()
    await stage.refresh()
    assert (await stage.hash("rules"))["version"] == "1"
    assert (await stage.hash("account:main"))["trading_state"] == "HALTED"


async def test_a_refresh_skips_an_account_that_has_moved_on(stage: Stage) -> None:
    held = await stage.model.read_state(stage.generation, ["main"])
    stage.desk.later(seconds=1).pnl("10100")
    await stage.put_state()
    content = refreshed("main", held["main"], stage.rules)
    await stage.model.refresh_accounts(stage.generation, stage.rules.version, [content])
    assert await equity(stage) == "10100"


# -- generations ---------------------------------------------------------------------------------------------------


async def test_a_confirmation_counts_only_while_all_of_it_is_there(stage: Stage, redis: Redis) -> None:
    await redis.hset(f"{stage.settings.prefix}positions", STATE_PLACE, "0")
    with pytest.raises(Superseded, match="gap"):
        await stage.beat()


async def test_an_opened_model_goes_on_where_it_is(stage: Stage) -> None:
    again = await stage.model.open()
    assert again.generation == stage.generation
    assert again.positions == stage.positions
    assert again.is_live


async def test_the_model_of_another_gate_is_refused_and_can_be_taken_over(stage: Stage, redis: Redis) -> None:
    stage.heard(stage.desk.command("lock"))
    await stage.publish()
    other = Model(stage.settings, source="another/gate")
    with pytest.raises(ModelError, match=r"cluster/tidegate.*TIDEGATE_REDIS_PREFIX"):
        await other.open()
    taken = await other.rebuild()
    assert (taken.positions, taken.is_live) == ({}, False)
    assert await redis.xlen(f"{stage.settings.prefix}locks") == 0
    with pytest.raises(ModelError):
        await stage.model.open()
    await other.close()


async def test_an_older_layout_is_built_anew_and_a_newer_one_refused(stage: Stage, redis: Redis) -> None:
    key = f"{stage.settings.prefix}status"
    await redis.hset(key, "layout", "0")
    opened = await stage.model.open()
    assert (opened.positions, opened.is_live) == ({}, False)
    await redis.hset(key, "layout", "99")
    with pytest.raises(ModelError, match="layout 99"):
        await stage.model.open()


async def test_what_a_rebuild_does_not_meet_again_is_dropped(stage: Stage, redis: Redis) -> None:
    prefix = stage.settings.prefix
    stage.desk.command("lock")
    await stage.publish()
    await redis.sadd(f"{prefix}accounts", "ghost")
    await redis.sadd(f"{prefix}locked", "ghost")
    await redis.hset(f"{prefix}account:ghost", "equity", "1")
    stage._begin(await stage.model.rebuild())
    # While it is built the locked stay listed: an empty set would read as "nothing is locked".
    assert await redis.smembers(f"{prefix}locked") == {"main", "ghost"}
    await stage.publish()
    assert await redis.smembers(f"{prefix}accounts") == {"main"}
    assert await redis.smembers(f"{prefix}locked") == {"main"}
    assert not await redis.exists(f"{prefix}account:ghost")


async def test_nothing_of_an_earlier_generation_is_mixed_in(stage: Stage, redis: Redis) -> None:
    stage.desk.hold("2")
    await stage.publish()
    assert (await stage.hash("account:main"))["position_count"] == "1"
    opened = await stage.model.rebuild()
    stage._begin(opened)
    records = [one for one in stage.state_records() if not (one.key or b"").startswith(b"positions\0")]
    await stage.put_state([replace(one, offset=n) for n, one in enumerate(records)])
    assert (await stage.hash("account:main"))["position_count"] == "0"
    assert (await stage.hash("state:main"))["positions"] == ""


# -- locks and decisions -------------------------------------------------------------------------------------------


def locks_of(desk: Desk, count: int) -> list[dict[str, Any]]:
    locks = []
    for _ in range(count):
        locks.append(desk.command("lock").lock)
        desk.command("unlock")
    return locks


async def test_each_lock_is_added_once_whatever_is_repeated(stage: Stage, redis: Redis) -> None:
    locks = locks_of(stage.desk, 3)
    await stage.put_outputs(LOCKED, locks)
    await stage.put_outputs(LOCKED, locks, start=0)
    stage._begin(await stage.model.rebuild())
    await stage.put_outputs(LOCKED, [*locks, *locks_of(stage.desk, 1)])
    entries: Any = await redis.xrange(f"{stage.settings.prefix}locks")
    ids = [fields["lock_id"] for _, fields in entries]
    assert len(ids) == len(set(ids)) == 4
    assert ids[:3] == [lock["lock_id"] for lock in locks]
    assert orjson.loads(entries[0][1]["record"]) == locks[0]


async def test_the_stream_of_locks_is_bounded_and_serves_consumer_groups(redis: Redis, shared_redis: Server) -> None:
    settings = MirrorSettings(url=shared_redis.url, prefix=f"bounded-{now_text()}:", locks_max=100)
    async with Stage(settings, Desk(at=now_text())) as stage:
        stage.desk.pnl()
        stream = f"{settings.prefix}locks"
        await redis.xgroup_create(stream, "ops", id="0", mkstream=True)
        (template,) = locks_of(stage.desk, 1)
        for first in range(0, 1_000, 200):
            await stage.put_outputs(LOCKED, [template | {"lock_id": f"l-{first + n}"} for n in range(200)])
        # About 100: whole nodes of the stream are dropped.
        assert 100 <= await redis.xlen(stream) <= 300
        read: Any = await redis.xreadgroup("ops", "ann", {stream: ">"}, count=1_000)
        ((_, entries),) = read
        assert entries[-1][1]["lock_id"] == "l-999"
        assert await redis.xack(stream, "ops", *(entry for entry, _ in entries)) == len(entries)


async def test_the_later_of_two_decisions_stands_in_whatever_order_they_come(stage: Stage) -> None:
    approved = stage.desk.signal().approved
    rejected = stage.desk.signal(quantity="0").rejected
    await stage.put_outputs(REJECTED, [rejected])
    await stage.put_outputs(APPROVED, [approved])
    decision = orjson.loads((await stage.hash("account:main"))["last_decision"])
    assert (decision["decision"], decision["signal_id"]) == ("rejected", rejected["signal_id"])


async def test_signals_of_unknown_accounts_make_no_account(stage: Stage, redis: Redis) -> None:
    rejected = stage.desk.signal(account_id="nobody").rejected
    await stage.put_outputs(REJECTED, [rejected])
    assert await redis.smembers(f"{stage.settings.prefix}accounts") == {"main"}


async def test_orders_are_forgotten_an_hour_after_they_ended(stage: Stage, redis: Redis) -> None:
    order_id = await stage.order()
    key = f"{stage.settings.prefix}order:{order_id}"
    assert 0 < await redis.pttl(key) <= KEPT_AFTER_MS + 30_000
    old = stage.desk.at("2017-12-19T11:00:00Z")
    old.pnl()
    approved = old.signal().approved
    await stage.put_outputs(APPROVED, [approved])
    assert not await redis.exists(f"{stage.settings.prefix}order:{approved['order_id']}")


async def test_records_that_cannot_be_read_are_named_and_left_out() -> None:
    odd: Sequence[bytes | None] = (None, b"", b"[]", b"{}", b'{"lock_id": 1}')
    records = [Record(LOCKED, 0, n, 0, None, value) for n, value in enumerate(odd)]
    assert locks_content(records) == ([], [0, 1, 2, 3, 4])
    assert decisions_content(REJECTED, records)[1] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="names no table"):
        touched([Record(STATE, 0, 0, 0, b"odd", b"{}")])


# -- the server ----------------------------------------------------------------------------------------------------


async def test_a_failing_server_is_waited_for(own_redis: Server) -> None:
    settings = MirrorSettings(url=own_redis.url, prefix="t:", retry_min_ms=1, retry_max_ms=5)
    own_redis.kill()
    model = Model(settings, source=SOURCE)
    errors: list[str] = []

    def note() -> None:
        errors.append(model.fault or "")
        if len(errors) == 3:
            own_redis.start()

    model.on_error = note
    opened = await model.open()
    assert opened.positions == {}
    assert len(errors) >= 3
    assert model.fault is None
    await model.close()


async def test_a_heartbeat_is_tried_once(own_redis: Server) -> None:
    model = Model(MirrorSettings(url=own_redis.url, prefix="t:"), source=SOURCE)
    opened = await model.open()
    own_redis.kill()
    with pytest.raises(RedisConnectionError):
        await model.heartbeat(opened.generation, "w", None, None, [Progress(STATE_PLACE, 0, 0)])
    await model.close()


async def test_a_server_that_has_lost_the_functions_gets_them_again(stage: Stage, own_redis: Server) -> None:
    model = Model(MirrorSettings(url=own_redis.url, prefix="t:", retry_min_ms=1), source=SOURCE)
    await model.open()
    own_redis.kill()
    own_redis.start()
    assert (await model.open()).positions == {}
    await model.close()


async def test_the_model_works_on_redis_in_a_container() -> None:
    try:
        with container() as url:
            async with Stage(MirrorSettings(url=url, prefix="t:"), Desk(at=now_text())) as stage:
                stage.desk.pnl()
                assert (await stage.look(await stage.order())).allowed
    except NoDockerEngine as error:
        pytest.skip(str(error))
