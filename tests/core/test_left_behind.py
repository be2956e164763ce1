"""Calls of a closed engine: each ends once, however often that is told."""

from __future__ import annotations

from pelton.core.breaker import Breaker
from pelton.core.delivery import Delivery, State
from pelton.core.lane import Lane
from pelton.core.left_behind import BlockedKeys, LeftBehind
from pelton.core.limits import Slots
from pelton.core.outcome import ACKED
from tests.core.rig import Rig, event


def test_a_call_that_is_told_twice_gives_its_slot_back_once() -> None:
    slots = Slots(2)
    slots.take(2, 1)
    deliveries = [Delivery(event(at, b"key"), Rig().engine, None, 1, State.RELEASED) for at in range(2)]
    left, costly = LeftBehind(), {deliveries[0]}
    for delivery in deliveries:
        delivery.lane = Lane(b"key", delivery)
        left.take([delivery], Breaker())
    assert left.ended([(deliveries[0], ACKED), (deliveries[0], ACKED)], slots, costly) == [b"key"]
    assert left.ended([(deliveries[0], ACKED)], slots, costly) == []
    assert (slots.taken, slots.costly, costly) == (1, 0, set())
    assert list(left) == [deliveries[1]]


def test_a_key_is_free_when_its_last_call_has_ended() -> None:
    blocked = BlockedKeys({b"twice": 2})
    assert b"twice" in blocked
    assert not blocked.ended(b"twice")
    assert blocked.ended(b"twice")
    assert b"twice" not in blocked
    assert not blocked.ended(b"never"), "none was out: the lane is its owner's own"
