"""Dead letters on a real broker and a real worker: found, explained, and decided at last after the fix."""

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
from streams.ops.letters_reading import RESUBMITTED
from streams.runtime.kafka import partition_of_key
from tests.integration.support import poll, produce, read_topic
from tests.integration.test_cli import PARTITIONS, created, now

_DEADLINE_S = 40.0
SIGNAL = {
    "strategy_id": "trend",
    "instrument": "BTC-USD",
    "side": "buy",
    "quantity": "0.01",
    "price": "16500",
    "stop_loss": "16400",
}


class Gate:
    """A desk whose worker does not know one account yet, and what it has dead-lettered."""

    def __init__(self, kafka: Broker, directory: Path) -> None:
        self.desk = created(kafka, directory)
        self.config = directory / "tidegate.toml"
        self.bootstrap = kafka.bootstrap

    def run(self, *arguments: str, stdin: bytes | None = None) -> Any:
        line = ["dead-letters", *arguments, "--config", str(self.config)]
        return CliRunner().invoke(app, line, input=stdin, env=self.desk._environment)

    def ask(self, *arguments: str, stdin: bytes | None = None) -> tuple[int, Any]:
        result = self.run(*arguments, "--json", stdin=stdin)
        assert result.stdout, result.output
        return result.exit_code, json.loads(result.stdout)

    def put(self, topic: str, key: str | None, value: bytes | None, **options: Any) -> str:
        """One record as any producer would send it; its place."""
        place = self.desk.names.topic(topic)
        encoded = None if key is None else key.encode()
        ((partition, offset),) = asyncio.run(produce(self.bootstrap, place, [(encoded, value)], **options))
        return f"{topic}/{partition}@{offset}"

    def signal(self, account: str, signal_id: str, **fields: Any) -> str:
        body = {**SIGNAL, "signal_id": signal_id, "account_id": account, "created_at": now(), **fields}
        return self.put("signals", account, json.dumps(body).encode(), headers=[("traceparent", b"00-1-2-01")])

    def lettered(self, source: str) -> Any:
        """Wait for the dead letter of an input."""

        def found() -> Any:
            result = self.run("show", source, "--json")
            return json.loads(result.stdout) if result.exit_code == ExitStatus.DONE else None

        return poll(found, _DEADLINE_S, f"the dead letter of {source}")

    def records(self, topic: str) -> list[Any]:
        return asyncio.run(read_topic(self.bootstrap, self.desk.names.topic(topic)))

    def decided(self, signal_id: str) -> list[Any]:
        """Decisions on a signal, as consumer records."""
        both = self.records("approved-orders") + self.records("rejected-signals")
        return [one for one in both if json.loads(one.value)["signal_id"] == signal_id]


