"""Parked by offset alone: what does not fit is forgotten, read again when its key is free, and in order."""

from __future__ import annotations

from typing import Any

import pytest

from pelton.core import shelf
from pelton.core.actions import Flow
from pelton.core.delivery import State
from pelton.core.outcome import Status
from pelton.subscription import Intake, RetryPolicy
from tests.core.rig import Rig, event, outcome

BACKOFF_MS = RetryPolicy().backoff_min_ms
KEPT = 10


def behind_a_waiting_key(followers: int, **changes: Any) -> Rig:
    """Event 0 of `hot` waits for its second attempt, with so many behind it and room for `KEPT`."""
    rig = Rig(intake=Intake(parked_events_max=KEPT), attempts=100, **changes)
    rig.feed(["hot"])
    rig.answer(0, "UNKNOWN")
    rig.feed(["hot"] * followers)
    return rig


def read_all(rig: Rig) -> None:
    rig.read_again(*(event(offset, "hot") for offset in rig.asked[-1]))


def test_a_key_that_waits_stops_nobody_else() -> None:
    rig = behind_a_waiting_key(5_000)
    assert rig.engine.shelved == 5_000
    assert rig.engine.parked == 0
    rig.feed([f"key-{number}" for number in range(100)])
    assert len(rig.out) == 100
    assert rig.flows == []
    assert rig.asked == []
    rig.assert_accounts()


def test_they_come_back_in_order_once_their_key_is_free() -> None:
    rig = behind_a_waiting_key(1_000)
    rig.wait(BACKOFF_MS)
    rig.answer(0)
    assert rig.asked == [tuple(range(1, 1 + shelf.LANE_EVENTS_MAX))]
    while rig.engine.open_events:
        if rig.engine._shelf.asked:
            read_all(rig)
        rig.answer(min(rig.out))
        rig.assert_accounts()
    assert rig.started == [0, *range(1_001)]
    assert rig.tally.acked == rig.tally.consumed == 1_001
    assert rig.engine.commit().offset == 1_001
    assert len(rig.asked) == 1_000 / shelf.LANE_EVENTS_MAX


def test_what_comes_meanwhile_stands_behind_them() -> None:
    rig = behind_a_waiting_key(20)
    rig.wait(BACKOFF_MS)
    rig.answer(0)
    rig.feed(["hot", "hot"])
    assert rig.engine.shelved == 22
    read_all(rig)
    assert rig.engine.shelved == 2
    for offset in range(1, 21):
        rig.answer(offset)
    assert rig.asked[-1] == (21, 22)
    read_all(rig)
    rig.feed(["hot"])
    for offset in (21, 22, 23):
        rig.answer(offset)
    assert rig.engine.open_events == 0
    rig.assert_accounts()


def test_an_answer_that_ends_early_is_asked_for_again() -> None:
    rig = behind_a_waiting_key(20)
    rig.wait(BACKOFF_MS)
    rig.answer(0)
    rig.read_again(*(event(offset, "hot") for offset in range(1, 6)), through=5)
    assert rig.engine.queued + rig.engine.calling == 5
    assert rig.asked[-1] == tuple(range(6, 21))
    rig.read_again(through=5)
    assert rig.asked[-1] == tuple(range(6, 21))
    rig.assert_accounts()


def test_an_answer_to_another_question_says_nothing() -> None:
    rig = behind_a_waiting_key(20)
    rig.wait(BACKOFF_MS)
    rig.answer(0)
    assert rig.engine.on_read_again((1, 2), [event(1, "hot"), event(2, "hot")], 2, rig.now_ms) == 0
    assert rig.engine.shelved == 20
    read_all(rig)
    asked = rig.asked[-1]
    assert rig.engine.on_read_again(asked, [event(offset, "hot") for offset in asked], 20, rig.now_ms) == 0
    rig.assert_accounts()


def test_what_the_log_has_lost_is_lost_in_its_turn_and_counted() -> None:
    rig = behind_a_waiting_key(20)
    rig.wait(BACKOFF_MS)
    rig.answer(0)
    asked = rig.asked[-1]
    there = [event(offset, "hot") for offset in asked if offset > 12]
    assert rig.engine.on_read_again(asked, there, asked[-1], rig.now_ms) == 12
    rig.act()
    # Those in front of it are gone: 13 is the first that can be called.
    assert list(rig.out) == [13]
    assert rig.tally.lost == 12
    assert rig.engine.committed == 13
    for offset in range(13, 21):
        rig.answer(offset)
    assert rig.tally.settled == rig.tally.consumed == 21
    rig.assert_accounts()


def test_followers_that_wait_again_go_in_front_of_the_rest() -> None:
    """The key fails anew while its next events are being read: the order stays."""
    rig = behind_a_waiting_key(400)
    rig.wait(BACKOFF_MS)
    rig.answer(0)
    read_all(rig)
    # Until few are left in memory, and the next ones are being read.
    while rig.engine._shelf.asked == ():
        rig.answer(min(rig.out))
    head = min(rig.out)
    rig.answer(head, "UNKNOWN")
    rig.act()
    # Its followers were forgotten too, and what comes back now lies behind them.
    assert rig.engine.parked == 0
    assert rig.engine.shelved == 400 - head
    read_all(rig)
    assert rig.engine.shelved == 400 - head
    rig.wait(10 * BACKOFF_MS)
    while rig.engine.open_events:
        if rig.out:
            rig.answer(min(rig.out))
        else:
            read_all(rig)
        rig.assert_accounts()
    assert rig.started == [0, *range(head + 1), *range(head, 401)]


