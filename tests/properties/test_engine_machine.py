"""Engines of several partitions against a simple model, through everything that can happen to them.

The world and its auditor are in `world.py`; here is only what may happen, in any order. Bounds and the ack
map's budget are small, so that all of them are reached. When the faults stop everything must settle.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pelton.core import ackmap
from pelton.core.delivery import Delivery
from pelton.core.limits import Bound, Limits, Slots
from pelton.core.outcome import ACKED, CANCELLED_BY_US, Outcome, Status, Verdict
from pelton.event import Event
from pelton.subscription import Intake, OnExhausted, Ordering, RetryPolicy, Tier
from tests.core.rig import SUBSCRIPTION
from tests.properties.profile import tried
from tests.properties.world import WRONG, Place, World

PARTITIONS = 2
LOG_EVENTS_MAX = 60

keys = st.sampled_from([None, b"", b"a", b"a", b"b", b"c"])
outcomes = st.one_of(
    st.just(ACKED),
    st.just(ACKED),
    st.sampled_from(Status).map(Outcome),
    st.builds(Outcome, st.sampled_from([Status.UNAVAILABLE, Status.UNKNOWN])),
    st.builds(Outcome, st.sampled_from(Status), verdict=st.sampled_from(Verdict)),
    st.builds(
        Outcome,
        st.sampled_from([Status.UNKNOWN, Status.UNAVAILABLE]),
        retry_after_ms=st.sampled_from([0.0, 50.0, 9_000.0]),
        final=st.booleans(),
    ),
    st.sampled_from([CANCELLED_BY_US, WRONG]),
)


#: One that is due while other things happen, and one that mostly is not.
TIERS = (Tier(3_000.0, "retry.notify.3s"), Tier(30_000.0, "retry.notify.30s"))
#: Of a place; where there are no tiers, the partitions of the source, several times over.
numbers = st.integers(0, PARTITIONS * (1 + len(TIERS)) - 1)
lazily = st.sampled_from([False, False, False, True])
published = st.lists(st.tuples(st.sampled_from([1, 1, 1, 3, 90]), keys, st.integers(0, 30)), max_size=20)
ALL_AT_ONCE = [Status.OK, Status.UNKNOWN, Status.INVALID_ARGUMENT, Status.UNAVAILABLE, Status.UNIMPLEMENTED]


class EngineMachine(RuleBasedStateMachine):
    world: World

    def __init__(self) -> None:
        super().__init__()
        self.patches: list[Any] = []

    @initialize(
        ordering=st.sampled_from([Ordering.KEY, Ordering.KEY, Ordering.PARTITION, Ordering.NONE]),
        on_exhausted=st.sampled_from([OnExhausted.DEAD_LETTER, OnExhausted.DEAD_LETTER, OnExhausted.HOLD]),
        attempts=st.integers(1, 4),
        concurrency=st.sampled_from([1, 2, 5, 20]),
        events_max=st.sampled_from([1, 6, 20, 100, 100]),
        bytes_max=st.sampled_from([40, 400, 10_000, 10_000]),
        budget=st.sampled_from([3, 8, 3_063]),
        jitter=st.sampled_from([0.0, 0.5, 1.0]),
        tiers=st.sampled_from([(), (), TIERS[:1], TIERS]),
        logs=st.tuples(published, published),
    )
    def begin(
        self,
        ordering: Ordering,
        on_exhausted: OnExhausted,
        attempts: int,
        concurrency: int,
        events_max: int,
        bytes_max: int,
        budget: int,
        jitter: float,
        tiers: tuple[Tier, ...],
        logs: tuple[list[tuple[int, bytes | None, int]], ...],
    ) -> None:
        self.patches = [
            patch.object(ackmap, "PAYLOAD_BYTES_MAX", budget),
            patch.object(ackmap, "BITSET_OFFSETS_MAX", budget * 8),
        ]
        for one in self.patches:
            one.start()
        subscription = replace(
            SUBSCRIPTION,
            ordering=ordering,
            concurrency=concurrency,
            retry=RetryPolicy(
                # One, so that what is moved is no rarity.
                attempts=1 if tiers else attempts,
                backoff_max_ms=2_000.0,
                on_exhausted=on_exhausted,
                tiers=tiers if ordering is not Ordering.PARTITION else (),
            ),
            intake=Intake(
                partition_events_max=events_max,
                partition_bytes_max=bytes_max,
                parked_events_max=events_max,
                parked_bytes_max=bytes_max,
            ),
        )
        limits = Limits(
            Bound(events_max * 2, bytes_max * 2), Bound(events_max + 1, bytes_max * 2), Slots(concurrency)
        )
        self.world = World(subscription, limits, PARTITIONS, jitter)
        for place in self.world.places:
            self.world.assign(place)
        for number, events in enumerate(logs):
            self.poll(number, events, len(events), [], lazy=False)

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.world.come_to_rest()
        finally:
            for one in self.patches:
                one.stop()

    def place(self, number: int) -> Place:
        return self.world.places[number % len(self.world.places)]

    # -- What may happen ---------------------------------------------------------------------------------

    def pump(self, lazy: bool) -> None:
        """A pump lets everybody act after every input; a lazy one does not, so that inputs pile up."""
        if not lazy:
            for place in self.world.places:
                self.world.act(place)

    def publish(self, number: int, events: list[tuple[int, bytes | None, int]]) -> None:
        log = self.place(number).log
        if self.place(number).tier is not None:
            # Only what is moved there.
            return
        for gap, key, size_bytes in events[: LOG_EVENTS_MAX - len(log)]:
            offset = (log[-1].offset if log else -1) + gap
            value = bytes(size_bytes)
            log.append(Event("events", number, offset, key, value, value, (), 0))

    @rule(
        number=numbers,
        events=published,
        count=st.integers(1, 20),
        intents=st.one_of(
            st.just([]), st.lists(st.sampled_from(["call", "call", "filter", "flaw"]), max_size=12)
        ),
        lazy=lazily,
    )
    def poll(
        self,
        number: int,
        events: list[tuple[int, bytes | None, int]],
        count: int,
        intents: list[str],
        lazy: bool,
    ) -> None:
        self.publish(number, events)
        place = self.place(number)
        if place.engine is not None and not place.engine.draining and not place.engine.paused:
            self.world.poll(place, count, intents)
        self.pump(lazy)

    @rule(number=numbers, calls_max=st.sampled_from([0, 1, 2, 100]))
    def act(self, number: int, calls_max: int) -> None:
        self.world.act(self.place(number), calls_max)

    @precondition(lambda self: self.world.out)
    @rule(data=st.data(), count=st.integers(1, 6), lazy=lazily)
    def answer(self, data: st.DataObject, count: int, lazy: bool) -> None:
        told = []
        left = list(self.world.out)
        for _ in range(min(count, len(left))):
            told.append((left.pop(data.draw(st.integers(0, len(left) - 1))), data.draw(outcomes)))
        self.world.answer(told)
        self.pump(lazy)

    @precondition(lambda self: self.world.out)
    @rule(status=st.sampled_from(ALL_AT_ONCE), lazy=lazily)
    def answer_all(self, status: Status, lazy: bool) -> None:
        outcome = ACKED if status is Status.OK else Outcome(status)
        self.world.answer([(delivery, outcome) for delivery in list(self.world.out)])
        self.pump(lazy)

    @precondition(lambda self: self.world.answered)
    @rule(data=st.data())
    def answer_again(self, data: st.DataObject) -> None:
        delivery, _ = data.draw(st.sampled_from(self.world.answered))
        self.world.answer_again(delivery)

    def free_letters(self) -> list[Delivery]:
        """Those that no transaction carries."""
        carried = {delivery for place in self.world.places for delivery in place.transaction}
        return [delivery for delivery in self.world.letters if delivery not in carried]

    @precondition(lambda self: self.free_letters())
    @rule(data=st.data(), count=st.integers(1, 8))
    def transaction_begins(self, data: st.DataObject, count: int) -> None:
        letters = [one for one in self.free_letters() if not one.engine.closed]
        place = self.place(data.draw(numbers))
        own = [one for one in letters if one.engine is place.engine]
        if own and not place.transaction:
            self.world.begin_transaction(place, own[:count])

    @rule(number=numbers)
    def transaction_is_filled(self, number: int) -> None:
        place = self.place(number)
        if place.transaction and place.carries is None:
            self.world.fill_transaction(place)

    @rule(number=numbers, committed=st.booleans(), tried_again=st.booleans(), lazy=lazily)
    def transaction_ends(self, number: int, committed: bool, tried_again: bool, lazy: bool) -> None:
        place = self.place(number)
        if place.transaction:
            committed = committed and place.carries is not None
            self.world.end_transaction(place, committed=committed, tried_again=tried_again)
        self.pump(lazy)

    @precondition(lambda self: self.free_letters())
    @rule(data=st.data(), count=st.integers(1, 8), taken=st.sampled_from([True, True, False]), lazy=lazily)
    def produced(self, data: st.DataObject, count: int, taken: bool, lazy: bool) -> None:
        for _ in range(min(count, len(self.free_letters()))):
            delivery = data.draw(st.sampled_from(self.free_letters()))
            self.world.produced(delivery, None if taken else "no leader")
        self.pump(lazy)

    @precondition(lambda self: self.world.to_read)
    @rule(data=st.data(), whole=st.booleans(), lazy=lazily)
    def read_again(self, data: st.DataObject, whole: bool, lazy: bool) -> None:
        at = data.draw(st.integers(0, len(self.world.to_read) - 1))
        _, asked = self.world.to_read[at]
        through = None if whole else data.draw(st.integers(asked[0] - 1, asked[-1]))
        self.world.read_again(at, through)
        self.pump(lazy)

    @precondition(lambda self: any(place.engine and place.shelved() for place in self.world.places))
    @rule(number=numbers, data=st.data())
    def retention(self, number: int, data: st.DataObject) -> None:
        """It takes the oldest events from the log: those that were parked by their offset are gone."""
        place = self.place(number)
        if place.engine is not None and (shelved := place.shelved()):
            cut = data.draw(st.sampled_from(sorted(shelved)))
            place.gone.update(event.offset for event in place.log if event.offset <= cut)

    @rule(ms=st.sampled_from([0.0, 1.0, 60.0, 100.0, 1_000.0, 6_000.0, 40_000.0]), lazy=lazily)
    def time_passes(self, ms: float, lazy: bool) -> None:
        self.world.pass_time(ms)
        self.pump(lazy)

    @rule(number=numbers, taken=st.booleans())
    def commit_is_answered(self, number: int, taken: bool) -> None:
        place = self.place(number)
        if place.asked is None or place.engine is None:
            return
        # One that is refused stays asked for: the consumer tries it again, or what has superseded it.
        if taken:
            place.committed, place.asked = place.asked, None

    @rule(
        number=numbers,
        how=st.sampled_from(["stay"] * 6 + ["drain", "lose"]),
        committed=st.booleans(),
        lazy=lazily,
    )
    def rebalance(self, number: int, how: str, committed: bool, lazy: bool) -> None:
        """A partition comes, goes in order as soon as it may, or is lost; mostly it stays."""
        place = self.place(number)
        if place.engine is None:
            self.world.assign(place)
        elif how == "lose":
            self.world.close(place, committed=committed)
        elif place.engine.draining:
            self.world.let_go(place)
        elif how == "drain":
            place.engine.drain()
        self.pump(lazy)

    @invariant()
    def the_books_agree(self) -> None:
        if hasattr(self, "world"):
            self.world.audit()


EngineMachine.TestCase.settings = tried(250, steps=60)
TestEngine = EngineMachine.TestCase
