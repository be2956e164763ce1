"""The engine: order, retries, dead letters, the drain, limits and commits of one partition, step by step."""

from __future__ import annotations

import pytest

from pelton.core import ackmap
from pelton.core.ackmap import AckMap
from pelton.core.actions import Flow
from pelton.core.breaker import PROBE_FIRST_MS, Health
from pelton.core.delivery import State
from pelton.core.engine import COMMIT_DELAY_MS
from pelton.core.limits import Bound, Limits, Slots
from pelton.core.outbox import RETRY_FIRST_MS, RETRY_MAX_MS
from pelton.core.outcome import ACKED, CANCELLED_BY_US, Outcome, Status, Verdict
from pelton.core.retry import RETRY_AFTER_MAX_MS, UNWELL_BACKOFF_MAX_MS
from pelton.core.suspects import SUSPECT_KEYS_MAX
from pelton.subscription import Disposition, Intake, OnExhausted, Ordering
from tests.core.rig import Rig, event, outcome

WRONG = Outcome(
    Status.INVALID_ARGUMENT, "not what it claims to be", disposition=Disposition.DEAD_LETTER, local=True
)


# -- Order -------------------------------------------------------------------------------------------------


def test_a_key_goes_one_at_a_time_and_others_go_on() -> None:
    rig = Rig()
    rig.feed("abab")
    assert rig.started == [0, 1]
    rig.answer(1)
    assert rig.started == [0, 1, 3]
    rig.answer(0)
    assert rig.started == [0, 1, 3, 2]
    rig.assert_accounts()


def test_a_null_key_is_unordered_and_an_empty_one_is_a_key() -> None:
    rig = Rig()
    rig.feed([None, None, b"", b"", None])
    assert rig.started == [0, 1, 2, 4]
    rig.answer(2)
    assert rig.started == [0, 1, 2, 4, 3]


def test_a_partition_in_order_goes_one_at_a_time() -> None:
    rig = Rig(ordering=Ordering.PARTITION)
    rig.feed([None, "a", b"", None])
    for offset in range(4):
        assert rig.started == list(range(offset + 1))
        rig.answer(offset)
    assert rig.engine.open_events == 0


def test_without_order_all_start_at_once() -> None:
    rig = Rig(ordering=Ordering.NONE)
    rig.feed("aaaa")
    assert rig.started == [0, 1, 2, 3]


def test_a_retry_keeps_its_lane() -> None:
    rig = Rig()
    rig.feed("ab" + "a")
    rig.answer(0, "UNKNOWN")
    rig.answer(1)
    assert rig.started == [0, 1]
    assert rig.state(0) is State.WAITING
    assert rig.state(2) is State.PARKED
    rig.wait_for_deadline()
    assert rig.started == [0, 1, 0]
    rig.answer(0)
    assert rig.started == [0, 1, 0, 2]


def test_a_dead_letter_keeps_its_lane_until_the_broker_has_it() -> None:
    rig = Rig()
    rig.feed("aa")
    rig.answer(0, "INVALID_ARGUMENT")
    assert rig.started == [0]
    assert rig.state(0) is State.PRODUCING
    assert rig.engine.committed == 0
    rig.wait(10 * COMMIT_DELAY_MS)
    assert rig.commits == []
    rig.produced(0)
    assert rig.started == [0, 1]
    assert rig.tally.dead_lettered == 1


def test_calls_stay_within_the_slots_and_within_what_was_asked() -> None:
    rig = Rig(concurrency=3)
    rig.engine.on_events([event(at) for at in range(10)], 0)
    assert len(rig.act(calls_max=2).calls) == 2
    assert rig.engine.hungry
    assert len(rig.act().calls) == 1
    assert rig.act().calls == []
    rig.answer(0)
    assert rig.started == [0, 1, 2, 3]
    assert rig.limits.slots.taken == 3


# -- Retry -------------------------------------------------------------------------------------------------


def fail_for_ever(rig: Rig, offset: int, status: str, *, attempts_max: int = 50, **more: object) -> int:
    """Answers `status` to every attempt until it is set aside. Returns how many there were."""
    for attempt in range(1, attempts_max + 1):
        assert rig.out[offset].attempt == attempt
        rig.answer(offset, status, **more)
        if offset in rig.letters:
            return attempt
        while offset not in rig.out:
            rig.wait_for_deadline()
    return attempts_max


