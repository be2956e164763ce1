"""The events: topics of known content, whether their own order holds, and a publisher that keeps a schedule.

The first eight bytes of an event are its number in the topic or, from `publish_paced`, the moment it was due.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.cells import EVENT_BYTES, KEYS, PARTITIONS

__all__ = ["Paced", "check_order", "committed", "create_topic", "preload", "publish_paced"]

TIMEOUT_S = 60.0
_READ_EVENTS_MAX = 10_000
_PADDING = bytes(EVENT_BYTES - 8)
#: The keys of every run are the same.
_SEED = 20_260_101

#: Errors only: on a new broker each client would tell that its coordinator loads.
_QUIET = {"log_level": 3}

#: As Java's clients partition, with every broker setting that keeps an order of writing.
_PRODUCER = {"partitioner": "murmur2_random", "enable.idempotence": True, "acks": "all", **_QUIET}


def create_topic(bootstrap: str, name: str) -> None:
    # It must stay referenced until its futures end.
    admin = AdminClient({"bootstrap.servers": bootstrap, **_QUIET})
    topic = NewTopic(name, num_partitions=PARTITIONS, replication_factor=1)
    for future in admin.create_topics([topic], operation_timeout=TIMEOUT_S).values():
        future.result(TIMEOUT_S)


def _key(rng: random.Random) -> bytes:
    return b"key-%05d" % rng.randrange(KEYS)


def _refused(error: KafkaError | None, _: Message) -> None:
    if error is not None:
        raise RuntimeError(f"the broker refused an event: {error}")


def preload(bootstrap: str, topic: str, events: int) -> None:
    """Write the events, numbered from 0."""
    rng = random.Random(_SEED)
    producer = Producer({**_PRODUCER, "bootstrap.servers": bootstrap, "linger.ms": 20})
    for number in range(events):
        while True:
            try:
                producer.produce(topic, number.to_bytes(8, "big") + _PADDING, _key(rng), on_delivery=_refused)
                break
            except BufferError:
                producer.poll(0.05)
    if producer.flush(TIMEOUT_S):
        raise RuntimeError(f"{topic}: the broker did not take all events within {TIMEOUT_S:.0f} s")


def check_order(bootstrap: str, topic: str, events: int) -> None:
    """Raise unless the topic holds every number once, each key in one partition and in order.

    Disorder seen at the target would else be the source's.
    """
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": f"{topic}-order", "enable.auto.commit": False, **_QUIET}
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    latest: dict[bytes, tuple[int, int]] = {}
    read = 0
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while read < events:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{topic}: {read} of {events} events came within {TIMEOUT_S:.0f} s")
            for message in consumer.consume(_READ_EVENTS_MAX, 0.1):
                key, value, partition = message.key(), message.value(), message.partition()
                assert isinstance(key, bytes), message.error()
                assert isinstance(value, bytes), message.error()
                assert partition is not None, "a consumed record stands somewhere"
                number = int.from_bytes(value[:8], "big")
                before = latest.get(key, (partition, -1))
                if before[0] != partition or before[1] >= number:
                    raise RuntimeError(f"{topic}: the source itself is out of order for {key!r}")
                latest[key] = (partition, number)
                read += 1
    finally:
        consumer.close()


def committed(bootstrap: str, topic: str, group: str) -> int:
    """The sum of the group's committed offsets: so many events have been passed."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, **_QUIET})
    try:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
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
    rng = random.Random(_SEED)
    producer = Producer({**_PRODUCER, "bootstrap.servers": bootstrap, "linger.ms": 0})
    # Connections and metadata are not what is measured.
    producer.list_topics(topic, TIMEOUT_S)
    events = int(per_second * seconds)
    step_ns = 1_000_000_000 // per_second
    first_due_ns = time.time_ns() + 200_000_000
    late_ms: list[float] = []
    for number in range(events):
        due_ns = first_due_ns + number * step_ns
        while (ahead_ns := due_ns - time.time_ns()) > 0:
            time.sleep(ahead_ns / 1e9)
        late_ms.append(-ahead_ns / 1e6)
        producer.produce(topic, due_ns.to_bytes(8, "big") + _PADDING, _key(rng), on_delivery=_refused)
        producer.poll(0)
    if producer.flush(TIMEOUT_S):
        raise RuntimeError(f"{topic}: the broker did not take all events within {TIMEOUT_S:.0f} s")
    return Paced(events, first_due_ns, late_ms)
