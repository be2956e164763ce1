"""The engine when attempts fail: retries, suspect keys, outages and hangs, dead letters."""

from __future__ import annotations

import pytest

from pelton.core import ackmap
from pelton.core.actions import Flow
from pelton.core.breaker import Health
from pelton.core.outbox import RETRY_FIRST_MS, RETRY_MAX_MS
from pelton.core.outcome import CANCELLED_BY_US, Outcome, Status, Verdict
from pelton.core.retry import RETRY_AFTER_MAX_MS, UNWELL_BACKOFF_MAX_MS
from pelton.core.suspects import SUSPECT_KEYS_MAX
from pelton.subscription import Disposition, OnExhausted
from tests.core.rig import Rig, outcome

WRONG = Outcome(
    Status.INVALID_ARGUMENT, "not what it claims to be", disposition=Disposition.DEAD_LETTER, local=True
)


# -- Retry -----------------------------------------------------------------------------------------------


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


# -- Suspect keys ----------------------------------------------------------------------------------------


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


# -- Outage, hang, cancellation --------------------------------------------------------------------------


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
        # Other events of the target are called and taken meanwhile.
        rig.wait(1)
        rig.feed("bcdefghijk")
        while rig.out:
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
    rig = Rig(attempts=2, concurrency=6)
    rig.feed([None] * 7)
    rig.answers(*((offset, outcome("UNIMPLEMENTED")) for offset in range(5)))
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
    """Burned late, as an unwell one: the next failure tells whether others were taken meanwhile."""
    rig = Rig(attempts=2)
    rig.feed("a")
    rig.answer(0, "PERMISSION_DENIED")
    rig.wait(1)
    rig.feed("bcdefghijk")
    while rig.out:
        rig.answer(max(rig.out))
    while 0 not in rig.out:
        rig.wait_for_deadline()
    assert rig.letters == {}
    rig.answer(0, "PERMISSION_DENIED")
    assert 0 in rig.letters
    assert rig.breaker.closed


def test_a_target_that_becomes_miswired_under_load_sets_nothing_aside() -> None:
    """The breaker waits for 10 s without a success; until then every event is refused many times."""
    rig = Rig(attempts=2, concurrency=6)
    rig.feed([None] * 7)
    rig.answer(0)
    while rig.breaker.health is not Health.MISWIRED:
        for offset in list(rig.out):
            rig.answer(offset, "PERMISSION_DENIED")
        if not rig.out:
            rig.wait_for_deadline()
    assert rig.now_ms >= 10_000
    assert rig.letters == {}


# -- Dead letters ----------------------------------------------------------------------------------------


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
