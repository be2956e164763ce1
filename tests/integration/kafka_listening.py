"""What the tests of the consumer share: a listener that writes down what it is told, and answers revokes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from confluent_kafka import Producer

from pelton.core.actions import Commit
from pelton.errors import BrokerError
from pelton.event import Event, Partition
from pelton.kafka.consumer import Assigned, Consumer
from pelton.subscription import Start, Subscription, Target

__all__ = ["Listening", "consuming", "produce", "subscription", "until"]

#: Ten times what a rebalance with a static member takes at worst.
DEADLINE_S = 30.0


async def until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Poll `condition`; fail saying `what` was waited for."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"waited {deadline_s} s for {what}"
        await asyncio.sleep(0.002)


def subscription(
    group: str, *topics: str, start: Start | None = None, kafka: Mapping[str, Any] | None = None
) -> Subscription:
    target = Target("target", "127.0.0.1:1")
    return Subscription("test", topics, target, "/a.B/C", group, start=start or Start(), kafka=kafka or {})


def produce(bootstrap: str, topic: str, records: Sequence[dict[str, Any]]) -> list[int]:
    """Write with a plain client; returns the offsets."""
    offsets: dict[int, int] = {}

    def report(index: int) -> Callable[[Any, Any], None]:
        def done(error: Any, message: Any) -> None:
            assert error is None, error
            offsets[index] = message.offset()

        return done

    # Without idempotence a batch that a new topic's leader refuses at first is written behind the next one.
    settings = {"bootstrap.servers": bootstrap, "linger.ms": 5, "enable.idempotence": True}
    with Producer(settings) as producer:
        for index, record in enumerate(records):
            producer.produce(topic, on_delivery=report(index), **record)
        assert producer.flush(DEADLINE_S) == 0
    return [offsets[index] for index in range(len(records))]


class Listening:
    """Writes everything down, commits what it saw where asked to, and releases at once unless held."""

    def __init__(self) -> None:
        self.consumer: Consumer
        self.told: list[str] = []
        self.assigned: dict[Partition, Assigned] = {}
        self.events: list[Event] = []
        self.committed: dict[Partition, int] = {}
        self.commit_errors: list[str] = []
        self.offsets_lost: list[tuple[Partition, int, int]] = []
        self.failures: list[BrokerError] = []
        self.read_again: list[tuple[Partition, Sequence[int], list[Event], int]] = []
        self.revoked: list[Partition] = []
        self.lost: list[Partition] = []
        self.release_at_once = True
        self.commit_on_revoke = True
        #: What would be committed: behind the last event of each partition.
        self.position: dict[Partition, int] = {}

    def on_assigned(self, assigned: Sequence[Assigned]) -> None:
        for one in assigned:
            self.told.append(f"assigned {one.partition.partition}")
            assert one.partition not in self.assigned, "assigned twice"
            self.assigned[one.partition] = one

    def on_events(self, batch: Sequence[tuple[Partition, list[Event]]]) -> None:
        for partition, events in batch:
            assert partition in self.assigned, "events of a partition that is not ours"
            assert events
            for event in events:
                assert (event.topic, event.partition) == partition
                last = self.position.get(partition, self.assigned[partition].offset)
                assert event.offset >= last, "an event came twice or out of order"
                self.position[partition] = event.offset + 1
            self.events += events

    def on_read_again(
        self, partition: Partition, asked: Sequence[int], events: Sequence[Event], through: int
    ) -> None:
        self.read_again.append((partition, asked, [*events], through))

    def on_revoked(self, partitions: Sequence[Partition]) -> None:
        self.revoked += partitions
        self.told += [f"revoked {p.partition}" for p in partitions]
        if self.release_at_once:
            self.let_go(partitions)

    def let_go(self, partitions: Sequence[Partition]) -> None:
        if self.commit_on_revoke:
            self.consumer.commit({p: Commit(self.position[p], "") for p in partitions if p in self.position})
        self._forget(partitions)
        self.consumer.release(partitions)

    def on_lost(self, partitions: Sequence[Partition]) -> None:
        self.lost += partitions
        self.told += [f"lost {p.partition}" for p in partitions]
        self._forget(partitions)

    def _forget(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            del self.assigned[partition]
            self.position.pop(partition, None)

    def on_committed(self, offsets: Mapping[Partition, int], error: str | None) -> None:
        if error is None:
            self.committed.update(offsets)
        else:
            self.commit_errors.append(error)

    def on_offsets_lost(self, partition: Partition, wanted: int, got: int) -> None:
        self.offsets_lost.append((partition, wanted, got))

    def on_failed(self, error: BrokerError) -> None:
        self.failures.append(error)

    @property
    def values(self) -> list[bytes | None]:
        return [event.value for event in self.events]


@asynccontextmanager
async def consuming(
    bootstrap: str, declared: Subscription, listener: Listening | None = None, drain_timeout_ms: float = 5_000
) -> AsyncIterator[Listening]:
    """A running consumer with its listener; stopped at the end."""
    listener = listener or Listening()
    settings = {"bootstrap.servers": bootstrap}
    consumer = Consumer(
        declared, settings, listener, asyncio.get_running_loop(), drain_timeout_ms=drain_timeout_ms
    )
    listener.consumer = consumer
    consumer.start()
    try:
        yield listener
    finally:
        await consumer.stop()