@pytest.mark.parametrize("attempts", [1, 2, 8])
def test_what_may_fail_is_tried_as_often_as_the_policy_says(attempts: int) -> None:
    rig = Rig(attempts=attempts)
    rig.feed("a")
    assert fail_for_ever(rig, 0, "UNKNOWN") == attempts
    letter = rig.letters[0]
    assert letter.outcome.status is Status.UNKNOWN
    assert letter.delivery.burned == attempts
    assert letter.delivery.last_failure is letter.outcome
    rig.assert_accounts()


def test_backoff_doubles_with_jitter_between_its_bounds() -> None:
    rig = Rig(attempts=12, backoff_min_ms=100.0, backoff_max_ms=1_000.0)
    rig.feed("a")
    waits = []
    for _ in range(6):
        rig.answer(0, "UNKNOWN")
        before = rig.now_ms
        while 0 not in rig.out:
            rig.wait_for_deadline()
        waits.append(rig.now_ms - before)
    assert waits == [100, 200, 400, 800, 1_000, 1_000]


def test_the_wait_that_the_target_asks_for_is_kept() -> None:
    rig = Rig(backoff_max_ms=50.0)
    rig.feed("a")
    rig.answer(0, "UNAVAILABLE", retry_after_ms=7_000.0)
    rig.wait(6_999)
    assert rig.out == {}
    rig.wait(1)
    assert 0 in rig.out


def test_the_wait_that_the_target_asks_for_has_a_bound() -> None:
    rig = Rig()
    rig.feed("a")
    rig.answer(0, "ABORTED", retry_after_ms=1e12)
    rig.wait(RETRY_AFTER_MAX_MS)
    assert 0 in rig.out


def test_the_last_attempt_is_the_last_when_the_target_says_so() -> None:
    for status in ("UNKNOWN", "UNAVAILABLE", "UNIMPLEMENTED"):
        rig = Rig()
        rig.feed("a")
        rig.answer(0, status, final=True)
        assert 0 in rig.letters, status


def test_a_retry_verdict_with_a_wait() -> None:
    rig = Rig()
    rig.feed("a")
    rig.answer(0, "OK", verdict=Verdict.RETRY, retry_after_ms=250.0)
    assert rig.delivery(0).burned == 1
    rig.wait(250)
    assert 0 in rig.out


@pytest.mark.parametrize(
    ("verdict", "status"), [(Verdict.ACK, "INTERNAL"), (Verdict.DROP, "OK"), (Verdict.DEAD_LETTER, "OK")]
)
def test_the_targets_verdict_wins_over_the_status(verdict: Verdict, status: str) -> None:
    rig = Rig()
    rig.feed("a")
    rig.answer(0, status, verdict=verdict)
    if verdict is Verdict.DEAD_LETTER:
        rig.produced(0)
    assert (rig.tally.acked, rig.tally.dropped, rig.tally.dead_lettered) == (
        verdict is Verdict.ACK,
        verdict is Verdict.DROP,
        verdict is Verdict.DEAD_LETTER,
    )


def test_what_is_held_is_tried_for_ever() -> None:
    rig = Rig(attempts=2, on_exhausted=OnExhausted.HOLD)
    rig.feed("aab")
    rig.answer(2)
    assert fail_for_ever(rig, 0, "UNKNOWN", attempts_max=20) == 20
    assert rig.engine.suspect_keys == 0
    assert rig.engine.committed == 0
    rig.answer(0)
    assert 1 in rig.out


def test_what_is_held_is_set_aside_if_it_is_wrong() -> None:
    # To hold is for what may succeed later; what never will would hold its key for ever.
    rig = Rig(on_exhausted=OnExhausted.HOLD)
    rig.feed("a")
    rig.answer(0, "INVALID_ARGUMENT")
    assert 0 in rig.letters


def test_it_is_given_up_by_its_age() -> None:
    rig = Rig(attempts=1_000, give_up_after_ms=10_000.0, backoff_max_ms=1_000.0)
    rig.feed("a")
    fail_for_ever(rig, 0, "UNKNOWN")
    assert 10_000 <= rig.now_ms <= 11_000
    assert rig.engine.suspect_keys == 1


