"""Whose turn it is, on deliveries made by hand."""

from __future__ import annotations

from unittest.mock import patch

from pelton.core import ackmap
from pelton.core.delivery import Delivery, State
from pelton.core.lane import Lane
from pelton.core.ledger import Ledger
from pelton.core.limits import Slots
from pelton.core.outcome import Status
from pelton.core.tiers import Arrival
from pelton.core.turns import Turns
from tests.core.rig import Rig, event, outcome
from tests.core.shop import Shop

ENGINE = Rig().engine


def deliveries(ledger: Ledger, *offsets: int) -> list[Delivery]:
    made = []
    for offset in offsets:
        ledger.admit(offset)
        made.append(Delivery(event(offset), ENGINE, None, 1, State.QUEUED))
    return made


def offsets(taken: list[Delivery]) -> list[int]:
    return [delivery.event.offset for delivery in taken]


def test_first_come_first_called_and_no_more_than_there_is_room() -> None:
    ledger, turns = Ledger(0), Turns()
    made = deliveries(ledger, 0, 1, 2, 3)
    for delivery in made:
        turns.add(delivery)
    assert offsets(turns.take(0, 9, 9, ledger, made[0])) == []
    assert offsets(turns.take(2, 9, 9, ledger, made[0])) == [0, 1]
    turns.add_first(made[1])
    assert offsets(turns.take(9, 9, 9, ledger, made[0])) == [1, 2, 3]
    assert not turns


def test_what_needs_no_call_takes_no_room() -> None:
    ledger, turns = Ledger(0), Turns()
    made = deliveries(ledger, 0, 1, 2)
    made[1].has_preset = True
    for delivery in made:
        turns.add(delivery)
    assert offsets(turns.take(2, 9, 9, ledger, made[0])) == [0, 1, 2]


def test_a_probe_is_an_event_that_was_never_called() -> None:
    ledger, turns = Ledger(0), Turns()
    made = deliveries(ledger, 0, 1, 2)
    made[0].attempt = 1
    made[1].has_preset, made[1].preset = True, outcome("INVALID_ARGUMENT")
    assert turns.untried is None
    for delivery in made:
        turns.add(delivery)
    assert turns.untried is made[2]
    turns.overtake(made[2])
    assert offsets(turns.take(9, 9, 9, ledger, made[0])) == [2, 0, 1]


def test_the_lowest_overtakes_where_the_map_has_no_room() -> None:
    with patch.object(ackmap, "PAYLOAD_BYTES_MAX", 1), patch.object(ackmap, "BITSET_OFFSETS_MAX", 1):
        ledger, turns = Ledger(0), Turns()
        low, high = deliveries(ledger, 0, 500)
        turns.add(high)
        # The lowest is out: only its end can help.
        low.state = State.CALLING
        assert turns.take(9, 9, 9, ledger, low) == []
        assert turns.stalled
        low.state = State.QUEUED
        turns.add(low)
        assert offsets(turns.take(9, 9, 9, ledger, low)) == [0]
        assert turns.stalled


def test_those_that_were_moved_here_are_taken_out_before_their_turn() -> None:
    ledger, turns = Ledger(0), Turns()
    made = deliveries(ledger, 0, 1, 2)
    arrival = Arrival(event(7), 2, first_attempted_ms=0.0, now_ms=0.0, due_ms=5.0, failure=outcome("UNKNOWN"))
    made[0].know(arrival)
    made[1].know(outcome("INVALID_ARGUMENT"))
    for delivery in made:
        turns.add(delivery)
    assert turns.take_arrived() == [made[0]]
    assert list(turns) == made[1:]
    assert turns.take_arrived() == []
    assert list(turns) == made[1:]


def laned(key: str, offset: int, ledger: Ledger, attempt: int = 1) -> Delivery:
    (delivery,) = deliveries(ledger, offset)
    delivery.lane = Lane(key.encode(), delivery)
    delivery.attempt = attempt
    return delivery


def test_costly_ones_get_their_share_and_what_nobody_else_wants() -> None:
    ledger, turns = Ledger(0), Turns()
    fresh = deliveries(ledger, 0, 1, 2, 3)
    for offset in range(4, 8):
        turns.add_costly(laned(str(offset), offset, ledger), 10.0)
    for delivery in fresh:
        turns.add(delivery)
    assert offsets(turns.take(3, 1, 3, ledger, fresh[0])) == [4, 0, 1]
    # Nobody fresh is left after these: the costly ones have what is kept for them in all.
    assert offsets(turns.take(9, 1, 3, ledger, fresh[0])) == [5, 2, 3, 6, 7]
    assert {delivery.event.offset for delivery in turns.costly_out} == {4, 5, 6, 7}
    assert not turns


