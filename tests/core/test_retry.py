"""The decision after an attempt: every disposition in every history, and how long the wait is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pelton.core.outcome import CANCELLED_BY_US, Outcome, Status
from pelton.core.retry import RETRY_AFTER_MAX_MS, UNWELL_BACKOFF_MAX_MS, Decision, Do, History, decide
from pelton.subscription import Disposition, OnExhausted, RetryPolicy

POLICY = RetryPolicy(attempts=3, backoff_min_ms=100.0, backoff_max_ms=60_000.0, give_up_after_ms=1_000_000.0)
FRESH = History(
    attempt=1,
    burned=0,
    unburned=0,
    doubtful=0.0,
    attempts_max=3,
    age_ms=0.0,
    well_in_between=False,
    was_outage=False,
    weight=1.0,
    has_right=True,
)
FAILED = Outcome(Status.UNKNOWN)
UNWELL, MISWIRED, RETRY = Disposition.UNWELL, Disposition.MISWIRED, Disposition.RETRY


def after(
    disposition: Disposition, outcome: Outcome = FAILED, policy: RetryPolicy = POLICY, **more: Any
) -> Decision:
    return decide(policy, disposition, outcome, replace(FRESH, **more), lambda: 1.0)


@pytest.mark.parametrize("burned", [0, 2, 100])
@pytest.mark.parametrize(
    ("disposition", "do"),
    [
        (Disposition.ACK, Do.ACK),
        (Disposition.DROP, Do.DROP),
        (Disposition.DEAD_LETTER, Do.DEAD_LETTER),
    ],
)
def test_some_answers_need_no_history(disposition: Disposition, do: Do, burned: int) -> None:
    assert after(disposition, burned=burned) == Decision(do)


@pytest.mark.parametrize("disposition", Disposition)
@pytest.mark.parametrize("burned", [0, 2])
def test_what_we_cancelled_changes_nothing(disposition: Disposition, burned: int) -> None:
    decision = after(disposition, CANCELLED_BY_US, burned=burned, unburned=1, age_ms=1e12)
    assert decision == Decision(Do.AGAIN, burn=0, unburned=1)


#: disposition, burned, unburned, well in between -> what, burn, unburned afterwards, exhausted
TABLE = [
    # The event may fail: each attempt burns, whatever the target does otherwise.
    (RETRY, 0, 0, False, Do.WAIT, 1, 0, False),
    (RETRY, 1, 0, True, Do.WAIT, 1, 0, False),
    (RETRY, 1, 1, False, Do.WAIT, 1, 0, False),
    (RETRY, 2, 0, False, Do.DEAD_LETTER, 1, 0, True),
    # The target is unwell: nothing burns ...
    (UNWELL, 0, 0, False, Do.WAIT, 0, 1, False),
    (UNWELL, 0, 1, False, Do.WAIT, 0, 1, False),
    (UNWELL, 2, 1, False, Do.WAIT, 0, 1, False),
    # ... unless others were taken in between: then this one burns, and the one before it.
    (UNWELL, 0, 0, True, Do.WAIT, 1, 0, False),
    (UNWELL, 0, 1, True, Do.WAIT, 2, 0, False),
    (UNWELL, 1, 0, True, Do.WAIT, 1, 0, False),
    (UNWELL, 1, 1, True, Do.DEAD_LETTER, 2, 0, True),
    (UNWELL, 2, 0, True, Do.DEAD_LETTER, 1, 0, True),
    # Miswired: the same, since it refuses everything before the breaker knows.
    (MISWIRED, 0, 0, False, Do.WAIT, 0, 1, False),
    (MISWIRED, 2, 1, False, Do.WAIT, 0, 1, False),
    (MISWIRED, 0, 0, True, Do.WAIT, 1, 0, False),
    (MISWIRED, 0, 1, True, Do.WAIT, 2, 0, False),
    (MISWIRED, 2, 0, True, Do.DEAD_LETTER, 1, 0, True),
]


@pytest.mark.parametrize(
    (
        "disposition",
        "burned",
        "unburned",
        "in_between",
        "do",
        "burn",
        "unburned_after",
        "exhausted",
    ),
    TABLE,
)
def test_what_an_attempt_burns(
    disposition: Disposition,
    burned: int,
    unburned: int,
    in_between: bool,
    do: Do,
    burn: int,
    unburned_after: int,
    exhausted: bool,
) -> None:
    history: dict[str, Any] = {
        "burned": burned,
        "unburned": unburned,
        "well_in_between": in_between,
    }
    decision = after(disposition, **history)
    assert decision.do is do
    assert decision.burn == burn
    assert decision.exhausted is exhausted
    if do is Do.WAIT:
        assert decision.unburned == unburned_after
    # What is held waits where another would be set aside, and burns the same.
    held = after(disposition, policy=replace(POLICY, on_exhausted=OnExhausted.HOLD), **history)
    assert (held.do, held.burn, held.exhausted) == (Do.WAIT, burn, False)


@pytest.mark.parametrize("disposition", [RETRY, UNWELL, MISWIRED])
def test_the_targets_last_word(disposition: Disposition) -> None:
    last = Outcome(Status.UNKNOWN, final=True)
    decision = after(disposition, last)
    assert (decision.do, decision.burn, decision.exhausted) == (Do.DEAD_LETTER, 1, True)
    # What is held stays, and this attempt does not count once more with the next.
    held = after(disposition, last, replace(POLICY, on_exhausted=OnExhausted.HOLD), unburned=1)
    assert (held.do, held.burn, held.unburned) == (Do.WAIT, 1, 0)


@pytest.mark.parametrize("disposition", [RETRY, UNWELL, MISWIRED])
def test_old_age(disposition: Disposition) -> None:
    assert after(disposition, age_ms=999_999.0).do is Do.WAIT
    assert after(disposition, age_ms=1_000_000.0).do is Do.DEAD_LETTER
    held = after(disposition, policy=replace(POLICY, on_exhausted=OnExhausted.HOLD), age_ms=2e6)
    assert held.do is Do.WAIT


def test_a_suspect_key_has_one_attempt() -> None:
    assert after(RETRY, attempts_max=1).do is Do.DEAD_LETTER
    assert after(UNWELL, attempts_max=1).do is Do.WAIT


@pytest.mark.parametrize(
    ("attempt", "ceiling_ms"), [(1, 100), (2, 200), (5, 1_600), (10, 51_200), (11, 60_000), (5_000, 60_000)]
)
def test_the_wait_doubles_up_to_its_maximum(attempt: int, ceiling_ms: float) -> None:
    history = replace(FRESH, attempt=attempt, attempts_max=10_000)
    for draw in (0.0, 0.25, 0.999):
        decision = decide(POLICY, RETRY, FAILED, history, lambda draw=draw: draw)  # type: ignore[misc]
        assert decision.after_ms == ceiling_ms * draw


def test_the_wait_for_an_unwell_target_is_short() -> None:
    # The breaker keeps the calls away; a longer wait would only delay them afterwards.
    assert after(UNWELL, attempt=30).after_ms == UNWELL_BACKOFF_MAX_MS
    assert after(UNWELL, attempt=2).after_ms == 200
    assert after(MISWIRED, attempt=30).after_ms == UNWELL_BACKOFF_MAX_MS
    # Once it burns it waits as any event that fails.
    assert after(UNWELL, attempt=30, well_in_between=True).after_ms == 60_000


@pytest.mark.parametrize(
    ("asked_ms", "waits_ms"), [(0.0, 0.0), (1.5, 1.5), (120_000.0, 120_000.0), (1e15, RETRY_AFTER_MAX_MS)]
)
@pytest.mark.parametrize("disposition", [RETRY, UNWELL, MISWIRED])
def test_the_wait_that_the_target_asks_for(
    disposition: Disposition, asked_ms: float, waits_ms: float
) -> None:
    assert after(disposition, Outcome(Status.UNKNOWN, retry_after_ms=asked_ms)).after_ms == waits_ms


@pytest.mark.parametrize("on_exhausted", OnExhausted)
def test_while_a_tier_is_left_what_is_exhausted_moves_there(on_exhausted: OnExhausted) -> None:
    policy = replace(POLICY, on_exhausted=on_exhausted)
    assert after(RETRY, policy=policy, burned=2, may_move=True) == Decision(Do.MOVE, burn=1, exhausted=True)
    assert after(UNWELL, policy=policy, burned=2, well_in_between=True, may_move=True).do is Do.MOVE
    assert after(RETRY, policy=policy, burned=1, may_move=True).do is Do.WAIT


@pytest.mark.parametrize("more", [{"age_ms": 1e6}, {"outcome": Outcome(Status.UNKNOWN, final=True)}])
def test_what_is_too_old_or_was_told_to_be_the_last_goes_past_the_tiers(more: dict[str, Any]) -> None:
    assert after(RETRY, burned=2, may_move=True, **more).do is Do.DEAD_LETTER
