"""The delivery's states: the table is all it may do, and the diagram is drawn from it."""

from __future__ import annotations

import itertools

import pytest

from pelton.core.delivery import ENDS, OPEN, TRANSITIONS, Delivery, State
from scripts.draw_states import draw
from tests.core.rig import Rig, event


def delivery_in(state: State) -> Delivery:
    return Delivery(event(3), Rig().engine, None, 1, state)


def test_the_states_are_the_open_ones_the_ends_and_released() -> None:
    assert set(State) == OPEN | ENDS | {State.RELEASED}
    assert not OPEN & ENDS
    assert State.RELEASED not in OPEN | ENDS
    assert len(ENDS) == len(OPEN) == 6


def test_the_table_has_every_state_and_leads_out_of_open_ones_only() -> None:
    assert set(TRANSITIONS) == set(State)
    for state, after in TRANSITIONS.items():
        assert bool(after) == (state in OPEN)
        assert state not in after
        if state in OPEN:
            assert State.RELEASED in after


def test_only_a_call_acks_and_only_the_broker_dead_letters() -> None:
    def before(state: State) -> set[State]:
        return {other for other in State if state in TRANSITIONS[other]}

    # (PRODUCING: where the key is told of it, in one transaction with the offset that it passes.)
    assert before(State.ACKED) == before(State.DROPPED) == {State.CALLING, State.PRODUCING}
    assert before(State.WAITING) == {State.CALLING, State.QUEUED}
    assert before(State.DEAD_LETTERED) == before(State.MOVED) == {State.PRODUCING}
    assert before(State.CALLING) == before(State.FILTERED) == before(State.LOST) == {State.QUEUED}
    assert before(State.PARKED) == {State.QUEUED, State.SHELVED}
    assert before(State.SHELVED) == {State.PARKED}


@pytest.mark.parametrize(("state", "after"), list(itertools.product(State, State)))
def test_a_delivery_goes_where_the_table_says_and_nowhere_else(state: State, after: State) -> None:
    delivery = delivery_in(state)
    if after in TRANSITIONS[state]:
        delivery.to(after)
        assert delivery.state is after
    else:
        with pytest.raises(AssertionError, match=f"notify/events/0/3: {state.name} -> {after.name}"):
            delivery.to(after)
        assert delivery.state is state


def test_a_new_delivery_has_no_history() -> None:
    delivery = delivery_in(State.QUEUED)
    assert (delivery.attempt, delivery.burned, delivery.unburned) == (0, 0, 0)
    assert (delivery.first_attempted_ms, delivery.last_failed_ms, delivery.last_failure) == (-1, -1, None)
    assert not delivery.has_preset
    assert repr(delivery) == "<Delivery notify/events/0/3 queued attempt=0 burned=0>"


def test_the_diagram_has_every_arrow_of_the_table() -> None:
    drawn = {line.strip() for line in draw().splitlines() if "-->" in line and "[*]" not in line}
    assert drawn == {
        f"{state.value} --> {after.value}" for state, into in TRANSITIONS.items() for after in into
    }
    assert draw().startswith("stateDiagram-v2\n    [*] --> queued\n")