@pytest.fixture(scope="module")
def gate(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    one = Gate(kafka, tmp_path_factory.mktemp("letters"))
    with one.desk.worker():
        yield one


def test_letters_are_listed_selected_and_explained(gate: Gate) -> None:
    broken = gate.put("pnl", "sinking", b'{"account_id": "sinking", "sequence": ')
    unknown = gate.put("fills", "stranger", json.dumps({"account_id": "stranger", "fill_id": "f"}).encode())
    first, second = gate.lettered(broken), gate.lettered(unknown)
    assert (first["dead_letter"]["reason"], second["dead_letter"]["reason"]) == ("MALFORMED", "UNKNOWN_ACCOUNT")
    assert first["original"]["value"] == '{"account_id": "sinking", "sequence": '
    assert "RISK_DATA_MISSING" in first["aftermath"]
    assert first["retained"]
    assert first["resubmitted_as"] is None

    status, listed = gate.ask(
        "list", "--reason", "MALFORMED", "--topic", "pnl", "--since", "1h", "--account", "sinking"
    )
    assert status == ExitStatus.DONE
    (line,) = listed["dead_letters"]
    assert (line["place"], listed["found"]) == (first["dead_letter"]["place"], 1)
    assert gate.ask("list", "--reason", "TOO_OLD")[1]["dead_letters"] == []
    assert len(gate.ask("list", "--limit", "1")[1]["dead_letters"]) == 1

    page = gate.run("show", line["place"]).stdout
    for words in ("MALFORMED", broken, "Mend the producer", "sequence", "SHA-256"):
        assert words in page
    table = gate.run("list").stdout
    assert line["place"] in table
    assert "UNKNOWN_ACCOUNT" in table
    assert gate.run("show", broken, "--raw").stdout == '{"account_id": "sinking", "sequence": '


def test_a_place_without_letter_is_told(gate: Gate) -> None:
    for place in ("0@999999", "99@0", "signals/0@999999"):
        result = gate.run("show", place)
        assert result.exit_code == ExitStatus.REFUSED
        assert f"{place}" in result.stderr


def test_after_the_fix_originals_are_decided_with_a_header_that_traces_them_and_not_twice(
    kafka: Broker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gate = Gate(kafka, tmp_path_factory.mktemp("fixed"))
    with gate.desk.worker():
        source = gate.signal("newcomer", "s-new")  # rejected as UNKNOWN_ACCOUNT: a decision, no dead letter
        poll(lambda: gate.decided("s-new"), _DEADLINE_S, "a decision on a signal of an unknown account")
        update = {"account_id": "newcomer", "sequence": 1, "equity": "100000", "as_of": now()}
        source = gate.put("pnl", "newcomer", json.dumps(update).encode(), headers=[("traceparent", b"00-1-2-01")])
        place = gate.lettered(source)["dead_letter"]["place"]
        status, told = gate.ask("resubmit", place, "--yes")
        assert status == ExitStatus.REFUSED
        assert "not in the configuration" in told["dead_letters"][0]["refusal"]

    gate.config.write_text(gate.config.read_text() + '[accounts.newcomer]\nexchange = "binance"\nprofile = "normal"\n')
    with gate.desk.worker():
        before = len(gate.records("pnl"))
        status, told = gate.ask("resubmit", "--reason", "UNKNOWN_ACCOUNT", "--account", "newcomer")
        assert (status, told["sent"], told["dead_letters"][0]["refusal"]) == (ExitStatus.DONE, False, None)
        assert len(gate.records("pnl")) == before, "a dry run publishes nothing"

        status, told = gate.ask("resubmit", "--reason", "UNKNOWN_ACCOUNT", "--account", "newcomer", "--yes")
        assert status == ExitStatus.DONE
        sent = told["dead_letters"][0]["sent_as"]
        poll(lambda: gate.desk.accounts("newcomer")["equity"], _DEADLINE_S, "equity of the account")
        assert gate.desk.accounts("newcomer")["equity"] == "100000"
        (again,) = (one for one in gate.records("pnl") if f"pnl/{one.partition}@{one.offset}" == sent)
        assert dict(again.headers) == {"traceparent": b"00-1-2-01", RESUBMITTED: source.replace("@", "/").encode()}
        assert again.partition == partition_of_key(b"newcomer", PARTITIONS)
        assert gate.lettered(source)["resubmitted_as"] == sent

        status, told = gate.ask("resubmit", place, "--yes")
        assert status == ExitStatus.REFUSED
        assert told["dead_letters"][0]["refusal"] == f"it was resubmitted before, as {sent}; --again sends it once more"
        status, told = gate.ask("resubmit", source, "--again", "--yes")
        assert status == ExitStatus.DONE
        assert gate.lettered(told["dead_letters"][0]["sent_as"])["dead_letter"]["reason"] == "STALE_SEQUENCE"


def test_a_repaired_signal_is_decided_once_and_carries_its_origin(gate: Gate, tmp_path: Path) -> None:
    gate.desk.pnl("trading", "100000")
    poll(lambda: gate.desk.accounts("trading")["equity"], _DEADLINE_S, "equity")
    source = gate.put("signals", None, b'{"signal_id": "s-mended"', partition=0)
    place = gate.lettered(source)["dead_letter"]["place"]
    assert "--edit FILE" in gate.ask("resubmit", place, "--yes")[1]["dead_letters"][0]["refusal"]

    body = {**SIGNAL, "signal_id": "s-mended", "account_id": "trading", "created_at": now()}
    repaired = tmp_path / "repaired.json"
    repaired.write_text(json.dumps(body))
    result = gate.run("resubmit", place, "--edit", str(repaired))
    assert result.exit_code == ExitStatus.DONE, result.output
    assert "would be sent" in result.stdout
    assert "Send with --yes" in result.stderr
    assert gate.decided("s-mended") == []

    status, told = gate.ask("resubmit", place, "--edit", "-", "--yes", stdin=repaired.read_bytes())
    assert (status, told["dead_letters"][0]["key"]) == (ExitStatus.DONE, "trading")
    (decision,) = poll(lambda: gate.decided("s-mended"), _DEADLINE_S, "a decision on the repaired signal")
    assert decision.headers == ((RESUBMITTED, source.replace("@", "/").encode()),)

    # A repaired payload under an id that was decided: dedup would answer it, so it is not sent.
    other = gate.put("signals", "trading", b'{"signal_id": "s-mended", ')
    place = gate.lettered(other)["dead_letter"]["place"]
    status, told = gate.ask("resubmit", place, "--edit", str(repaired), "--yes")
    assert status == ExitStatus.REFUSED
    assert "its id was used already" in told["dead_letters"][0]["refusal"]
    assert len(gate.decided("s-mended")) == 1


def test_what_retention_deleted_is_shown_as_far_as_the_letter_kept_it(gate: Gate) -> None:
    source = gate.put("controls", "keeping", b"gone")
    letter = gate.lettered(source)
    place = letter["dead_letter"]["place"]
    _, _, rest = source.partition("/")
    partition, offset = (int(one) for one in rest.split("@"))
    where = TopicPartition(gate.desk.names.topic("controls"), partition)

    async def delete() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=gate.bootstrap)
        await admin.start()
        try:
            await admin.delete_records({where: RecordsToDelete(before_offset=offset + 1)})
        finally:
            await admin.close()

    asyncio.run(delete())
    shown = gate.lettered(source)
    assert (shown["retained"], shown["original"]) == (False, None)
    assert shown["dead_letter"]["payload"] == "gone"
    assert "no longer retained" in gate.run("show", place).stdout
    assert gate.run("show", place, "--raw").exit_code == ExitStatus.REFUSED
    assert "no longer retained" in gate.ask("resubmit", place, "--yes")[1]["dead_letters"][0]["refusal"]
