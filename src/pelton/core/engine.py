"""One subscription on one partition: events and outcomes in, actions out.

The verbs: `on_events`, `on_outcomes`, `on_produced` and `on_tick` take what happened, and the time it
happened at; `take_actions` says what to do about it; `next_deadline` says when to tick. None of them waits,
and none looks at a clock. Whoever drives the engine (`pelton.bridge.pump`, the simulation) performs every
action and feeds every result back.

Rule 1: a delivery's state changes here and nowhere else. Rule 2: an offset enters the ledger as settled
only where a delivery reaches one of the five ends. Rule 3: a delivery that is CALLING or PRODUCING is in
somebody else's hands, and only its result brings it back.

Where a delivery is: `_ready` holds the QUEUED ones whose turn may come (lane heads, and events without a
lane), `_waiting` the WAITING ones by due time, the lanes everything of their key; `_open` holds all.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from pelton.core import ackmap
from pelton.core.ackmap import AckMap, AckMapError
from pelton.core.actions import Actions, Commit, DeadLetter, Flow
from pelton.core.breaker import Breaker
from pelton.core.delivery import Delivery, State
from pelton.core.intake import Intake
from pelton.core.lane import Lane
from pelton.core.ledger import Ledger
from pelton.core.limits import Limits
from pelton.core.outbox import Outbox
from pelton.core.outcome import ACKED, Outcome, Status, disposition_of, table_of
from pelton.core.retry import Do, History, Jitter, decide
from pelton.core.suspects import Suspects
from pelton.core.tally import Tally
from pelton.event import Event, Partition
from pelton.subscription import Disposition, Ordering, Subscription

__all__ = ["COMMIT_DELAY_MS", "Engine", "Intended"]

#: The longest that a settled offset waits for its commit to be asked for. With the consumer's own wait for
#: the commit before it and the way to the broker, a busy computer stays under the 200 ms that bound what
#: repeats after a hard kill.
COMMIT_DELAY_MS = 50.0

#: The lane of a whole partition.
_PARTITION_LANE = b""

#: What is known of an event before any call: None says filtered, an outcome says what is wrong with it.
Intended = Mapping[int, Outcome | None]
_NOTHING_INTENDED: Intended = {}


class Engine:
    """The deliveries of one partition, from assignment to release.

    `committed` and `metadata` are what was read back from the group on assignment; `log_end` is one past
    the last offset of the partition then (-1 where it is not known). `blocked_keys` are the lanes in which
    a call of an earlier assignment of this partition is still out; they stay blocked until `unblock`.
    """

    def __init__(
        self,
        subscription: Subscription,
        partition: Partition,
        *,
        generation: int,
        committed: int,
        metadata: str | None,
        log_end: int,
        limits: Limits,
        breaker: Breaker,
        tally: Tally,
        jitter: Jitter,
        now_ms: float,
        blocked_keys: Mapping[bytes, int] | None = None,
    ) -> None:
        self.subscription = subscription
        self.partition = partition
        self.generation = generation
        self.id_prefix = f"{subscription.name}/{partition.topic}/{partition.partition}/"
        self.breaker = breaker
        self.limits = limits
        self.tally = tally
        self.closed = False
        self.draining = False
        #: Intake is paused, as far as this engine has asked for it.
        self.paused = False
        #: When something last moved: an attempt started or ended, an event came to its end.
        self.progressed_ms = now_ms
        #: When it last took the probe; the partitions of an open breaker take turns by it.
        self.probed_ms = float("-inf")
        #: Why the map that was read back was not believed; None when it was.
        self.map_refused: str | None = None
        self._table = table_of(subscription)
        self._jitter = jitter
        self._ledger = Ledger(committed, self._read_map(committed, metadata, log_end))
        self._open: dict[int, Delivery] = {}
        self._lanes: dict[bytes, Lane] = {}
        self._blocked_keys = dict(blocked_keys or {})
        self._ready: deque[Delivery] = deque()
        self._waiting: list[tuple[float, int, Delivery]] = []
        self._sequence = 0
        self._calling = 0
        self._left_behind: set[Delivery] = set()
        self._suspects = Suspects()
        self._outbox = Outbox()
        self._intake = Intake(subscription.intake, limits)
        self._commit_due_ms = float("inf")
        self._commit_now = False
        self._last_commit: Commit | None = None
        self._stalled_since_ms = -1.0

    # -- What happened -------------------------------------------------------------------------------

    def on_events(
        self, events: Sequence[Event], now_ms: float, intended: Intended = _NOTHING_INTENDED
    ) -> None:
        """Events of this partition, ascending. `intended` has those that need no call, by offset."""
        assert not self.closed
        self.tally.consumed += len(events)
        ledger, opened, ready = self._ledger, self._open, self._ready
        ordering = self.subscription.ordering
        by_key, by_partition = ordering is Ordering.KEY, ordering is Ordering.PARTITION
        taken_events = taken_bytes = 0
        settled = False
        if not opened:
            # Nothing could have moved before.
            self.progressed_ms = now_ms
        for event in events:
            offset = event.offset
            if not ledger.admit(offset):
                self.tally.already_settled += 1
                settled = True
                continue
            if offset in intended and intended[offset] is None and ledger.reserve(offset):
                # Filtered, and the ack map has room to say so: no delivery need be made of it.
                ledger.settle(offset)
                ledger.unreserve()
                self.tally.filtered += 1
                settled = True
                continue
            size_bytes = event.size_bytes
            key = event.key if by_key else _PARTITION_LANE if by_partition else None
            delivery = opened[offset] = Delivery(event, self, None, size_bytes, State.QUEUED)
            if offset in intended:
                delivery.preset = intended[offset]
                delivery.has_preset = True
            if key is None:
                ready.append(delivery)
            else:
                lane = self._lanes.get(key)
                if lane is None:
                    lane = self._lanes[key] = Lane(key, delivery)
                    if key in self._blocked_keys:
                        lane.block()
                    else:
                        ready.append(delivery)
                else:
                    lane.append(delivery)
                    if lane.blocked:
                        delivery.to(State.PARKED)
                delivery.lane = lane
            if delivery.state is State.PARKED:
                self._intake.parked.take(1, size_bytes)
            else:
                taken_events += 1
                taken_bytes += size_bytes
        self._intake.admit(taken_events, taken_bytes)
        if settled:
            self._commit_soon(now_ms)

    def on_outcomes(self, results: Iterable[tuple[Delivery, Outcome]], now_ms: float) -> None:
        """Attempts of this engine have ended. Those that are not out any more are refused and counted."""
        assert not self.closed
        breaker = self.breaker
        ended = acked = acked_bytes = 0
        newest_start_ms = 0.0
        set_aside = -len(self._outbox.to_write)
        for delivery, outcome in results:
            assert delivery.engine is self
            if delivery.state is not State.CALLING:
                self.tally.late_outcomes += 1
                continue
            ended += 1
            if outcome is ACKED and breaker.closed:
                acked += 1
                acked_bytes += delivery.size_bytes
                if delivery.started_ms > newest_start_ms:
                    newest_start_ms = delivery.started_ms
                self._end(delivery, State.ACKED)
                continue
            if acked:
                # The breaker counts what comes in a row, so it must hear of it in order.
                self._acked(acked, acked_bytes, newest_start_ms, now_ms)
                acked = acked_bytes = 0
            self._judge(delivery, outcome, now_ms)
        if acked:
            self._acked(acked, acked_bytes, newest_start_ms, now_ms)
        self._calling -= ended
        # A dead letter keeps its reservation until the broker has it: only then does it settle.
        set_aside += len(self._outbox.to_write)
        self._ledger.unreserve(ended - set_aside)
        self.limits.slots.give(ended)
        self.progressed_ms = now_ms

    def on_late_outcomes(self, results: Iterable[tuple[Delivery, Outcome]]) -> list[bytes]:
        """Attempts that were out when this engine was closed have ended, and settle nothing.

        Their calls are free now. Returns the lanes that they blocked, for the engine that owns the
        partition today, if this process has one.
        """
        assert self.closed
        freed: list[bytes] = []
        for delivery, _ in results:
            self.tally.late_outcomes += 1
            if delivery in self._left_behind:
                self._left_behind.discard(delivery)
                self.limits.slots.give()
                if delivery.lane is not None:
                    freed.append(delivery.lane.key)
        return freed

    def on_produced(self, results: Iterable[tuple[Delivery, str | None]], now_ms: float) -> None:
        """Dead letters were acknowledged by the broker (None), or were not taken, and why."""
        for delivery, error in results:
            assert delivery.engine is self
            if self.closed or delivery.state is not State.PRODUCING:
                self.tally.late_outcomes += 1
                continue
            if error is None:
                self._outbox.acknowledged(delivery)
                self._settle(delivery, State.DEAD_LETTERED, now_ms)
                self._ledger.unreserve()
            else:
                self.tally.dead_letters_failed += 1
                self._outbox.not_taken(delivery, now_ms)
        self.progressed_ms = now_ms

    def on_tick(self, now_ms: float) -> None:
        """Time has passed: what waited until now may be called again."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= now_ms:
            delivery = heapq.heappop(waiting)[2]
            delivery.to(State.QUEUED)
            self._intake.unpark(delivery)
            self._ready.append(delivery)
            self.progressed_ms = now_ms
        if self._outbox.on_tick(now_ms):
            self.progressed_ms = now_ms

    def unblock(self, key: bytes) -> None:
        """A call of an earlier assignment in this lane has ended."""
        count = self._blocked_keys.pop(key, 0) - 1
        if count > 0:
            self._blocked_keys[key] = count
        if count != 0:
            # Another call is still out; or none was when this engine began, and the lane is its own.
            return
        lane = self._lanes.get(key)
        if lane is not None:
            # A lane of a blocked key has never had its head called.
            assert lane.blocked
            lane.blocked = False
            self._ready.append(lane.head)

    def drain(self) -> None:
        """Start nothing more; what is out comes back first."""
        self.draining = True

    def close(self) -> None:
        """The partition is not ours any more. What is still open is released to its next owner."""
        if self.closed:
            return
        self.closed = True
        for delivery in self._open.values():
            if delivery.state is State.CALLING:
                # Its call goes on without us, and keeps its slot and its lane until it has ended.
                self._left_behind.add(delivery)
                # Nobody will hear its answer; if it was the probe, the breaker would wait for it for ever.
                self.breaker.abandoned(delivery, delivery.started_ms)
            delivery.to(State.RELEASED)
        self._intake.clear()
        self.tally.released += len(self._open)
        self._calling = 0
        for kept in (self._open, self._ready, self._waiting, self._lanes, self._outbox):
            kept.clear()

    # -- What to do about it ---------------------------------------------------------------------------

    def take_actions(self, now_ms: float, calls_max: int) -> Actions:
        """Everything to be done now; at most `calls_max` calls, so that other partitions get theirs."""
        actions = Actions()
        if self.closed:
            return actions
        if self._ready and not self.draining:
            self._start(actions, now_ms, calls_max)
        if self._outbox.to_write:
            actions.dead_letters = self._outbox.take()
        if self._commit_now or now_ms >= self._commit_due_ms:
            last = self._last_commit
            commit = self.commit()
            if commit != last:
                actions.commit = commit
        actions.flow = self._flow()
        return actions

    def commit(self) -> Commit:
        """What may be committed now. Taking it counts as asking for it."""
        self._commit_due_ms = float("inf")
        self._commit_now = False
        self._last_commit = Commit(self._ledger.committed, self._ledger.metadata())
        return self._last_commit

    def next_deadline(self) -> float:
        """When to tick, in monotonic milliseconds; infinity for not at all."""
        if self.closed:
            return float("inf")
        deadline_ms = min(self._commit_due_ms, self._outbox.again_ms)
        if self._waiting:
            deadline_ms = min(deadline_ms, self._waiting[0][0])
        held_back = self.breaker.closed or self._outbox.refused or self._stalled_since_ms >= 0
        if self.hungry and self.limits.slots.free and not held_back:
            deadline_ms = min(deadline_ms, self.breaker.next_probe_ms)
        return deadline_ms

    # -- What it looks like from outside ---------------------------------------------------------------

    @property
    def open_events(self) -> int:
        return 0 if self.closed else len(self._ledger)

    @property
    def calling(self) -> int:
        return self._calling

    @property
    def producing(self) -> int:
        """Dead letters on the way to the broker, those that it has refused so far included."""
        return len(self._outbox)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def parked(self) -> int:
        return self._intake.parked.events - len(self._waiting)

    @property
    def queued(self) -> int:
        return self._intake.active.events - self._calling - self.producing

    @property
    def hungry(self) -> bool:
        """It would start calls if it were given any."""
        return bool(self._ready) and not self.draining and not self.closed

    @property
    def untried(self) -> Delivery | None:
        """An event to probe with: one that may be called and never was. What has failed may be at fault."""
        return next((each for each in self._ready if each.attempt == 0 and not each.has_preset), None)

    @property
    def drained(self) -> bool:
        """Nothing of it is in somebody else's hands."""
        return self._calling == 0 and self._outbox.in_hand

    @property
    def unwritten(self) -> int:
        """Dead letters that the broker has refused; while there are any, nothing new starts."""
        return len(self._outbox.refused)

    @property
    def committed(self) -> int:
        return self._ledger.committed

    @property
    def suspect_keys(self) -> int:
        return len(self._suspects)

    @property
    def lowest(self) -> Delivery | None:
        """The delivery that holds the committed offset back."""
        return self._open.get(self._ledger.committed)

    def in_flight(self) -> list[Delivery]:
        """The deliveries whose calls are out; after `close`, those that were left behind."""
        if self.closed:
            return list(self._left_behind)
        return [delivery for delivery in self._open.values() if delivery.state is State.CALLING]

    def overdue_ms(self, now_ms: float) -> float:
        """How long ago something should have moved at the latest, and has not; 0 when all is well."""
        if not self._open:
            return 0.0
        due_ms = self.progressed_ms
        if self._calling:
            due_ms += self.subscription.timeout_ms
        elif self._outbox.resting:
            due_ms = max(due_ms, self._outbox.again_ms)
        elif self._ready and not self.breaker.closed:
            due_ms = max(due_ms, self.breaker.next_probe_ms)
        elif self._waiting and (not self._ready or self._stalled_since_ms >= 0):
            due_ms = max(due_ms, self._waiting[0][0])
        return max(0.0, now_ms - due_ms)

    def deliveries(self) -> Iterable[Delivery]:
        """All that are open, in the order they came."""
        return self._open.values()

    # -- Inside ----------------------------------------------------------------------------------------

    def _read_map(self, committed: int, metadata: str | None, log_end: int) -> AckMap:
        try:
            return ackmap.decode(committed, metadata or "", log_end)
        except AckMapError as error:
            # Whatever it said, its events are delivered again: a repeat, never a loss.
            self.map_refused = str(error)
            self.tally.maps_refused += 1
            return ackmap.EMPTY

    def _start(self, actions: Actions, now_ms: float, calls_max: int) -> None:
        """Move what may be called from `_ready` into `actions`."""
        ready, ledger, slots, breaker = self._ready, self._ledger, self.limits.slots, self.breaker
        room = 0 if self._outbox.refused else min(calls_max, slots.free)
        if not breaker.closed:
            room = min(room, 1 if breaker.may_probe(now_ms) else 0)
            if room and (untried := self.untried) is not None:
                ready.remove(untried)
                ready.appendleft(untried)
        calls = actions.calls
        stalled = False
        while ready and len(calls) < room:
            delivery = ready[0]
            if not ledger.reserve(delivery.event.offset):
                stalled = True
                lowest = self.lowest
                # The lowest open offset always has room: if only its turn is missing, it overtakes.
                if lowest is None or lowest.state is not State.QUEUED or lowest not in ready:
                    break
                ready.remove(lowest)
                ready.appendleft(lowest)
                continue
            ready.popleft()
            if delivery.has_preset:
                if delivery.preset is None:
                    self._settle(delivery, State.FILTERED, now_ms)
                    ledger.unreserve()
                else:
                    self._set_aside(delivery, delivery.preset)
                continue
            delivery.to(State.CALLING)
            delivery.attempt += 1
            delivery.started_ms = now_ms
            if delivery.first_attempted_ms < 0:
                delivery.first_attempted_ms = now_ms
                delivery.open_before_ms = breaker.open_ms(now_ms)
            calls.append(delivery)
        if calls:
            slots.take(len(calls))
            self._calling += len(calls)
            self.tally.attempts += len(calls)
            self.progressed_ms = now_ms
            if not breaker.closed:
                breaker.probing(calls[0])
                self.probed_ms = now_ms
        if self._stalled_since_ms >= 0:
            self.tally.ledger_stalled_ms += now_ms - self._stalled_since_ms
        self._stalled_since_ms = now_ms if stalled else -1.0

    def _judge(self, delivery: Delivery, outcome: Outcome, now_ms: float) -> None:
        """Decide what an outcome that is no plain ack means, for the target and for the event."""
        breaker = self.breaker
        disposition = disposition_of(outcome, self._table)
        counts = self.tally.outcomes
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
        # Judged before the breaker hears of it: what matters is what *other* calls did meanwhile.
        well_in_between = 0 <= delivery.last_failed_ms < breaker.newest_good_start_ms
        well_lately = breaker.well_lately(now_ms)
        if outcome.cancelled or outcome.local:
            breaker.abandoned(delivery, now_ms)
        elif disposition is Disposition.UNWELL:
            breaker.unwell(delivery, now_ms)
        elif disposition is Disposition.MISWIRED:
            breaker.miswired(delivery, now_ms)
        else:
            breaker.good(1, delivery.started_ms, now_ms, delivery)
        history = History(
            attempt=delivery.attempt,
            burned=delivery.burned,
            unburned=delivery.unburned,
            attempts_max=1 if delivery.event.key in self._suspects else self.subscription.retry.attempts,
            age_ms=now_ms - delivery.first_attempted_ms - (breaker.open_ms(now_ms) - delivery.open_before_ms),
            well_in_between=well_in_between,
            well_lately=well_lately,
        )
        decision = decide(self.subscription.retry, disposition, outcome, history, self._jitter)
        delivery.burned += decision.burn
        delivery.unburned = decision.unburned
        if decision.exhausted:
            self._suspects.add(delivery.event.key)
        match decision.do:
            case Do.ACK:
                self._settle(delivery, State.ACKED, now_ms)
            case Do.DROP:
                self._settle(delivery, State.DROPPED, now_ms)
            case Do.DEAD_LETTER:
                delivery.failed(outcome, now_ms)
                self._set_aside(delivery, outcome)
            case Do.WAIT:
                delivery.failed(outcome, now_ms)
                self._wait(delivery, now_ms + decision.after_ms)
            case Do.AGAIN:
                delivery.to(State.QUEUED)
                self._ready.appendleft(delivery)

    def _wait(self, delivery: Delivery, due_ms: float) -> None:
        delivery.to(State.WAITING)
        self.tally.retries += 1
        self._intake.park(delivery)
        self._sequence += 1
        heapq.heappush(self._waiting, (due_ms, self._sequence, delivery))
        if delivery.lane is not None:
            for follower in delivery.lane.block():
                follower.to(State.PARKED)
                self._intake.park(follower)

    def _set_aside(self, delivery: Delivery, outcome: Outcome) -> None:
        delivery.to(State.PRODUCING)
        self._outbox.add(DeadLetter(delivery, outcome))

    def _acked(self, count: int, size_bytes: int, newest_start_ms: float, now_ms: float) -> None:
        """So many deliveries in a row were taken by the target: the common case, counted at once."""
        tally = self.tally
        tally.acked += count
        tally.outcomes[Status.OK] = tally.outcomes.get(Status.OK, 0) + count
        self._intake.leave(count, size_bytes)
        self.breaker.good(count, newest_start_ms, now_ms)
        self._commit_soon(now_ms)

    def _settle(self, delivery: Delivery, end: State, now_ms: float) -> None:
        """One delivery has reached one of the five ends, and what ended it is durable."""
        self._end(delivery, end)
        self._intake.leave(1, delivery.size_bytes)
        tally = self.tally
        match end:
            case State.ACKED:
                tally.acked += 1
            case State.DROPPED:
                tally.dropped += 1
            case State.FILTERED:
                tally.filtered += 1
            case _:
                assert end is State.DEAD_LETTERED
                tally.dead_lettered += 1
        self.progressed_ms = now_ms
        self._commit_soon(now_ms)

    def _end(self, delivery: Delivery, end: State) -> None:
        """The delivery leaves the ledger and its lane; the next one of the lane takes its place."""
        delivery.to(end)
        event = delivery.event
        offset = event.offset
        self._ledger.settle(offset)
        del self._open[offset]
        if end is State.ACKED and self._suspects:
            self._suspects.clear(event.key)
        lane = delivery.lane
        if lane is None:
            return
        head = lane.advance()
        if head is None:
            del self._lanes[lane.key]
            return
        if head.state is State.PARKED:
            head.to(State.QUEUED)
            self._intake.unpark(head)
        self._ready.append(head)

    def _commit_soon(self, now_ms: float) -> None:
        if self._commit_due_ms == float("inf"):
            self._commit_due_ms = now_ms + COMMIT_DELAY_MS
        # Nothing is open: nothing will join this commit, so it need not wait.
        self._commit_now = not self._open

    def _flow(self) -> Flow | None:
        """Pause at a bound, resume at half of it; pause too while nothing could be done with more.

        While the breaker is open, more is of use until there is an untried event: else it may stay open.
        """
        blocked = self.draining or self._outbox.refused or (not self.breaker.closed and self.untried)
        if not self.paused:
            if blocked or self._intake.full:
                self.paused = True
                return Flow.PAUSE
        elif not blocked and self._intake.half_free:
            self.paused = False
            return Flow.RESUME
        return None
