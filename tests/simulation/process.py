"""One process of the group: the real pump among fakes, and what may happen to a process as a whole.

It may die in the middle of whatever it asks of its surroundings, with all that it has in memory; be
frozen, thread and loop and heartbeats; have a loop that is slow while its thread goes on; be cut off from
the brokers. A dead process is never used again: a new one takes its seat.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from pelton.bridge.following import Following
from pelton.bridge.hops import AtomicSink
from pelton.bridge.logs import PumpLog
from pelton.bridge.pump import HopSink, Pump
from pelton.core.actions import Hop
from pelton.core.delivery import Delivery
from pelton.core.engine import Engine
from pelton.core.limits import Bound, Limits, slots_of
from pelton.core.tally import Tally
from pelton.errors import BrokerError, RequestError
from pelton.event import Event, Partition
from pelton.kafka.hops import record_of
from pelton.kafka.listener import Assigned
from pelton.kafka.records import Outgoing
from pelton.rpc.transport import Metadata
from tests.simulation.consumer import FakeConsumer
from tests.simulation.following import FakeReader
from tests.simulation.group import SESSION_S
from tests.simulation.target import FakeTransport
from tests.simulation.transactions import FakeWriter

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["Process"]


#: What the wall clock says when the world begins.
WALL_MS = 1_764_000_000_000.0


class _Died(BaseException):
    """The process ends here, between one thing and the next."""


class _Silent:
    """The log that nobody reads; whatever line is asked for."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return _say_nothing


def _say_nothing(*_: object, **__: object) -> None:
    return None


class _Timer:
    """What `call_at` returns."""

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class _Loop:
    """The process's own event loop: the world's, but slow or frozen when the process is."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    def time(self) -> float:
        return self._world.loop.time()

    def call_at(self, when: float, callback: Callable[..., object], *arguments: object) -> _Timer:
        timer = _Timer()
        self._world.loop.call_at(when, self._process.post, self._fire, timer, callback, arguments)
        return timer

    def call_soon(self, callback: Callable[..., object], *arguments: object) -> None:
        self._process.post(callback, *arguments)

    def call_later(self, delay: float, callback: Callable[..., object], *arguments: object) -> _Timer:
        return self.call_at(self.time() + delay, callback, *arguments)

    @staticmethod
    def _fire(timer: _Timer, callback: Callable[..., object], arguments: tuple[object, ...]) -> None:
        if not timer.cancelled:
            callback(*arguments)


class _Requests:
    """Sends the value. What an event is, its value says; see `workload.py`."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    def accepts(self, event: Event) -> bool:
        if event.value == b"undecidable":
            raise RequestError("filter: cannot be told")
        return event.value != b"unwanted"

    def build(self, delivery: Delivery) -> tuple[bytes, Metadata, Metadata]:
        unbuildable = delivery.event.value == b"unbuildable"
        self._world.auditor.started(self._process, delivery, unbuildable=unbuildable)
        if unbuildable:
            raise RequestError("request field text: not UTF-8")
        return delivery.event.value or b"", (), ()


class _Asked:
    """Between the pump and where its hops go."""

    def __init__(self, world: World, process: Process, sink: HopSink) -> None:
        self._world = world
        self._process = process
        self._sink = sink

    def submit(self, hops: Sequence[Hop]) -> None:
        self._process.point()
        for hop in hops:
            self._world.auditor.hop_asked(self._process, hop)
            if self._world.tracing:
                where = "dead letter" if hop.tier is None else f"to {hop.tier.topic}"
                self._world.trace(self._process, where, hop.delivery.delivery_id)
        self._sink.submit(hops)
        self._process.point()


