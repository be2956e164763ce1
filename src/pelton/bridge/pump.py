"""THE DATA PATH: events in from Kafka, calls out to the target, results back, commits after.

Read it top to bottom: what comes in (events, results, assignments, time) is fed to the engines of the
partitions concerned, and then `_turn` takes what they ask for and performs it, in batches: one submit to
the transport, one to the dead-letter sink, one command of each kind to the consumer. Results come back
through the same door. One timer wakes it for everything that waits.

Nothing here decides: what an outcome means, what may start and what may be committed is the engine's.
Nothing here blocks, and everything runs on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from pelton import failpoints
from pelton.bridge.following import Following
from pelton.bridge.logs import PumpLog
from pelton.bridge.metrics import CallTimes
from pelton.bridge.shares import Shares
from pelton.core.actions import Commit, Flow, Hop
from pelton.core.breaker import Breaker, Health
from pelton.core.delivery import Delivery
from pelton.core.engine import Engine
from pelton.core.followed import Note
from pelton.core.limits import Limits
from pelton.core.outcome import ACKED, Outcome, Status
from pelton.core.retry import Jitter
from pelton.core.tally import Tally
from pelton.core.tiers import arrivals
from pelton.errors import BrokerError, RequestError
from pelton.event import Event, Partition
from pelton.failpoints import Failpoint
from pelton.kafka.listener import Assigned
from pelton.rpc.transport import Call, Metadata, OnResults, Transport
from pelton.subscription import Disposition, Subscription

__all__ = ["CALLS_SUBMITTED_MAX", "HopSink", "Pump", "Requests", "Source"]

#: How soon a paused partition notices that other subscriptions have left room in the process's bounds.
_PAUSED_CHECK_MS = 100.0
#: Calls that are handed over at once. When many results come together, the target has nothing left to do: it
#: is not to wait until the last of the next calls has been made, nor answer all of those at once again.
CALLS_SUBMITTED_MAX = 64


class Source(Protocol):
    """What the pump asks of the consumer; `pelton.kafka.consumer` and the fakes implement it."""

    def pause(self, partitions: Collection[Partition]) -> None: ...
    def resume(self, partitions: Collection[Partition]) -> None: ...
    def commit(self, commits: Mapping[Partition, Commit]) -> None: ...
    def read_again(self, partition: Partition, offsets: tuple[int, ...]) -> None:
        """What was parked by its offset; the answer comes through `Pump.on_read_again`."""
        ...

    def release(self, partitions: Collection[Partition]) -> None:
        """The partitions of a revoke are drained; the commits asked for before this go out first."""
        ...


class HopSink(Protocol):
    """Takes hops; each comes back once through `Pump.on_produced`."""

    def submit(self, hops: Sequence[Hop]) -> None: ...


class Requests(Protocol):
    """Makes what is sent. Both raise `RequestError` where an event does not fit."""

    def accepts(self, event: Event) -> bool: ...
    def build(self, delivery: Delivery) -> tuple[bytes, Metadata, Metadata]:
        """The body, the entries that it has in common with other calls, and its own (`Call`)."""
        ...


class Pump:
    """One subscription's data path in this process. Loop thread only."""

    def __init__(
        self,
        subscription: Subscription,
        *,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        tally: Tally,
        jitter: Jitter,
        requests: Requests,
        open_transport: Callable[[OnResults], Transport],
        open_sink: Callable[[Pump], HopSink],
        open_source: Callable[[Pump], Source],
        on_failed: Callable[[BrokerError], None],
        log: PumpLog,
        wall_ms_of: Callable[[float], float],
        open_following: Callable[[Pump], Following] | None = None,
    ) -> None:
        """`open_following` where keys are followed."""
        self.subscription = subscription
        self.breaker = Breaker()
        self.tally = tally
        self.offsets_lost = 0
        self.call_times = CallTimes()
        self._limits = limits
        self._loop = loop
        self._jitter = jitter
        self._requests = requests
        self._has_filter = subscription.filter is not None
        self._on_failed = on_failed
        self._log = log
        #: What the wall clock says at a monotonic time; due times outlive a process, and are its own.
        self._wall_ms_of = wall_ms_of
        self._health = Health.WELL
        self._engines: dict[Partition, Engine] = {}
        #: Closed engines whose calls are still out.
        self._left_behind: dict[Partition, list[Engine]] = {}
        #: Engines that a revoke or a stop waits for, and when it stops waiting.
        self._draining: dict[Partition, float] = {}
        #: Engines that may have something to say.
        self._dirty: dict[Engine, None] = {}
        self._shares = Shares(limits.slots, self.breaker)
        #: Paused ones that may go on when others have left room.
        self._paused: dict[Engine, None] = {}
        #: The bounds that its partitions share were full, and half free, at the last turn.
        self._was_full = False
        self._was_half_free = True
        #: It has had an assignment: it is a member of its group.
        self.joined = False
        self._all_drained: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: What the timer is set for, and the earliest that anybody has asked for.
        self._armed_ms = float("inf")
        self._timer_ms = float("inf")
        self.transport = open_transport(self.on_results)
        self._sink = open_sink(self)
        self._source = open_source(self)
        self._following = None if open_following is None else open_following(self)

    # -- From Kafka ------------------------------------------------------------------------------------

    def on_events(self, batch: Sequence[tuple[Partition, list[Event]]]) -> None:
        """Events were fetched. Those of a partition that is not ours any more are not ours to count."""
        now_ms = self._now_ms()
        for partition, events in batch:
            engine = self._engines.get(partition)
            if engine is None or engine.draining:
                continue
            if engine.tier is None:
                engine.on_events(events, now_ms, self._intended(events))
            else:
                # Its filter has taken it already.
                arrived = arrivals(events, engine.tier, now_ms, self._wall_ms_of(now_ms))
                engine.on_events(events, now_ms, arrived)
            self._dirty[engine] = None
        self._turn(now_ms)

    def on_assigned(self, assigned: Sequence[Assigned]) -> None:
        """Partitions are ours from here on, beginning at what was committed for them."""
        if self._all_drained is not None:
            # We are stopping and will leave the group: whoever owns them next reads them.
            return
        self.joined = True
        if assigned:
            self._log.assigned(self.subscription.group, assigned)
        now_ms = self._now_ms()
        following = self._following
        for one in assigned:
            assert one.partition not in self._engines, f"{one.partition} was assigned twice"
            engine = Engine(
                self.subscription,
                one.partition,
                generation=one.generation,
                committed=one.offset,
                metadata=one.metadata,
                log_end=one.log_end,
                limits=self._limits,
                breaker=self.breaker,
                tally=self.tally,
                jitter=self._jitter,
                now_ms=now_ms,
                blocked_keys=self._keys_left_behind(one.partition),
                followed=None if following is None else following.followed(one.partition),
            )
            self._engines[one.partition] = engine
            self._dirty[engine] = None
            if engine.map_refused is not None:
                self._log.map_refused(one.partition, engine.map_refused)
        if following is not None:
            following.came([self._engines[one.partition] for one in assigned])
        self._turn(now_ms)

    def on_notes(self, number: int, notes: Sequence[Note], reached: int) -> None:
        """What is remembered of followed keys in the partitions of this number; see `Following`."""
        if self._following is None:
            return
        now_ms = self._now_ms()
        concerned = self._following.tell(self._engines.values(), number, notes, reached, now_ms)
        self._dirty.update(dict.fromkeys(concerned))
        self._turn(now_ms)

    def on_revoked(self, partitions: Sequence[Partition]) -> None:
        """Partitions are to be given up: finish what is out, commit, and let go."""
        now_ms = self._now_ms()
        self._log.revoked(partitions)
        self._drain([partition for partition in partitions if partition in self._engines], now_ms)
        unknown = [partition for partition in partitions if partition not in self._engines]
        if unknown:
            self._source.release(unknown)
        self._turn(now_ms)

    def on_lost(self, partitions: Sequence[Partition]) -> None:
        """Partitions are somebody else's already: nothing of theirs may be committed."""
        held = [self._engines[partition] for partition in partitions if partition in self._engines]
        self._log.lost(
            partitions, {engine.partition: [call.offset for call in engine.in_flight()] for engine in held}
        )
        for engine in held:
            self._close(engine)
        self._turn(self._now_ms())

    def on_committed(self, offsets: Mapping[Partition, int], error: str | None) -> None:
        """Nobody waits for a commit; one that failed is logged and tried again by the consumer."""

    def on_offsets_lost(self, partition: Partition, wanted: int, got: int) -> None:
        """Retention took events before they were read. Loud and counted; there is nothing left to deliver."""
        self._log.offsets_lost(partition, wanted, got)
        if got <= wanted:
            # Another log, and nothing is known of what became of this one.
            return
        self.offsets_lost += got - wanted
        if (engine := self._engines.get(partition)) is not None:
            # Committed, or the next owner would find and count the same loss.
            now_ms = self._now_ms()
            engine.on_offsets_lost(got, now_ms)
            self._dirty[engine] = None
            self._turn(now_ms)

    def on_read_again(
        self, partition: Partition, asked: Sequence[int], events: Sequence[Event], through: int
    ) -> None:
        """What was parked by its offset is here again, or not in the log any more."""
        engine = self._engines.get(partition)
        if engine is None:
            return
        now_ms = self._now_ms()
        lost = engine.on_read_again(asked, events, through, now_ms, self._intended(events))
        if lost:
            self.offsets_lost += lost
            self._log.lost_while_parked(partition, lost)
        self._dirty[engine] = None
        self._turn(now_ms)

    def on_failed(self, error: BrokerError) -> None:
        self._on_failed(error)

    # -- Results ---------------------------------------------------------------------------------------

    def on_results(self, results: list[tuple[Delivery, Outcome]]) -> None:
        """Attempts have ended."""
        now_ms = self._now_ms()
        self._feed(results, now_ms)
        failpoints.reach(Failpoint.OUTCOMES_FED)
        self._turn(now_ms)

    def on_produced(self, results: Sequence[tuple[Hop, str | None]]) -> None:
        """Hops were acknowledged by the broker, or not taken, and why."""
        failpoints.reach(Failpoint.HOPS_ACKED)
        now_ms = self._now_ms()
        self._take_produced(results, now_ms)
        self._turn(now_ms)

    def on_transaction(self, engines: Iterable[Engine], results: Sequence[tuple[Hop, str | None]]) -> None:
        """A transaction has ended, and these commit by themselves again. `results` has those of its hops of
        which it is decided what became: with it they were taken, or without it they are not."""
        now_ms = self._now_ms()
        for engine in engines:
            if not engine.closed:
                engine.due.let_go(now_ms)
                self._dirty[engine] = None
        self._take_produced(results, now_ms)
        self._turn(now_ms)

    def on_transaction_unknown(self, engines: Iterable[Engine]) -> None:
        """What a transaction has committed for these is not known: only their next owner will find out.

        Nothing may be committed over it. `on_failed` ends the process.
        """
        for engine in engines:
            if not engine.closed:
                self._close(engine)
        self._turn(self._now_ms())

    def _take_produced(self, results: Sequence[tuple[Hop, str | None]], now_ms: float) -> None:
        by_engine: dict[Engine, list[tuple[Delivery, str | None]]] = {}
        for hop, error in results:
            delivery = hop.delivery
            if error is not None:
                self._log.hop_refused(hop, error)
            by_engine.setdefault(delivery.engine, []).append((delivery, error))
        self._log.hopped([hop for hop, error in results if error is None])
        for engine, group in by_engine.items():
            engine.on_produced(group, now_ms)
            if not engine.closed:
                self._dirty[engine] = None

    # -- The turn --------------------------------------------------------------------------------------

    def _turn(self, now_ms: float) -> None:
        """Perform what the engines ask for, until they ask for nothing more that could be done now."""
        self._limits.slots.turn(now_ms, self.breaker.budget.unwell)
        while True:
            if self.breaker.health is not self._health:
                self._log.health_changed(self._health, self.breaker.health)
                self._health = self.breaker.health
                # Those that have only waited for a probe to succeed are neither paused nor dirty.
                self._dirty.update(dict.fromkeys(self._engines.values()))
            refused = self._perform(now_ms)
            if refused:
                # Requests that could not be built are outcomes like any other, only quicker.
                self._feed(refused, now_ms)
            elif not self._shares.more:
                break
            # Else some took less than their share, and others are hungry still.
        if self._draining:
            self._finish_drained(now_ms)
        self._arm()

    def _perform(self, now_ms: float) -> list[tuple[Delivery, Outcome]]:
        """Every engine concerned gets its turn once. Returns the attempts that ended before they began."""
        half_free = self._limits.half_free
        if self._limits.full is not self._was_full:
            self._was_full = not self._was_full
            if self._was_full:
                # All partitions pause, or each would take in batches more until its own next turn.
                self._dirty.update(dict.fromkeys(self._engines.values()))
        if half_free and not self._was_half_free:
            # What else would end a pause is a partition's own.
            self._dirty.update(self._paused)
        self._was_half_free = half_free
        self._shares.ask(self._dirty)
        served, share = self._shares.take()
        turn = [*served, *(engine for engine in self._dirty if engine not in served)]
        self._dirty.clear()
        starting: list[Delivery] = []
        hops: list[Hop] = []
        commits: dict[Partition, Commit] = {}
        pause: list[Partition] = []
        resume: list[Partition] = []
        deadline_ms = float("inf")
        for engine in turn:
            given = share if engine in served else 0
            actions = engine.take_actions(now_ms, given)
            starting += actions.calls
            hops += actions.hops
            if actions.commit is not None:
                commits[engine.partition] = actions.commit
            if actions.read_again:
                self._source.read_again(engine.partition, actions.read_again)
            if actions.flow is Flow.PAUSE:
                pause.append(engine.partition)
            elif actions.flow is Flow.RESUME:
                resume.append(engine.partition)
            if engine.paused and not engine.rests:
                self._paused[engine] = None
            elif self._paused:
                self._paused.pop(engine, None)
            self._shares.again(engine, share=given, started=len(actions.calls))
            deadline_ms = min(deadline_ms, engine.next_deadline())
        if self._paused:
            deadline_ms = min(deadline_ms, now_ms + _PAUSED_CHECK_MS)
        self._timer_ms = min(self._timer_ms, deadline_ms, self._shares.again_ms)
        if pause:
            self._source.pause(pause)
        if resume:
            self._source.resume(resume)
        if commits:
            self._source.commit(commits)
        if hops:
            self._sink.submit(hops)
        return self._call(starting) if starting else []

    def _call(self, starting: list[Delivery]) -> list[tuple[Delivery, Outcome]]:
        refused: list[tuple[Delivery, Outcome]] = []
        requests, timeout_ms = self._requests, self.subscription.timeout_ms
        for first in range(0, len(starting), CALLS_SUBMITTED_MAX):
            calls: list[Call] = []
            for delivery in starting[first : first + CALLS_SUBMITTED_MAX]:
                try:
                    body, common, own = requests.build(delivery)
                except RequestError as error:
                    refused.append((delivery, _wrong(str(error))))
                    continue
                calls.append(Call(delivery, body, own, timeout_ms, common))
            if calls:
                self.transport.submit(calls)
                failpoints.reach(Failpoint.CALLS_SUBMITTED)
        return refused

    def _feed(self, results: Iterable[tuple[Delivery, Outcome]], now_ms: float) -> None:
        adaptive = self._limits.slots.adaptive
        by_engine: dict[Engine, list[tuple[Delivery, Outcome]]] = {}
        #: Calls by when they started: those that started together have taken as long as one another.
        started: dict[float, int] = {}
        for result in results:
            delivery, outcome = result
            started_ms = delivery.started_ms
            started[started_ms] = started.get(started_ms, 0) + 1
            if outcome is not ACKED:
                self._log.attempt_failed(delivery, outcome)
            elif adaptive is not None:
                adaptive.samples.append(now_ms - started_ms)
            engine = delivery.engine
            group = by_engine.get(engine)
            if group is None:
                by_engine[engine] = [result]
            else:
                group.append(result)
        for started_ms, calls in started.items():
            self.call_times.observe(now_ms - started_ms, calls)
        for engine, group in by_engine.items():
            if engine.closed:
                self._come_late(engine, group)
            else:
                engine.on_outcomes(group, now_ms)
                self._dirty[engine] = None

    def _intended(self, events: Sequence[Event]) -> Mapping[int, Outcome | None]:
        """Which of these need no call: the filter does not want them, or they cannot be delivered."""
        intended: dict[int, Outcome | None] = {}
        accepts = self._requests.accepts if self._has_filter else None
        for event in events:
            if event.flaw is not None:
                intended[event.offset] = _wrong(event.flaw)
            elif accepts is not None:
                try:
                    if not accepts(event):
                        intended[event.offset] = None
                except RequestError as error:
                    intended[event.offset] = _wrong(str(error))
        return intended

    # -- Letting go ------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Stop: start nothing more, wait for what is out (at most `drain_timeout`), commit, let go."""
        now_ms = self._now_ms()
        self._all_drained = asyncio.Event()
        self._drain(list(self._engines), now_ms)
        self._turn(now_ms)
        if self._engines:
            await self._all_drained.wait()
        self._cancel_timer()

    def _drain(self, partitions: list[Partition], now_ms: float) -> None:
        for partition in partitions:
            engine = self._engines[partition]
            engine.drain()
            self._draining.setdefault(partition, now_ms + self.subscription.drain_timeout_ms)
            self._dirty[engine] = None

    def _finish_drained(self, now_ms: float) -> None:
        drained: list[Engine] = []
        for partition, until_ms in list(self._draining.items()):
            engine = self._engines[partition]
            if not engine.drained:
                if now_ms < until_ms:
                    self._timer_ms = min(self._timer_ms, until_ms)
                    continue
                # Its calls are cut; each ends as cancelled, and the next owner makes it again.
                self._log.drain_cut(partition, engine.calling)
                self.transport.cancel(engine.in_flight())
            drained.append(engine)
        if drained:
            # One that is cut within a transaction commits nothing: that might win over the transaction's.
            commits = {engine.partition: engine.commit() for engine in drained if not engine.due.held}
            if commits:
                self._source.commit(commits)
            for engine in drained:
                self._close(engine)
            self._source.release([engine.partition for engine in drained])
        if not self._engines and self._all_drained is not None:
            self._all_drained.set()

    def _close(self, engine: Engine) -> None:
        engine.close()
        del self._engines[engine.partition]
        self._draining.pop(engine.partition, None)
        self._dirty.pop(engine, None)
        self._paused.pop(engine, None)
        self._shares.leave(engine)
        if self._following is not None:
            self._following.went(engine, self._engines.values())
        if engine.in_flight():
            self._left_behind.setdefault(engine.partition, []).append(engine)
        if not self._engines and self._all_drained is not None:
            self._all_drained.set()

    def _keys_left_behind(self, partition: Partition) -> dict[bytes, int]:
        keys: dict[bytes, int] = {}
        for engine in self._left_behind.get(partition, ()):
            for delivery in engine.in_flight():
                if delivery.lane is not None:
                    keys[delivery.lane.key] = keys.get(delivery.lane.key, 0) + 1
        return keys

    def _come_late(self, closed: Engine, results: list[tuple[Delivery, Outcome]]) -> None:
        """The assignment of these is gone: they settle nothing, but their lanes are free now."""
        freed = closed.on_late_outcomes(results)
        owner = self._engines.get(closed.partition)
        if owner is not None:
            for key in freed:
                owner.unblock(key)
            self._dirty[owner] = None
        if not closed.in_flight():
            left = self._left_behind.get(closed.partition, [])
            if closed in left:
                left.remove(closed)
            if not left:
                self._left_behind.pop(closed.partition, None)

    # -- Time ------------------------------------------------------------------------------------------

    def _now_ms(self) -> float:
        return self._loop.time() * 1000.0

    def _arm(self) -> None:
        """Have the one timer fire no later than the earliest deadline."""
        if self._timer_ms >= self._armed_ms:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed_ms = self._timer_ms
        self._timer = self._loop.call_at(self._timer_ms / 1000.0, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._armed_ms = self._timer_ms = float("inf")
        now_ms = self._now_ms()
        for engine in self._engines.values():
            deadline_ms = engine.next_deadline()
            if deadline_ms <= now_ms:
                engine.on_tick(now_ms)
                self._dirty[engine] = None
            else:
                self._timer_ms = min(self._timer_ms, deadline_ms)
        if self._following is not None:
            self._following.look(self._engines.values())
        self._turn(now_ms)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- What it looks like from outside ---------------------------------------------------------------

    @property
    def engines(self) -> Collection[Engine]:
        """The engines of the partitions that are ours now."""
        return self._engines.values()

    @property
    def open_events(self) -> int:
        return sum(engine.open_events for engine in self._engines.values())

    def overdue_ms(self) -> float:
        """The longest that a partition with work has been without the progress it should have made."""
        now_ms = self._now_ms()
        return max((engine.overdue_ms(now_ms) for engine in self._engines.values()), default=0.0)


def _wrong(message: str) -> Outcome:
    """The event cannot be delivered, whatever the target would say."""
    return Outcome(Status.INVALID_ARGUMENT, message, disposition=Disposition.DEAD_LETTER, local=True)