def test_costly_ones_come_by_the_time_their_key_has_used() -> None:
    ledger, turns = Ledger(0), Turns()
    slow, quick = laned("slow", 0, ledger), laned("quick", 1, ledger)
    order = []
    turns.add_costly(slow, 1_000.0)
    turns.add_costly(quick, 100.0)
    for _ in range(12):
        (next_one,) = turns.take(1, 1, 1, ledger, slow)
        ledger.unreserve()
        order.append(next_one.event.offset)
        turns.add_costly(next_one, 1_000.0 if next_one is slow else 100.0)
    # In the time of one call of the slow key the quick one has ten.
    assert order.count(0) == 1
    # Who comes new does not overtake those who have waited.
    turns.add_costly(laned("new", 2, ledger), 5_000.0)
    taken = [offsets(turns.take(1, 1, 1, ledger, slow)) for _ in range(3)]
    assert sorted(taken) == [[0], [1], [2]]
    assert taken[-1] == [2]


def test_a_key_is_costly_until_a_call_of_it_is_well() -> None:
    turns = Turns()
    delivery = laned("k", 0, Ledger(0))
    lane = delivery.lane
    assert lane is not None
    turns.add_next(lane, 0.0, well=True)
    assert turns.fresh
    turns.clear()
    turns.add_next(lane, 900.0, well=True)
    assert not turns.fresh
    assert lane.used_ms == 900.0
    turns.clear()
    turns.add_next(lane, 0.0, well=False)
    assert not turns.fresh
    turns.clear()
    turns.add_next(lane, 0.0, well=True)
    assert turns.fresh
    assert not lane.costly


def test_keys_that_hang_leave_the_calls_to_the_others() -> None:
    """Half of the keys take a second a call, and have as much to do as all others."""
    slow = {b"%d" % at for at in range(0, 40, 2)}
    run = Shop(
        Rig(concurrency=10),
        lambda now_ms, key, out: (1_000.0, Status.OK) if key in slow else (5.0, Status.OK),
        lambda at: b"%d" % (at % 40),
        1_600,
    )
    quick_ended: list[float] = []
    run.on_ended = lambda key, started_ms, took_ms: (
        None if key in slow else quick_ended.append(started_ms + took_ms)
    )
    run.run(1_000_000)
    assert run.rig.tally.acked == 1_600
    # 800 calls of 5 ms on seven of ten slots, after each slow key had one call as if it were quick. First
    # come first called, they would have had as many turns as the slow ones: 80 s.
    assert max(quick_ended) < 8_000


def test_keys_that_fail_leave_the_calls_to_the_others() -> None:
    bad = {b"%d" % at for at in range(0, 40, 2)}
    run = Shop(
        Rig(concurrency=10, attempts=1_000, backoff_max_ms=100.0, jitter=lambda: 0.0),
        lambda now_ms, key, out: (50.0, Status.UNKNOWN) if key in bad else (5.0, Status.OK),
        lambda at: b"%d" % (at % 40),
        400,
    )
    most = 0

    def watch(key: bytes, started_ms: float, took_ms: float) -> None:
        nonlocal most
        most = max(most, run.rig.limits.slots.costly)

    run.on_ended = watch
    run.run(5_000)
    assert run.rig.tally.acked == 200
    assert most == 7


def test_a_share_of_the_calls_is_kept_for_fresh_ones() -> None:
    slots = Slots(10)
    assert (slots.costly_share, slots.costly_idle_share) == (3, 7)
    slots.fresh_wanted = True
    assert slots.costly_idle_share == 3
    slots.take(5, 2)
    assert slots.costly_share == 1
    slots.give(5, 2)
    assert (Slots(1).costly_share, Slots(1).costly_idle_share) == (1, 1)


def test_what_is_usual_follows_the_quick_calls() -> None:
    slots = Slots(10)
    assert slots.slow_ms == 100.0
    for _ in range(50):
        slots.took(100.0)
    assert slots.slow_ms == 800.0
    slots.took(60_000.0)
    assert slots.slow_ms < 900.0
