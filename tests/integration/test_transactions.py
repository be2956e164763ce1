"""Transactions on a real Kafka: records and offsets together, who is fenced, and what a refusal says."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not all of them are in __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from pelton.core.actions import Commit
from pelton.errors import BrokerError, FencedError
from pelton.event import Partition
from pelton.kafka import settings
from pelton.kafka.committing import Quiet
from pelton.kafka.records import Outgoing
from pelton.kafka.topics import ensure_topic
from pelton.kafka.transactions import MARK_BYTES, Ended, Transactions
from pelton.local.broker import LocalKafka
from tests.integration.delivery.world import Log
from tests.kafka_fixtures import CreateTopic

DEADLINE_S = 60.0


class Member:
    """One process's membership and transactions, driven by hand."""

    def __init__(self, bootstrap: str, group: str, name: str) -> None:
        self.failures: list[BrokerError] = []
        kafka = {"bootstrap.servers": bootstrap}
        self.transactions = Transactions[str](
            kafka, f"{group}/{name}", asyncio.get_running_loop(), self.failures.append
        )
        self.consumer = Consumer(
            {**kafka, "group.id": group, "enable.auto.commit": False, "isolation.level": "read_committed"}
        )

    async def join(self, topic: str) -> None:
        self.consumer.subscribe([topic])
        async with asyncio.timeout(DEADLINE_S):
            while not self.consumer.assignment():
                await asyncio.to_thread(self.consumer.poll, 0.05)

    async def _told(self, ask: Callable[[Callable[[Any], None]], None]) -> Any:
        answer = asyncio.get_running_loop().create_future()
        ask(answer.set_result)
        async with asyncio.timeout(DEADLINE_S):
            return await answer

    async def prepare(self) -> str | None:
        answer: str | None = await self._told(self.transactions.prepare)
        return answer

    def quiet(self, topic: str) -> Quiet:
        return Quiet({Partition(topic, 0): ""}, self.consumer.consumer_group_metadata())

    async def write(
        self, records: Sequence[tuple[str, Outgoing]], topic: str, offset: int, quiet: Quiet
    ) -> Ended[str]:
        commits = {Partition(topic, 0): Commit(offset, "map")}
        ended: Ended[str] = await self._told(
            lambda told: self.transactions.submit(records, commits, quiet, told)
        )
        return ended

    def committed(self, topic: str) -> tuple[int, str | None]:
        (found,) = self.consumer.committed([TopicPartition(topic, 0)], timeout=10)
        return found.offset, found.metadata


@asynccontextmanager
async def member(kafka: LocalKafka, group: str, name: str = "host-0") -> AsyncIterator[Member]:
    one = Member(kafka.bootstrap, group, name)
    try:
        yield one
    finally:
        await one.transactions.close()
        one.consumer.close()


def record(topic: str, value: bytes) -> Outgoing:
    return Outgoing(topic=topic, key=b"k", value=value, headers=(), timestamp_ms=None, partition=0)


def values(log: Log, topic: str) -> list[bytes | None]:
    return [found.value for found in log.read(topic)]