def test_the_breakers_open_time_makes_nothing_older() -> None:
    rig = Rig(give_up_after_ms=5_000.0)
    rig.feed("abcdef")
    for offset in range(5):
        rig.answer(offset, "UNAVAILABLE")
    assert not rig.breaker.closed
    rig.out.pop(5)
    while rig.now_ms < 60_000:
        rig.wait_for_deadline()
        for offset in list(rig.out):
            rig.answer(offset, "UNAVAILABLE")
    assert rig.letters == {}
    while not rig.out:
        rig.wait_for_deadline()
    rig.answer(next(iter(rig.out)))
    assert rig.breaker.closed
    # It is open no more, so from here on they age.
    for _ in range(100):
        for offset in list(rig.out):
            rig.answer(offset, "ABORTED")
        if rig.letters:
            break
        rig.wait_for_deadline()
    assert rig.letters


# -- Suspect keys ------------------------------------------------------------------------------------------


def test_a_key_that_exhausted_its_attempts_is_suspect() -> None:
    rig = Rig(attempts=3)
    rig.feed("aaab")
    assert fail_for_ever(rig, 0, "UNKNOWN") == 3
    rig.produced(0)
    assert rig.engine.suspect_keys == 1
    # One attempt each from here on,
    assert fail_for_ever(rig, 1, "UNKNOWN") == 1
    rig.produced(1)
    # until one succeeds.
    rig.answer(2)
    assert rig.engine.suspect_keys == 0
    rig.feed("a")
    assert fail_for_ever(rig, 4, "UNKNOWN") == 3
    rig.answer(3)
    rig.produced(4)
    rig.assert_accounts()


def test_a_suspect_key_is_not_burned_by_an_outage() -> None:
    rig = Rig(attempts=1)
    rig.feed("aa")
    rig.answer(0, "UNKNOWN")
    rig.produced(0)
    assert fail_for_ever(rig, 1, "UNAVAILABLE", attempts_max=10) == 10
    assert rig.delivery(1).burned == 0


def test_a_wrong_event_makes_no_key_suspect() -> None:
    rig = Rig()
    rig.feed("aa")
    rig.answer(0, "INVALID_ARGUMENT")
    rig.produced(0)
    assert rig.engine.suspect_keys == 0


def test_a_drop_does_not_clear_a_suspect_key() -> None:
    rig = Rig(attempts=1)
    rig.feed("aa")
    rig.answer(0, "UNKNOWN")
    rig.produced(0)
    rig.answer(1, "OK", verdict=Verdict.DROP)
    assert rig.engine.suspect_keys == 1


def test_a_null_key_is_never_suspect_and_an_empty_one_may_be() -> None:
    rig = Rig(attempts=1)
    rig.feed([None, b""])
    rig.answer(0, "UNKNOWN")
    assert rig.engine.suspect_keys == 0
    rig.answer(1, "UNKNOWN")
    assert rig.engine.suspect_keys == 1


def test_suspect_keys_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SUSPECT_KEYS_MAX == 10_000
    monkeypatch.setattr("pelton.core.suspects.SUSPECT_KEYS_MAX", 2)
    rig = Rig(attempts=1)
    rig.feed("abc")
    for offset in range(3):
        rig.answer(offset, "UNKNOWN")
    assert rig.engine.suspect_keys == 2
    for offset in range(3):
        rig.produced(offset)
    # The oldest is forgotten: it gets its full attempts again, which is one here; what shows is the count.
    rig.feed("a")
    rig.answer(3)
    assert rig.engine.suspect_keys == 2


# -- Outage, hang, cancellation ------------------------------------------------------------------------------


def test_an_outage_of_any_length_burns_nothing() -> None:
    rig = Rig(attempts=2, give_up_after_ms=float("inf"))
    rig.feed([None] * 20)
    while rig.now_ms < 3_600_000:
        for offset in list(rig.out):
            rig.answer(offset, "UNAVAILABLE")
        rig.wait_for_deadline()
    assert all(delivery.burned == 0 for delivery in rig.engine.deliveries())
    assert rig.letters == {}
    while rig.engine.open_events:
        for offset in list(rig.out):
            rig.answer(offset)
        if rig.engine.open_events and not rig.out:
            rig.wait_for_deadline()
    assert rig.tally.acked == 20
    assert rig.now_ms < 3_600_000 + UNWELL_BACKOFF_MAX_MS * 2


