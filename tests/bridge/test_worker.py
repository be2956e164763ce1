"""A worker as its supervisor sees it: its place, its phases, what its answers mean."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from pelton.bridge.worker import TRANSITIONS, Answers, Phase, Place, Worker


def test_a_place_is_told_on_a_command_line() -> None:
    place = Place(3, Path("/tmp/a:b/3.sock"))
    assert Place.parse(str(place)) == place


@pytest.mark.parametrize("text", ["", "3", "3:", "x:/tmp/3.sock"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"(is not NUMBER:SOCKET|invalid literal)"):
        Place.parse(text)


def test_a_reason_speaks_against_its_subscription_or_all() -> None:
    answers = Answers(not_ready=("orders: waiting for its place in the consumer group",))
    assert answers.against("orders")
    assert not answers.against("order")
    assert not answers.against("payments")
    assert Answers(not_ready=("does not answer",)).against("payments")
    assert Answers().against("orders"), "one that was never asked is not ready"
    assert not Answers(not_ready=()).against("orders")


def test_every_phase_is_reached_and_left() -> None:
    assert set(itertools.chain.from_iterable(TRANSITIONS.values())) == set(Phase) == TRANSITIONS.keys()
    assert all(TRANSITIONS.values())


async def test_a_worker_that_nobody_hears_is_not_ready(tmp_path: Path) -> None:
    worker = Worker(Place(0, tmp_path / "nobody.sock"), tmp_path / "pelton.yaml")
    await worker.ask()
    assert worker.answers == Answers((), ("does not answer",))
    worker.stop()  # before it was ever started: nothing to do
    assert worker.phase is Phase.ABSENT
