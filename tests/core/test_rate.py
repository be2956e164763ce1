"""So many calls a second, no more in any window than the burst allows, and one moment to ask again."""

from __future__ import annotations

import pytest

from pelton.core.outcome import Status
from pelton.core.rate import RATE_BURST_MS, Rate
from tests.core.rig import Rig
from tests.core.shop import Shop


@pytest.mark.parametrize("per_second", [0.5, 1, 7, 500, 100_000])
def test_no_window_has_more_than_the_rate_and_a_burst(per_second: float) -> None:
    rate = Rate(per_second)
    now_ms = 0.0
    started: list[float] = []
    rate.fill(now_ms)
    while now_ms < 20_000 and len(started) < 200_000:
        calls = rate.calls
        started += [now_ms] * calls
        rate.take(calls)
        assert rate.next_ms > now_ms, "a busy loop"
        now_ms = rate.next_ms
        rate.fill(now_ms)
    burst = max(1.0, per_second * RATE_BURST_MS / 1_000)
    assert len(started) <= now_ms / 1_000 * per_second + burst + 1
    # And it is used up: what time has filled is not lost while somebody waits for it.
    assert len(started) >= now_ms / 1_000 * per_second - 1


def test_time_without_calls_fills_a_burst_and_no_more() -> None:
    rate = Rate(500)
    rate.fill(0.0)
    rate.take(rate.calls)
    assert rate.calls == 0
    rate.fill(1.0)
    assert rate.calls == 0
    rate.fill(2.0)
    assert rate.calls == 1
    rate.fill(3_600_000.0)
    assert rate.calls == 50
    # A clock that stands still, or another's earlier one, changes nothing.
    rate.fill(3_000_000.0)
    assert rate.calls == 50


def test_an_engine_keeps_to_the_rate_with_one_deadline() -> None:
    rig = Rig()
    rig.limits.slots.rate = Rate(100.0)
    run = Shop(rig, lambda now_ms, key, out: (3.0, Status.OK), lambda at: b"%d" % at, 1_000)
    run.run(60_000)
    assert rig.tally.acked == 1_000
    assert 9_800 <= rig.now_ms <= 10_100


def test_who_waits_for_a_slow_rate_is_not_overdue_before_his_call_may_start() -> None:
    rig = Rig(timeout_ms=1_000.0)
    # One a minute, and three that want it.
    rig.limits.slots.rate = Rate(1 / 60)
    rig.limits.slots.turn(0.0, 0)
    rig.feed("abc")
    rig.answer(0)
    assert not rig.out
    assert rig.engine.overdue_ms(59_000) == 0
    assert rig.engine.overdue_ms(61_000) == 1_000
    # Somebody else of this subscription had it: the next one is due a minute later.
    rig.limits.slots.turn(60_000.0, 0)
    rig.limits.slots.take()
    assert rig.engine.overdue_ms(119_000) == 0
    # There is one, and nobody takes it: turns that only pass change nothing.
    rig.limits.slots.turn(150_000.0, 0)
    assert rig.engine.overdue_ms(150_000) == 30_000


def test_calls_that_are_out_are_waited_for_not_the_rate() -> None:
    rig = Rig(concurrency=1)
    rig.limits.slots.rate = Rate(1_000.0)
    rig.limits.slots.rate.fill(0.0)
    rig.feed("ab")
    assert list(rig.out) == [0]
    assert rig.limits.slots.again_ms == float("inf")
    rig.answer(0)
    assert list(rig.out) == [1]
