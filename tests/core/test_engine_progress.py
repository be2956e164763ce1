"""What the engine commits, what it holds back for the map's sake, and how it lets go."""

from __future__ import annotations

import pytest

from pelton.core import ackmap
from pelton.core.ackmap import AckMap
from pelton.core.actions import Flow
from pelton.core.breaker import PROBE_FIRST_MS
from pelton.core.delivery import State
from pelton.core.due import COMMIT_DELAY_MS
from pelton.core.outcome import ACKED, Outcome, Status
from pelton.subscription import Disposition
from tests.core.rig import Rig, outcome

WRONG = Outcome(
    Status.INVALID_ARGUMENT, "not what it claims to be", disposition=Disposition.DEAD_LETTER, local=True
)


# -- Reservation -----------------------------------------------------------------------------------------


def test_a_full_map_stalls_behind_the_head_and_goes_on_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ackmap, "PAYLOAD_BYTES_MAX", 20)
    monkeypatch.setattr(ackmap, "BITSET_OFFSETS_MAX", 160)
    rig = Rig(concurrency=10_000, attempts=100)
    rig.feed([None] * 1_000)
    rig.answer(0, "UNKNOWN")
    # Every second call hangs: the worst there is for the map.
    while odd := [offset for offset in rig.out if offset % 2]:
        rig.answers(*((offset, ACKED) for offset in odd))
    assert rig.engine.hungry
    assert len(rig.started) < 1_000
    # The head is due, and it may always start.
    while 0 not in rig.out:
        rig.wait_for_deadline()
    assert rig.tally.ledger_stalled_ms > 0
    started = len(rig.started)
    rig.answer(0)
    assert rig.engine.committed == 2
    rig.answer(2)
    assert len(rig.started) > started
    while rig.engine.open_events:
        rig.answer(min(rig.out))
    assert rig.tally.acked == 1_000


def test_a_stall_behind_a_waiting_head_is_no_lack_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ackmap, "PAYLOAD_BYTES_MAX", 4)
    monkeypatch.setattr(ackmap, "BITSET_OFFSETS_MAX", 32)
    rig = Rig(concurrency=10_000)
    rig.feed([None] * 100)
    rig.answer(0, "ABORTED", retry_after_ms=60_000.0)
    while rig.out:
        rig.answer(max(rig.out))
    assert rig.engine.hungry
    assert rig.engine.overdue_ms(rig.now_ms + 59_000) == 0
    assert rig.engine.overdue_ms(rig.now_ms + 61_000) == 1_000


# -- Commits ---------------------------------------------------------------------------------------------


def test_it_commits_at_once_when_nothing_is_open() -> None:
    rig = Rig()
    rig.feed([None] * 3)
    rig.answers((0, ACKED), (1, ACKED))
    assert rig.commits == []
    rig.answer(2)
    assert [(commit.offset, commit.metadata) for commit in rig.commits] == [(3, "")]
    assert rig.engine.next_deadline() == float("inf")


def test_it_commits_soon_while_something_is_open() -> None:
    rig = Rig()
    rig.feed([None] * 5)
    rig.answer(0)
    assert rig.engine.next_deadline() == COMMIT_DELAY_MS
    rig.wait(COMMIT_DELAY_MS / 2)
    rig.answer(1)
    assert rig.commits == []
    rig.wait(COMMIT_DELAY_MS / 2)
    assert [(commit.offset, commit.metadata) for commit in rig.commits] == [(2, "")]
    # Nothing new is settled: nothing is due.
    assert rig.engine.next_deadline() == float("inf")
    rig.wait(10 * COMMIT_DELAY_MS)
    assert len(rig.commits) == 1


def test_it_never_commits_past_a_gap() -> None:
    rig = Rig()
    rig.feed([None] * 5)
    for offset in (4, 2, 1):
        rig.answer(offset)
    rig.wait(COMMIT_DELAY_MS)
    (commit,) = rig.commits
    assert commit.offset == 0
    assert ackmap.decode(0, commit.metadata) == AckMap([(1, 3), (4, 5)])


def test_it_does_not_commit_the_same_twice() -> None:
    rig = Rig()
    rig.feed([None] * 2)
    rig.answer(0)
    rig.wait(COMMIT_DELAY_MS)
    # The drain took this one; the tick that was due finds the same again.
    rig.engine.commit()
    rig.engine.due.settled(rig.now_ms, more=False)
    rig.wait(COMMIT_DELAY_MS)
    assert len(rig.commits) == 1


def test_what_was_read_back_is_not_delivered_again() -> None:
    first = Rig()
    first.feed([None] * 6)
    for offset in (1, 2, 4):
        first.answer(offset)
    commit = first.engine.commit()
    second = Rig(committed=commit.offset, metadata=commit.metadata, log_end=6)
    second.feed([None] * 6, first=0)
    assert second.started == [0, 3, 5]
    assert second.tally.already_settled == 3
    assert second.engine.map_refused is None
    second.assert_accounts()


@pytest.mark.parametrize("metadata", ["", None])
def test_no_map_is_no_fault(metadata: str | None) -> None:
    rig = Rig(metadata=metadata)
    assert rig.engine.map_refused is None
    assert rig.tally.maps_refused == 0


