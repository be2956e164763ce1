"""The producer bridge, topics and tail on a real Kafka."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]  # not in __all__

from pelton.core.actions import Hop
from pelton.core.delivery import Delivery, State
from pelton.core.outcome import Outcome, Status
from pelton.errors import BrokerError, PublishError
from pelton.event import Event, Position
from pelton.kafka import producer as producer_module
from pelton.kafka.hops import record_of
from pelton.kafka.producer import Produced, Producer
from pelton.kafka.records import Outgoing
from pelton.kafka.tail import tail
from pelton.kafka.topics import KEPT_FOR_EVER, Wanted, ensure_topic, ensure_topics, partitions_of
from pelton.local.broker import LocalKafka
from tests.core.rig import Rig
from tests.integration.kafka_listening import produce, until
from tests.kafka_fixtures import CreateTopic

NOWHERE = "127.0.0.1:1"


class Producing:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.results: list[Produced[Any]] = []
        self.inside = False
        self.producer: Producer[Any] = Producer(settings, self._on_produced, asyncio.get_running_loop())

    def _on_produced(self, results: list[Produced[Any]]) -> None:
        assert not self.inside, "told from inside a call"
        self.results += results

    def submit(self, batch: list[tuple[Any, Outgoing]]) -> None:
        self.inside = True
        self.producer.submit(batch)
        self.inside = False

    @property
    def positions(self) -> dict[Any, Position | None]:
        return {item: position for item, position, _ in self.results}


@asynccontextmanager
async def producing(bootstrap: str, **settings: Any) -> AsyncIterator[Producing]:
    running = Producing({"bootstrap.servers": bootstrap, **settings})
    running.producer.start()
    try:
        yield running
    finally:
        await running.producer.close(10_000)


async def read(bootstrap: str, topic: str, **options: Any) -> list[Event]:
    settings = {"bootstrap.servers": bootstrap}
    options = {"start": "beginning", "follow": False, **options}
    return [event async for event in tail(settings, topic, **options)]


async def test_a_topic_that_is_not_there_is_named(kafka: LocalKafka, topic_name: str) -> None:
    async with producing(kafka.bootstrap, **{"delivery.timeout.ms": 1_500}) as running:
        running.submit([(number, Outgoing(topic_name, None, b"v", (), None, 0)) for number in range(3)])
        assert await running.producer.flush(30_000) == 0
    assert {item for item, _, _ in running.results} == {0, 1, 2}
    for _, position, error in running.results:
        assert position is None
        assert isinstance(error, PublishError)
        assert error.retriable
        assert f"not written to {topic_name}: the topic is not there at {kafka.bootstrap}" in str(error)


async def test_what_is_produced_is_what_is_read(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    topic = create_topic(partitions=2)
    headers = (("a", b"1"), ("a", None), ("pelton-status", b"OK"), ("b", b""))
    outgoing = [
        Outgoing(topic, None, None, headers, 1234567890123, 1),
        Outgoing(topic, b"", b"", (), 5, 0),
        Outgoing(topic, b"k", b"v", (), None, 0),
    ]
    async with producing(kafka.bootstrap) as running:
        running.submit(list(enumerate(outgoing)))
        assert await running.producer.flush(10_000) == 0
        assert running.positions == {
            0: Position(topic, 1, 0),
            1: Position(topic, 0, 0),
            2: Position(topic, 0, 1),
        }
        assert running.producer.statistics().produced == 3
    second, third, first = sorted(await read(kafka.bootstrap, topic), key=lambda event: event.position)
    assert (first.key, first.value, first.record_headers) == (None, None, headers)
    assert first.published_ms == 1234567890123
    assert (second.key, second.value, second.published_ms) == (b"", b"", 5)
    assert third.published_ms > 1_700_000_000_000


async def test_a_dead_letter_comes_back_byte_for_byte(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    topic, letters = create_topic(partitions=3), create_topic(partitions=3)
    record = {"key": b"\xff", "value": b"\x00", "headers": [("a", None), ("a", b"x")], "timestamp": 77}
    produce(kafka.bootstrap, topic, [{**record, "partition": 2}])
    (source,) = await read(kafka.bootstrap, topic)
    delivery = Delivery(source, Rig().engine, None, 0, State.PRODUCING)
    letter = Hop(delivery, Outcome(Status.UNKNOWN, "why"))
    outgoing = record_of(letter, letters, subscription="s", first_attempted_wall_ms=1, failed_wall_ms=2)
    async with producing(kafka.bootstrap) as running:
        running.submit([("letter", outgoing)])
    (found,) = await read(kafka.bootstrap, letters)
    assert running.positions == {"letter": Position(letters, 2, 0)}
    assert (found.partition, found.key, found.value, found.published_ms) == (2, b"\xff", b"\x00", 77)
    assert found.record_headers[:2] == (("a", None), ("a", b"x"))
    assert dict(found.record_headers)["pelton-origin-topic"] == topic.encode()


async def test_a_full_queue_loses_nothing_and_keeps_the_order(
    kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    topic = create_topic()
    async with producing(kafka.bootstrap, **{"queue.buffering.max.messages": 10}) as running:
        running.submit([(0, Outgoing(topic, b"k", b"0"))])
        assert await running.producer.flush(30_000) == 0  # connected: from here on it is quick
        for start in range(1, 2_001, 500):
            running.submit([(i, Outgoing(topic, b"k", b"%d" % i)) for i in range(start, start + 500)])
            # The client's queue gets room while the loop is busy: the next must not overtake the backlog.
            time.sleep(0.3)  # noqa: ASYNC251
        assert running.producer.statistics().backlog > 1_000
        assert await running.producer.flush(30_000) == 0
        assert running.producer.statistics().queue_full > 0
    assert [error for _, _, error in running.results if error] == []
    assert {item: position.offset for item, position in running.positions.items() if position} == {
        i: i for i in range(2_001)
    }
    assert [event.value for event in await read(kafka.bootstrap, topic)] == [b"%d" % i for i in range(2_001)]


async def test_beyond_the_backlog_is_refused(
    kafka: LocalKafka, create_topic: CreateTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer_module, "BACKLOG_RECORDS_MAX", 5)
    topic = create_topic()
    async with producing(kafka.bootstrap, **{"queue.buffering.max.messages": 1}) as running:
        running.submit([(i, Outgoing(topic, None, b"x")) for i in range(20)])
        assert await running.producer.flush(30_000) == 0
    refused = [error for _, _, error in running.results if error is not None]
    assert len(running.results) == 20
    assert len(refused) == 14
    assert all(error.retriable for error in refused)


async def test_a_bad_record_fails_only_itself(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    topic = create_topic()
    batch = [
        ("good", Outgoing(topic, None, b"1")),
        ("large", Outgoing(topic, None, b"x" * 2_000_000)),
        ("partition", Outgoing(topic, None, b"x", partition=7)),
        ("type", Outgoing(topic, None, 1)),  # type: ignore[arg-type]
        ("name", Outgoing("no such name!", None, b"x")),
        ("last", Outgoing(topic, None, b"2")),
    ]
    async with producing(kafka.bootstrap) as running:
        running.submit(batch)
        assert await running.producer.flush(30_000) == 0
    errors = {item: error for item, _, error in running.results}
    assert len(running.results) == len(batch)
    assert [name for name, error in errors.items() if error is None] == ["good", "last"]
    assert [str(error) for error in errors.values() if error is not None and error.retriable] == []
    assert topic in str(errors["large"])
    assert running.producer.statistics().failed == 4


async def test_without_a_broker_every_record_ends_all_the_same() -> None:
    running = Producing({"bootstrap.servers": NOWHERE, "queue.buffering.max.messages": 3})
    running.producer.start()
    running.submit([(i, Outgoing("t", None, b"x")) for i in range(10)])
    assert await running.producer.flush(50) == 10
    await running.producer.close(50)
    await running.producer.close(50)
    assert sorted(item for item, _, _ in running.results) == list(range(10))
    assert all(position is None and isinstance(error, PublishError) for _, position, error in running.results)


async def test_a_close_before_start_is_safe() -> None:
    running = Producing({"bootstrap.servers": NOWHERE})
    await running.producer.close(10)


async def test_topics_are_looked_up_and_made(kafka: LocalKafka, topic_name: str) -> None:
    settings = {"bootstrap.servers": kafka.bootstrap}
    both = [topic_name, topic_name + "-missing"]
    assert await asyncio.to_thread(partitions_of, settings, []) == {}
    assert await asyncio.to_thread(partitions_of, settings, both) == {both[0]: None, both[1]: None}
    await asyncio.to_thread(ensure_topic, settings, topic_name, 3)
    await asyncio.to_thread(ensure_topic, settings, topic_name, 2)
    assert await asyncio.to_thread(partitions_of, settings, both) == {both[0]: 3, both[1]: None}
    with pytest.raises(BrokerError, match=r"3 partitions and needs 4"):
        await asyncio.to_thread(ensure_topic, settings, topic_name, 4)


async def test_many_topics_are_made_at_once_and_a_shared_one_as_large_as_any_wants(
    kafka: LocalKafka, topic_name: str
) -> None:
    settings = {"bootstrap.servers": kafka.bootstrap}
    names = [f"{topic_name}-{number}" for number in range(45)]
    await asyncio.to_thread(ensure_topic, settings, names[3], 2)
    wanted = [Wanted(name, 1, KEPT_FOR_EVER) for name in names]
    await asyncio.to_thread(ensure_topics, settings, [*wanted, Wanted(names[7], 3, KEPT_FOR_EVER)])
    assert await asyncio.to_thread(partitions_of, settings, names) == {
        **dict.fromkeys(names, 1),
        names[3]: 2,
        names[7]: 3,
    }


async def test_a_made_topic_keeps_everything_for_ever(kafka: LocalKafka, topic_name: str) -> None:
    settings = {"bootstrap.servers": kafka.bootstrap}
    await asyncio.to_thread(ensure_topic, settings, topic_name, 1, KEPT_FOR_EVER)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    (future,) = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic_name)]).values()
    found = await asyncio.to_thread(future.result, 10)
    assert found["retention.ms"].value == "-1"
    assert found["max.message.bytes"].value == "33554432"


async def test_brokers_that_do_not_answer_are_named() -> None:
    settings = {"bootstrap.servers": NOWHERE}
    with pytest.raises(BrokerError, match=rf"{NOWHERE}: \S.* Check that Kafka runs there"):
        await asyncio.to_thread(partitions_of, settings, ["t"], 0.5)


async def test_tail_from_everywhere(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    topic = create_topic(partitions=2)
    produce(kafka.bootstrap, topic, [{"value": b"%d" % i, "partition": 0} for i in range(5)])

    async def values(**options: Any) -> list[bytes | None]:
        return [event.value for event in await read(kafka.bootstrap, topic, **options)]

    assert await values() == [b"0", b"1", b"2", b"3", b"4"]
    assert await values(count_max=2) == [b"0", b"1"]
    assert await values(count_max=0) == []
    assert await values(start=3) == [b"3", b"4"]
    assert await values(start=-1) == [b"4"]
    assert await values(start=99) == []
    assert await values(start="end") == []
    assert await values(partition=1) == []
    with pytest.raises(BrokerError, match="partitions 0 to 1"):
        await values(partition=2)
    with pytest.raises(BrokerError, match="no place"):
        await values(start="middle")
    with pytest.raises(BrokerError, match="not there"):
        await read(kafka.bootstrap, topic + "-missing")


async def test_tail_follows_until_it_is_cancelled(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    topic = create_topic()
    seen: list[Event] = []

    async def follow() -> None:
        async for event in tail({"bootstrap.servers": kafka.bootstrap}, topic, start="beginning"):
            seen.append(event)

    task = asyncio.create_task(follow())
    produce(kafka.bootstrap, topic, [{"value": b"1"}])
    await until(lambda: len(seen) == 1, "the first")
    produce(kafka.bootstrap, topic, [{"value": b"2"}])
    await until(lambda: len(seen) == 2, "the second")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
