"""What-if, explain and fan-out on a real broker and a real worker."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.structs import TopicPartition
from typer.testing import CliRunner

from infra.brokers import Broker
from streams.ops.cli import app
from streams.ops.exits import ExitStatus
from streams.runtime.kafka import partition_of_key
from tests.integration.support import poll, produce, read_topic
from tests.integration.test_cli import PARTITIONS, created, now

FANOUT = '\n[fanout.shared]\naccounts = { trading = "0.6", sinking = "0.4" }\n'
ORDER = {
    "strategy_id": "trend",
    "instrument": "BTC-USD",
    "side": "buy",
    "quantity": "0.01",
    "price": "16500",
    "stop_loss": "16400",
}
TOPICS = ("signals", "approved-orders", "rejected-signals", "dead-letters", "account-events", "controls")
_DEADLINE_S = 30.0


class Gate:
    """A desk with a worker, and the commands of this page with the worker's configuration."""

    def __init__(self, kafka: Broker, directory: Path) -> None:
        self.desk = created(kafka, directory)
        self.bootstrap = kafka.bootstrap
        self.config = directory / "tidegate.toml"
        self.config.write_text(self.config.read_text() + FANOUT)

    def ask(self, *arguments: str, config: Path | None = None, stdin: Any = None) -> tuple[int, Any]:
        """Exit status and JSON of a command."""
        line = [*arguments, "--json", "--config", str(config or self.config)]
        given = None if stdin is None else json.dumps(stdin)
        result = CliRunner().invoke(app, line, input=given, env=self.desk._environment)
        assert result.stdout, result.output
        return result.exit_code, json.loads(result.stdout)

    def sizes(self) -> dict[str, int]:
        """Records on each topic that a signal could end in."""
        return {topic: len(asyncio.run(read_topic(self.bootstrap, self.desk.names.topic(topic)))) for topic in TOPICS}

    def decided(self, account: str, signal_id: str) -> Any:
        """Wait for the decision on a signal."""

        def find() -> Any:
            both = self.desk.records("approved-orders", account) + self.desk.records("rejected-signals", account)
            return [one for one in both if one["signal_id"] == signal_id]

        (one,) = poll(find, _DEADLINE_S, f"a decision on {signal_id}")
        return one


@pytest.fixture(scope="module")
def gate(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """Decisions under two policy versions, and one signal shared by two accounts."""
    one = Gate(kafka, tmp_path_factory.mktemp("explained"))
    desk = one.desk
    with desk.worker():
        for account in ("trading", "sinking"):
            desk.pnl(account, "10000")
        desk.signal("trading", "s-early")
        one.decided("trading", "s-early")
        limit = '{"max_open_positions": 1}'
        assert desk.tidegate("policy", "set", "profile/normal", limit, "-r", "CPI").exit_code == ExitStatus.DONE
        parent = {"signal_id": "s-shared", **ORDER, "strategy_id": "shared", "created_at": now()}
        headers = [("traceparent", b"00-1-2-01")]
        place = desk.names.topic("signals")
        asyncio.run(produce(one.bootstrap, place, [(None, json.dumps(parent).encode())], headers=headers))
        one.decided("sinking", "s-shared/sinking")
        one.decided("trading", "s-shared/trading")
        big = {"signal_id": "s-big", **ORDER, "quantity": "5", "instrument": "ETH-USD", "created_at": now()}
        desk.send("signals", "trading", **big)
        one.decided("trading", "s-big")
        yield one


# -- fan-out -------------------------------------------------------------------------------------------------------


def test_each_account_decides_its_share_once_and_the_parent_gets_nothing(gate: Gate) -> None:
    shares = {account: gate.decided(account, f"s-shared/{account}") for account in ("trading", "sinking")}
    assert {account: one["quantity"] for account, one in shares.items()} == {"trading": "0.006", "sinking": "0.004"}
    approved = asyncio.run(read_topic(gate.bootstrap, gate.desk.names.topic("approved-orders")))
    traced = [one for one in approved if b"s-shared" in one.value]
    assert [one.headers for one in traced] == [(("traceparent", b"00-1-2-01"),)] * 2
    assert {one.partition for one in traced} == {partition_of_key(name.encode(), PARTITIONS) for name in shares}
    letters = asyncio.run(read_topic(gate.bootstrap, gate.desk.names.topic("dead-letters")))
    assert [one for one in letters if b"s-shared" in one.value] == []


# -- whatif --------------------------------------------------------------------------------------------------------


def test_whatif_answers_as_the_gate_would_and_publishes_nothing(gate: Gate) -> None:
    before = gate.sizes()
    gate.desk.pnl("trading", "10000")
    status, fits = gate.ask("whatif", "--account", "trading", "--signal", "-", stdin=ORDER)
    checks = {line["code"]: line for line in fits["checks"] if line["scope"] != "signal" or line["margin"]}
    # By the risk of the two orders that were approved: 0.016 × (16500 − 16400); this one's is 1.
    assert checks["RISK_HEADROOM_EXCEEDED"]["observed"] == "2.6"
    assert (checks["RISK_HEADROOM_EXCEEDED"]["limit"], checks["RISK_HEADROOM_EXCEEDED"]["margin"]) == ("200", "197.4")
    assert (status, fits["verdict"], fits["code"], fits["venue"]) == (0, "approved", None, "binance")

    other = {**ORDER, "instrument": "ETH-USD", "account_id": "sinking"}
    status, refused = gate.ask("whatif", "--account", "trading", "--signal", "-", stdin=other)
    assert (status, refused["verdict"], refused["code"]) == (1, "rejected", "MAX_OPEN_POSITIONS_EXCEEDED")
    (found,) = [line for line in refused["checks"] if not line["passed"]]
    assert (found["observed"], found["limit"], found["margin"]) == ("2", "1", "-1")

    repeated = {**ORDER, "signal_id": "s-early"}
    status, again = gate.ask("whatif", "--account", "trading", "--signal", "-", stdin=repeated)
    assert (status, again["verdict"], again["code"]) == (1, "dead-lettered", "DUPLICATE_SIGNAL")
    assert gate.sizes() == before


# -- explain -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signal_id", "policy_version", "orders_seen"),
    [("s-early", 0, 0), ("s-shared/trading", 1, 1), ("s-shared/sinking", 1, 0), ("s-big", 1, 2)],
)
def test_a_decision_is_made_again_byte_for_byte_with_the_state_that_it_saw(
    gate: Gate, signal_id: str, policy_version: int, orders_seen: int
) -> None:
    status, told = gate.ask("explain", signal_id)
    assert told["why_not"] is None
    assert (status, told["equal"], told["recomputed"]) == (0, True, told["decision"])
    assert told["transaction"]["policy_version"] == policy_version
    assert len(told["state"]["open_orders"]) == orders_seen
    assert (told["decision"]["basis"]["offsets"]["signals"], json.loads(told["signal"]["value"])["signal_id"]) == (
        told["signal"]["offset"],
        signal_id,
    )
    published = told["decision"].get("checks") or told["decision"]["reasons"]
    assert {line["code"] for line in published} <= {line["code"] for line in told["checks"]}


