"""Reading parked events again by their offsets, on a real Kafka: exactly those, and what is gone is said."""

from __future__ import annotations

import random

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pelton.event import Partition
from pelton.kafka import rereading
from pelton.local.broker import LocalKafka
from tests.integration.kafka_listening import Listening, consuming, produce, subscription, until
from tests.kafka_fixtures import CreateTopic

EVENTS = 2_000


async def answer(listener: Listening, partition: Partition, asked: tuple[int, ...]) -> tuple[list[int], int]:
    """The offsets that came, and up to where they are complete."""
    before = len(listener.read_again)
    listener.consumer.read_again(partition, asked)
    await until(lambda: len(listener.read_again) > before, "the answer")
    where, said, events, through = listener.read_again[before]
    assert (where, said) == (partition, asked)
    assert all((event.topic, event.partition) == partition for event in events)
    assert all(event.value == b"%d" % event.offset for event in events)
    return [event.offset for event in events], through


async def test_single_events_are_read_again_while_the_consumer_goes_on(
    kafka: LocalKafka, create_topic: CreateTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that both ways of getting from one to the next are taken: reading over, and seeking.
    monkeypatch.setattr(rereading, "SKIP_OFFSETS_MAX", 300)
    topic = create_topic(partitions=2)
    for number in range(2):
        records = [{"value": b"%d" % at, "partition": number, "key": b"k"} for at in range(EVENTS)]
        produce(kafka.bootstrap, topic, records)
    choose = random.Random(1)
    async with consuming(kafka.bootstrap, subscription(f"g-{topic}", topic)) as listener:
        await until(lambda: len(listener.events) == 2 * EVENTS, "all events")
        for asked in (
            (0,),
            (EVENTS - 1,),
            tuple(range(EVENTS - 500, EVENTS)),
            (0, 1, 1_000, 1_001, EVENTS - 1),
            tuple(sorted(choose.sample(range(EVENTS), 200))),
        ):
            for number in range(2):
                assert await answer(listener, Partition(topic, number), asked) == ([*asked], asked[-1])
        produce(kafka.bootstrap, topic, [{"value": b"more", "partition": 0}])
        await until(lambda: listener.events[-1].value == b"more", "the consumer's next event")
    # Nothing came twice by the consumer's own way.
    assert len(listener.events) == 2 * EVENTS + 1


async def test_a_request_is_bounded_in_bytes_and_says_how_far_it_came(
    kafka: LocalKafka, create_topic: CreateTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rereading, "BYTES_MAX", 20)
    topic = create_topic()
    produce(kafka.bootstrap, topic, [{"value": b"%d" % at, "partition": 0} for at in range(100)])
    asked = tuple(range(10, 90))
    async with consuming(kafka.bootstrap, subscription(f"g-{topic}", topic)) as listener:
        await until(lambda: listener.assigned, "the assignment")
        assert await answer(listener, Partition(topic, 0), asked) == (list(range(10, 20)), 19)


async def test_what_retention_has_cut_is_said_to_be_gone(
    kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    topic = create_topic()
    partition = Partition(topic, 0)
    produce(kafka.bootstrap, topic, [{"value": b"%d" % at, "partition": 0} for at in range(100)])
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    async with consuming(kafka.bootstrap, subscription(f"g-{topic}", topic)) as listener:
        await until(lambda: len(listener.events) == 100, "all events")
        asked = (10, 20, 59, 60, 61, 99)
        assert await answer(listener, partition, asked) == ([*asked], 99)
        for future in admin.delete_records([TopicPartition(topic, 0, 60)]).values():
            future.result(30)
        assert await answer(listener, partition, asked) == ([60, 61, 99], 99)
        for future in admin.delete_records([TopicPartition(topic, 0, 100)]).values():
            future.result(30)
        assert await answer(listener, partition, asked) == ([], 99)


async def test_holes_are_not_waited_for(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    """What compaction has taken meanwhile looks like what was never there: the log goes on behind it."""
    topic = create_topic()
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": f"t-{topic}"})
    producer.init_transactions(30)
    offset = 0
    for commit in (True, False, True, False):
        producer.begin_transaction()
        for at in range(offset, offset + 10):
            producer.produce(topic, b"%d" % at, partition=0)
        producer.flush(30)
        if commit:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
        offset += 11  # a marker ends each
    async with consuming(kafka.bootstrap, subscription(f"g-{topic}", topic)) as listener:
        await until(lambda: len(listener.events) == 20, "all events")
        there = [*range(10), *range(22, 32)]
        assert await answer(listener, Partition(topic, 0), tuple(range(offset))) == (there, offset - 1)