def test_answers_to_calls_from_before_an_outage_prove_nothing() -> None:
    # At its boundary some calls that had started before still succeed, after others have failed.
    rig = Rig(attempts=2)
    rig.feed([None] * 10)
    rig.wait(5)
    for offset in range(4):
        rig.answer(offset, "UNAVAILABLE")
    rig.wait(1)
    for offset in range(4, 10):
        rig.answer(offset)
    for _ in range(10):
        rig.wait_for_deadline()
        for offset in list(rig.out):
            rig.answer(offset, "UNAVAILABLE")
    assert [delivery.burned for delivery in rig.engine.deliveries()] == [0] * 4


def test_an_event_that_hangs_burns_one_each_time() -> None:
    rig = Rig(attempts=4)
    rig.feed("a")
    burned = []
    for attempt in range(1, 5):
        rig.wait(10_000)
        assert rig.out[0].attempt == attempt
        delivery = rig.out[0]
        rig.answer(0, "DEADLINE_EXCEEDED")
        burned.append((delivery.burned, delivery.unburned))
        if 0 in rig.letters:
            break
        # Another event of the target is called and taken meanwhile.
        rig.wait(1)
        rig.feed("b")
        rig.answer(max(rig.out))
        while 0 not in rig.out:
            rig.wait_for_deadline()
    # The first cannot be told from an outage; the second shows that it was none, and both count.
    assert burned == [(0, 1), (2, 0), (3, 0), (4, 0)]
    assert 0 in rig.letters


def test_what_we_cancel_burns_nothing_and_says_nothing() -> None:
    rig = Rig(attempts=1)
    rig.feed("a")
    for _ in range(10):
        actions = rig.answer(0, CANCELLED_BY_US)
        assert [delivery.event.offset for delivery in actions.calls] == [0]
    assert rig.delivery(0).burned == 0
    assert rig.delivery(0).last_failure is None
    assert rig.breaker.closed
    assert rig.tally.retries == 0


def test_a_miswired_target_burns_nothing_and_pauses() -> None:
    rig = Rig(attempts=2)
    rig.feed([None] * 6)
    for offset in range(5):
        rig.answer(offset, "UNIMPLEMENTED")
    assert rig.breaker.health is Health.MISWIRED
    assert rig.flows == [Flow.PAUSE]
    rig.answer(5, "UNIMPLEMENTED")
    for _ in range(20):
        rig.wait_for_deadline()
        for offset in list(rig.out):
            rig.answer(offset, "UNIMPLEMENTED")
    assert rig.letters == {}
    assert all(delivery.burned == 0 for delivery in rig.engine.deliveries())


def test_a_single_miswired_answer_among_successes_may_fail() -> None:
    rig = Rig(attempts=2)
    rig.feed("ab")
    rig.answer(1)
    assert fail_for_ever(rig, 0, "PERMISSION_DENIED") == 2
    assert rig.breaker.closed


# -- Dead letters --------------------------------------------------------------------------------------------


def test_a_dead_letter_that_is_refused_is_produced_again() -> None:
    rig = Rig()
    rig.feed("ab")
    rig.answer(0, "INVALID_ARGUMENT")
    waits = []
    for _ in range(8):
        rig.produced(0, "no leader")
        assert rig.letters == {}
        before = rig.now_ms
        rig.wait_for_deadline()
        waits.append(rig.now_ms - before)
        assert 0 in rig.letters
    assert waits == [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]
    assert (waits[0], waits[-1]) == (RETRY_FIRST_MS, RETRY_MAX_MS)
    rig.produced(0)
    assert rig.tally.dead_lettered == 1
    assert rig.tally.dead_letters_failed == 8
    rig.answer(1)
    rig.feed("c")
    rig.answer(2, "INVALID_ARGUMENT")
    rig.produced(2, "no leader")
    before = rig.now_ms
    rig.wait_for_deadline()
    assert rig.now_ms - before == RETRY_FIRST_MS


