"""A lane: first come, first called; who follows a head that waits is parked once."""

from __future__ import annotations

from pelton.core.delivery import Delivery, State
from pelton.core.lane import Lane
from tests.core.rig import Rig, event

ENGINE = Rig().engine


def delivery(offset: int) -> Delivery:
    return Delivery(event(offset, "k"), ENGINE, None, 1, State.QUEUED)


def lane_of(count: int) -> tuple[Lane, list[Delivery]]:
    deliveries = [delivery(offset) for offset in range(count)]
    lane = Lane(b"k", deliveries[0])
    for follower in deliveries[1:]:
        lane.append(follower)
    return lane, deliveries


def test_it_goes_in_order() -> None:
    lane, deliveries = lane_of(4)
    assert len(lane) == 4
    assert list(lane) == deliveries
    for expected in deliveries[1:]:
        assert lane.advance() is expected
        assert lane.head is expected
    assert lane.advance() is None


def test_a_lane_of_one_is_empty_after_it() -> None:
    lane, deliveries = lane_of(1)
    assert (len(lane), list(lane)) == (1, deliveries)
    assert lane.block() == []
    assert lane.advance() is None
    assert not lane.blocked


def test_each_follower_is_parked_once() -> None:
    lane, deliveries = lane_of(3)
    assert lane.block() == deliveries[1:]
    assert lane.blocked
    late = delivery(3)
    lane.append(late)
    # It came to a blocked lane: whoever appended it has parked it already.
    assert lane.block() == []
    assert lane.advance() is deliveries[1]
    assert not lane.blocked
    fresh = delivery(4)
    lane.append(fresh)
    # 2 and 3 are parked still; only the fresh one is new.
    assert lane.block() == [fresh]
    assert lane.advance() is deliveries[2]
    assert lane.block() == []
    assert [lane.advance(), lane.advance(), lane.advance()] == [late, fresh, None]


def test_followers_that_came_unblocked_are_parked_at_the_next_block() -> None:
    lane, deliveries = lane_of(2)
    lane.block()
    assert lane.advance() is deliveries[1]
    later = [delivery(offset) for offset in (2, 3)]
    for one in later:
        lane.append(one)
    assert lane.block() == later
