"""What a failure weighs, by what the target does with others; and the right to dead-letter."""

from __future__ import annotations

import pytest

from pelton.core.budget import INNOCENT_SHARE, RIGHTS_FIRST, Budget
from pelton.core.outcome import ACKED
from tests.core.rig import Rig


def weight(good: int, unwell: int, *, first: bool = True) -> float:
    budget = Budget()
    mark = budget.mark(in_outage=False)
    budget.answered(good, good if first else 0)
    for _ in range(unwell):
        budget.unanswered(first=first)
    return budget.weight(mark)


def test_beside_a_target_that_takes_all_others_a_failure_weighs_an_attempt() -> None:
    assert weight(1_000, 0) == weight(1_000, 9) == weight(100, 0, first=False) == 1.0


@pytest.mark.parametrize("unwell", [30, 100, 300])
def test_what_would_not_surprise_of_an_innocent_event_weighs_little(unwell: int) -> None:
    good = 100
    share = unwell / (good + unwell)
    # So many failures in a row as exhaust an event are as rare for an innocent one, whatever the share.
    assert share ** (1 / weight(good, unwell)) == pytest.approx(INNOCENT_SHARE, rel=0.1)


def test_few_answers_weigh_less_than_many() -> None:
    weights = [weight(good, 0) for good in (0, 1, 2, 5, 10)]
    assert weights == sorted(weights)
    assert weights[1] < 0.7
    assert weights[-1] == 1.0


def test_first_attempts_are_the_sample_where_there_are_enough() -> None:
    budget = Budget()
    mark = budget.mark(in_outage=False)
    budget.answered(1_000, 1_000)
    # Retries of events that hang: one in a hundred, eight times each.
    for _ in range(80):
        budget.unanswered(first=False)
    assert budget.weight(mark) == 1.0


def test_dead_letters_are_earned_and_spent() -> None:
    budget = Budget()
    for _ in range(int(RIGHTS_FIRST)):
        assert budget.has_right
        budget.spend()
    assert not budget.has_right
    with pytest.raises(AssertionError):
        budget.spend()
    budget.answered(19, 19)
    assert not budget.has_right
    budget.answered(1, 1)
    assert budget.has_right
    budget.answered(1_000_000, 0)
    assert budget.rights == 100


def test_without_a_right_the_event_waits_and_has_its_end_once_there_is_one() -> None:
    rig = Rig(attempts=2)
    rig.breaker.budget.rights = 0.0
    rig.feed("a")
    others = 0
    for _ in range(10):
        rig.answer(0, "DEADLINE_EXCEEDED")
        if rig.letters:
            break
        # Three others are taken between two failures.
        others += 3
        rig.wait(1)
        rig.feed("bcd")
        while rig.out:
            rig.answer(max(rig.out))
        while 0 not in rig.out:
            rig.wait_for_deadline()
    assert list(rig.letters) == [0]
    # Three times the two attempts that are allowed: twenty successes earn one.
    assert others == 21
    rig.assert_accounts()


def test_without_a_right_give_up_after_is_still_the_users_bound() -> None:
    rig = Rig(attempts=2, give_up_after_ms=60_000.0)
    rig.breaker.budget.rights = 0.0
    rig.feed("a")
    for _ in range(15):
        rig.answer(0, "DEADLINE_EXCEEDED")
        if rig.letters:
            break
        rig.wait(1)
        rig.feed("b")
        rig.answer(max(rig.out))
        while 0 not in rig.out:
            rig.wait_for_deadline()
    assert list(rig.letters) == [0]
    assert rig.now_ms >= 60_000
    assert not rig.breaker.budget.has_right


def test_poison_that_the_target_answers_needs_no_right() -> None:
    rig = Rig(attempts=1)
    rig.breaker.budget.rights = 0.0
    rig.feed("ab")
    rig.answer(0, "INVALID_ARGUMENT")
    rig.answer(1, "UNKNOWN")
    assert set(rig.letters) == {0, 1}


def test_a_failure_of_an_outage_that_is_confirmed_later_is_given_back() -> None:
    rig = Rig(attempts=8, concurrency=8)
    rig.feed("a")
    rig.answer(0, "UNAVAILABLE")
    rig.wait_for_deadline()
    rig.feed("bcdefghijklmnop")
    for offset in range(1, 16):
        if offset not in rig.out:
            break
        rig.answers((offset, ACKED))
    rig.answer(0, "UNAVAILABLE")
    burned = rig.delivery(0).burned
    assert burned > 1
    # Everybody fails; then a probe with an event that was never called does, too.
    while rig.breaker.closed:
        for offset in list(rig.out):
            rig.answer(offset, "UNAVAILABLE")
        if rig.breaker.closed:
            rig.wait_for_deadline()
            rig.feed("qrstuvw")
    rig.feed("xyz")
    while not rig.breaker.outage_confirmed:
        rig.wait_for_deadline()
        for offset in list(rig.out):
            rig.answer(offset, "UNAVAILABLE")
    before = rig.delivery(0).burned
    while rig.delivery(0).burned == before:
        rig.wait_for_deadline()
        for offset in list(rig.out):
            rig.answer(offset, "UNAVAILABLE")
    assert rig.delivery(0).burned < before
