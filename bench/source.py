"""The events: topics of known content, whether their own order holds, and a publisher that keeps a schedule.

The first eight bytes of an event are its number in the topic or, from `publish_paced`, the moment it was due.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.cells import EVENT_BYTES, KEYS, PARTITIONS, POISON

__all__ = ["Events", "Paced", "check_order", "committed", "create_topic", "preload", "publish_paced"]

TIMEOUT_S = 60.0
#: Ten million events take minutes to write, and to read again.
_EACH_TIMEOUT_S = 1e-4
_READ_EVENTS_MAX = 10_000
#: Beyond the number or the moment.
_HEAD_BYTES = 8
#: The keys of every run are the same.
_SEED = 20_260_101

#: Errors only: on a new broker each client would tell that its coordinator loads.
_QUIET = {"log_level": 3}

#: As Java's clients partition, with every broker setting that keeps an order of writing.
_PRODUCER = {"partitioner": "murmur2_random", "enable.idempotence": True, "acks": "all", **_QUIET}


@dataclass(frozen=True, slots=True)
class Events:
    """What a topic is full of; its name says all of it, so that two runs share it."""

    count: int
    partitions: int = PARTITIONS
    keys: int = KEYS
    size_bytes: int = EVENT_BYTES

    @property
    def topic(self) -> str:
        return f"bench-{self.count}-{self.partitions}-{self.keys}-{self.size_bytes}"

    def key_of_each(self) -> Iterator[bytes]:
        """The keys in the order of writing, each time the same."""
        rng = random.Random(_SEED)
        # Twice as fast as randrange, and even enough.
        return (b"key-%07d" % int(rng.random() * self.keys) for _ in range(self.count))

    @property
    def poisonable(self) -> int:
        """Events of keys that are poison where there is any."""
        return sum(key.endswith(POISON.encode()) for key in self.key_of_each())


def create_topic(bootstrap: str, name: str, partitions: int = PARTITIONS) -> None:
    # It must stay referenced until its futures end.
    admin = AdminClient({"bootstrap.servers": bootstrap, **_QUIET})
    topic = NewTopic(
        name, num_partitions=partitions, replication_factor=1, config={"max.message.bytes": str(2 << 20)}
    )
    for future in admin.create_topics([topic], operation_timeout=TIMEOUT_S).values():
        future.result(TIMEOUT_S)
    # A client that asks before every partition has its leader would wait for its next look.
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        found = admin.list_topics(name, TIMEOUT_S).topics[name].partitions
        if len(found) == partitions and all(one.leader >= 0 for one in found.values()):
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{name}: not every partition had a leader within {TIMEOUT_S:.0f} s")
        time.sleep(0.05)


def _refused(error: KafkaError | None, _: Message) -> None:
    if error is not None:
        raise RuntimeError(f"the broker refused an event: {error}")


def preload(bootstrap: str, events: Events, topic: str = "") -> None:
    """Write the events, numbered from 0, into their topic or into another."""
    producer = Producer({**_PRODUCER, "bootstrap.servers": bootstrap, "linger.ms": 20})
    padding = bytes(events.size_bytes - _HEAD_BYTES)
    for number, key in enumerate(events.key_of_each()):
        while True:
            try:
                value = number.to_bytes(_HEAD_BYTES, "big") + padding
                producer.produce(topic or events.topic, value, key, on_delivery=_refused)
                break
            except BufferError:
                producer.poll(0.05)
    if producer.flush(TIMEOUT_S):
        raise RuntimeError(f"{topic or events.topic}: not all events were taken within {TIMEOUT_S:.0f} s")


def check_order(bootstrap: str, events: Events) -> None:
    """Raise unless the topic holds every number once, each key in one partition and in order.

    Disorder seen at the target would else be the source's.
    """
    topic = events.topic
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": f"{topic}-order", "enable.auto.commit": False, **_QUIET}
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(events.partitions)])
    latest: dict[bytes, tuple[int, int]] = {}
    read = 0
    timeout_s = TIMEOUT_S + events.count * _EACH_TIMEOUT_S
    deadline = time.monotonic() + timeout_s
    try:
        while read < events.count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{topic}: {read} of {events.count} events came within {timeout_s:.0f} s")
            for message in consumer.consume(_READ_EVENTS_MAX, 0.1):
                key, value, partition = message.key(), message.value(), message.partition()
                assert isinstance(key, bytes), message.error()
                assert isinstance(value, bytes), message.error()
                assert partition is not None, "a consumed record stands somewhere"
                number = int.from_bytes(value[:_HEAD_BYTES], "big")
                before = latest.get(key, (partition, -1))
                if before[0] != partition or before[1] >= number:
                    raise RuntimeError(f"{topic}: the source itself is out of order for {key!r}")
                latest[key] = (partition, number)
                read += 1
    finally:
        consumer.close()


def committed(bootstrap: str, events: Events, group: str) -> int:
    """The sum of the group's committed offsets: so many events have been passed."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, **_QUIET})
    try:
        partitions = [TopicPartition(events.topic, number) for number in range(events.partitions)]
        return sum(max(one.offset, 0) for one in consumer.committed(partitions, TIMEOUT_S))
    finally:
        consumer.close()


@dataclass(frozen=True, slots=True)
class Paced:
    """What the publisher did."""

    events: int
    #: Of its first event, in nanoseconds since the epoch.
    first_due_ns: int
    #: How late it was itself, in milliseconds, event by event: part of what is measured, and told beside it.
    late_ms: list[float]


def publish_paced(bootstrap: str, topic: str, *, per_second: int, seconds: float) -> Paced:
    """Publish by the clock, whatever happens to the events: one that is late does not hold up the next.

    Each carries the moment it was due, so a publisher or a broker that stalls shows as latency.
    """
    producer = Producer({**_PRODUCER, "bootstrap.servers": bootstrap, "linger.ms": 0})
    # Connections and metadata are not what is measured.
    producer.list_topics(topic, TIMEOUT_S)
    events = Events(int(per_second * seconds))
    padding = bytes(events.size_bytes - _HEAD_BYTES)
    step_ns = 1_000_000_000 // per_second
    first_due_ns = time.time_ns() + 200_000_000
    late_ms: list[float] = []
    for number, key in enumerate(events.key_of_each()):
        due_ns = first_due_ns + number * step_ns
        while (ahead_ns := due_ns - time.time_ns()) > 0:
            time.sleep(ahead_ns / 1e9)
        late_ms.append(-ahead_ns / 1e6)
        value = due_ns.to_bytes(_HEAD_BYTES, "big") + padding
        producer.produce(topic, value, key, on_delivery=_refused)
        producer.poll(0)
    if producer.flush(TIMEOUT_S):
        raise RuntimeError(f"{topic}: the broker did not take all events within {TIMEOUT_S:.0f} s")
    return Paced(events.count, first_due_ns, late_ms)
