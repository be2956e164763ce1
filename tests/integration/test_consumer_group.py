"""Members that come, go, die and are fenced, on a real Kafka."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest
from confluent_kafka import Consumer as Client
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from pelton.core.actions import Commit
from pelton.errors import BrokerError, ConfigError, FencedError
from pelton.event import Partition
from pelton.kafka.consumer import Consumer
from pelton.kafka.rebuilds import REBUILDS_MAX
from pelton.local.broker import LocalKafka
from tests.integration.kafka_listening import Listening, consuming, produce, subscription, until
from tests.kafka_fixtures import CreateTopic

PROTOCOLS = pytest.mark.parametrize(
    "settings",
    [
        {},
        {"partition.assignment.strategy": "range"},
        {"group.protocol": "consumer"},
    ],
    ids=["cooperative", "eager", "consumer"],
)


@PROTOCOLS
async def test_a_member_that_joins_gets_what_the_other_has_drained(
    kafka: LocalKafka, create_topic: CreateTopic, settings: dict[str, Any]
) -> None:
    topic = create_topic(partitions=4)
    declared = subscription(f"g-{topic}", topic, kafka=settings)
    produce(kafka.bootstrap, topic, [{"value": b"%d" % i, "partition": i % 4} for i in range(400)])
    first, second = Listening(), Listening()
    first.release_at_once = False
    async with consuming(kafka.bootstrap, declared, first, drain_timeout_ms=30_000):
        await until(lambda: len(first.events) == 400, "all events")
        async with consuming(kafka.bootstrap, declared, second):
            await until(lambda: first.revoked, "the revoke")
            # The drain: commits go out from within the callback, and nobody else has them yet.
            revoked = list(first.revoked)
            assert not set(revoked) & set(second.assigned)
            first.consumer.commit({p: Commit(first.position[p], "drained") for p in revoked})
            await until(lambda: set(revoked) <= set(first.committed), "the commits of the drain")
            assert not set(revoked) & set(second.assigned)
            first.release_at_once = True
            first.let_go(revoked)
            await until(lambda: len(second.assigned) == 2, "the hand-over")
            await until(lambda: len(first.assigned) == 2, "the rest to settle")
            assert not set(first.assigned) & set(second.assigned)
            assert all(one.offset == 100 for one in second.assigned.values())
            assert all(one.generation > 0 for one in second.assigned.values())
            produce(kafka.bootstrap, topic, [{"value": b"more", "partition": i % 4} for i in range(40)])
            await until(lambda: second.values.count(b"more") == 20, "the second's share")
            await until(lambda: first.values.count(b"more") == 20, "the first's share")
        # The second has left: all comes back, behind what it committed.
        await until(lambda: len(first.assigned) == 4, "everything to come back")
    values = first.values + second.values
    assert len([v for v in values if v != b"more"]) == 400
    assert not first.failures
    assert not second.failures
    assert not first.lost


async def test_a_drain_that_does_not_end_is_cut(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    topic = create_topic(partitions=2)
    declared = subscription(f"g-{topic}", topic)
    first, second = Listening(), Listening()
    first.release_at_once = False
    async with consuming(kafka.bootstrap, declared, first, drain_timeout_ms=300):
        await until(lambda: len(first.assigned) == 2, "the assignment")
        async with consuming(kafka.bootstrap, declared, second):
            await until(lambda: second.assigned, "the hand-over")
            assert first.consumer.statistics().drains_cut >= 1


async def test_pause_and_resume_asked_for_during_a_drain_are_kept(
    kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    topic = create_topic(partitions=2)
    declared = subscription(f"g-{topic}", topic)
    first, second = Listening(), Listening()
    first.release_at_once = False
    async with consuming(kafka.bootstrap, declared, first):
        await until(lambda: len(first.assigned) == 2, "the assignment")
        first.consumer.pause(list(first.assigned))
        async with consuming(kafka.bootstrap, declared, second):
            await until(lambda: first.revoked, "the revoke")
            (kept,) = set(first.assigned) - set(first.revoked)
            first.consumer.resume([kept])
            first.release_at_once = True
            first.let_go(first.revoked)
            produce(kafka.bootstrap, topic, [{"value": b"x", "partition": kept.partition}])
            await until(lambda: first.values == [b"x"], "an event of the partition that was kept")


async def test_a_static_member_that_dies_comes_back_at_once(
    kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    topic = create_topic()
    partition = Partition(topic, 0)
    group = f"g-{topic}"
    produce(kafka.bootstrap, topic, [{"value": b"%d" % i} for i in range(3)])
    # A member that has died: it holds the slot's name in the group, not its lock, and never left.
    dead = Client(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": group,
            "group.instance.id": f"{socket.gethostname()}-0",
            "session.timeout.ms": 10_000,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "partition.assignment.strategy": "cooperative-sticky",
        }
    )
    dead.subscribe([topic])
    await until(lambda: dead.poll(0.1), "the member that will die")
    dead.close()  # a static member that closes does not leave: for the group it is as good as dead
    began = time.monotonic()
    async with consuming(kafka.bootstrap, subscription(group, topic)) as listener:
        await until(lambda: len(listener.events) == 3, "the events")
        # Waiting for the dead one's session would take 10 s.
        assert time.monotonic() - began < 8
        assert listener.assigned[partition].offset == 0


async def test_two_on_one_host_take_two_slots_and_leave_at_once(
    kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    topic = create_topic(partitions=2)
    declared = subscription(f"g-{topic}", topic)
    async with consuming(kafka.bootstrap, declared) as first:
        await until(lambda: len(first.assigned) == 2, "the assignment")
        async with consuming(kafka.bootstrap, declared) as second:
            await until(lambda: len(second.assigned) == 1 and len(first.assigned) == 1, "one each")
        left = time.monotonic()
        await until(lambda: len(first.assigned) == 2, "all back")
        # `close` alone would leave a static member in the group until its session ends.
        assert time.monotonic() - left < 8
    assert not first.failures


async def test_one_that_is_fenced_though_it_is_alone_goes_on(
    kafka: LocalKafka, create_topic: CreateTopic
) -> None:
    """What a coordinator that was killed or frozen may leave: the name given anew, and nobody bears it."""
    topic = create_topic()
    produce(kafka.bootstrap, topic, [{"value": b"%d" % i} for i in range(3)])
    settings: dict[str, Any] = {
        "bootstrap.servers": kafka.bootstrap,
        "group.id": f"g-{topic}",
        "group.instance.id": "alone",
        "enable.auto.commit": False,
        "partition.assignment.strategy": "cooperative-sticky",
    }
    declared = subscription(f"g-{topic}", topic, kafka={"group.instance.id": "alone"})
    async with consuming(kafka.bootstrap, declared) as listener:
        await until(lambda: len(listener.events) == 3, "the events")
        ghost = Client(settings)
        ghost.subscribe([topic])
        await until(lambda: (ghost.poll(0.05), listener.lost)[1], "the fence")
        ghost.close()  # a static member that closes does not leave
        await until(lambda: listener.assigned, "the assignment after it")
        assert listener.told == ["assigned 0", "lost 0", "assigned 0"]
        produce(kafka.bootstrap, topic, [{"value": b"3"}])
        await until(lambda: len(listener.events) == 7, "all events again, and a new one")
        listener.consumer.commit({Partition(topic, 0): Commit(4, "")})
        await until(lambda: listener.committed, "a commit under the new membership")
        assert listener.consumer.statistics().rebuilds == 1
        assert listener.consumer.statistics().events >= 7
        assert not listener.failures


async def test_of_two_with_one_name_the_older_one_says_so_and_ends(
    kafka: LocalKafka, create_topic: CreateTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pelton.kafka.rebuilds.REBUILD_WAIT_FIRST_S", 0.05)
    topic = create_topic()
    declared = subscription(f"g-{topic}", topic, kafka={"group.instance.id": "the-same"})
    async with consuming(kafka.bootstrap, declared) as older:
        await until(lambda: older.assigned, "the assignment")
        async with consuming(kafka.bootstrap, declared) as younger:
            await until(lambda: older.failures, "the last fence")
            await until(lambda: younger.assigned, "the younger one's assignment")
            assert isinstance(older.failures[0], FencedError)
            assert "group.instance.id" in str(older.failures[0])
            assert "as member the-same" in str(older.failures[0])
            assert f"joined anew {REBUILDS_MAX} times" in str(older.failures[0])
            assert kafka.bootstrap in str(older.failures[0])
            assert len(older.failures) == 1
            assert not younger.failures


async def test_new_partitions_are_found(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    topic = create_topic()
    declared = subscription(f"g-{topic}", topic, kafka={"topic.metadata.refresh.interval.ms": 300})
    async with consuming(kafka.bootstrap, declared) as listener:
        await until(lambda: listener.assigned, "the assignment")
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        for future in admin.create_partitions([NewPartitions(topic, 3)]).values():
            future.result(10)
        await until(lambda: len(listener.assigned) == 3, "the new partitions")
        produce(kafka.bootstrap, topic, [{"value": b"x", "partition": 2}])
        await until(lambda: listener.values == [b"x"], "an event of a new partition")


async def test_a_start_that_cannot_be_read_yet_is_tried_again(
    kafka: LocalKafka, create_topic: CreateTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`committed` times out while a transaction of another member is open: nothing may flow meanwhile."""
    refusals = iter(range(3))

    class Slow(Client):
        def committed(self, partitions: Any, timeout: float = -1) -> Any:
            for _ in refusals:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            return super().committed(partitions, timeout)

    topic = create_topic()
    produce(kafka.bootstrap, topic, [{"value": b"%d" % i} for i in range(3)])
    setup = Client({"bootstrap.servers": kafka.bootstrap, "group.id": f"g-{topic}"})
    setup.commit(offsets=[TopicPartition(topic, 0, 1, "map")], asynchronous=False)
    setup.close()
    monkeypatch.setattr("pelton.kafka.consumer_thread.confluent_kafka.Consumer", Slow)
    async with consuming(kafka.bootstrap, subscription(f"g-{topic}", topic)) as listener:
        await until(lambda: len(listener.events) == 2, "the events")
        assert listener.assigned[Partition(topic, 0)].metadata == "map"
    assert listener.values == [b"1", b"2"]
    assert list(refusals) == []


async def test_settings_that_cannot_be_used_raise_at_start(kafka: LocalKafka) -> None:
    async def start(**settings: Any) -> None:
        declared = subscription("g", "t", kafka=settings)
        loop = asyncio.get_running_loop()
        servers = {"bootstrap.servers": kafka.bootstrap}
        Consumer(declared, servers, Listening(), loop, drain_timeout_ms=1).start()

    with pytest.raises(ConfigError, match=r"enable\.auto\.commit"):
        await start(**{"enable.auto.commit": True})
    with pytest.raises(BrokerError, match=r"no\.such\.setting"):
        await start(**{"no.such.setting": 1})