class _Sink:
    """Writes dead letters; what is refused may have been written all the same."""

    def __init__(self, world: World, process: Process, on_produced: Callable[..., None]) -> None:
        self._world = world
        self._process = process
        self._on_produced = on_produced

    def submit(self, hops: Sequence[Hop]) -> None:
        records = [(hop, self._process.outgoing(hop)) for hop in hops]
        self._world.loop.call_later(self._world.random.uniform(0.001, 0.1), self._write, records)

    def _write(self, records: list[tuple[Hop, Outgoing]]) -> None:
        world = self._world
        down = any(outage.covers(world.now_s) for outage in world.faults.letters)
        results: list[tuple[Hop, str | None]] = []
        for hop, outgoing in records:
            error = None
            if down or world.strikes(world.faults.letters_refused):
                world.sometimes("dead_letter_refused")
                error = "refused"
            else:
                world.write(hop, outgoing)
                if world.strikes(world.faults.letters_unsure):
                    world.sometimes("dead_letter_written_and_answer_lost")
                    error = "timed out"
            results.append((hop, error))
        world.loop.call_later(world.random.random() ** 2 * 0.2, self._process.post, self._tell, results)

    def _tell(self, results: list[tuple[Hop, str | None]]) -> None:
        self._world.auditor.hops_told(self._process, results)
        self._on_produced(results)


class _Told:
    """Between the transactions and the pump."""

    def __init__(self, world: World, process: Process, pump: Pump) -> None:
        self._world = world
        self._process = process
        self._pump = pump

    def on_produced(self, results: Sequence[tuple[Hop, str | None]]) -> None:
        self._world.auditor.hops_told(self._process, results)
        self._pump.on_produced(results)

    def on_transaction(self, engines: Iterable[Engine], results: Sequence[tuple[Hop, str | None]]) -> None:
        engines = list(engines)
        done = any(error is None for _, error in results)
        partitions = [engine.partition for engine in engines if not engine.closed]
        self._world.auditor.transaction_told(self._process, partitions, done=done)
        self._world.auditor.hops_told(self._process, results)
        self._pump.on_transaction(engines, results)

    def on_transaction_unknown(self, engines: Iterable[Engine]) -> None:
        engines = list(engines)
        partitions = [engine.partition for engine in engines if not engine.closed]
        self._world.auditor.transaction_told(self._process, partitions, done=False)
        self._world.auditor.lost(self._process, partitions)
        self._pump.on_transaction_unknown(engines)