def test_behind_a_letter_they_are_forgotten_too() -> None:
    rig = Rig(intake=Intake(parked_events_max=KEPT))
    rig.feed(["hot"])
    rig.answer(0, "INVALID_ARGUMENT")
    rig.feed(["hot"] * 20)
    assert (rig.engine.parked, rig.engine.shelved) == (0, 20)
    rig.feed([None] * 20)
    assert rig.flows == []
    rig.assert_accounts()


def test_a_key_that_goes_on_failing_has_one_read_however_much_is_parked() -> None:
    rig = Rig(intake=Intake(parked_events_max=KEPT), attempts=100)
    rig.feed(["hot"])
    rig.answer(0, "INVALID_ARGUMENT")
    rig.feed(["hot"] * 20)
    rig.feed(["cold"] * 8)
    rig.answer(21, "UNKNOWN")
    assert (rig.engine.shelved, rig.engine.parked) == (20, 7)
    rig.produced(0)
    assert rig.asked == [(1,)]


def test_of_keys_that_go_on_failing_no_more_are_read_than_may_be_parked() -> None:
    """Or what is read would be forgotten again at once, and read again after the next letter."""
    keys = [f"key-{number}" for number in range(4)]
    rig = Rig(intake=Intake(parked_events_max=KEPT))
    rig.feed(keys)
    for offset in range(4):
        rig.answer(offset, "INVALID_ARGUMENT")
    rig.feed(keys * 50)
    assert rig.engine.shelved == 200
    read = 0
    while rig.engine.open_events:
        if rig.engine._shelf.asked:
            asked = rig.asked[-1]
            assert len(asked) <= KEPT
            read += len(asked)
            rig.read_again(*(event(offset, keys[offset % 4]) for offset in asked))
        elif rig.out:
            rig.answer(min(rig.out), "INVALID_ARGUMENT")
        else:
            rig.produced(min(rig.letters))
        assert rig.engine.parked < KEPT
        rig.assert_accounts()
    assert rig.flows == []
    assert read == 200, "some were read more than once"
    assert rig.tally.dead_lettered == 204


@pytest.mark.interpreted
def test_the_shelf_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "SHELVED_MAX", 100)
    rig = behind_a_waiting_key(99)
    assert rig.flows == []
    rig.feed(["hot"])
    assert rig.flows == [Flow.PAUSE]
    rig.wait(BACKOFF_MS)
    rig.answer(0)
    read_all(rig)
    assert rig.flows == [Flow.PAUSE, Flow.RESUME]


def test_where_memory_is_crowded_only_the_lowest_is_read() -> None:
    rig = behind_a_waiting_key(20, concurrency=1)
    rig.engine._intake.active.events_max = 5
    rig.wait(BACKOFF_MS)
    rig.feed([None] * 5)
    rig.answer(0)
    # Five that may be called are there; the committed offset waits for this one alone.
    assert rig.asked == [(1,)]
    read_all(rig)
    assert rig.state(1) in (State.QUEUED, State.CALLING)
    rig.assert_accounts()


def test_what_is_shelved_is_released_with_the_partition() -> None:
    rig = behind_a_waiting_key(50)
    assert rig.engine.commit().offset == 0
    rig.engine.close()
    assert rig.tally.released == 51
    assert rig.tally.holds(0)
    assert rig.engine.shelved == 0


def test_a_drain_reads_nothing_again() -> None:
    rig = behind_a_waiting_key(50)
    rig.wait(BACKOFF_MS)
    rig.engine.drain()
    rig.answer(0)
    assert rig.asked == []
    assert rig.engine.drained


def test_behind_a_call_of_an_earlier_assignment_they_are_forgotten_too() -> None:
    rig = Rig(intake=Intake(parked_events_max=KEPT), blocked_keys={b"hot": 1})
    rig.feed(["hot"] * 20)
    assert rig.engine.shelved == 19
    rig.engine.unblock(b"hot")
    rig.act()
    rig.answer(0)
    read_all(rig)
    for offset in range(1, 20):
        rig.answer(offset)
    assert rig.engine.open_events == 0


def test_a_partition_that_only_reads_again_is_overdue_when_it_takes_too_long() -> None:
    rig = behind_a_waiting_key(20)
    rig.wait(BACKOFF_MS)
    rig.answer(0)
    assert rig.engine.overdue_ms(rig.now_ms + shelf.READ_AGAIN_MS) == 0
    assert rig.engine.overdue_ms(rig.now_ms + shelf.READ_AGAIN_MS + 5) == 5


def test_intentions_are_asked_for_anew() -> None:
    rig = behind_a_waiting_key(KEPT)
    rig.wait(BACKOFF_MS)
    rig.answer(0)
    asked = rig.asked[-1]
    events = [event(offset, "hot") for offset in asked]
    rig.engine.on_read_again(asked, events, asked[-1], rig.now_ms, {1: None, 2: outcome(Status.DATA_LOSS)})
    rig.act()
    assert rig.tally.filtered == 1
    assert list(rig.letters) == [2]
