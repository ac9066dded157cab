"""A gate on a real broker, its mirror in a process of its own, and a real Redis: started, paused, killed by tests."""

import os
import time
from pathlib import Path
from typing import Any, Self

import orjson
from redis.asyncio import Redis

from infra.brokers import Broker
from schemas.types import write_time
from streams.core.records import APPROVED, CONTROLS, FILLS, PNL, POLICIES, SIGNALS
from streams.mirror.last_look import LastLook
from streams.mirror.status import Status, read_status
from streams.runtime import clock
from streams.runtime.settings import Settings
from streams.runtime.topics import STATE, TopicNames, create_topics
from tests.integration.processes import DEADLINE_S, Program, environment_of, tidegate_command
from tests.integration.support import Names, produce, read_topic, wait_for
from tests.integration.workers import WorkerProcess, settings_for

PARTITIONS = 4
ACCOUNTS = ("main", "spare", "third", "fourth")
CONFIG: dict[str, Any] = {
    "accounts": {name: {"exchange": "binance", "profile": "normal"} for name in ACCOUNTS},
    "limits": {"max_pnl_age": "1h", "order_valid": "1h"},
}
TOML = '[limits]\nmax_pnl_age = "1h"\norder_valid = "1h"\n' + "".join(
    f'[accounts.{name}]\nexchange = "binance"\nprofile = "normal"\n' for name in ACCOUNTS
)


class Gate:
    """A test's topics, its workers and mirrors, and what a desk sends."""

    def __init__(self, kafka: Broker, topics: Names, directory: Path, redis_url: str) -> None:
        self._kafka = kafka
        self._topics = topics
        self._directory = directory
        self.redis_url = redis_url
        self.prefix = f"{topics.prefix}{topics.app_id}:"
        self.names = TopicNames.of(self.settings("any"))
        self._count = 0
        self._config = directory / "tidegate.toml"
        self._config.write_text(TOML)

    def settings(self, name: str) -> Settings:
        return settings_for(self._kafka, self._topics, self._directory / name)

    async def create(self) -> Self:
        await create_topics(self.settings("any"), partitions=PARTITIONS)
        return self

    # -- processes -------------------------------------------------------------------------------------------------

    def worker(self) -> WorkerProcess:
        return WorkerProcess(self.settings("worker"), core="real", rules=CONFIG)

    def tidegate(self, *arguments: str, name: str = "mirror", redis_url: str | None = None, http: str = "") -> Program:
        """A command with this gate's connection; ``http``: where it serves its probes."""
        settings = self.settings(name)
        own = environment_of(settings) | {"TIDEGATE_REDIS_URL": redis_url or self.redis_url, "TIDEGATE_HTTP": http}
        command = tidegate_command(*arguments, "--config", str(self._config))
        return Program(command, self._directory / f"{name}.log", os.environ | own)

    def mirror(self, name: str = "mirror", **options: Any) -> Program:
        return self.tidegate("mirror", name=name, **options)

    def answer(self, *arguments: str) -> tuple[int, str]:
        """Run a command to its end; exit status and output."""
        command = self.tidegate(*arguments, name=f"command-{time.monotonic_ns()}").start()
        return command.wait_exit(), command.log

    # -- what a desk sends -----------------------------------------------------------------------------------------

    async def send(self, topic: str, key: str, **value: Any) -> None:
        await produce(self._kafka.bootstrap, self.names.physical(topic), [(key.encode(), orjson.dumps(value))])

    async def send_state(self, key: bytes, value: bytes) -> None:
        """A record of the changelog that no worker has written."""
        await produce(self._kafka.bootstrap, self.names.physical(STATE), [(key, value)])

    async def pnl(self, account: str, equity: str, **fields: Any) -> None:
        self._count += 1
        await self.send(PNL, account, account_id=account, sequence=self._count, equity=equity, as_of=now(), **fields)

    async def signal(self, account: str, **fields: Any) -> str:
        self._count += 1
        signal_id = f"s-{self._count}"
        order = {"instrument": "BTC-USD", "side": "buy", "quantity": "1", "price": "100", "stop_loss": "99"}
        value = {"signal_id": signal_id, "account_id": account, "strategy_id": "trend", "created_at": now()}
        await self.send(SIGNALS, account, **(value | order | fields))
        return signal_id

    async def fill(self, account: str, **fields: Any) -> None:
        self._count += 1
        fill = {"instrument": "BTC-USD", "side": "buy", "quantity": "1", "price": "100", "status": "filled"}
        value = {"fill_id": f"f-{self._count}", "account_id": account, "filled_at": now()}
        await self.send(FILLS, account, **(value | fill | fields))

    async def command(self, account: str, kind: str, **fields: Any) -> None:
        self._count += 1
        who = {"operator": "ann", "reason": "test", "issued_at": now()}
        value = {"command_id": f"c-{self._count}", "account_id": account, "type": kind}
        await self.send(CONTROLS, account, **(value | who | fields))

    async def policy(self, name: str, rule: Any) -> None:
        who = {"operator": "ann", "reason": "test", "issued_at": now()}
        await self.send(POLICIES, name, name=name, rule=rule, **who)

    async def outputs(self, topic: str) -> list[dict[str, Any]]:
        """What the gate has published."""
        records = await read_topic(self._kafka.bootstrap, self.names.physical(topic))
        return [orjson.loads(record.value) for record in records]

    async def approved(self, account: str, **fields: Any) -> str:
        """An order that the gate has approved; its id."""
        signal_id = await self.signal(account, **fields)

        async def decided() -> str:
            for order in await self.outputs(APPROVED):
                if order["signal_id"] == signal_id:
                    return str(order["order_id"])
            return ""

        return await wait_for(decided, DEADLINE_S, f"the approval of {signal_id}")