class _Witness:
    """Between the consumer and the pump: the auditor hears of everything before the pump does."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    def on_assigned(self, assigned: Sequence[Assigned]) -> None:
        if not self._process.draining:
            self._world.auditor.assigned(self._process, assigned)
        self._process.pump.on_assigned(assigned)

    def on_events(self, batch: Sequence[tuple[Partition, list[Event]]]) -> None:
        self._world.auditor.fed(self._process, batch)
        self._process.pump.on_events(batch)

    def on_revoked(self, partitions: Sequence[Partition]) -> None:
        self._world.auditor.revoked(self._process, partitions)
        self._process.pump.on_revoked(partitions)

    def on_lost(self, partitions: Sequence[Partition]) -> None:
        self._world.auditor.lost(self._process, partitions)
        self._process.pump.on_lost(partitions)

    def on_committed(self, offsets: Mapping[Partition, int], error: str | None) -> None:
        self._process.pump.on_committed(offsets, error)

    def on_offsets_lost(self, partition: Partition, wanted: int, got: int) -> None:
        self._world.auditor.offsets_lost(self._process, partition, wanted, got)
        self._process.pump.on_offsets_lost(partition, wanted, got)

    def on_read_again(
        self, partition: Partition, asked: Sequence[int], events: Sequence[Event], through: int
    ) -> None:
        self._process.pump.on_read_again(partition, asked, events, through)

    def on_failed(self, error: BrokerError) -> None:
        self._process.pump.on_failed(error)


class Process:
    """See the module. `instance` is its name in the group, if it is static."""

    def __init__(self, world: World, name: str, instance: str | None) -> None:
        subscription = world.schedule.subscription
        intake = subscription.intake
        self._world = world
        self.name = name
        self.instance = instance
        self.alive = True
        self.fenced = False
        #: It was asked to stop; and its pump has heard of it.
        self.stopping = False
        self.draining = False
        #: Nothing of it moves until then; its loop does not.
        self.frozen_until_s = 0.0
        self.slow_until_s = 0.0
        #: Its wall clock has jumped by so much.
        self.clock_ahead_ms = 0.0
        self._inbox: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._stop: asyncio.Task[None] | None = None
        self.tally = Tally()
        self.limits = Limits(
            Bound(50_000, 64 << 20),
            Bound(intake.subscription_events_max, intake.subscription_bytes_max),
            slots_of(subscription),
        )
        self.reader: FakeReader | None = None
        self.consumer = FakeConsumer(world, self, _Witness(world, self))
        self.pump = Pump(
            subscription,
            loop=cast("asyncio.AbstractEventLoop", _Loop(world, self)),
            limits=self.limits,
            tally=self.tally,
            wall_ms_of=self._wall_ms_of,
            jitter=world.random.random,
            requests=_Requests(world, self),
            open_transport=self._open_transport,
            open_sink=self._open_sink,
            open_source=lambda pump: self.consumer,
            on_failed=self._failed,
            log=cast("PumpLog", _Silent()),
            open_following=None if subscription.follow_topic is None else self._open_following,
        )
        world.auditor.joined(self)
        if self._writer is None:
            self._join()
        else:
            # What a dead process of this name has left open is ended before.
            self._writer.prepare(lambda _: self._join())

    def __repr__(self) -> str:
        return self.name

    @property
    def wall_ms(self) -> float:
        return self._wall_ms_of(self._world.now_s * 1000.0)

    def _wall_ms_of(self, now_ms: float) -> float:
        return WALL_MS + now_ms + self.clock_ahead_ms

    def _open_transport(self, on_results: Callable[..., None]) -> FakeTransport:
        self.transport = FakeTransport(self._world, self, on_results)
        return self.transport

    def _open_following(self, pump: Pump) -> Following:
        self.reader = FakeReader(self._world, self)
        log = cast("PumpLog", _Silent())
        return Following(self._world.schedule.subscription, self.reader, self._wall_ms_of, log)

    def _open_sink(self, pump: Pump) -> HopSink:
        world = self._world
        self._writer: FakeWriter | None = None
        if not world.schedule.atomic:
            return _Asked(world, self, _Sink(world, self, pump.on_produced))
        self._writer = FakeWriter(world, self, self.instance or self.name, self._failed)
        sink = AtomicSink(
            _Told(world, self, pump),
            self._writer,
            lambda partitions, on_quiet: self.consumer.quiet(partitions, on_quiet),
            self.outgoing,
            cast("asyncio.AbstractEventLoop", _Loop(world, self)),
            cast("PumpLog", _Silent()),
        )
        return _Asked(world, self, sink)

    def outgoing(self, hop: Hop) -> Outgoing:
        """The record of a hop, as `bridge/dead_letters.py` makes it."""
        delivery, now_ms = hop.delivery, self._world.now_s * 1000.0
        return record_of(
            hop,
            "dlq.sim" if hop.tier is None else hop.tier.topic,
            subscription="sim",
            first_attempted_wall_ms=self._wall_ms_of(delivery.first_attempted_ms)
            if delivery.attempt
            else None,
            failed_wall_ms=self._wall_ms_of(delivery.last_failed_ms if delivery.attempt else now_ms),
        )

    def _join(self) -> None:
        if not self.stopping:
            self.consumer.client.join()
            self.wake()

    # -- Its two threads -----------------------------------------------------------------------------------

    def wake(self) -> None:
        if self.alive:
            self.consumer.wake()

    def post(self, callback: Callable[..., object], /, *arguments: Any) -> None:
        """Run it on the process's event loop, behind all that was posted before."""
        if not self.alive:
            return
        self._inbox.append((callback, arguments))
        if len(self._inbox) == 1:
            at_s = max(self.frozen_until_s, self.slow_until_s, self._world.now_s)
            self._world.loop.call_at(at_s, self._run_inbox)

    def _run_inbox(self) -> None:
        until_s = max(self.frozen_until_s, self.slow_until_s)
        if self._world.now_s < until_s:
            self._world.loop.call_at(until_s, self._run_inbox)
            return
        # What these post comes after whatever else is due now, as in a real loop.
        for _ in range(len(self._inbox)):
            if not self.alive:
                return
            callback, arguments = self._inbox[0]
            self._guarded(callback, arguments, look=True)
            if self._inbox:
                self._inbox.popleft()
        if self._inbox:
            self._world.loop.call_soon(self._run_inbox)

    def on_thread(self, step: Callable[[], None]) -> None:
        """Run a step of the consumer's thread."""
        if not self.alive:
            return
        if self._world.now_s < self.frozen_until_s:
            self._world.loop.call_at(self.frozen_until_s, self.on_thread, step)
            return
        self._guarded(step, (), look=False)

    def _guarded(self, callback: Callable[..., object], arguments: tuple[Any, ...], *, look: bool) -> None:
        world = self._world
        world.running = self
        try:
            callback(*arguments)
            if look:
                world.auditor.looked(self)
        except _Died:
            self.die("in the middle of something")
        except Exception as error:
            world.fail(error)

    def point(self) -> None:
        """A moment between one thing and the next: the process may end here."""
        world = self._world
        world.points += 1
        if world.points in world.faults.crash_points:
            world.sometimes("crash_in_the_middle")
            raise _Died

    # -- What may happen to it -----------------------------------------------------------------------------

    def die(self, why: str) -> None:
        """Everything in memory is gone. The group does not know for a session."""
        if not self.alive:
            return
        world = self._world
        if world.tracing:
            world.trace(self, "dies", why)
        self.alive = False
        if self._writer is not None and self._writer.carries_notes:
            world.sometimes("crash_with_notes_on_the_way")
        world.auditor.died(self)
        self._inbox.clear()
        self.consumer.client.closed = True
        if self._stop is not None:
            self._stop.cancel()
        member = self.consumer.client.member
        if member is not None:
            world.loop.call_later(SESSION_S, self._expire)
        world.vacant(self)

    def _expire(self) -> None:
        member = self.consumer.client.member
        if member is not None and member.client is self.consumer.client:
            self._world.group.evict(member)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        if seconds > SESSION_S:
            self._world.sometimes("process_frozen")
        now_s = self._world.now_s
        self.frozen_until_s = max(self.frozen_until_s, now_s + seconds)
        self.isolate(seconds)

    def isolate(self, seconds: float) -> None:
        """The brokers hear nothing of it, and it nothing of them."""
        world, client = self._world, self.consumer.client
        client.isolated_until_s = max(client.isolated_until_s, world.now_s + seconds)
        world.loop.call_later(SESSION_S, self._unheard_of, world.now_s)

    def _unheard_of(self, since_s: float) -> None:
        client = self.consumer.client
        if client.isolated_until_s >= since_s + SESSION_S and not client.closed:
            self._expire()

    def expel(self) -> None:
        """The coordinator does not know it any more: one that took over without having heard of it."""
        self._expire()

    def slow(self, seconds: float) -> None:
        """Something holds its loop up; its thread goes on."""
        self.slow_until_s = max(self.slow_until_s, self._world.now_s + seconds)

    def _failed(self, error: BrokerError) -> None:
        """The consumer has ended for good: finish what is out, and end."""
        self.fenced = True
        self.stop()

    def stop(self) -> None:
        """SIGTERM: drain, commit, leave."""
        if self.alive and not self.stopping:
            self.stopping = True
            self._stop = self._world.loop.create_task(self._drain())

    async def _drain(self) -> None:
        self._world.running = self
        try:
            self.draining = True
            self._world.auditor.stopping(self)
            await self.pump.drain()
            self._world.auditor.looked(self)
            if self.consumer.client.closed:
                self.left()
            else:
                self.consumer.stop()
        except _Died:
            self.die("while it drained")
        except Exception as error:
            self._world.fail(error)

    def abandon(self) -> None:
        """The world ends."""
        self.alive = False
        if self._stop is not None:
            self._stop.cancel()

    @property
    def busy_until_s(self) -> float:
        """Until when its loop did nothing, last."""
        return max(self.frozen_until_s, self.slow_until_s)

    def left(self) -> None:
        """It is out of the group, and nothing of it runs any more."""
        if self.alive:
            self.alive = False
            self._world.auditor.ended(self)
            self._world.vacant(self)
