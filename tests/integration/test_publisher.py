"""`pelton.Publisher` on a real Kafka."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pelton.errors import ConfigError, PublishError
from pelton.event import Event, Position
from pelton.kafka.publisher import NewEvent, Published, Publisher
from pelton.kafka.tail import tail
from pelton.local.broker import LocalKafka
from pelton.v1 import event_pb2
from tests.integration.kafka_listening import until
from tests.kafka_fixtures import CreateTopic

#: key -> partition of 8, as Java's clients choose it: murmur2, top bit cleared, remainder.
JAVA_HASHES = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


async def read(bootstrap: str, topic: str) -> list[Event]:
    settings = {"bootstrap.servers": bootstrap}
    return [event async for event in tail(settings, topic, start="beginning", follow=False)]


async def test_plain_and_cloud_events(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    topic = create_topic()
    message = event_pb2.Event(id="x")
    async with Publisher(kafka.bootstrap, topic=topic, source="/here") as publisher:
        first = await publisher.publish(None, b"raw", key="k", headers={"h": "1"})
        await publisher.publish(topic, {"a": 1})
        await publisher.publish(topic, None, key=b"")
        await publisher.publish(topic, message)
        await publisher.publish(topic, "text", type="said", subject="s", attributes={"n": 1})
    raw, as_json, tombstone, protobuf, said = await read(kafka.bootstrap, topic)
    assert first == Published(Position(topic, 0, 0), raw.published_ms)
    assert (raw.key, raw.value, raw.record_headers, raw.attributes) == (b"k", b"raw", (("h", b"1"),), None)
    assert (as_json.value, as_json.content_type, as_json.attributes) == (b'{"a":1}', "application/json", None)
    assert (tombstone.key, tombstone.value) == (b"", None)
    assert protobuf.type == "pelton.v1.Event"
    assert protobuf.source == "/here"
    assert event_pb2.Event.FromString(protobuf.value or b"") == message
    assert (said.type, said.subject, dict(said.extensions)) == ("said", "s", {"n": "1"})
    assert said.time is not None


async def test_one_result_each_and_a_bad_one_fails_only_itself(
    kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    topic = create_topic()
    async with Publisher(kafka.bootstrap, topic=topic) as publisher:
        results = await publisher.publish_many(
            [
                NewEvent(value=b"0"),
                NewEvent(value=object()),
                NewEvent(value=b"x" * 2_000_000),
                NewEvent(value=b"x", partition=5),
                NewEvent(value=b"1"),
            ]
        )
    kinds = [type(result) for result in results]
    assert kinds == [Published, PublishError, PublishError, PublishError, Published]
    assert [event.value for event in await read(kafka.bootstrap, topic)] == [b"0", b"1"]
    assert isinstance(results[4], Published)
    assert results[4].position.offset == 1


async def test_keys_go_where_javas_clients_send_them(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    topic = create_topic(partitions=8)
    async with Publisher(kafka.bootstrap) as publisher:
        for key, value in JAVA_HASHES.items():
            published = await publisher.publish(topic, b"", key=key)
            assert published.position.partition == (value & 0x7FFFFFFF) % 8, key


async def test_a_small_buffer_makes_callers_wait_in_their_order(
    kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    topic = create_topic()
    most = 0
    async with Publisher(kafka.bootstrap, topic=topic, buffer_events_max=3) as publisher:

        async def publish(number: int) -> Published:
            nonlocal most
            published = await publisher.publish(None, b"%d" % number, key="k")
            most = max(most, publisher._events)
            return published

        results = await asyncio.gather(*(publish(i) for i in range(300)))
        assert publisher._events == publisher._bytes == 0
        assert not publisher._waiters
    assert [result.position.offset for result in results] == list(range(300))
    assert most <= 3
    assert [event.value for event in await read(kafka.bootstrap, topic)] == [b"%d" % i for i in range(300)]


async def test_bytes_bound_the_buffer_and_a_large_event_still_goes(
    kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    topic = create_topic()
    async with Publisher(kafka.bootstrap, topic=topic, buffer_bytes_max=100) as publisher:
        sizes = (60, 60, 1000, 10, 0)
        results = await publisher.publish_many([NewEvent(value=b"x" * size) for size in sizes])
    assert all(isinstance(result, Published) for result in results)


async def test_a_small_event_does_not_overtake_a_large_one_that_waits(
    kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    topic = create_topic()
    async with Publisher(kafka.bootstrap, topic=topic, buffer_bytes_max=100) as publisher:
        sizes = (60, 90, 1) * 20
        results = await asyncio.gather(
            *(publisher.publish(None, b"x" * size, key="k", partition=0) for size in sizes)
        )
    assert [result.position.offset for result in results] == list(range(len(sizes)))


async def test_cancelled_callers_leave_nothing_behind(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    topic = create_topic()
    async with Publisher(kafka.bootstrap, topic=topic, buffer_events_max=2) as publisher:
        tasks = [asyncio.create_task(publisher.publish(None, b"%d" % i)) for i in range(50)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: publisher._events == 0, "the buffer to empty")
        assert not publisher._waiters
        await publisher.publish(None, b"after")
    assert all(isinstance(result, Published) for result in results[1::2])
    values = [event.value for event in await read(kafka.bootstrap, topic)]
    kept = {b"%d" % i for i in range(1, 50, 2)}
    assert kept <= set(values)
    # A cancel while waiting for room writes nothing; the two that had room may be there.
    assert len(values) <= len(kept) + 3


async def test_close_waits_for_what_was_handed_in_and_then_refuses(
    kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    topic = create_topic()
    publisher = Publisher(kafka.bootstrap, topic=topic, buffer_events_max=5)
    with pytest.raises(PublishError, match="not open"):
        await publisher.publish(None, b"x")
    await publisher.close()
    publisher = Publisher(kafka.bootstrap, topic=topic, buffer_events_max=5)
    publisher.open()
    tasks = [asyncio.create_task(publisher.publish(None, b"x")) for _ in range(20)]
    await asyncio.sleep(0)
    await publisher.close()
    await publisher.close()
    results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    written = [result for result in results if isinstance(result, Published)]
    assert len(written) >= 5
    assert all(isinstance(result, Published | PublishError) for result in results)
    assert len(await read(kafka.bootstrap, topic)) == len(written)
    with pytest.raises(PublishError, match="closed"):
        await publisher.publish(None, b"x")


async def test_settings_that_cannot_be_used() -> None:
    with pytest.raises(ConfigError, match="acks"):
        async with Publisher({"bootstrap.servers": "x:1", "acks": 0}):
            pass