class Screen:
    """What screens and executors see in Redis."""

    def __init__(self, gate: Gate, client: Redis) -> None:
        self.client = client
        self.prefix = gate.prefix
        self.looker = LastLook(client, prefix=gate.prefix, timeout_ms=2_000)

    async def status(self) -> Status:
        return await read_status(self.client, self.prefix)

    async def account(self, account_id: str) -> dict[str, str]:
        found = await self.client.hgetall(f"{self.prefix}account:{account_id}")
        return {str(name): str(value) for name, value in found.items()}

    async def wait_for_account(self, account_id: str, **fields: str) -> dict[str, str]:
        """Wait until an account shows these fields."""

        async def shown() -> dict[str, str]:
            found = await self.account(account_id)
            return found if fields.items() <= found.items() else {}

        return await wait_for(shown, DEADLINE_S, f"{account_id} to show {fields}")

    async def wait_fresh(self) -> None:
        """Wait until a last look would trust the model."""

        async def fresh() -> bool:
            return not (await self.status()).faults()

        await wait_for(fresh, DEADLINE_S, "a model that is fresh")

    async def wait_not_fresh(self) -> None:
        async def stale() -> bool:
            return bool((await self.status()).faults())

        await wait_for(stale, DEADLINE_S, "a model that is not fresh")

    async def locks(self) -> list[dict[str, str]]:
        """The stream of locks."""
        entries: list[Any] = await self.client.xrange(f"{self.prefix}locks") or []
        return [dict(fields) for _, fields in entries]

    async def dump(self) -> dict[str, Any]:
        """All of the model that is made from the topics, without what tells when and by whom it was written."""
        volatile = ("updated_ms", "generation")
        found: dict[str, Any] = {}
        async for key in self.client.scan_iter(f"{self.prefix}*", count=1000):
            name, kind = str(key).removeprefix(self.prefix), await self.client.type(key)
            if name in ("status", "ends"):
                continue
            if kind == "hash":
                found[name] = {k: v for k, v in (await self.client.hgetall(key)).items() if k not in volatile}
            elif kind == "set":
                found[name] = sorted(str(one) for one in await self.client.smembers(key))
            elif kind == "string":
                found[name] = await self.client.get(key)
            else:
                entries: list[Any] = await self.client.xrange(key) or []
                found[name] = [fields for _, fields in entries]
        return found


def now() -> str:
    """The wall clock as the topics have it."""
    return write_time(clock.now_ms())
