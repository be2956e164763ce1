"""A batch of actions: empty asks for nothing, and anything in it asks."""

from __future__ import annotations

import pytest

from pelton.core.actions import Actions, Commit, Flow, Hop
from pelton.core.delivery import Delivery, State
from pelton.core.outcome import ACKED
from tests.core.rig import Rig, event

DELIVERY = Delivery(event(0), Rig().engine, None, 1, State.QUEUED)


def test_nothing_asks_for_nothing() -> None:
    assert not Actions()


@pytest.mark.parametrize(
    "actions",
    [
        Actions(calls=[DELIVERY]),
        Actions(hops=[Hop(DELIVERY, ACKED)]),
        Actions(commit=Commit(0, "")),
        Actions(flow=Flow.PAUSE),
        Actions(flow=Flow.RESUME),
    ],
)
def test_anything_in_it_asks(actions: Actions) -> None:
    assert actions


def test_commits_are_compared_by_what_they_say() -> None:
    assert Commit(3, "map") == Commit(3, "map")
    assert Commit(3, "map") != Commit(3, "")
    assert Commit(3, "map") != Commit(4, "map")
