"""A small world around some partitions' engines, and an auditor that keeps its own books.

Logs with holes, a target that answers anything, a broker that takes commits and dead letters or does not,
assignments that come and go. The auditor believes nothing that an engine says of itself: it sees the calls
that start, the outcomes that are told, and the commits, and checks every one of them against its own sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pelton.core import ackmap
from pelton.core.ackmap import AckMap
from pelton.core.actions import Actions, Commit
from pelton.core.breaker import Breaker
from pelton.core.delivery import Delivery, Preset, State
from pelton.core.engine import Engine
from pelton.core.limits import CALLED_TIMES, Limits
from pelton.core.outcome import ACKED, STATUS_TABLE, Outcome, Status, disposition_of
from pelton.core.tally import Tally
from pelton.core.tiers import arrivals
from pelton.event import Event, Moved, Partition
from pelton.subscription import Disposition, OnExhausted, Ordering, Subscription, Tier

__all__ = ["Place", "World"]

FOR_EVER = float("inf")
WRONG = Outcome(Status.INVALID_ARGUMENT, "flawed", disposition=Disposition.DEAD_LETTER, local=True)


@dataclass
class Place:
    """A partition: its log, what is committed for it, and who owns it now."""

    partition: Partition
    log: list[Event] = field(default_factory=list)
    #: What the broker has, and what was asked of it and not answered yet.
    committed: Commit = field(default_factory=lambda: Commit(0, ""))
    asked: Commit | None = None
    engine: Engine | None = None
    #: Closed engines whose calls are still out.
    left_behind: list[Engine] = field(default_factory=list)
    #: How much of the log was polled in this assignment.
    polled: int = 0
    carried: AckMap = ackmap.EMPTY
    #: Whose hops a transaction carries now, and what it commits with them.
    transaction: list[Delivery] = field(default_factory=list)
    carries: Commit | None = None
    #: The auditor's: what is open in this assignment, and what was settled in any.
    open: dict[int, Event] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)
    #: The retry tier that it is a partition of.
    tier: Tier | None = None
    #: What the log has lost to retention since it was polled.
    gone: set[int] = field(default_factory=set)
    #: Keys whose last event was exhausted, in this assignment.
    suspects: set[bytes | None] = field(default_factory=set)

    def shelved(self) -> set[int]:
        assert self.engine is not None
        return {offset for lane in self.engine._lanes._lanes.values() for offset in lane.tail or ()}

    def lane(self, event: Event, ordering: Ordering) -> object | None:
        if ordering is Ordering.NONE or (ordering is Ordering.KEY and event.key is None):
            return None
        return event.key if ordering is Ordering.KEY else "the partition"


class World:
    """Everything that several engines of one subscription share, and what is outside of them."""

    def __init__(self, subscription: Subscription, limits: Limits, partitions: int, jitter: float) -> None:
        self.subscription = subscription
        self.limits = limits
        self.breaker = Breaker()
        self.tally = Tally()
        self.jitter = jitter
        self.now_ms = 0.0
        self.places = [Place(Partition("events", number)) for number in range(partitions)]
        for tier in subscription.retry.tiers:
            self.places += [Place(Partition(tier.topic, number), tier=tier) for number in range(partitions)]
        #: Calls that are out, those of closed engines included; and dead letters on the way.
        self.out: dict[Delivery, Place] = {}
        self.letters: dict[Delivery, Place] = {}
        #: Where each of these goes; None is the dead letters.
        self.tiers: dict[Delivery, Tier | None] = {}
        #: Offsets that are to be read again, by whatever engine asked.
        self.to_read: list[tuple[Place, tuple[int, ...]]] = []
        self.answered: list[tuple[Delivery, Place]] = []
        #: When each delivery last failed, and when the latest call that the target took had started.
        self.failed_ms: dict[Delivery, float] = {}
        self.newest_good_start_ms = -1.0
        #: How many outages there had been before each one's last failure.
        self.outages: dict[Delivery, int] = {}

    # -- Assignment --------------------------------------------------------------------------------------

    def assign(self, place: Place) -> None:
        assert place.engine is None
        blocked: dict[bytes, int] = {}
        for engine in place.left_behind:
            for delivery in engine.in_flight():
                if delivery.lane is not None:
                    blocked[delivery.lane.key] = blocked.get(delivery.lane.key, 0) + 1
        offset, metadata = place.committed.offset, place.committed.metadata
        place.carried = ackmap.decode(offset, metadata)
        place.open = {}
        place.suspects = set()
        place.asked = None
        place.polled = sum(event.offset < offset for event in place.log)
        place.engine = Engine(
            self.subscription,
            place.partition,
            generation=1,
            committed=offset,
            metadata=metadata,
            log_end=place.log[-1].offset + 1 if place.log else 0,
            limits=self.limits,
            breaker=self.breaker,
            tally=self.tally,
            jitter=lambda: self.jitter,
            now_ms=self.now_ms,
            blocked_keys=blocked,
        )
        assert place.engine.map_refused is None

    def close(self, place: Place, *, committed: bool = False) -> None:
        """A transaction that is open ends without us."""
        engine = place.engine
        assert engine is not None
        committed = committed and place.carries is not None
        if committed:
            assert place.carries is not None
            place.committed = place.carries
            place.settled |= {delivery.event.offset for delivery in place.transaction}
        carried, place.transaction, place.carries = place.transaction, [], None
        engine.close()
        assert not engine.take_actions(self.now_ms, 100)
        if engine.in_flight():
            place.left_behind.append(engine)
        place.engine = None
        place.open = {}
        place.asked = None
        for delivery in carried:
            self.produced(delivery, None if committed else "aborted")

    def let_go(self, place: Place) -> None:
        """The end of a drain: what is settled is committed, then the partition is given up."""
        engine = place.engine
        assert engine is not None
        if engine.drained:
            self.audit_commit(place, engine.commit())
            place.committed = engine.commit()
            self.close(place)

    # -- Input -------------------------------------------------------------------------------------------

    def poll(self, place: Place, count: int, intents: Sequence[str]) -> None:
        engine = place.engine
        assert engine is not None
        batch = place.log[place.polled : place.polled + count]
        place.polled += len(batch)
        intended: dict[int, Preset] = {}
        if place.tier is not None:
            # The wall clock is the engines' own: a monotonic time stands for a wall time.
            intended |= arrivals(batch, place.tier, self.now_ms, self.now_ms)
            intents = ()
        for event, intent in zip(batch, intents, strict=False):
            if intent != "call":
                intended[event.offset] = None if intent == "filter" else WRONG
        engine.on_events(batch, self.now_ms, intended)
        for event in batch:
            if event.offset in place.carried:
                assert event.offset in place.settled
            else:
                place.open[event.offset] = event
        self.notice_filtered(place)

    def notice_filtered(self, place: Place) -> None:
        """Filtered events end without a call, now or when the map has room."""
        engine = place.engine
        assert engine is not None
        held = {delivery.offset for delivery in engine.deliveries()} | place.shelved()
        for offset in [offset for offset in place.open if offset not in held]:
            del place.open[offset]
            place.settled.add(offset)

    def answer(self, told: Iterable[tuple[Delivery, Outcome]]) -> None:
        by_engine: dict[Engine, list[tuple[Delivery, Outcome]]] = {}
        for delivery, outcome in told:
            by_engine.setdefault(delivery.engine, []).append((delivery, outcome))
        for engine, results in by_engine.items():
            place = self.out[results[0][0]]
            for delivery, _ in results:
                del self.out[delivery]
                self.answered.append((delivery, place))
            if engine.closed:
                freed = engine.on_late_outcomes(results)
                if not engine.in_flight():
                    place.left_behind.remove(engine)
                if place.engine is not None:
                    for key in freed:
                        place.engine.unblock(key)
                continue
            burned = [delivery.burned for delivery, _ in results]
            engine.on_outcomes(results, self.now_ms)
            for (delivery, outcome), before in zip(results, burned, strict=True):
                self.audit_outcome(place, delivery, outcome, delivery.burned - before)

    def answer_again(self, delivery: Delivery) -> None:
        """A transport that tells of one attempt twice."""
        before = delivery.state
        if delivery in self.out or before is State.CALLING:
            return
        if delivery.engine.closed:
            assert delivery.engine.on_late_outcomes([(delivery, ACKED)]) == []
        else:
            delivery.engine.on_outcomes([(delivery, ACKED)], self.now_ms)
        assert delivery.state is before

    def produced(self, delivery: Delivery, error: str | None) -> None:
        place = self.letters.pop(delivery)
        was_closed = delivery.engine.closed
        delivery.engine.on_produced([(delivery, error)], self.now_ms)
        tier = self.tiers.pop(delivery)
        if error is None and tier is not None:
            # The broker has it, whoever hears of that.
            self.move(place, delivery, tier)
        if error is None and not was_closed:
            assert delivery.state is (State.DEAD_LETTERED if tier is None else State.MOVED)
            self.end(place, delivery)

    def move(self, place: Place, delivery: Delivery, tier: Tier) -> None:
        """It stands in the tier's partition of the same number from now on."""
        event, number = delivery.event, place.partition.partition
        (there,) = (one for one in self.places if one.partition == (tier.topic, number))
        first_ms, due_ms = round(delivery.first_attempted_ms), round(delivery.last_failed_ms + tier.delay_ms)
        moved = Moved(event.position, delivery.attempt, first_ms, due_ms, "UNKNOWN", "no")
        offset = there.log[-1].offset + 1 if there.log else 0
        there.log.append(replace(event, topic=tier.topic, partition=number, offset=offset, moved=moved))

    def begin_transaction(self, place: Place, deliveries: Sequence[Delivery]) -> None:
        """The plain commits that were asked for are answered first; from then on there are no others."""
        engine = place.engine
        assert engine is not None
        engine.due.hold()
        if place.asked is not None:
            place.committed, place.asked = place.asked, None
        place.transaction = list(deliveries)

    def fill_transaction(self, place: Place) -> None:
        """What it commits is audited as it will stand there: with its hops settled."""
        assert place.engine is not None
        commit = place.engine.commit_with(place.transaction)
        carried = {delivery.event.offset for delivery in place.transaction}
        still_open, settled = dict(place.open), set(place.settled)
        for offset in carried:
            del place.open[offset]
        place.settled |= carried
        self.audit_commit(place, commit)
        read = ackmap.decode(commit.offset, commit.metadata)
        assert all(offset < commit.offset or offset in read for offset in carried), "a hop that comes again"
        place.open, place.settled = still_open, settled
        place.carries = commit

    def end_transaction(self, place: Place, *, committed: bool, tried_again: bool = False) -> None:
        """The broker has all of it or nothing. Hops that are not there are told of, or tried again."""
        engine, deliveries = place.engine, place.transaction
        assert engine is not None
        if committed:
            assert place.carries is not None
            place.committed = place.carries
        place.transaction, place.carries = [], None
        engine.due.let_go(self.now_ms)
        if committed or not tried_again:
            for delivery in deliveries:
                self.produced(delivery, None if committed else "aborted")

    def read_again(self, at: int, through: int | None = None) -> None:
        """A request to read again is answered, in full or up to an offset, to whoever owns the partition."""
        place, asked = self.to_read.pop(at)
        if place.engine is None:
            return
        through = asked[-1] if through is None else through
        wanted = set(asked) - place.gone
        events = [event for event in place.log if event.offset in wanted and event.offset <= through]
        shelved = place.shelved()
        lost = place.engine.on_read_again(asked, events, through, self.now_ms)
        back = shelved - place.shelved()
        assert back <= {offset for offset in asked if offset <= through}
        assert lost == len(back & place.gone)

    def pass_time(self, ms: float) -> None:
        self.now_ms += ms
        for place in self.places:
            if place.engine is not None:
                place.engine.on_tick(self.now_ms)

    # -- Output ------------------------------------------------------------------------------------------

    def act(self, place: Place, calls_max: int = 1_000) -> None:
        engine = place.engine
        if engine is None:
            return
        was_closed, was_refused = self.breaker.closed, engine.unwritten
        actions = engine.take_actions(self.now_ms, calls_max)
        self.notice_filtered(place)
        assert len(actions.calls) <= calls_max
        if actions.calls:
            assert not engine.draining
            assert not was_refused
            assert was_closed or len(actions.calls) == 1
        for delivery in actions.calls:
            self.audit_start(place, delivery)
        for letter in actions.hops:
            assert letter.delivery.state is State.PRODUCING
            assert letter.delivery not in self.letters
            tiers = self.subscription.retry.tiers
            left = tiers[tiers.index(place.tier) + 1 :] if place.tier is not None else tiers
            assert letter.tier is None or letter.tier is left[0]
            self.letters[letter.delivery] = place
            self.tiers[letter.delivery] = letter.tier
        if actions.read_again:
            assert not engine.draining
            assert set(actions.read_again) <= place.shelved()
            assert list(actions.read_again) == sorted(set(actions.read_again))
            self.to_read.append((place, actions.read_again))
        if actions.commit is not None:
            assert not place.transaction, "a commit beside a transaction"
            self.audit_commit(place, actions.commit)
            place.asked = actions.commit
        self.audit_asked(engine, actions)

    def audit_asked(self, engine: Engine, actions: Actions) -> None:
        assert engine.next_deadline() > self.now_ms or self._due_now(engine), "a busy loop"
        if actions.flow is not None:
            assert engine.paused == (actions.flow.value == "pause")

    def _due_now(self, engine: Engine) -> bool:
        """Something became due since the last tick; the next one takes it."""
        engine.on_tick(self.now_ms)
        return engine.next_deadline() > self.now_ms or engine.hungry or bool(engine.producing)

    # -- The auditor -------------------------------------------------------------------------------------

    def audit_start(self, place: Place, delivery: Delivery) -> None:
        event = delivery.event
        assert delivery.engine is place.engine
        assert delivery.state is State.CALLING
        assert delivery.offset in place.open, "it was settled already, or never polled"
        moved = place.open[delivery.offset].moved
        assert (moved is None) == (place.tier is None)
        if moved is not None:
            assert self.now_ms >= moved.due_ms - 0.5, "it is not due yet"
            assert event.position == moved.origin
            assert delivery.attempt > moved.attempts
        assert delivery not in self.out
        lane = place.lane(event, self.subscription.ordering)
        if lane is not None:
            for other, where in self.out.items():
                assert where is not place or place.lane(other.event, self.subscription.ordering) != lane, (
                    f"{delivery} started while {other} was out"
                )
            for offset, before in place.open.items():
                assert offset >= delivery.offset or place.lane(before, self.subscription.ordering) != lane, (
                    f"{delivery} started before {offset} was settled"
                )
        self.out[delivery] = place

    def audit_outcome(self, place: Place, delivery: Delivery, outcome: Outcome, burns: float) -> None:
        means = disposition_of(outcome, STATUS_TABLE)
        state, key = delivery.state, delivery.event.key
        if outcome.cancelled:
            assert state is State.QUEUED
            assert burns == 0
            return
        was_outage = self.outages.get(delivery) not in (None, self.breaker.budget.outages)
        if means is Disposition.UNWELL and not outcome.final:
            # An outage burns none: somebody else must have been called and taken since this one failed.
            since_ms = self.failed_ms.get(delivery, FOR_EVER)
            # And one that was an outage's after all is given back.
            assert (burns > 0) == (self.newest_good_start_ms > since_ms and not was_outage)
        elif means not in (Disposition.UNWELL, Disposition.MISWIRED) and not outcome.local:
            self.newest_good_start_ms = max(self.newest_good_start_ms, delivery.started_ms)
        if means is Disposition.ACK:
            assert state is State.ACKED
        elif means is Disposition.DROP:
            assert state is State.DROPPED
        elif means is Disposition.DEAD_LETTER:
            assert state is State.PRODUCING
        elif state is State.PRODUCING:
            # Only what has burned its attempts, or whose target said so, is set aside for what may pass.
            once = key in place.suspects or place.tier is not None
            attempts_max = 1 if once else self.subscription.retry.attempts
            assert outcome.final or delivery.burned >= attempts_max - 1e-6
            last = place.tier is None or place.tier is self.subscription.retry.tiers[-1]
            if outcome.final or not self.subscription.retry.tiers or (last and place.tier is not None):
                assert self.subscription.retry.on_exhausted is OnExhausted.DEAD_LETTER
            if key is not None:
                place.suspects.add(key)
        else:
            assert state is State.WAITING
            assert 0.0 <= delivery.burned <= delivery.attempt
            self.failed_ms[delivery] = self.now_ms
            assert delivery.mark is not None
            self.outages[delivery] = delivery.mark.outages
        if state is State.ACKED:
            place.suspects.discard(key)
        if state in (State.ACKED, State.DROPPED):
            self.end(place, delivery)

    def end(self, place: Place, delivery: Delivery) -> None:
        # Each event ends once in an assignment: a second end finds it gone.
        del place.open[delivery.offset]
        place.settled.add(delivery.offset)

    def audit_commit(self, place: Place, commit: Commit) -> None:
        read = ackmap.decode(commit.offset, commit.metadata)
        assert place.asked is None or commit.offset >= place.asked.offset
        assert commit.offset >= place.committed.offset
        assert commit.offset <= min(place.open, default=commit.offset)
        for event in place.log:
            if event.offset < commit.offset or event.offset in read:
                assert event.offset in place.settled, f"{event.position} would be lost"
                assert event.offset not in place.open

    def audit(self) -> None:
        """What holds at every moment."""
        open_events = held_events = held_bytes = active_events = active_bytes = 0
        for place in self.places:
            engine = place.engine
            if engine is None:
                continue
            deliveries = list(engine.deliveries())
            states = [delivery.state for delivery in deliveries]
            shelved = place.shelved()
            assert engine.shelved == len(shelved)
            assert {delivery.offset for delivery in deliveries}.isdisjoint(shelved)
            assert {delivery.offset for delivery in deliveries} | shelved == set(place.open)
            assert engine.open_events == len(deliveries) + len(shelved)
            assert engine.queued == states.count(State.QUEUED)
            assert engine.calling == states.count(State.CALLING) == len(engine.in_flight())
            assert engine.waiting == states.count(State.WAITING)
            assert engine.parked == states.count(State.PARKED)
            assert engine.producing == states.count(State.PRODUCING)
            assert engine.committed <= min(place.open, default=engine.committed)
            parked = [one for one in deliveries if one.state in (State.WAITING, State.PARKED)]
            active = [one for one in deliveries if one.state not in (State.WAITING, State.PARKED)]
            bounds = engine._intake
            assert (bounds.parked.events, bounds.parked.bytes) == _weight(parked)
            assert (bounds.active.events, bounds.active.bytes) == _weight(active)
            open_events += engine.open_events
            # What is shelved is open and not in memory.
            held_events += len(deliveries)
            # What may be called counts with its request.
            held_bytes += CALLED_TIMES * bounds.active.bytes + bounds.parked.bytes
            active_events += bounds.active.events
            active_bytes += bounds.active.bytes
        subscription, process = self.limits.subscription, self.limits.process
        assert (subscription.events, subscription.bytes) == (active_events, active_bytes)
        assert (process.events, process.bytes) == (held_events, held_bytes)
        assert self.tally.holds(open_events), self.tally
        slots = self.limits.slots
        assert slots.taken == len(self.out) <= slots.slots_max
        assert 0 <= slots.costly <= slots.taken

    # -- After the faults --------------------------------------------------------------------------------

    def come_to_rest(self) -> None:
        """Faults have stopped: everything settles, in a bounded number of turns."""
        for turn in range(20_000):
            for place in self.places:
                engine = place.engine
                if engine is None:
                    self.assign(place)
                elif engine.draining:
                    self.let_go(place)
                elif not engine.paused and place.polled < len(place.log):
                    self.poll(place, 5, ())
                self.act(place)
            self.answer([(delivery, ACKED) for delivery in list(self.out)])
            for place in self.places:
                if place.transaction:
                    self.end_transaction(place, committed=False, tried_again=True)
            for delivery in list(self.letters):
                self.produced(delivery, None)
            while self.to_read:
                self.read_again(0)
            self.audit()
            if not self.out and not self.letters and self._at_rest():
                break
            if turn % 2:
                deadline_ms = min(
                    (place.engine.next_deadline() for place in self.places if place.engine), default=FOR_EVER
                )
                self.pass_time(max(0.0, min(deadline_ms, self.now_ms + 10_000) - self.now_ms))
        else:
            raise AssertionError(f"it never came to rest: {[place.engine for place in self.places]}")
        assert self.limits.slots.taken == self.limits.slots.costly == 0
        for place in self.places:
            assert place.engine is not None
            last = place.engine.commit()
            self.audit_commit(place, last)
            assert last.metadata == ""
            assert place.settled >= {event.offset for event in place.log}
            assert last.offset >= max((event.offset + 1 for event in place.log), default=0)

    def _at_rest(self) -> bool:
        return all(
            place.engine is not None
            and not place.engine.draining
            and not place.left_behind
            and place.polled == len(place.log)
            and not place.open
            for place in self.places
        )


def _weight(deliveries: Sequence[Delivery]) -> tuple[int, int]:
    return len(deliveries), sum(delivery.size_bytes for delivery in deliveries)
