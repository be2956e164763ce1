"""The engine and retry tiers: when an event is moved, when it is called there, and what follows it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pelton.core.actions import Flow
from pelton.core.delivery import State
from pelton.core.outcome import Outcome, Status
from pelton.core.tiers import TIER_EVENTS_MAX, arrivals
from pelton.event import Event, Moved, Partition, Position
from pelton.subscription import OnExhausted, Ordering, Tier
from tests.core.rig import Rig, event

MINUTE_MS = 60_000.0
FIRST, LAST = Tier(MINUTE_MS, "retry.notify.1m"), Tier(10 * MINUTE_MS, "retry.notify.10m")
TIERS = (FIRST, LAST)
#: What the wall clock says when the engine's begins.
WALL_MS = 1_700_000_000_000


def source(**changes: Any) -> Rig:
    return Rig(attempts=2, tiers=TIERS, **changes)


def moved(offset: int, key: bytes | None = b"a", *, due_ms: float = 0.0, attempts: int = 2) -> Event:
    """An event in a tier, due at this monotonic time; its origin is another offset than its position."""
    what = Moved(
        Position("events", 0, 100 + offset),
        attempts,
        WALL_MS - 1_000,
        WALL_MS + round(due_ms),
        "UNKNOWN",
        "no",
    )
    return replace(event(offset, key), topic=FIRST.topic, moved=what)


class TierRig(Rig):
    """The engine of one partition of a tier."""

    def __init__(self, tier: Tier = FIRST, **changes: Any) -> None:
        super().__init__(partition=Partition(tier.topic, 0), attempts=2, tiers=TIERS, **changes)
        self.tier = tier

    def come(self, *events: Event) -> None:
        told = arrivals(events, self.tier, self.now_ms, WALL_MS + self.now_ms)
        self.arrive(*events, intended=told)


# -- From the source -----------------------------------------------------------------------------------------


def test_what_is_exhausted_in_memory_is_moved_and_settles_when_the_broker_has_it() -> None:
    rig = source()
    rig.feed("a")
    rig.answer(0, "UNKNOWN")
    assert rig.state(0) is State.WAITING
    rig.wait_for_deadline()
    rig.answer(0, "UNKNOWN")
    assert rig.state(0) is State.PRODUCING
    hop = rig.letters[0]
    assert (hop.tier, hop.end) == (FIRST, State.MOVED)
    assert (hop.delivery.attempt, hop.outcome.status) == (2, Status.UNKNOWN)
    assert not rig.commits
    rig.produced(0)
    assert hop.delivery.state is State.MOVED
    assert (rig.tally.moved, rig.tally.dead_lettered) == (1, 0)
    assert rig.commits[-1].offset == 1
    rig.assert_accounts()


def test_its_key_goes_on_and_is_suspect() -> None:
    rig = source()
    rig.feed(["a", "a", "a"])
    rig.answer(0, "UNKNOWN")
    rig.wait_for_deadline()
    rig.answer(0, "UNKNOWN")
    assert 1 not in rig.out, "not before the broker has the one before it"
    rig.produced(0)
    rig.answer(1, "UNKNOWN")
    assert rig.letters[1].tier is FIRST, "one attempt for an event of a suspect key"
    rig.produced(1)
    rig.answer(2)
    assert rig.engine.suspect_keys == 0


def test_a_tier_that_cannot_be_written_stops_the_partition() -> None:
    rig = source()
    rig.feed(["a"])
    rig.answer(0, Outcome(Status.UNKNOWN, "no", final=False))
    rig.wait_for_deadline()
    rig.answer(0, "UNKNOWN")
    rig.produced(0, "no leader")
    assert rig.flows == [Flow.PAUSE]
    assert rig.tally.moved == 0
    rig.wait_for_deadline()
    assert rig.letters[0].tier is FIRST
    rig.produced(0)
    assert rig.tally.moved == 1
    assert rig.flows == [Flow.PAUSE, Flow.RESUME]


@pytest.mark.parametrize(
    "ended",
    [
        Outcome(Status.INVALID_ARGUMENT, "never"),
        Outcome(Status.UNKNOWN, "the last one, it says", final=True),
    ],
)
def test_what_no_wait_would_mend_is_set_aside_at_once(ended: Outcome) -> None:
    rig = source()
    rig.feed("a")
    rig.answer(0, ended)
    assert (rig.letters[0].tier, rig.letters[0].end) == (None, State.DEAD_LETTERED)


def test_what_is_too_old_is_set_aside() -> None:
    rig = source(give_up_after_ms=50.0, backoff_min_ms=60.0)
    rig.feed("a")
    rig.answer(0, "UNKNOWN")
    rig.wait_for_deadline()
    rig.answer(0, "UNKNOWN")
    assert rig.letters[0].tier is None


# -- In a tier -----------------------------------------------------------------------------------------------


def test_it_is_called_when_it_is_due_and_not_before() -> None:
    rig = TierRig()
    rig.come(moved(0, due_ms=30_000))
    assert rig.state(0) is State.WAITING
    assert rig.engine.next_deadline() == 30_000
    rig.wait(29_999)
    assert not rig.out
    rig.wait(1)
    (delivery,) = rig.out.values()
    assert (delivery.attempt, delivery.delivery_id) == (3, "notify/events/0/100")
    assert (delivery.event.position, delivery.offset) == (Position("events", 0, 100), 0)
    rig.assert_accounts()


def test_what_was_due_while_nobody_read_is_called_at_once() -> None:
    rig = TierRig()
    rig.come(moved(0, due_ms=-1))
    assert len(rig.out) == 1


def test_one_attempt_and_the_next_tier_and_after_the_last_the_dead_letters() -> None:
    rig = TierRig()
    rig.come(moved(0))
    answered(rig, 100, "UNKNOWN")
    (hop,) = rig.letters.values()
    assert (hop.tier, hop.delivery.attempt) == (LAST, 3)
    last = TierRig(LAST)
    last.come(replace(moved(0, attempts=3), topic=LAST.topic))
    answered(last, 100, "UNKNOWN")
    (hop,) = last.letters.values()
    assert (hop.tier, hop.delivery.attempt) == (None, 4)


def test_after_the_last_tier_it_is_held_where_the_policy_says_so() -> None:
    rig = TierRig(LAST, on_exhausted=OnExhausted.HOLD)
    rig.come(replace(moved(0), topic=LAST.topic), replace(moved(1), topic=LAST.topic))
    answered(rig, 100, "UNKNOWN")
    assert (rig.state(0), rig.state(1)) == (State.WAITING, State.PARKED)
    assert not rig.letters


def test_an_outage_burns_nothing_in_a_tier_either() -> None:
    rig = TierRig()
    rig.come(moved(0))
    for _ in range(4):
        answered(rig, 100, "UNAVAILABLE")
        assert rig.state(0) is State.WAITING
        while not rig.out:
            rig.wait_for_deadline()
    answered(rig, 100, "OK")
    assert (rig.tally.acked, rig.tally.moved) == (1, 0)


def test_within_a_tier_a_key_keeps_its_order_and_each_waits_for_its_own_time() -> None:
    rig = TierRig()
    rig.come(moved(0, due_ms=1_000), moved(1, due_ms=5_000), moved(2, b"b", due_ms=2_000))
    assert [rig.state(offset) for offset in range(3)] == [State.WAITING, State.PARKED, State.WAITING]
    rig.wait(1_000)
    answered(rig, 100, "OK")
    # Its turn has come and its time has not.
    assert rig.state(1) is State.WAITING
    rig.assert_accounts()
    rig.wait(3_999)
    answered(rig, 102, "OK")
    assert not rig.out
    rig.wait(1)
    answered(rig, 101, "OK")
    rig.assert_accounts()
    assert rig.engine.open_events == 0


def test_one_that_is_due_overtakes_nobody_of_its_key() -> None:
    rig = TierRig()
    rig.come(moved(0, due_ms=1_000), moved(1, due_ms=0))
    assert not rig.out
    rig.wait(1_000)
    answered(rig, 100, "OK")
    answered(rig, 101, "OK")


def test_without_an_order_each_goes_by_its_own_time() -> None:
    rig = TierRig(ordering=Ordering.NONE)
    rig.come(moved(0, due_ms=1_000), moved(1, due_ms=0))
    answered(rig, 101, "OK")
    assert rig.state(0) is State.WAITING


def test_a_call_left_behind_keeps_its_key_in_a_tier_too() -> None:
    rig = TierRig(blocked_keys={b"a": 1})
    rig.come(moved(0, due_ms=0), moved(1, due_ms=50))
    assert not rig.out
    rig.engine.unblock(b"a")
    rig.act()
    answered(rig, 100, "OK")
    assert rig.state(1) is State.WAITING


def test_what_the_map_has_settled_does_not_come_again() -> None:
    first = TierRig()
    first.come(moved(0, due_ms=9_000), moved(1, b"b"))
    answered(first, 101, "OK")
    commit = first.engine.commit()
    second = TierRig(committed=commit.offset, metadata=commit.metadata)
    second.come(moved(0, due_ms=9_000), moved(1, b"b"))
    assert second.tally.already_settled == 1
    assert [one.offset for one in second.engine.deliveries()] == [0]


def test_intake_pauses_when_enough_wait_and_goes_on_as_they_are_due() -> None:
    rig = TierRig()
    rig.come(*(moved(at, b"%d" % at, due_ms=1_000 + at) for at in range(TIER_EVENTS_MAX)))
    assert rig.flows == [Flow.PAUSE]
    assert rig.engine.rests, "nobody else's room helps"
    assert rig.limits.subscription.events == 0, "what waits takes no room from others"
    rig.wait(1_000 + TIER_EVENTS_MAX / 2)
    assert rig.flows == [Flow.PAUSE, Flow.RESUME]
    assert not rig.engine.rests
    rig.assert_accounts()


def test_what_is_no_event_of_ours_is_set_aside_in_its_turn() -> None:
    rig = TierRig()
    rig.come(replace(moved(0, due_ms=9_000), moved=None), moved(1, due_ms=0))
    (hop,) = rig.letters.values()
    assert (hop.tier, hop.outcome.local, hop.delivery.attempt) == (None, True, 0)
    assert not rig.out, "its key waits for it"
    rig.engine.on_produced([(hop.delivery, None)], rig.now_ms)
    rig.act()
    answered(rig, 101, "OK")


def test_a_drain_leaves_what_waits_to_the_next_owner() -> None:
    rig = TierRig()
    rig.come(moved(0, due_ms=9_000))
    rig.engine.drain()
    assert rig.engine.drained
    rig.engine.close()
    assert rig.tally.released == 1


def answered(rig: Rig, origin: int, status: str) -> None:
    """The call of the event with this origin ends so."""
    (at,) = (at for at, one in rig.out.items() if one.event.offset == origin)
    rig.answer(at, status)
