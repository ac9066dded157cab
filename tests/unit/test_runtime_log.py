"""What a transaction's sends come to when brokers refuse them."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import NotEnoughReplicasError, ProducerFenced
from aiokafka.structs import ConsumerRecord, TopicPartition

from streams.core.records import Output
from streams.runtime import kafka
from streams.runtime.bounds import Looker
from streams.runtime.log import FencedError, KafkaLog, LogError, state_records
from streams.runtime.settings import Settings

OUTPUTS = [Output("approved-orders", b"a", b"{}"), Output("account-events", b"a", b"{}")]


class Batch:
    """A batch that takes everything."""

    def append(self, **_record: Any) -> object:
        return object()

    def close(self) -> None:
        """Nothing is held."""

    def record_count(self) -> int:
        return 1


class Refusing:
    """A producer whose every batch is refused in the same way."""

    def __init__(self, refusal: Exception) -> None:
        self._refusal = refusal
        self.refused = 0

    async def start(self) -> None:
        """Nothing to start."""

    async def begin_transaction(self) -> None:
        """Nothing to begin."""

    def create_batch(self) -> Batch:
        return Batch()

    async def send_batch(self, _batch: Batch, _topic: str, *, partition: int) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_exception(self._refusal)
        self.refused += partition == 0
        return future


@pytest.mark.parametrize(
    ("refusal", "error", "told"),
    [
        (ProducerFenced(), FencedError, "fenced: another worker has taken partition 0 over"),
        (NotEnoughReplicasError(), LogError, "topic approved-orders, partition 0: 1 records were not written: "),
    ],
)
async def test_one_refusal_is_told_and_the_others_are_not_logged_after_it(
    refusal: Exception, error: type[Exception], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = Refusing(refusal)
    monkeypatch.setattr(kafka, "producer", lambda *_, **__: producer)
    logged: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context["message"]))
    settings = Settings(broker="kafka://localhost:9092", data_dir=tmp_path)
    counts = {"approved-orders": 1, "account-events": 1}
    log = KafkaLog(settings, 0, counts, kafka.partition_of_key, Looker(settings))
    await log.fence()
    await log.begin()
    with pytest.raises(error, match=told):
        await log.send(OUTPUTS, (), b"{}")
    # What asyncio has to say of an exception that nobody looked at, it says when its future is collected.
    await asyncio.sleep(0)
    gc.collect()
    assert producer.refused == 3
    assert logged == []


def changelog_record(key: bytes | None, value: bytes | None) -> ConsumerRecord[bytes | None, bytes | None]:
    return ConsumerRecord("state", 3, 41, 0, 0, key, value, None, 0, 0, ())


def test_the_changelogs_records_are_kept_as_they_are() -> None:
    records = [changelog_record(b"orders\0a", b"1"), changelog_record(b"orders\0b", None)]
    assert state_records(TopicPartition("state", 3), records) == [(b"orders\0a", b"1"), (b"orders\0b", None)]


@pytest.mark.parametrize("key", [None, b"", b"orders", b"\0a"])
def test_a_changelog_record_that_names_no_table_is_refused_with_its_place(key: bytes | None) -> None:
    with pytest.raises(LogError, match=r"state 3@41: .* names no table"):
        state_records(TopicPartition("state", 3), [changelog_record(key, b"1")])
