"""Bounds in events and bytes, and the calls' slots."""

from __future__ import annotations

import pytest

from pelton.core.limits import Bound, Limits, Slots


@pytest.mark.parametrize(
    ("events", "size_bytes", "full", "half_free"),
    [
        (0, 0, False, True),
        (5, 50, False, True),
        (6, 0, False, False),
        (0, 51, False, False),
        (9, 99, False, False),
        (10, 0, True, False),
        (0, 100, True, False),
        (12, 130, True, False),
    ],
)
def test_a_bound_is_full_by_events_or_by_bytes(
    events: int, size_bytes: int, full: bool, half_free: bool
) -> None:
    bound = Bound(10, 100)
    bound.take(events, size_bytes)
    assert (bound.full, bound.half_free) == (full, half_free)
    bound.give(events, size_bytes)
    assert (bound.events, bound.bytes) == (0, 0)


@pytest.mark.parametrize(
    ("events", "size_bytes", "room"), [(0, 0, 5), (4, 49, 1), (5, 0, 0), (9, 0, 0), (0, 50, 0)]
)
def test_a_bound_has_room_until_half_of_it_is_taken(events: int, size_bytes: int, room: int) -> None:
    bound = Bound(10, 100)
    bound.take(events, size_bytes)
    assert bound.room_to_half == room


@pytest.mark.parametrize("given", [(2, 0), (0, 2)])
def test_nothing_is_given_that_was_not_taken(given: tuple[int, int]) -> None:
    bound = Bound(10, 100)
    bound.take(1, 1)
    with pytest.raises(AssertionError):
        bound.give(*given)


def test_slots_are_taken_and_given_and_never_more_than_there_are() -> None:
    slots = Slots(3)
    slots.take()
    slots.take(2)
    assert (slots.taken, slots.free) == (3, 0)
    with pytest.raises(AssertionError):
        slots.take()
    slots = Slots(3)
    slots.take(2)
    slots.give(2)
    assert slots.free == 3
    with pytest.raises(AssertionError):
        slots.give()


def test_there_is_at_least_one_slot() -> None:
    with pytest.raises(AssertionError):
        Slots(0)


def test_limits_take_from_the_process_and_from_the_subscription() -> None:
    limits = Limits(Bound(10, 1_000), Bound(4, 1_000), Slots(1))
    limits.take(4, 400)
    assert limits.subscription.full
    assert limits.full
    assert not limits.process.full
    # With the requests that calls would take.
    assert (limits.process.events, limits.process.bytes) == (4, 800)
    limits.give(2, 200)
    assert limits.half_free
    limits.process.take(6, 0)
    assert not limits.half_free


@pytest.mark.parametrize(("events", "size_bytes"), [(100, 0), (0, 500)])
def test_a_full_process_leaves_each_subscription_its_reserve(events: int, size_bytes: int) -> None:
    process = Bound(100, 1_000)
    others, ours = (Limits(process, Bound(1_000, 10_000), Slots(1), sharers=5) for _ in range(2))
    others.take(events, size_bytes)
    assert others.full
    assert not ours.full
    # Of a hundred events and a thousand bytes, a fifth of the half; bytes count twice.
    ours.take(9, 45)
    assert not ours.full
    assert not ours.half_free
    ours.take(1, 5)
    assert ours.full
    ours.give(6, 30)
    assert ours.half_free
    assert not others.half_free


def test_what_is_parked_counts_once_in_the_process_and_what_may_be_called_twice() -> None:
    limits = Limits(Bound(10, 1_000), Bound(10, 1_000), Slots(1))
    limits.take_parked(1, 100)
    assert limits.process.bytes == 100
    # Its turn comes.
    limits.give_parked(1, 100)
    limits.take(1, 100)
    assert (limits.process.bytes, limits.subscription.bytes) == (200, 100)
    limits.give(1, 100)
    assert limits.process.bytes == limits.process.events == 0


def test_alone_the_processs_bound_is_the_bound() -> None:
    process = Bound(10, 1_000)
    alone = Limits(process, Bound(100, 10_000), Slots(1))
    process.take(10, 0)
    assert alone.full