def test_explain_in_words_names_the_decision_its_state_and_its_checks(gate: Gate) -> None:
    result = gate.desk.tidegate("explain", "s-big", "--account", "trading", "--config", str(gate.config))
    assert result.exit_code == ExitStatus.DONE, result.output
    for part in (
        "s-big for trading was rejected",
        "MAX_OPEN_POSITIONS_EXCEEDED",
        "✗",
        "10,000",
        "equals the published decision byte for byte",
    ):
        assert part in result.stdout


def test_a_parent_is_explained_by_its_shares_and_an_unknown_id_by_what_to_do(gate: Gate) -> None:
    result = gate.desk.tidegate("explain", "s-shared", "--config", str(gate.config))
    assert result.exit_code == ExitStatus.REFUSED
    assert "s-shared/sinking, s-shared/trading" in result.stderr
    result = gate.desk.tidegate("explain", "s-never", "--config", str(gate.config))
    assert result.exit_code == ExitStatus.REFUSED
    assert "there is no decision on signal 's-never'" in result.stderr


def test_a_dead_letter_says_why_there_is_no_decision(gate: Gate) -> None:
    lost = {"signal_id": "s-lost", **ORDER, "strategy_id": "nobody", "created_at": now()}
    place = gate.desk.names.topic("signals")
    asyncio.run(produce(gate.bootstrap, place, [(None, json.dumps(lost).encode())]))

    def told() -> str:
        result = gate.desk.tidegate("explain", "s-lost", "--config", str(gate.config))
        assert result.exit_code == ExitStatus.REFUSED
        return result.stderr if "UNKNOWN_ACCOUNT" in result.stderr else ""

    assert "has no route" in poll(told, _DEADLINE_S, "the dead letter to be explained")


def test_under_another_configuration_the_difference_is_named(gate: Gate, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(gate.config.read_text() + '\n[profiles.normal]\nmax_trade_risk = "0.0000001"\n')
    status, told = gate.ask("explain", "s-early", config=other)
    assert (status, told["equal"]) == (1, False)
    assert "code" in told["why_not"]
    assert "configuration" in told["why_not"]


def test_inputs_that_are_no_longer_retained_are_said_so_in_plain_words(gate: Gate) -> None:
    """Last: it deletes what the others read."""
    partition = partition_of_key(b"trading", PARTITIONS)
    place = TopicPartition(gate.desk.names.topic("pnl"), partition)

    async def delete() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=gate.bootstrap)
        await admin.start()
        try:
            await admin.delete_records({place: RecordsToDelete(before_offset=1)})
        finally:
            await admin.close()

    asyncio.run(delete())
    status, told = gate.ask("explain", "s-early")
    assert (status, told["equal"], told["recomputed"]) == (1, False, None)
    assert told["decision"]["signal_id"] == "s-early"
    assert "no longer retained" in told["why_not"]
    result = gate.desk.tidegate("explain", "s-early", "--config", str(gate.config))
    assert result.exit_code == ExitStatus.REFUSED
    assert "no longer retained" in result.stdout
    assert "RISK_DATA_STALE" in result.stdout, "what was published is shown all the same"