async def test_records_and_offsets_are_there_together_or_not_at_all(
    kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    source, letters = create_topic(), create_topic(config={"max.message.bytes": "2000"})
    log = Log(kafka.bootstrap)
    async with member(kafka, source) as one:
        assert await one.prepare() is None
        await one.join(source)
        before = one.quiet(source)
        done = await one.write([("a", record(letters, b"a"))], source, 3, before)
        assert done == Ended()
        assert one.committed(source) == (3, "map")

        # One that is too large: none is there, the offset is not passed, and it is said which are to blame.
        large = record(letters, random.Random(1).randbytes(8_000))
        ended = await one.write([("b", record(letters, b"b")), ("large", large)], source, 5, before)
        assert ended.error is not None
        assert "large" in {refused.item for refused in ended.refused}
        assert all(refused.at_fault and "MSG_SIZE_TOO_LARGE" in refused.error for refused in ended.refused)
        assert one.committed(source) == (3, "map")
        assert values(log, letters) == [b"a"]

        # An earlier generation of the group: refused, and this process goes on.
        one.consumer.unsubscribe()
        async with asyncio.timeout(DEADLINE_S):
            while one.consumer.memberid():
                await asyncio.to_thread(one.consumer.poll, 0.05)
        await one.join(source)
        stale = await one.write([("c", record(letters, b"c"))], source, 7, before)
        assert stale.error is not None
        assert not stale.unknown
        assert one.committed(source) == (3, "map")
        again = await one.write([("c", record(letters, b"c"))], source, 7, one.quiet(source))
        assert again == Ended()
        assert one.committed(source) == (7, "map")
        assert values(log, letters) == [b"a", b"c"]
        assert one.failures == []
    log.close()


async def test_of_two_under_one_name_the_older_one_ends(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    source, letters = create_topic(), create_topic()
    log = Log(kafka.bootstrap)
    async with member(kafka, source) as older, member(kafka, source) as newer:
        assert await older.prepare() is None
        await older.join(source)
        assert await newer.prepare() is None
        ended = await older.write([("a", record(letters, b"a"))], source, 3, older.quiet(source))
        assert ended.unknown
        (failure,) = older.failures
        assert isinstance(failure, FencedError)
        assert f"{source}/host-0" in str(failure)
        assert "group.instance.id" in str(failure)
        # Nothing of it is there, and the newer one goes on.
        done = await newer.write([("b", record(letters, b"b"))], source, 4, older.quiet(source))
        assert done == Ended()
        assert values(log, letters) == [b"b"]
        assert older.committed(source) == (4, "map")
    log.close()


async def test_one_that_the_broker_has_ended_for_its_age_is_tried_again(
    kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    """To the client it looks as if it had been fenced; how long it took tells the two apart."""
    source, letters = create_topic(), create_topic()
    async with member(kafka, source) as one, member(kafka, source) as other:
        assert await one.prepare() is None
        await one.join(source)
        # As a broker that gives it up does, this raises the epoch; and any time is beyond this limit.
        assert await other.prepare() is None
        one.transactions._timeout_s = 0.0
        ended = await one.write([("a", record(letters, b"a"))], source, 3, one.quiet(source))
        assert ended.error is not None
        assert not ended.unknown
        assert one.failures == []
        assert await one.prepare() is None
        assert await one.write([("a", record(letters, b"a"))], source, 3, one.quiet(source)) == Ended()


async def test_a_broker_that_allows_no_transactions_says_why() -> None:
    """One that allows none as long as ours: the client learns of it as of any other refusal."""
    with LocalKafka.temporary(properties={"transaction.max.timeout.ms": "5000"}) as broker:
        async with member(broker, "g") as one:
            error = await one.prepare()
            assert error is not None
            assert "INVALID_TRANSACTION_TIMEOUT" in error
            assert broker.bootstrap in error
            assert one.failures == []


async def test_a_topic_that_is_gone_is_named_and_what_waits_is_written_once_it_is_there(
    kafka: LocalKafka, create_topic: CreateTopic, topic_name: str
) -> None:
    source, letters = create_topic(), f"{topic_name}-letters"
    log = Log(kafka.bootstrap)
    async with member(kafka, source) as one:
        assert await one.prepare() is None
        await one.join(source)
        ended = await one.write([("a", record(letters, b"a"))], source, 3, one.quiet(source))
        assert not ended.unknown
        (refused,) = ended.refused
        assert not refused.at_fault
        assert f"not written to {letters}: the topic is not there at {kafka.bootstrap}." in refused.error
        assert one.committed(source)[0] < 0
        ensure_topic({"bootstrap.servers": kafka.bootstrap}, letters, 1)
        assert await one.prepare() is None
        assert await one.write([("a", record(letters, b"a"))], source, 3, one.quiet(source)) == Ended()
        assert values(log, letters) == [b"a"]
        assert one.failures == []
    log.close()


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch, create_topic: CreateTopic) -> str:
    """A topic that Kafka's own marks do not pass: no transaction that has asked for it can be ended."""
    monkeypatch.setitem(settings._TRANSACTING, "message.timeout.ms", 1_000)
    return create_topic(config={"max.message.bytes": str(MARK_BYTES - 1)})


async def test_one_that_the_broker_cannot_end_is_told_and_not_waited_for(
    kafka: LocalKafka,
    create_topic: CreateTopic,
    narrow: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source, log = create_topic(), Log(kafka.bootstrap)
    letter = [("a", record(narrow, random.Random(1).randbytes(MARK_BYTES)))]
    async with member(kafka, source) as one:
        assert await one.prepare() is None
        await one.join(source)
        # The broker says at once that it ends the first one; the second one learns that it has not.
        refused = await one.write(letter, source, 3, one.quiet(source))
        assert refused.refused
        monkeypatch.setattr("pelton.kafka.transactions.ABORT_TIMEOUT_S", 1.0)
        ended = await one.write(letter, source, 3, one.quiet(source))
        assert ended.error is not None
        assert not ended.unknown
        (said,) = [each.getMessage() for each in caplog.records if each.name == "pelton.kafka"]
        for part in (f"{source}/host-0", kafka.bootstrap, narrow, "max.message.bytes", str(MARK_BYTES)):
            assert part in said
        monkeypatch.setattr("pelton.kafka.transactions.PREPARE_TIMEOUT_S", 1.0)
        error = await one.prepare()
        assert error is not None
        assert kafka.bootstrap in error
        # Nothing of it is there, nothing is passed, and this process lives: the outbox asks again.
        assert values(log, narrow) == []
        assert one.committed(source)[0] < 0
        assert one.failures == []
    log.close()


async def test_one_that_the_broker_cannot_end_holds_up_no_stop(
    kafka: LocalKafka, create_topic: CreateTopic, narrow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = create_topic()
    letter = [("a", record(narrow, random.Random(1).randbytes(MARK_BYTES)))]
    async with member(kafka, source) as one:
        assert await one.prepare() is None
        await one.join(source)
        await one.write(letter, source, 3, one.quiet(source))
        aborting = threading.Event()
        transactions = one.transactions
        abort = transactions._abort

        def seen(client: Any, transaction: Any) -> None:
            aborting.set()
            abort(client, transaction)

        monkeypatch.setattr(transactions, "_abort", seen)
        monkeypatch.setattr("pelton.kafka.transactions.ABORT_TIMEOUT_S", DEADLINE_S)
        commits = {Partition(source, 0): Commit(3, "map")}
        transactions.submit(letter, commits, one.quiet(source), lambda ended: None)
        assert await asyncio.to_thread(aborting.wait, DEADLINE_S)
        await transactions.close()
        assert transactions._ended.is_set(), "its thread is still waiting for the broker"


async def test_what_the_broker_could_not_end_goes_on_when_there_is_room_and_it_is_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator gives up at the refusal of its marks; the next one begins by writing what is missing."""
    monkeypatch.setitem(settings._TRANSACTING, "message.timeout.ms", 1_000)
    monkeypatch.setattr("pelton.kafka.transactions.ABORT_TIMEOUT_S", 1.0)
    monkeypatch.setattr("pelton.kafka.transactions.PREPARE_TIMEOUT_S", 5.0)
    broker = LocalKafka(tmp_path / "kafka", supervised=True)
    broker.start()
    kafka = {"bootstrap.servers": broker.bootstrap}
    try:
        ensure_topic(kafka, "source", 1)
        ensure_topic(kafka, "narrow", 1, config={"max.message.bytes": str(MARK_BYTES - 1)})
        letter = [("a", record("narrow", random.Random(1).randbytes(MARK_BYTES)))]
        async with member(broker, "source") as one:
            assert await one.prepare() is None
            await one.join("source")
            for _ in range(2):
                ended = await one.write(letter, "source", 3, one.quiet("source"))
                assert ended.error is not None
            assert await one.prepare() is not None
            wide = ConfigEntry("max.message.bytes", "1000000", incremental_operation=AlterConfigOpType.SET)
            resource = ConfigResource(ConfigResource.Type.TOPIC, "narrow", incremental_configs=[wide])
            admin = AdminClient({"bootstrap.servers": broker.bootstrap})
            for future in admin.incremental_alter_configs([resource]).values():
                future.result(DEADLINE_S)
            broker.stop()
            broker.start()
            async with asyncio.timeout(DEADLINE_S):
                while await one.prepare() is not None:
                    pass
            await one.join("source")
            assert await one.write(letter, "source", 3, one.quiet("source")) == Ended()
            assert one.committed("source") == (3, "map")
            assert one.failures == []
        log = Log(broker.bootstrap)
        assert values(log, "narrow") == [letter[0][1].value]
        log.close()
    finally:
        broker.stop()
