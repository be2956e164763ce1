"""The conservation law, in a form that can fail."""

from __future__ import annotations

import pytest

from pelton.core.delivery import State
from pelton.core.tally import Tally

ENDS = ["acked", "dropped", "filtered", "dead_lettered", "moved", "lost"]


@pytest.mark.parametrize("name", [*ENDS, "already_settled", "released"])
def test_each_event_stands_in_one_number(name: str) -> None:
    tally = Tally(consumed=3)
    assert tally.holds(3)
    assert not tally.holds(2)
    setattr(tally, name, 1)
    assert tally.holds(2)
    assert not tally.holds(3)
    assert tally.settled == (name in ENDS)


@pytest.mark.parametrize(
    "name", ["attempts", "retries", "late_outcomes", "dead_letters_failed", "maps_refused"]
)
def test_what_is_counted_beside_changes_nothing(name: str) -> None:
    tally = Tally(consumed=1)
    setattr(tally, name, 5)
    assert tally.holds(1)


@pytest.mark.parametrize("end", ENDS)
def test_an_end_is_counted_under_its_name(end: str) -> None:
    tally = Tally()
    tally.settle(State(end))
    assert getattr(tally, end) == tally.settled == 1


@pytest.mark.parametrize("state", set(State) - {State(end) for end in ENDS})
def test_what_is_no_end_is_not_counted(state: State) -> None:
    with pytest.raises(AssertionError):
        Tally().settle(state)


def test_tallies_share_nothing() -> None:
    assert Tally().outcomes is not Tally().outcomes
