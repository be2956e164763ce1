"""A lane: first come, first called; who follows a head that waits is parked once."""

from __future__ import annotations

from itertools import pairwise

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
    for gone, expected in pairwise(deliveries):
        assert lane.advance() is expected
        assert lane.head is expected
        assert gone.follower is None, "what is settled would keep all that came after it in memory"
    assert lane.advance() is None


def test_who_comes_after_others_were_forgotten_follows_the_head() -> None:
    lane, deliveries = lane_of(3)
    assert lane.forget() == deliveries[1:]
    assert (len(lane), list(lane), lane.last) == (1, deliveries[:1], deliveries[0])
    again = delivery(1)
    assert not lane.come_back(again), "the head is still there"
    assert (list(lane), lane.last) == ([deliveries[0], again], again)
    assert lane.advance() is again


def test_who_comes_back_into_a_hollow_lane_is_all_of_it() -> None:
    lane, _ = lane_of(2)
    lane.forget()
    assert lane.advance() is None
    again = delivery(1)
    assert lane.come_back(again)
    assert (list(lane), lane.last) == ([again], again)


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
