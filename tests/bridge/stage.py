"""A pump among fakes: a source that notes commands, a transport and a sink that answer when told to.

The loop's clock is the real one; nothing here waits for it but `until`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pelton.bridge.following import Following
from pelton.bridge.logs import PumpLog
from pelton.bridge.pump import Pump
from pelton.core.actions import Commit, Hop
from pelton.core.delivery import Delivery
from pelton.core.limits import Bound, Limits, Slots
from pelton.core.outcome import ACKED, CANCELLED_BY_US, Outcome
from pelton.core.tally import Tally
from pelton.errors import BrokerError, RequestError
from pelton.event import Event, Partition
from pelton.kafka.listener import Assigned
from pelton.rpc.transport import Call, Metadata, OnResults
from pelton.subscription import Intake, RetryPolicy, Subscription, Target, ThenKey, Tier

__all__ = ["EPOCH_MS", "Stage", "event", "until"]

#: Ten times what anything here takes on a busy computer.
DEADLINE_S = 20.0
#: What the wall clock said when the loop's began.
EPOCH_MS = 1_700_000_000_000.0


async def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"waited for {what}"
        await asyncio.sleep(0.001)


def event(offset: int, key: bytes | None = b"k", partition: int = 0, value: bytes = b"v") -> Event:
    return Event("t", partition, offset, key, value, value, (), 0)


class FakeSource:
    """What the pump has asked of the consumer, in order."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.committed: dict[Partition, Commit] = {}

    def pause(self, partitions: Collection[Partition]) -> None:
        self.asked.append(("pause", sorted(partitions)))

    def resume(self, partitions: Collection[Partition]) -> None:
        self.asked.append(("resume", sorted(partitions)))

    def commit(self, commits: Mapping[Partition, Commit]) -> None:
        self.asked.append(("commit", {partition: commit.offset for partition, commit in commits.items()}))
        self.committed.update(commits)

    def read_again(self, partition: Partition, offsets: tuple[int, ...]) -> None:
        self.asked.append(("read_again", (partition, offsets)))

    def release(self, partitions: Collection[Partition]) -> None:
        self.asked.append(("release", sorted(partitions)))

    def of(self, kind: str) -> list[Any]:
        return [what for asked, what in self.asked if asked == kind]

    def partitions(self, kind: str) -> list[Partition]:
        """All that a command named, however many times it was given."""
        return sorted(partition for partitions in self.of(kind) for partition in partitions)


class FakeTransport:
    """Calls stay out until they are answered; a cancelled one ends at the loop's next turn."""

    def __init__(self, on_results: OnResults) -> None:
        self._on_results = on_results
        self.out: dict[Delivery, Call] = {}
        self.batches: list[list[Delivery]] = []

    @property
    def in_flight(self) -> int:
        return len(self.out)

    def submit(self, calls: Sequence[Call]) -> None:
        self.batches.append([call.delivery for call in calls])
        self.out.update({call.delivery: call for call in calls})

    def cancel(self, deliveries: Collection[Delivery]) -> None:
        cancelled = [(delivery, CANCELLED_BY_US) for delivery in deliveries if self.out.pop(delivery, None)]
        asyncio.get_running_loop().call_soon(self._on_results, cancelled)

    async def close(self, drain_ms: float) -> None:
        assert not self.out

    def answer(self, *answers: tuple[Delivery, Outcome]) -> None:
        for delivery, _ in answers:
            del self.out[delivery]
        self._on_results(list(answers))


class FakeSink:
    """Dead letters, written when told to."""

    def __init__(self) -> None:
        self.submitted: list[Hop] = []

    def submit(self, dead_letters: Sequence[Hop]) -> None:
        self.submitted += dead_letters


class FakeReader:
    """What was asked of the reader of notes, in order: a number and a ticket, or None to read it no more."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int | None]] = []

    def read(self, number: int, ticket: int) -> None:
        self.asked.append((number, ticket))

    def drop(self, number: int) -> None:
        self.asked.append((number, None))


def _wall_ms_of(now_ms: float) -> float:
    return now_ms + EPOCH_MS


class FakeRequests:
    """Sends the value; an event of the value `unbuildable` has no request, one of `unwanted` is filtered."""

    def accepts(self, event: Event) -> bool:
        if event.value == b"undecidable":
            raise RequestError("filter: cannot be told")
        return event.value != b"unwanted"

    def build(self, delivery: Delivery) -> tuple[bytes, Metadata, Metadata]:
        if delivery.event.value == b"unbuildable":
            raise RequestError("request field text: not UTF-8")
        return delivery.event.value or b"", (), ()


class Stage:
    """A pump, its surroundings, and short words for what happens to it."""

    def __init__(
        self,
        *,
        concurrency: int = 10,
        filter_: str | None = None,
        drain_timeout_ms: float = 15_000.0,
        intake: Intake | None = None,
        attempts: int = 8,
        tiers: tuple[Tier, ...] = (),
        follow: bool = False,
    ) -> None:
        self.subscription = Subscription(
            "s",
            ("t",),
            Target("x", "127.0.0.1:1"),
            "/a.B/C",
            "g",
            concurrency=concurrency,
            filter=filter_,
            drain_timeout_ms=drain_timeout_ms,
            intake=intake or Intake(),
            retry=RetryPolicy(
                attempts=attempts, tiers=tiers, then_key=ThenKey.FOLLOW if follow else ThenKey.CONTINUE
            ),
        )
        self.source = FakeSource()
        self.sink = FakeSink()
        self.reader = FakeReader()
        self.transport: FakeTransport
        self.failures: list[BrokerError] = []
        self.limits = Limits(Bound(50_000, 64 << 20), Bound(10_000, 32 << 20), Slots(concurrency))

        def open_transport(on_results: OnResults) -> FakeTransport:
            self.transport = FakeTransport(on_results)
            return self.transport

        self.pump = Pump(
            self.subscription,
            loop=asyncio.get_running_loop(),
            limits=self.limits,
            tally=Tally(),
            jitter=lambda: 0.0,
            requests=FakeRequests(),
            open_transport=open_transport,
            open_sink=lambda pump: self.sink,
            open_source=lambda pump: self.source,
            on_failed=self.failures.append,
            log=PumpLog("s"),
            wall_ms_of=_wall_ms_of,
            open_following=self._open_following if follow else None,
        )

    def _open_following(self, pump: Pump) -> Following:
        return Following(self.subscription, self.reader, _wall_ms_of, PumpLog("s"))

    def assign(self, *partitions: int, offset: int = 0, metadata: str | None = None) -> None:
        self.pump.on_assigned(
            [Assigned(Partition("t", number), 1, offset, metadata) for number in partitions]
        )

    def feed(self, *events: Event) -> None:
        by_partition: dict[Partition, list[Event]] = {}
        for one in events:
            by_partition.setdefault(Partition(one.topic, one.partition), []).append(one)
        self.pump.on_events(list(by_partition.items()))

    @property
    def out(self) -> list[tuple[int, int]]:
        """Partition and offset of the calls that are out."""
        return sorted((d.event.partition, d.event.offset) for d in self.transport.out)

    def delivery(self, offset: int, partition: int = 0) -> Delivery:
        (found,) = (
            d for d in self.transport.out if (d.event.partition, d.event.offset) == (partition, offset)
        )
        return found

    def ack(self, *offsets: int, partition: int = 0) -> None:
        self.transport.answer(*((self.delivery(offset, partition), ACKED) for offset in offsets))

    def holds(self) -> bool:
        return self.pump.tally.holds(self.pump.open_events)