def test_nothing_new_starts_until_the_broker_takes_dead_letters_again() -> None:
    rig = Rig(concurrency=2)
    rig.feed("abcd")
    rig.answer(0, "INVALID_ARGUMENT")
    rig.answer(1, "INVALID_ARGUMENT")
    assert rig.started == [0, 1, 2, 3]
    rig.feed("ef")
    rig.produced(0, "no leader")
    assert rig.flows == [Flow.PAUSE]
    assert rig.engine.unwritten == 1
    rig.answer(2)
    rig.answer(3)
    rig.produced(1)
    assert rig.started == [0, 1, 2, 3], "one that was taken does not help the other"
    rig.wait(RETRY_FIRST_MS)
    assert 0 in rig.letters
    assert rig.engine.unwritten == 1
    assert rig.started == [0, 1, 2, 3], "it is on its way, and not there"
    assert rig.flows == [Flow.PAUSE]
    rig.produced(0)
    assert rig.started == [0, 1, 2, 3, 4, 5]
    assert rig.flows == [Flow.PAUSE, Flow.RESUME]
    rig.assert_accounts()


def test_a_dead_letter_is_reserved_for_until_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ackmap, "PAYLOAD_BYTES_MAX", 40)
    monkeypatch.setattr(ackmap, "BITSET_OFFSETS_MAX", 320)
    rig = Rig(concurrency=10_000)
    rig.feed([None] * 4_000)
    # All that may start is wrong; then the broker takes every second one, the worst order for the map.
    while rig.out:
        rig.answers(*((offset, outcome("INVALID_ARGUMENT")) for offset in list(rig.out)))
    assert rig.engine.hungry
    for offset in sorted(rig.letters)[1::2]:
        rig.engine.on_produced([(rig.letters.pop(offset).delivery, None)], rig.now_ms)
        rig.engine.commit()
    rig.act()
    rig.assert_accounts()


def test_a_late_acknowledgement_settles_nothing() -> None:
    rig = Rig()
    rig.feed("a")
    rig.answer(0, "INVALID_ARGUMENT")
    rig.engine.close()
    rig.produced(0)
    assert (rig.tally.dead_lettered, rig.tally.released, rig.tally.late_outcomes) == (0, 1, 1)


# -- Known before the call -----------------------------------------------------------------------------------


def test_what_is_filtered_needs_no_call() -> None:
    rig = Rig()
    rig.arrive(event(0, "a"), event(1, "a"), event(2, "a"), intended={0: None, 2: None})
    assert rig.started == [1]
    assert rig.tally.filtered == 2
    assert rig.engine.committed == 1
    assert ackmap.decode(1, rig.engine.commit().metadata) == AckMap([(2, 3)])


def test_a_flaw_waits_for_its_turn() -> None:
    rig = Rig()
    rig.arrive(event(0, "a"), event(1, "a", flaw="torn"), event(2, "a"), intended={1: WRONG})
    assert rig.letters == {}
    rig.answer(0)
    assert rig.letters[1].outcome is WRONG
    assert rig.letters[1].delivery.attempt == 0
    assert rig.started == [0]
    rig.produced(1)
    assert rig.started == [0, 2]
    assert rig.breaker.closed
    rig.assert_accounts()


def test_what_is_filtered_waits_where_the_map_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ackmap, "PAYLOAD_BYTES_MAX", 12)
    monkeypatch.setattr(ackmap, "BITSET_OFFSETS_MAX", 96)
    rig = Rig(concurrency=1)
    intended = dict.fromkeys(range(200, 4000, 200))
    rig.arrive(*(event(offset) for offset in range(0, 4_000, 100)), intended=intended)
    assert 0 < rig.tally.filtered < len(intended)
    while rig.engine.open_events:
        rig.answer(min(rig.out))
    assert rig.tally.filtered == len(intended)
    assert rig.tally.acked == 40 - len(intended)


# -- Reservation ---------------------------------------------------------------------------------------------


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


# -- Commits -------------------------------------------------------------------------------------------------


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
    rig.engine._commit_soon(rig.now_ms)
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


# -- Limits --------------------------------------------------------------------------------------------------


def test_it_pauses_at_its_bound_and_resumes_at_half() -> None:
    rig = Rig(intake=Intake(partition_events_max=10), concurrency=4)
    rig.feed([None] * 9)
    assert rig.flows == []
    rig.feed([None])
    assert rig.flows == [Flow.PAUSE]
    for offset in range(4):
        rig.answer(offset)
        assert rig.flows == [Flow.PAUSE]
    rig.answer(4)
    assert rig.flows == [Flow.PAUSE, Flow.RESUME]


