"""Topics that grow, are deleted and made again, or have holes, on a real Kafka: nothing is passed unread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
from confluent_kafka import Consumer as Client
from confluent_kafka import KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from pelton.core.actions import Commit
from pelton.event import Partition
from pelton.kafka.topic_ids import tagged, untagged
from pelton.local.broker import LocalKafka
from pelton.subscription import Start
from tests.integration.kafka_listening import Listening, consuming, produce, subscription, until
from tests.kafka_fixtures import CreateTopic

#: Of one request to the broker.
ASK_TIMEOUT_S = 30.0

PROTOCOLS = pytest.mark.parametrize(
    "settings",
    [{}, {"partition.assignment.strategy": "range"}, {"group.protocol": "consumer"}],
    ids=["cooperative", "eager", "consumer"],
)


def wait_for(futures: dict[Any, Any]) -> None:
    for future in futures.values():
        future.result(ASK_TIMEOUT_S)


def numbered(prefix: str, count: int, partition: int = 0) -> list[dict[str, Any]]:
    return [{"value": f"{prefix}{number}".encode(), "partition": partition} for number in range(count)]


def texts(listener: Listening, prefix: str) -> list[str]:
    """The numbers behind `prefix`, in the order they came."""
    values = [(value or b"").decode() for value in listener.values]
    return [value.removeprefix(prefix) for value in values if value.startswith(prefix)]


def counted(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def make_again(admin: AdminClient, topic: str) -> None:
    wait_for(admin.delete_topics([topic]))
    deadline = time.monotonic() + ASK_TIMEOUT_S
    while True:
        try:
            wait_for(admin.create_topics([NewTopic(topic, 1, 1)]))
        except KafkaException:
            # The broker has not yet finished with the old one.
            assert time.monotonic() < deadline
        else:
            return


def commit_by_hand(bootstrap: str, group: str, offset: TopicPartition) -> None:
    client = Client({"bootstrap.servers": bootstrap, "group.id": group})
    client.commit(offsets=[offset], asynchronous=False)
    client.close()


def committed(bootstrap: str, group: str, topic: str) -> TopicPartition:
    client = Client({"bootstrap.servers": bootstrap, "group.id": group})
    (answer,) = client.committed([TopicPartition(topic, 0)], timeout=ASK_TIMEOUT_S)
    client.close()
    return answer


def id_of(admin: AdminClient, topic: str) -> str:
    described = admin.describe_topics(TopicCollection([topic]))[topic].result(ASK_TIMEOUT_S)
    return str(described.topic_id)


@PROTOCOLS
async def test_a_topic_made_again_is_read_from_its_beginning_however_long_it_is_already(
    kafka: LocalKafka, create_topic: CreateTopic, settings: dict[str, Any]
) -> None:
    topic = create_topic()
    partition = Partition(topic, 0)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    produce(kafka.bootstrap, topic, numbered("old ", 10))
    async with consuming(kafka.bootstrap, subscription(f"g-{topic}", topic, kafka=settings)) as listener:
        await until(lambda: len(listener.events) == 10, "the old log")
        listener.consumer.commit({partition: Commit(10, "")})
        await until(lambda: listener.committed.get(partition) == 10, "the commit")
        make_again(admin, topic)
        # More than the old one had: the offset to read next is in this log as well.
        produce(kafka.bootstrap, topic, numbered("new ", 30))
        # From the beginning on in order, whatever was read out of turn before it was noticed.
        await until(lambda: texts(listener, "new ")[-30:] == counted(30), "all of the new log")
        # Loud, and once: also where the new log was found shorter, being empty still.
        assert [(where, got) for where, _, got in listener.offsets_lost] == [(partition, 0)]
        assert not listener.failures
        # Who dies now must not leave the old log's offset to the next owner.
        log_id = id_of(admin, topic)

        def begins() -> bool:
            answer = committed(kafka.bootstrap, f"g-{topic}", topic)
            return answer.offset == 0 and log_id.startswith(untagged(answer.metadata or "")[1][:8] or "no")

        await until(begins, "where it begins, and the new log's id beside it")

        def commits() -> bool:
            # One from before the listener has heard that it begins anew is refused.
            listener.consumer.commit({partition: Commit(30, "")})
            return listener.committed.get(partition) == 30

        await until(commits, "a commit in the new log")


async def test_a_commit_of_a_log_that_is_gone_is_not_believed(
    kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    """Whoever committed did not know yet that the topic had been made again, and died."""
    topic = create_topic()
    partition, group = Partition(topic, 0), f"g-{topic}"
    declared = subscription(group, topic)
    produce(kafka.bootstrap, topic, numbered("new ", 30))
    async with consuming(kafka.bootstrap, declared) as listener:
        await until(lambda: len(listener.events) == 30, "the events")
        listener.consumer.commit({partition: Commit(10, "map")})
        await until(lambda: listener.committed.get(partition) == 10, "the commit")
    metadata, topic_id = untagged(committed(kafka.bootstrap, group, topic).metadata or "")
    assert metadata == "map"
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    assert id_of(admin, topic).startswith(topic_id[:8])

    another = "A" * 8 + topic_id[8:]
    commit_by_hand(kafka.bootstrap, group, TopicPartition(topic, 0, 10, tagged("map", another)))
    async with consuming(kafka.bootstrap, declared) as listener:
        await until(lambda: len(listener.events) == 30, "the log from its beginning")
        assert listener.offsets_lost == [(partition, 10, 0)]
        assert listener.assigned[partition].offset == 0
        assert listener.assigned[partition].metadata is None
        await until(lambda: listener.committed.get(partition) == 0, "where it begins")
    assert texts(listener, "new ") == counted(30)


@pytest.mark.parametrize(
    "tag", ["", "@", "@short", "@abcdefgh0000"], ids=["none", "empty", "short", "cluster"]
)
async def test_a_commit_that_does_not_say_or_speaks_of_another_cluster_is_believed(
    kafka: LocalKafka, create_topic: CreateTopic, tag: str
) -> None:
    """Offsets that were copied with their topic are translated by who copied them."""
    topic = create_topic()
    group = f"g-{topic}"
    produce(kafka.bootstrap, topic, numbered("", 5))
    commit_by_hand(kafka.bootstrap, group, TopicPartition(topic, 0, 3, f"map{tag}"))
    async with consuming(kafka.bootstrap, subscription(group, topic)) as listener:
        await until(lambda: len(listener.events) == 2, "the rest")
        assert listener.assigned[Partition(topic, 0)].offset == 3
        assert not listener.offsets_lost
    assert listener.values == [b"3", b"4"]


async def test_what_came_into_a_new_partition_before_it_was_found_is_delivered(
    kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    """`start: latest` is of the subscription's first day, not of every partition's."""
    topic = create_topic()
    settings = {"topic.metadata.refresh.interval.ms": 1_000}
    declared = subscription(f"g-{topic}", topic, start=Start("latest"), kafka=settings)
    produce(kafka.bootstrap, topic, numbered("before ", 3))
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    async with consuming(kafka.bootstrap, declared) as listener:
        await until(lambda: listener.assigned, "the assignment")
        wait_for(admin.create_partitions([NewPartitions(topic, 3)]))
        for number in (1, 2):
            produce(kafka.bootstrap, topic, numbered(f"{number} ", 5, number))
        await until(lambda: len(listener.assigned) == 3, "the new partitions")
        await until(lambda: len(listener.events) == 10, "what was in them")
        produce(kafka.bootstrap, topic, numbered("0 ", 5, 0))
        await until(lambda: len(listener.events) == 15, "the old one's")
    for number in range(3):
        assert texts(listener, f"{number} ") == counted(5)
    assert not texts(listener, "before ")
    assert not listener.offsets_lost


async def test_aborted_transactions_are_holes(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    topic = create_topic()
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": f"t-{topic}"})
    producer.init_transactions(ASK_TIMEOUT_S)

    def transact(values: Sequence[str], *, commit: bool) -> None:
        producer.begin_transaction()
        for value in values:
            producer.produce(topic, value.encode(), partition=0)
        producer.flush(ASK_TIMEOUT_S)
        if commit:
            producer.commit_transaction(ASK_TIMEOUT_S)
        else:
            producer.abort_transaction(ASK_TIMEOUT_S)

    for number in range(0, 20, 2):
        transact([str(number), str(number + 1)], commit=True)
        transact(["aborted"] * 3, commit=False)
    async with consuming(kafka.bootstrap, subscription(f"g-{topic}", topic)) as listener:
        await until(lambda: len(listener.events) == 20, "the events")
        produce(kafka.bootstrap, topic, numbered("", 1))
        await until(lambda: len(listener.events) == 21, "one behind the holes")
        assert not listener.offsets_lost
    assert [value.decode() for value in listener.values if value] == [*counted(20), "0"]