def test_an_undecodable_map_counts_as_none_and_is_told() -> None:
    rig = Rig(metadata="written by another tool")
    assert rig.engine.map_refused is not None
    assert rig.tally.maps_refused == 1
    rig.feed([None] * 3)
    assert rig.started == [0, 1, 2]


@pytest.mark.parametrize(("log_end", "believed"), [(-1, True), (10, True), (9, False), (0, False)])
def test_a_map_is_not_believed_beyond_the_log(log_end: int, believed: bool) -> None:
    rig = Rig(metadata=ackmap.encode(0, [(5, 10)]), log_end=log_end)
    assert (rig.engine.map_refused is None) is believed
    assert rig.engine.commit().metadata == (ackmap.encode(0, [(5, 10)]) if believed else "")


# -- Letting go ------------------------------------------------------------------------------------------


def test_a_drain_starts_nothing_more() -> None:
    rig = Rig()
    rig.feed("aab")
    rig.engine.drain()
    assert rig.act().flow is Flow.PAUSE
    rig.answer(0)
    rig.answer(2, "UNKNOWN")
    rig.wait(60_000)
    assert rig.started == [0, 2]
    assert rig.engine.drained
    assert rig.engine.commit().offset == 1
    rig.engine.close()
    assert (rig.tally.acked, rig.tally.released) == (1, 2)
    rig.assert_accounts()


def test_a_drain_waits_for_calls_and_for_dead_letters() -> None:
    rig = Rig()
    rig.feed("ab")
    rig.engine.drain()
    rig.answer(0)
    assert not rig.engine.drained
    rig.answer(1, "INVALID_ARGUMENT")
    assert not rig.engine.drained
    rig.produced(1)
    assert rig.engine.drained


def test_closing_gives_everything_back_but_the_calls_that_are_out() -> None:
    rig = Rig(concurrency=4, attempts=100)
    rig.feed(["a", "a", "b", "c", "c", "d", "e"])
    rig.answer(0, "UNKNOWN")
    rig.answer(2, "INVALID_ARGUMENT")
    left = list(rig.out)
    rig.engine.close()
    rig.engine.close()
    assert rig.tally.released == 7
    assert rig.limits.process.events == rig.limits.process.bytes == rig.limits.subscription.events == 0
    assert rig.limits.slots.taken == len(left) == 3
    assert sorted(delivery.event.offset for delivery in rig.engine.in_flight()) == left
    assert not rig.act()
    assert rig.engine.next_deadline() == float("inf")
    freed = rig.engine.on_late_outcomes([(rig.out[offset], ACKED) for offset in left])
    assert sorted(freed) == sorted([b"c", b"d", b"e"])
    assert rig.limits.slots.taken == 0
    assert rig.engine.in_flight() == []
    # Told twice, it frees nothing twice.
    assert rig.engine.on_late_outcomes([(rig.out[left[0]], ACKED)]) == []
    assert rig.limits.slots.taken == 0
    assert rig.tally.late_outcomes == 4
    assert rig.tally.acked == 0
    rig.assert_accounts()


def test_a_second_outcome_of_an_attempt_is_refused() -> None:
    rig = Rig()
    rig.feed("a")
    delivery = rig.out[0]
    rig.answer(0)
    rig.engine.on_outcomes([(delivery, outcome("INTERNAL"))], rig.now_ms)
    assert (rig.tally.acked, rig.tally.late_outcomes) == (1, 1)
    assert rig.limits.slots.taken == 0


def test_a_key_whose_call_was_left_behind_stays_blocked_until_it_ends() -> None:
    rig = Rig(blocked_keys={b"a": 2})
    rig.feed("aba")
    assert rig.started == [1]
    assert rig.state(2) is State.PARKED
    rig.engine.unblock(b"a")
    rig.act()
    assert rig.started == [1]
    rig.engine.unblock(b"a")
    rig.act()
    assert rig.started == [1, 0]
    rig.answer(0)
    assert rig.started == [1, 0, 2]
    rig.assert_accounts()


def test_a_blocked_key_that_is_freed_before_its_events_come_is_free() -> None:
    rig = Rig(blocked_keys={b"a": 1})
    rig.engine.unblock(b"a")
    rig.feed("a")
    assert rig.started == [0]


def test_a_lane_that_is_its_own_is_not_unblocked_from_outside() -> None:
    rig = Rig()
    rig.feed("aa")
    rig.answer(0, "UNKNOWN")
    rig.engine.unblock(b"a")
    assert rig.act().calls == []
    rig.wait_for_deadline()
    assert rig.started == [0, 0]


def test_a_probe_that_is_left_behind_is_not_waited_for() -> None:
    one = Rig()
    other = Rig(limits=one.limits, breaker=one.breaker, tally=one.tally)
    one.feed("abcde")
    for offset in range(5):
        one.answer(offset, "UNAVAILABLE", retry_after_ms=0.0)
    one.wait(0)
    one.wait(PROBE_FIRST_MS)
    assert len(one.out) == 1
    other.now_ms = one.now_ms
    other.feed("x")
    assert other.out == {}
    one.engine.close()
    other.wait(1)
    assert list(other.out) == [0]
    other.answer(0)
    assert one.breaker.closed