def test_it_pauses_by_bytes_too() -> None:
    rig = Rig(intake=Intake(partition_bytes_max=1_000))
    rig.arrive(event(0, value=bytes(999)))
    assert rig.flows == []
    rig.arrive(event(1, "k", value=None))
    assert rig.flows == [Flow.PAUSE]
    rig.answer(1)
    assert rig.flows == [Flow.PAUSE]
    rig.answer(0)
    assert rig.flows == [Flow.PAUSE, Flow.RESUME]


def test_a_shared_bound_pauses_whoever_asks() -> None:
    limits = Limits(Bound(10, 1 << 20), Bound(100, 1 << 20), Slots(100))
    one, other = Rig(limits=limits), Rig(limits=limits)
    one.feed([None] * 8)
    other.feed([None] * 2)
    assert (one.flows, other.flows) == ([], [Flow.PAUSE])
    for offset in range(5):
        one.answer(offset)
    other.act()
    assert other.flows == [Flow.PAUSE, Flow.RESUME]


def test_what_waits_or_is_parked_stands_outside_the_intake_limits() -> None:
    rig = Rig(intake=Intake(partition_events_max=10, parked_events_max=20), attempts=100)
    rig.feed(["poison"] * 9)
    rig.answer(0, "UNKNOWN")
    assert (rig.engine.waiting, rig.engine.parked, rig.engine.queued) == (1, 8, 0)
    assert rig.limits.subscription.events == 0
    rig.feed(["poison"] * 5 + [None] * 9)
    assert rig.flows == []
    assert rig.engine.parked == 13
    rig.assert_accounts()
    # They have a bound of their own.
    rig.feed(["poison"] * 6)
    assert rig.flows == [Flow.PAUSE]
    for offset in sorted(rig.out):
        rig.answer(offset)
    assert rig.flows == [Flow.PAUSE]
    rig.wait_for_deadline()
    while rig.engine.open_events:
        rig.answer(min(rig.out))
        rig.assert_accounts()
    assert rig.flows == [Flow.PAUSE, Flow.RESUME]
    assert rig.limits.subscription.events == rig.limits.process.bytes == 0


def test_parked_bytes_have_a_bound() -> None:
    rig = Rig(intake=Intake(parked_bytes_max=1_000))
    rig.arrive(
        event(0, "k", value=bytes(300)), event(1, "k", value=bytes(300)), event(2, "k", value=bytes(400))
    )
    rig.answer(0, "UNKNOWN")
    assert rig.flows == [Flow.PAUSE]


def test_intake_pauses_while_the_breaker_is_open_and_there_is_something_to_probe_with() -> None:
    rig = Rig(attempts=1_000)
    rig.feed([None] * 5)
    for offset in range(5):
        rig.answer(offset, "UNAVAILABLE")
    assert rig.flows == [Flow.PAUSE]
    rig.wait_for_deadline()
    rig.wait(PROBE_FIRST_MS)
    (probe,) = rig.out
    rig.answer(probe)
    assert rig.flows == [Flow.PAUSE, Flow.RESUME]


def test_intake_goes_on_while_the_breaker_is_open_and_nothing_is_open_to_probe_with() -> None:
    rig = Rig()
    rig.feed([None] * 5)
    for offset in range(5):
        rig.answer(offset, "UNAVAILABLE", final=True)
    for offset in range(5):
        rig.produced(offset)
    assert not rig.breaker.closed
    assert rig.engine.open_events == 0
    assert rig.flows in ([], [Flow.PAUSE, Flow.RESUME])
    assert not rig.engine.paused
    rig.wait(PROBE_FIRST_MS)
    rig.feed([None])
    rig.answer(5)
    assert rig.breaker.closed


def test_an_open_breaker_asks_for_no_tick_that_has_passed() -> None:
    rig = Rig()
    rig.feed([None] * 6)
    for offset in range(5):
        rig.answer(offset, "UNAVAILABLE", retry_after_ms=0.0)
    for _ in range(20):
        rig.wait_for_deadline()
        if len(rig.out) == 2:
            break
    assert len(rig.out) == 2, "the straggler and the probe"
    assert rig.engine.next_deadline() > rig.now_ms


