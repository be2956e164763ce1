"""The outbox: each dead letter is kept until the broker has it, and what was refused comes again."""

from __future__ import annotations

from pelton.core.actions import Hop
from pelton.core.delivery import Delivery, State
from pelton.core.outbox import RETRY_FIRST_MS, RETRY_MAX_MS, Outbox
from pelton.core.outcome import ACKED
from tests.core.rig import Rig, event

ENGINE = Rig().engine
FOR_EVER = float("inf")


def letter(offset: int) -> Hop:
    return Hop(Delivery(event(offset), ENGINE, None, 1, State.PRODUCING), ACKED)


def test_an_empty_one_waits_for_nothing() -> None:
    outbox = Outbox()
    assert len(outbox) == 0
    assert outbox.in_hand
    assert not outbox.resting
    assert outbox.again_ms == FOR_EVER
    assert outbox.take() == []
    assert not outbox.on_tick(1e12)


def test_it_keeps_a_letter_until_it_is_acknowledged() -> None:
    outbox, one, two = Outbox(), letter(0), letter(1)
    outbox.add(one)
    outbox.add(two)
    assert not outbox.in_hand
    assert outbox.take() == [one, two]
    assert outbox.take() == []
    assert not outbox.in_hand
    outbox.acknowledged(one.delivery)
    assert len(outbox) == 1
    outbox.acknowledged(two.delivery)
    assert len(outbox) == 0
    assert outbox.in_hand


def test_what_was_refused_comes_again_in_its_order() -> None:
    outbox, letters = Outbox(), [letter(offset) for offset in range(3)]
    for one in letters:
        outbox.add(one)
    outbox.take()
    for one in letters:
        outbox.not_taken(one.delivery, 1_000.0)
    assert outbox.resting
    assert outbox.in_hand
    assert len(outbox) == len(outbox.refused) == 3
    assert not outbox.on_tick(1_000 + RETRY_FIRST_MS - 1)
    assert outbox.on_tick(1_000 + RETRY_FIRST_MS)
    assert outbox.again_ms == FOR_EVER
    assert outbox.take() == letters
    # They stay refused until they are there.
    assert len(outbox.refused) == 3
    outbox.acknowledged(letters[0].delivery)
    assert outbox.refused == {letters[1].delivery, letters[2].delivery}


def test_the_wait_doubles_up_to_its_maximum_and_begins_again_after_a_success() -> None:
    outbox, one = Outbox(), letter(0)
    outbox.add(one)
    waits = []
    for _ in range(9):
        outbox.take()
        outbox.not_taken(one.delivery, 0.0)
        waits.append(outbox.again_ms)
        assert outbox.on_tick(outbox.again_ms)
    assert waits == [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]
    assert (waits[0], waits[-1]) == (RETRY_FIRST_MS, RETRY_MAX_MS)
    outbox.take()
    outbox.acknowledged(one.delivery)
    outbox.add(one)
    outbox.take()
    outbox.not_taken(one.delivery, 0.0)
    assert outbox.again_ms == RETRY_FIRST_MS


def test_several_refusals_at_once_are_one_wait() -> None:
    outbox, letters = Outbox(), [letter(offset) for offset in range(3)]
    for one in letters:
        outbox.add(one)
    outbox.take()
    for at, one in enumerate(letters):
        outbox.not_taken(one.delivery, at * 10.0)
    assert outbox.again_ms == RETRY_FIRST_MS


def test_cleared_it_is_empty() -> None:
    outbox, letters = Outbox(), [letter(offset) for offset in range(3)]
    for one in letters[:2]:
        outbox.add(one)
    outbox.take()
    outbox.not_taken(letters[0].delivery, 0.0)
    outbox.add(letters[2])
    outbox.clear()
    assert len(outbox) == len(outbox.refused) == 0
    assert outbox.again_ms == FOR_EVER
    assert outbox.in_hand
