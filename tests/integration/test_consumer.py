"""The consumer on a real Kafka: what it hands over, where it starts, what it commits."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import pytest
from confluent_kafka import Consumer as Client
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from pelton.core.ackmap import TEXT_CHARS_MAX
from pelton.core.actions import Commit
from pelton.event import Partition
from pelton.kafka.consumer import Consumer
from pelton.kafka.topic_ids import untagged
from pelton.local.broker import LocalKafka
from pelton.subscription import Start
from tests.integration.kafka_listening import Listening, consuming, produce, subscription, until
from tests.kafka_fixtures import CreateTopic


def committed(bootstrap: str, group: str, partition: Partition) -> TopicPartition:
    client = Client({"bootstrap.servers": bootstrap, "group.id": group})
    try:
        (answer,) = client.committed([TopicPartition(*partition)], timeout=10)
        return answer
    finally:
        client.close()


async def test_every_shape_of_record_survives(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    topic = create_topic(partitions=2)
    headers = [("a", b"1"), ("a", b"2"), ("null", None), ("empty", b""), ("pelton-reason", b"forged")]
    produce(
        kafka.bootstrap,
        topic,
        [
            {"key": None, "value": None, "partition": 0},
            {"key": b"", "value": b"", "partition": 0},
            {"key": b"k", "value": b"v", "partition": 0, "headers": headers, "timestamp": 1234567890123},
            {"key": b"\xff\x00", "value": b"\x00", "partition": 1},
        ],
    )
    async with consuming(kafka.bootstrap, subscription(f"g-{topic}", topic)) as listener:
        await until(lambda: len(listener.events) == 4, "4 events")
    first, second, third = [event for event in listener.events if event.partition == 0]
    (other,) = [event for event in listener.events if event.partition == 1]
    assert (first.offset, first.key, first.value, first.record_headers) == (0, None, None, ())
    assert (second.key, second.value) == (b"", b"")
    assert third.record_headers == (("a", b"1"), ("a", b"2"), ("null", None), ("empty", b""))
    assert third.published_ms == 1234567890123
    assert (other.offset, other.key, other.value) == (0, b"\xff\x00", b"\x00")
    assert not listener.failures


@pytest.mark.parametrize("length", [0, 1, TEXT_CHARS_MAX])
async def test_metadata_comes_back_to_the_next_owner(
    kafka: LocalKafka, create_topic: CreateTopic, length: int
) -> None:
    topic = create_topic()
    partition = Partition(topic, 0)
    produce(kafka.bootstrap, topic, [{"value": b"%d" % i} for i in range(10)])
    group = f"g-{topic}"
    metadata = ("abc+/=" * 700)[:length]
    async with consuming(kafka.bootstrap, subscription(group, topic)) as listener:
        await until(lambda: len(listener.events) == 10, "10 events")
        assert listener.assigned[partition].metadata is None
        assert listener.assigned[partition].offset == 0
        assert listener.assigned[partition].generation > 0
        listener.consumer.commit({partition: Commit(5, "older")})
        listener.consumer.commit({partition: Commit(7, metadata)})
        await until(lambda: listener.committed.get(partition) == 7, "the commit")
    async with consuming(kafka.bootstrap, subscription(group, topic)) as listener:
        await until(lambda: len(listener.events) == 3, "the rest")
        assert listener.assigned[partition].metadata == metadata
        assert listener.assigned[partition].log_end == (10 if metadata else -1)
        assert listener.assigned[partition].offset == 7
    assert listener.values == [b"7", b"8", b"9"]


async def test_a_commit_asked_for_just_before_the_stop_is_made(
    kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    topic = create_topic()
    produce(kafka.bootstrap, topic, [{"value": b"x"}] * 3)
    async with consuming(kafka.bootstrap, subscription(f"g-{topic}", topic)) as listener:
        await until(lambda: len(listener.events) == 3, "3 events")
        listener.consumer.commit({Partition(topic, 0): Commit(2, "map")})
    answer = committed(kafka.bootstrap, f"g-{topic}", Partition(topic, 0))
    assert (answer.offset, untagged(answer.metadata or "")[0]) == (2, "map")


async def test_a_commit_below_the_committed_offset_is_refused(
    kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    topic = create_topic()
    partition = Partition(topic, 0)
    produce(kafka.bootstrap, topic, [{"value": b"x"}] * 3)
    async with consuming(kafka.bootstrap, subscription(f"g-{topic}", topic)) as listener:
        await until(lambda: len(listener.events) == 3, "3 events")
        listener.consumer.commit({partition: Commit(3, "")})
        await until(lambda: listener.committed.get(partition) == 3, "the commit")
        listener.consumer.commit({partition: Commit(1, ""), Partition("another", 0): Commit(1, "")})
        await until(lambda: listener.consumer.statistics().commits_refused == 2, "the refusal")
    assert committed(kafka.bootstrap, f"g-{topic}", partition).offset == 3


async def test_many_commits_are_few_requests(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    topic = create_topic()
    partition = Partition(topic, 0)
    produce(kafka.bootstrap, topic, [{"value": b"x"}] * 500)
    async with consuming(kafka.bootstrap, subscription(f"g-{topic}", topic)) as listener:
        await until(lambda: len(listener.events) == 500, "500 events")
        for offset in range(1, 501):
            listener.consumer.commit({partition: Commit(offset, "")})
        await until(lambda: listener.committed.get(partition) == 500, "the last commit")
        assert listener.consumer.statistics().commits < 100


async def test_pause_and_resume_lose_and_repeat_nothing(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    topic = create_topic(partitions=2)
    partitions = [Partition(topic, 0), Partition(topic, 1)]
    produce(kafka.bootstrap, topic, [{"value": b"%d" % i, "partition": i % 2} for i in range(20_000)])
    async with consuming(kafka.bootstrap, subscription(f"g-{topic}", topic)) as listener:
        resumes_ms = []
        for round_ in range(1, 6):
            await until(partial(more_than, listener, 1_000 * round_), "events")
            listener.consumer.pause(partitions)
            listener.consumer.pause([Partition("unknown", 3)])
            await until(still(listener), "the pause to take hold")
            seen = len(listener.events)
            assert seen < 20_000
            began = time.monotonic()
            listener.consumer.resume(partitions)
            await until(partial(more_than, listener, seen), "the first event after the resume")
            resumes_ms.append((time.monotonic() - began) * 1000)
        await until(lambda: len(listener.events) == 20_000, "all events")
        for number, partition in enumerate(partitions):
            got = [event.value for event in listener.events if event.partition == partition.partition]
            assert got == [b"%d" % i for i in range(number, 20_000, 2)]
    # Resume without a seek: up to 950 ms.
    assert sorted(resumes_ms)[2] < 300, resumes_ms


def more_than(listener: Listening, count: int) -> bool:
    return len(listener.events) > count


def still(listener: Listening) -> Any:
    """True once nothing has come for 0.2 s."""
    last = (len(listener.events), time.monotonic())

    def check() -> bool:
        nonlocal last
        if len(listener.events) != last[0]:
            last = (len(listener.events), time.monotonic())
        return time.monotonic() - last[1] > 0.2

    return check


async def test_a_loop_that_is_behind_is_not_flooded(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    topic = create_topic()
    produce(kafka.bootstrap, topic, [{"value": b"x"}] * 10_000)
    async with consuming(kafka.bootstrap, subscription(f"g-{topic}", topic)) as listener:
        await until(lambda: listener.events, "the first event")
        seen = len(listener.events)
        time.sleep(0.5)  # noqa: ASYNC251 - the loop is blocked on purpose, and only then asks for the pause
        listener.consumer.pause([Partition(topic, 0)])
        await until(still(listener), "the pause to take hold")
        assert len(listener.events) - seen <= 4 * 500
        listener.consumer.resume([Partition(topic, 0)])
        await until(lambda: len(listener.events) == 10_000, "the rest")


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (Start("earliest"), [b"0", b"1", b"2", b"3"]),
        (Start("latest"), []),
        (Start("timestamp", 1_700_000_002_000), [b"2", b"3"]),
        (Start("timestamp", 1_900_000_000_000), []),
    ],
    ids=["earliest", "latest", "timestamp", "timestamp-ahead"],
)
async def test_a_new_subscription_starts_where_it_says_and_remembers(
    kafka: LocalKafka, create_topic: CreateTopic, start: Start, expected: list[bytes]
) -> None:
    topic = create_topic()
    records = [{"value": b"%d" % i, "timestamp": 1_700_000_000_000 + i * 1000} for i in range(4)]
    produce(kafka.bootstrap, topic, records)
    declared = subscription(f"g-{topic}", topic, start=start)
    async with consuming(kafka.bootstrap, declared) as listener:
        await until(lambda: listener.assigned, "the assignment")
        await until(lambda: len(listener.events) >= len(expected), "the events")
    assert listener.values == expected
    # Nothing was settled; what comes while nobody listens must not be jumped over by `latest`.
    produce(kafka.bootstrap, topic, [{"value": b"meanwhile"}])
    async with consuming(kafka.bootstrap, declared) as listener:
        await until(lambda: len(listener.events) > len(expected), "what came meanwhile")
    assert listener.values == [*expected, b"meanwhile"]


@pytest.mark.parametrize("strategy", ["cooperative-sticky", "range"])
async def test_offsets_lost_to_retention_are_told(
    kafka: LocalKafka, create_topic: CreateTopic, strategy: str
) -> None:
    topic = create_topic(partitions=2)
    partition = Partition(topic, 0)
    declared = subscription(f"g-{topic}", topic, kafka={"partition.assignment.strategy": strategy})
    produce(kafka.bootstrap, topic, [{"value": b"%d" % i, "partition": 0} for i in range(10)])
    async with consuming(kafka.bootstrap, declared) as listener:
        await until(lambda: len(listener.events) == 10, "10 events")
        listener.consumer.commit({partition: Commit(2, "map")})
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for future in admin.delete_records([TopicPartition(topic, 0, 6)]).values():
        future.result(10)
    async with consuming(kafka.bootstrap, declared) as listener:
        await until(lambda: len(listener.events) == 4, "what is left")
        produce(kafka.bootstrap, topic, [{"value": b"other", "partition": 1}])
        await until(lambda: len(listener.events) == 5, "an event of the other partition")
        assert listener.offsets_lost == [(partition, 2, 6)]
        assert listener.consumer.statistics().offsets_lost == 1
        assert listener.assigned[partition].offset == 2
    assert listener.values == [b"6", b"7", b"8", b"9", b"other"]
    assert not listener.failures


async def test_a_committed_offset_beyond_the_log_starts_over(
    kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    topic = create_topic()
    partition = Partition(topic, 0)
    group = f"g-{topic}"
    produce(kafka.bootstrap, topic, [{"value": b"x"}] * 3)
    client = Client({"bootstrap.servers": kafka.bootstrap, "group.id": group})
    client.commit(offsets=[TopicPartition(topic, 0, 100, "map")], asynchronous=False)
    client.close()
    async with consuming(kafka.bootstrap, subscription(group, topic)) as listener:
        await until(lambda: len(listener.events) == 3, "the new log")
        assert listener.told == ["assigned 0", "lost 0", "assigned 0"]
        assert listener.offsets_lost == [(partition, 100, 0)]
        assert listener.assigned[partition].metadata is None
        listener.consumer.commit({partition: Commit(3, "")})
        await until(lambda: listener.committed.get(partition) == 3, "the commit")


async def test_unreadable_metadata_counts_as_none(
    kafka: LocalKafka, create_topic: CreateTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = create_topic(partitions=2)
    group = f"g-{topic}"
    produce(kafka.bootstrap, topic, [{"value": b"%d" % i, "partition": 0} for i in range(5)])
    async with consuming(kafka.bootstrap, subscription(group, topic)) as listener:
        await until(lambda: len(listener.events) == 5, "5 events")
        listener.consumer.commit({Partition(topic, p): Commit((p == 0 and 3) or 0, "map") for p in range(2)})

    class Garbled(Client):
        """What the client does where the metadata of partition 0 is not UTF-8: all or nothing."""

        def committed(self, partitions: Any, timeout: float = -1) -> Any:
            if any(tp.partition == 0 for tp in partitions):
                raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
            return super().committed(partitions, timeout)

    monkeypatch.setattr("pelton.kafka.consumer_thread.confluent_kafka.Consumer", Garbled)
    async with consuming(kafka.bootstrap, subscription(group, topic)) as listener:
        await until(lambda: len(listener.events) == 2, "the events behind the commit")
        assert listener.assigned[Partition(topic, 0)].metadata is None
        assert listener.assigned[Partition(topic, 1)].metadata == "map"
        assert listener.consumer.statistics().metadata_unreadable == 1
    assert listener.values == [b"3", b"4"]


async def test_the_lag_is_what_is_not_committed(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    topic = create_topic()
    partition = Partition(topic, 0)
    produce(kafka.bootstrap, topic, [{"value": b"x"}] * 5)
    async with consuming(kafka.bootstrap, subscription(f"g-{topic}", topic)) as listener:
        await until(lambda: listener.consumer.statistics().lag.get(partition) == 5, "a lag of 5")
        listener.consumer.commit({partition: Commit(4, "")})
        await until(lambda: listener.consumer.statistics().lag.get(partition) == 1, "a lag of 1")


async def test_a_topic_that_is_deleted_does_not_end_the_consumer(
    kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    gone, stays = create_topic(), create_topic()
    produce(kafka.bootstrap, gone, [{"value": b"x"}])
    settings = {"topic.metadata.refresh.interval.ms": 500}
    async with consuming(kafka.bootstrap, subscription(f"g-{gone}", gone, stays, kafka=settings)) as listener:
        await until(lambda: listener.events, "the first event")
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        for future in admin.delete_topics([gone]).values():
            future.result(10)
        await until(lambda: Partition(gone, 0) not in listener.assigned, "the partition to go")
        produce(kafka.bootstrap, stays, [{"value": b"y"}])
        await until(lambda: listener.values == [b"x", b"y"], "the other topic's event")
        assert not listener.failures


async def test_stop_is_safe_before_start_and_twice(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    listener = Listening()
    declared = subscription("g", create_topic())
    consumer = Consumer(
        declared,
        {"bootstrap.servers": kafka.bootstrap},
        listener,
        asyncio.get_running_loop(),
        drain_timeout_ms=1000,
    )
    await consumer.stop()
    listener.consumer = consumer
    consumer.start()
    await consumer.stop()
    await consumer.stop()
    assert not listener.failures