def test_a_probe_takes_another_key_each_time() -> None:
    rig = Rig(attempts=1_000)
    rig.feed("abcdefgh")
    for offset in list(rig.out):
        rig.answer(offset, "UNAVAILABLE", retry_after_ms=0.0)
    probes = []
    for _ in range(8):
        while not rig.out:
            rig.wait_for_deadline()
        (probe,) = rig.out
        probes.append(probe)
        rig.answer(probe, "UNAVAILABLE", retry_after_ms=0.0)
    assert len(set(probes)) == 8


def test_an_event_that_is_never_sent_is_no_probe_result() -> None:
    rig = Rig(attempts=1_000)
    rig.feed("abcdefgh")
    for offset in range(8):
        rig.answer(offset, "UNAVAILABLE", retry_after_ms=0.0)
    rig.wait(0)
    rig.wait(PROBE_FIRST_MS)
    (probe,) = rig.out
    actions = rig.answer(probe, WRONG)
    assert not rig.breaker.closed
    # Another one goes at once in its place.
    assert len(actions.calls) == 1
    assert actions.calls[0].event.offset != probe


# -- Letting go ----------------------------------------------------------------------------------------------


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


# -- Health and what it says ---------------------------------------------------------------------------------


def test_an_idle_engine_is_never_overdue() -> None:
    rig = Rig(concurrency=1)
    rig.wait(3_600_000)
    assert rig.engine.overdue_ms(rig.now_ms) == 0
    # It has its first work after an hour, and others have all the slots: that is no hour's delay.
    rig.limits.slots.take()
    rig.feed([None])
    assert rig.engine.overdue_ms(rig.now_ms) == 0
    assert rig.engine.overdue_ms(rig.now_ms + 5) == 5


def test_a_call_is_overdue_after_its_timeout() -> None:
    rig = Rig(timeout_ms=10_000.0)
    rig.feed([None])
    assert rig.engine.overdue_ms(10_000) == 0
    assert rig.engine.overdue_ms(12_500) == 2_500


def test_waiting_is_not_overdue_before_it_is_due() -> None:
    rig = Rig(concurrency=1)
    rig.feed([None])
    rig.answer(0, "ABORTED", retry_after_ms=50_000.0)
    assert rig.engine.overdue_ms(50_000) == 0
    assert rig.engine.overdue_ms(50_700) == 700
    # It is due, but somebody else has the slot: from now on it counts.
    rig.limits.slots.take()
    rig.wait(50_000)
    assert rig.engine.overdue_ms(rig.now_ms) == 0


def test_a_refused_dead_letter_is_not_overdue_before_it_is_tried_again() -> None:
    rig = Rig()
    rig.feed("aa")
    rig.answer(0, "INVALID_ARGUMENT")
    rig.produced(0, "no leader")
    assert rig.engine.overdue_ms(rig.now_ms + RETRY_FIRST_MS) == 0
    assert rig.engine.overdue_ms(rig.now_ms + RETRY_FIRST_MS + 1) == 1


def test_an_open_breaker_is_not_overdue_before_its_probe() -> None:
    rig = Rig(attempts=1_000)
    rig.feed([None] * 5)
    for offset in range(5):
        rig.answer(offset, "UNAVAILABLE", retry_after_ms=0.0)
    rig.wait(1)
    assert rig.engine.overdue_ms(rig.breaker.next_probe_ms) == 0
    assert rig.engine.overdue_ms(rig.breaker.next_probe_ms + 3) == 3


def test_it_says_what_it_holds() -> None:
    rig = Rig(committed=7)
    rig.feed(["a"], first=7)
    assert rig.engine.lowest is rig.out[7]
    assert rig.out[7].delivery_id == "notify/events/0/7"
    assert repr(rig.out[7]) == "<Delivery notify/events/0/7 calling attempt=1 burned=0>"
    rig.answer(7)
    assert rig.engine.lowest is None


def test_statuses_mean_what_the_subscription_says() -> None:
    rig = Rig(statuses={"NOT_FOUND": Disposition.DROP, "INTERNAL": Disposition.UNWELL}, idempotent=True)
    rig.feed("abc")
    rig.answer(0, "NOT_FOUND")
    rig.answer(1, "ALREADY_EXISTS")
    rig.answer(2, "INTERNAL")
    assert (rig.tally.dropped, rig.tally.acked) == (1, 1)
    assert rig.delivery(2).burned == 0
    assert rig.tally.outcomes == {Status.NOT_FOUND: 1, Status.ALREADY_EXISTS: 1, Status.INTERNAL: 1}
