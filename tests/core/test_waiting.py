"""Who waits, by when it is due."""

from __future__ import annotations

from pelton.core.delivery import Delivery, State
from pelton.core.waiting import Waiting
from tests.core.rig import Rig, event

ENGINE = Rig().engine


def one(offset: int) -> Delivery:
    return Delivery(event(offset), ENGINE, None, 1, State.WAITING)


def test_an_empty_one_has_no_deadline() -> None:
    waiting = Waiting()
    assert len(waiting) == 0
    assert waiting.next_ms == float("inf")
    assert list(waiting.due(1e12)) == []


def test_the_earliest_goes_first_and_of_those_due_at_once_the_first_to_come() -> None:
    waiting = Waiting()
    deliveries = [one(offset) for offset in range(4)]
    for delivery, due_ms in zip(deliveries, (20.0, 10.0, 10.0, 30.0), strict=True):
        waiting.add(delivery, due_ms)
    assert waiting.next_ms == 10
    assert [delivery.offset for delivery in waiting.due(9.9)] == []
    assert [delivery.offset for delivery in waiting.due(20.0)] == [1, 2, 0]
    assert (len(waiting), waiting.next_ms) == (1, 30)
    waiting.clear()
    assert (len(waiting), waiting.next_ms) == (0, float("inf"))
