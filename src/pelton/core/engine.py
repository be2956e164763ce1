"""One subscription on one partition: events and outcomes in, actions out.

The verbs: `on_events`, `on_outcomes`, `on_produced` and `on_tick` take what happened, and the time it
happened at; `take_actions` says what to do about it; `next_deadline` says when to tick. None of them waits,
and none looks at a clock. Whoever drives the engine (`pelton.bridge.pump`, the simulation) performs every
action and feeds every result back.

Rule 1: a delivery's state changes here and nowhere else. Rule 2: an offset enters the ledger as settled
only where a delivery reaches one of the ends. Rule 3: a delivery that is CALLING or PRODUCING is in
somebody else's hands, and only its result brings it back.

Where a delivery is: `_turns` holds the QUEUED ones whose turn may come (lane heads, and events without a
lane), `_waiting` the WAITING ones by due time, the lanes everything of their key; `_open` holds all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from pelton.core import ackmap
from pelton.core.actions import Actions, Commit, Flow, Hop
from pelton.core.breaker import Breaker
from pelton.core.delivery import Delivery, Preset, State
from pelton.core.due import CommitDue
from pelton.core.followed import AGAIN_MS, Followed, Note
from pelton.core.intake import Intake
from pelton.core.judge import Judge
from pelton.core.lanes import Lanes
from pelton.core.ledger import Ledger
from pelton.core.left_behind import LeftBehind
from pelton.core.limits import Limits
from pelton.core.outbox import Outbox
from pelton.core.outcome import ACKED, Outcome, Status
from pelton.core.retry import Do, Jitter
from pelton.core.shelf import GONE, READ_AGAIN_MS, Shelf
from pelton.core.tally import Tally
from pelton.core.tiers import Arrival, intake_of, next_tier, tier_of
from pelton.core.turns import Turns
from pelton.core.waiting import Waiting
from pelton.event import Event, Partition
from pelton.subscription import Ordering, Subscription, Tier, id_prefix

__all__ = ["Engine"]

_NOTHING_INTENDED: Mapping[int, Preset] = {}


class Engine:
    """The deliveries of one partition, from assignment to release.

    `committed` and `metadata` are what was read back from the group on assignment; `map_refused` is why the
    latter was not believed. `log_end` is one past the last offset of the partition then (-1: not known).
    `blocked_keys` are the lanes in which a call of an earlier assignment of this partition is still out;
    they stay blocked until `unblock`. With `followed` nothing starts before `on_notes` has told all.
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
        followed: Followed | None = None,
    ) -> None:
        self.subscription = subscription
        self.partition = partition
        # These two say their types for mypyc, which meets their readers first, in a circle of imports.
        self.generation: int = generation
        self.id_prefix: str = id_prefix(subscription.name, *partition)
        self.breaker = breaker
        self.limits = limits
        self.tally = tally
        self.closed = False
        self.draining = False
        #: The keys that are followed here; None where the subscription follows none.
        self.followed = followed
        #: Intake is paused, as far as this engine has asked for it.
        self.paused = False
        #: It is paused by what waits in it, whatever room others leave, until half of that has gone.
        self.rests = False
        #: When something last moved: an attempt started or ended, an event came to its end.
        self.progressed_ms = now_ms
        #: When it last took the probe; the partitions of an open breaker take turns by it.
        self.probed_ms = float("-inf")
        #: When the next commit is asked for; `hold` and `let_go` are the two ends of a transaction.
        self.due = CommitDue()
        carried, self.map_refused = ackmap.read_back(committed, metadata, log_end)
        tally.maps_refused += self.map_refused is not None
        #: The retry tier whose topic this is; and where an event goes that is exhausted here.
        self.tier = tier_of(subscription.retry.tiers, partition.topic)
        self._next_tier = next_tier(subscription.retry.tiers, self.tier)
        self._judging = Judge(subscription, breaker, tally, jitter, self._next_tier)
        self._ledger = Ledger(committed, carried)
        self._open: dict[int, Delivery] = {}
        self._turns = Turns()
        self._waiting = Waiting()
        self._calling = 0
        self._left_behind = LeftBehind()
        self._suspects = self._judging.suspects
        self._outbox = Outbox()
        self._intake = Intake(intake_of(subscription.intake, self.tier), limits)
        self._shelf = Shelf(self._open, self._intake, self._turns)
        self._lanes = Lanes(subscription.ordering, self._turns, self._intake, self._shelf, blocked_keys)
        self._stalled_since_ms = -1.0
        #: An acked call that started before this was slow.
        self._slow_before_ms = float("-inf")

    # -- What happened -------------------------------------------------------------------------------

    def on_events(
        self, events: Sequence[Event], now_ms: float, intended: Mapping[int, Preset] = _NOTHING_INTENDED
    ) -> None:
        """Events of this partition, ascending. `intended` has what is known of some, by offset."""
        assert not self.closed
        if not self._open:
            # Nothing could have moved before.
            self.progressed_ms = now_ms
        came = len(events)
        self.tally.consumed += came
        settled = self._ledger.admit(*[event.offset for event in events])
        if settled:
            self.tally.already_settled += len(settled)
            events = [event for event in events if event.offset not in settled]
        if intended:
            events = [event for event in events if not self._settle_filtered(event.offset, intended)]
        deliveries = [Delivery(event, self, None, event.size_bytes, State.QUEUED) for event in events]
        for delivery in deliveries:
            self._open[delivery.offset] = delivery
            if delivery.offset in intended:
                delivery.know(intended[delivery.offset])
        self._lanes.join(deliveries)
        if self.tier is not None:
            for delivery in self._turns.take_arrived():
                self._hold(delivery, now_ms)
        if len(events) < came:
            self.due.settled(now_ms, more=bool(self._ledger))

    def on_read_again(
        self,
        asked: Sequence[int],
        events: Sequence[Event],
        through: int,
        now_ms: float,
        intended: Mapping[int, Preset] = _NOTHING_INTENDED,
    ) -> int:
        """The answer to `read_again`, complete up to `through`. Returns how many the log has no more."""
        self.progressed_ms = now_ms
        return self._shelf.back(self, asked, events, through, intended)

    def on_offsets_lost(self, next_offset: int, now_ms: float) -> None:
        """What the log no longer has below this was never polled: nothing of it will ever come."""
        self._ledger.skip_to(next_offset)
        self.due.settled(now_ms, more=bool(self._ledger))

    def on_outcomes(self, results: Iterable[tuple[Delivery, Outcome]], now_ms: float) -> None:
        """Attempts of this engine have ended. Those that are not out any more are refused and counted."""
        assert not self.closed
        breaker, costly_out = self.breaker, self._turns.costly_out
        told = self.followed is not None and self.tier is not None
        ended = costly = 0
        acked: list[Delivery] = []
        self._slow_before_ms = now_ms - self.limits.slots.slow_ms
        set_aside = -len(self._outbox.to_write)
        for delivery, outcome in results:
            assert delivery.engine is self
            if delivery.state is not State.CALLING:
                self.tally.late_outcomes += 1
                continue
            ended += 1
            if costly_out and delivery in costly_out:
                costly_out.discard(delivery)
                costly += 1
            if outcome is ACKED and breaker.closed and not told:
                # What `to` would ask was asked above.
                delivery.state = State.ACKED
                acked.append(delivery)
                continue
            if acked:
                # The breaker counts what comes in a row, so it must hear of it in order.
                self._acked(acked, now_ms)
                acked = []
            self._judge(delivery, outcome, now_ms)
        if acked:
            self._acked(acked, now_ms)
        self._calling -= ended
        # A dead letter keeps its reservation until the broker has it: only then does it settle.
        set_aside += len(self._outbox.to_write)
        self._ledger.unreserve(ended - set_aside)
        self.limits.slots.give(ended, costly)
        self.progressed_ms = now_ms

    def on_late_outcomes(self, results: Collection[tuple[Delivery, Outcome]]) -> list[bytes]:
        """What was out at the close has ended, and settles nothing. Returns the lanes that are free now."""
        assert self.closed
        self.tally.late_outcomes += len(results)
        return self._left_behind.ended(results, self.limits.slots, self._turns.costly_out)

    def on_produced(self, results: Iterable[tuple[Delivery, str | None]], now_ms: float) -> None:
        """Dead letters were acknowledged by the broker (None), or were not taken, and why."""
        for delivery, error in results:
            assert delivery.engine is self
            if self.closed or delivery.state is not State.PRODUCING:
                self.tally.late_outcomes += 1
                continue
            if error is None:
                self._settle(delivery, self._outbox.acknowledged(delivery).end, now_ms)
                self._ledger.unreserve()
            else:
                self.tally.dead_letters_failed += 1
                self._outbox.not_taken(delivery, now_ms)
        self.progressed_ms = now_ms

    def on_tick(self, now_ms: float) -> None:
        """Time has passed: what waited until now may be called again."""
        for delivery in self._waiting.due(now_ms):
            delivery.to(State.QUEUED)
            self._intake.unpark(delivery)
            self._turns.add_again(delivery)
            self.progressed_ms = now_ms
        if self._outbox.on_tick(now_ms):
            self.progressed_ms = now_ms

    def unblock(self, key: bytes) -> None:
        """A call of an earlier assignment in this lane has ended."""
        self._lanes.unblock(key)

    def on_notes(self, notes: Iterable[Note], now_ms: float, *, all_told: bool) -> None:
        """What is remembered of keys that are followed; with `all_told` nothing is missing any more."""
        assert self.followed is not None
        for note in notes:
            if self.followed.told(note, now_ms):
                self._suspects.clear(note.key)
        if all_told and not self.followed.ready:
            self.followed.start(now_ms)
            self.progressed_ms = now_ms

    def drain(self) -> None:
        """Start nothing more; what is out comes back first."""
        self.draining = True

    def close(self) -> None:
        """The partition is not ours any more. What is still open is released to its next owner."""
        if self.closed:
            return
        self._left_behind.take(self.in_flight(), self.breaker)
        for delivery in self._open.values():
            delivery.to(State.RELEASED)
        self.closed = True
        self._intake.clear()
        self.tally.released += len(self._ledger)
        self._calling = 0
        for kept in (self._open, self._turns, self._waiting, self._lanes, self._shelf, self._outbox):
            kept.clear()

    # -- What to do about it ---------------------------------------------------------------------------

    def take_actions(self, now_ms: float, calls_max: int) -> Actions:
        """Everything to be done now; at most `calls_max` calls, so that other partitions get theirs."""
        actions = Actions()
        if self.closed:
            return actions
        if calls_max and self._turns and self._may_start:
            self._start(actions, now_ms, calls_max)
        if self._outbox.to_write:
            actions.hops = self._outbox.take()
        if self.due.now(now_ms):
            last = self.due.last
            actions.commit = commit if (commit := self.commit()) != last else None
        if self._intake.parked.full and self.parked and not self._shelf.full:
            self._forget_parked()
        if self._shelf and not self.draining:
            actions.read_again = self._shelf.ask(lowest=self.committed)
        actions.flow = self._flow()
        return actions

    def commit(self) -> Commit:
        """What may be committed now. Taking it counts as asking for it."""
        commit = Commit(self._ledger.committed, self._ledger.metadata())
        self.due.asked(commit)
        return commit

    def commit_with(self, deliveries: Sequence[Delivery]) -> Commit:
        """What to commit in one transaction with the hops of these, which are PRODUCING, between `due.hold`
        and `due.let_go`. All that was asked for before is in it, and it is in all that comes after."""
        assert self.due.held
        return Commit(*self._ledger.supposing([delivery.offset for delivery in deliveries]))

    def next_deadline(self) -> float:
        """When to tick, in monotonic milliseconds; infinity for not at all."""
        if self.closed:
            return float("inf")
        deadline_ms = min(self.due.at_ms, self._outbox.again_ms, self._waiting.next_ms)
        if self.hungry and not self._outbox.refused:
            slots = self.limits.slots
            deadline_ms = min(deadline_ms, slots.again_ms)
            if slots.free and not self.breaker.closed and self._stalled_since_ms < 0:
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
    def shelved(self) -> int:
        return self._shelf.count

    @property
    def queued(self) -> int:
        return self._intake.active.events - self._calling - self.producing

    @property
    def hungry(self) -> bool:
        """It would start calls if it were given any."""
        turns = self._turns
        if not turns or self.closed or not self._may_start:
            return False
        return turns.fresh or self.limits.slots.costly_idle_share > 0 or not self.breaker.closed

    @property
    def held_back(self) -> bool:
        """It has costly deliveries, and others have taken the calls that there are for such."""
        return bool(self._turns) and not self.hungry and self._may_start and not self.closed

    @property
    def has_fresh(self) -> bool:
        """It wants calls that are not costly."""
        return self._turns.fresh and self._may_start

    @property
    def _may_start(self) -> bool:
        return not self.draining and (self.followed is None or self.followed.ready)

    @property
    def untried(self) -> Delivery | None:
        """An event to probe with; see `Turns`."""
        return self._turns.untried

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
        """The delivery that holds the committed offset back; None if it is shelved, or none does."""
        return self._open.get(self._ledger.committed)

    def in_flight(self) -> list[Delivery]:
        """The deliveries whose calls are out; after `close`, those that were left behind."""
        if self.closed:
            return list(self._left_behind)
        return [delivery for delivery in self._open.values() if delivery.state is State.CALLING]

    def overdue_ms(self, now_ms: float) -> float:
        """How long ago something should have moved at the latest, and has not; 0 when all is well."""
        if not self._ledger:
            return 0.0
        due_ms = max(self.progressed_ms, self.limits.slots.rate_due_ms)
        if self._calling or self._shelf.asked:
            due_ms += self.subscription.timeout_ms if self._calling else READ_AGAIN_MS
        elif self._outbox.resting:
            due_ms = max(due_ms, self._outbox.again_ms)
        elif self._turns and not self.breaker.closed:
            due_ms = max(due_ms, self.breaker.next_probe_ms)
        elif self._waiting and (not self._turns or self._stalled_since_ms >= 0):
            due_ms = max(due_ms, self._waiting.next_ms)
        return max(0.0, now_ms - due_ms)

    def deliveries(self) -> Iterable[Delivery]:
        """All that are open and in memory; those that were read again last."""
        return self._open.values()

    # -- Inside ----------------------------------------------------------------------------------------

    def _start(self, actions: Actions, now_ms: float, calls_max: int) -> None:
        """Move what may be called from `_turns` into `actions`."""
        turns, slots, breaker, followed = self._turns, self.limits.slots, self.breaker, self.followed
        room = 0 if self._outbox.refused else min(calls_max, slots.free)
        if not breaker.closed:
            room = min(room, 1 if breaker.may_probe(now_ms) else 0)
            if room and (untried := turns.untried) is not None:
                turns.overtake(untried)
        calls = actions.calls
        open_ms = breaker.open_ms(now_ms)
        costly = len(turns.costly_out)
        more = True
        while more:
            more = False
            if not breaker.closed:
                share = idle_share = room
            elif turns.costly:
                share, idle_share = slots.costly_share, slots.costly_idle_share
            else:
                share = idle_share = 0
            for delivery in turns.take(room - len(calls), share, idle_share, self._ledger, self.lowest):
                if delivery.has_preset:
                    # Its end frees its lane and maybe some of the ack map: another may take its turn.
                    more = True
                    self._without_call(delivery, now_ms)
                    continue
                if followed is not None and (hop := followed.after(delivery, self._next_tier, now_ms)):
                    more = True
                    turns.costly_out.discard(delivery)
                    self._write(hop)
                    continue
                delivery.start(now_ms, open_ms)
                calls.append(delivery)
        if calls:
            slots.take(len(calls), len(turns.costly_out) - costly)
            self._calling += len(calls)
            self.tally.attempts += len(calls)
            self.progressed_ms = now_ms
            if not breaker.closed:
                breaker.probing(calls[0], untried=calls[0].attempt == 1)
                self.probed_ms = now_ms
        if self._stalled_since_ms >= 0:
            self.tally.ledger_stalled_ms += now_ms - self._stalled_since_ms
        self._stalled_since_ms = now_ms if turns.stalled else -1.0

    def _settle_filtered(self, offset: int, intended: Mapping[int, Preset]) -> bool:
        """If it is filtered, and the ack map has room to say so, no delivery need be made of it."""
        if offset not in intended or intended[offset] is not None or not self._ledger.reserve(offset):
            return False
        self._ledger.settle(offset)
        self._ledger.unreserve()
        self.tally.filtered += 1
        return True

    def _without_call(self, delivery: Delivery, now_ms: float) -> None:
        """What comes next was known before any call."""
        preset = delivery.preset
        if preset is None or preset is GONE:
            self._settle(delivery, State.LOST if preset else State.FILTERED, now_ms)
        elif isinstance(preset, Outcome):
            self._set_aside(delivery, preset, now_ms, None)
        else:
            self._hold(delivery, now_ms)
        self._ledger.unreserve(int(delivery.state is not State.PRODUCING))

    def _hold(self, delivery: Delivery, now_ms: float) -> None:
        """It was moved here, and waits until it is due."""
        assert isinstance(delivery.preset, Arrival)
        delivery.has_preset = False
        if delivery.preset.due_ms > now_ms:
            self._wait(delivery, delivery.preset.due_ms)
        else:
            self._turns.add_again(delivery)

    def _forget_parked(self) -> None:
        """The account of what waits is full: who only follows is kept by offset, if others can go on then."""
        if self.subscription.ordering is Ordering.KEY and self.tier is None:
            heads = (*self._waiting, *self._outbox)
            self._shelf.forget([*(each.lane for each in heads), *self._lanes.left_blocked()])

    def _judge(self, delivery: Delivery, outcome: Outcome, now_ms: float) -> None:
        """Carry out what an outcome that is no plain ack means."""
        decision = self._judging.judge(delivery, outcome, now_ms)
        match decision.do:
            case Do.ACK | Do.DROP:
                end = State.ACKED if decision.do is Do.ACK else State.DROPPED
                if self.followed is not None and self.followed.tells(delivery):
                    self._write(Hop(delivery, outcome, told=end))
                else:
                    self._settle(delivery, end, now_ms)
            case Do.DEAD_LETTER | Do.MOVE:
                tier = self._next_tier if decision.do is Do.MOVE else None
                self._set_aside(delivery, outcome, now_ms, tier)
            case Do.WAIT:
                self.tally.retries += 1
                self._wait(delivery, now_ms + decision.after_ms)
            case Do.AGAIN:
                delivery.to(State.QUEUED)
                self._turns.add_first(delivery)

    def _wait(self, delivery: Delivery, due_ms: float) -> None:
        delivery.to(State.WAITING)
        self._intake.park(delivery)
        self._waiting.add(delivery, due_ms)
        if delivery.lane is not None:
            self._lanes.block(delivery.lane)

    def _set_aside(self, delivery: Delivery, outcome: Outcome, now_ms: float, tier: Tier | None) -> None:
        if self.followed is None or self.followed.leave(delivery, tier, now_ms):
            self._write(Hop(delivery, outcome, tier))
        else:
            self._wait(delivery, now_ms + AGAIN_MS)

    def _write(self, hop: Hop) -> None:
        hop.delivery.to(State.PRODUCING)
        self._outbox.add(hop)
        if hop.delivery.lane is not None:
            # A key that fails gets as many done as there are transactions: what it has more would fill the
            # intake of the others.
            self._lanes.block(hop.delivery.lane)

    def _acked(self, acked: list[Delivery], now_ms: float) -> None:
        """These, which came in a row, were taken by the target: the common case, carried out at once."""
        count, size_bytes, retried, newest_ms = len(acked), 0, 0, 0.0
        for delivery in acked:
            size_bytes += delivery.size_bytes
            if delivery.attempt > 1:
                retried += 1
            if delivery.started_ms > newest_ms:
                newest_ms = delivery.started_ms
        if self._suspects.keys:
            by_key = self.subscription.ordering is Ordering.KEY
            for delivery in acked:
                # (Its lane will be asked next anyway; its event may have been out of mind for long.)
                lane = delivery.lane
                self._suspects.clear(lane.key if by_key and lane is not None else delivery.event.key)
        self._leave(acked, now_ms)
        self.tally.acked += count
        self.tally.answered(Status.OK, count)
        self._intake.leave(count, size_bytes)
        self.breaker.good(count, newest_ms, now_ms, retried=retried)
        self.limits.slots.took(now_ms - newest_ms)
        self.due.settled(now_ms, more=bool(self._ledger))

    def _settle(self, delivery: Delivery, end: State, now_ms: float) -> None:
        """One delivery has reached one of the ends, and what ended it is durable."""
        delivery.to(end)
        self._leave((delivery,), now_ms)
        if end is State.ACKED:
            self._suspects.clear(delivery.event.key)
        self._intake.leave(1, delivery.size_bytes)
        self.tally.settle(end)
        self.progressed_ms = now_ms
        self.due.settled(now_ms, more=bool(self._ledger))

    def _leave(self, ended: Collection[Delivery], now_ms: float) -> None:
        """These leave the ledger and their lanes; the next one of each lane takes its place."""
        self._ledger.settle(*[delivery.offset for delivery in ended])
        for delivery in ended:
            del self._open[delivery.offset]
        self._lanes.advance(ended, self._slow_before_ms, now_ms)

    def _flow(self) -> Flow | None:
        """Pause at a bound, resume at half of it; pause too while nothing could be done with more."""
        # An open breaker has a use for more until there is an untried event: else it may stay open.
        blocked = self.draining or self._outbox.refused or (not self.breaker.closed and self.untried)
        # What waits neither begins a pause nor makes one longer before it is at its own bound: else keys that
        # fail for ever would have the others go on only as fast as their letters.
        parked = self._intake.parked
        self.rests = parked.full or (self.rests and not parked.half_free)
        if not self.paused:
            if blocked or self.rests or self._intake.crowded or self._shelf.full:
                self.paused = True
                return Flow.PAUSE
        elif not blocked and not self.rests and self._intake.half_free and self._shelf.half_free:
            self.paused = False
            return Flow.RESUME
        return None
