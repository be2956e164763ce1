"""Outages of all shapes dead-letter nobody, and poison is still set aside: beside a simulated target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pelton.core.outcome import Status
from pelton.core.rate import Rate
from tests.core.rig import Rig
from tests.core.shop import Shop, drawn

OK, UNAVAILABLE, DEADLINE = Status.OK, Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED
HOUR_MS = 3_600_000.0


def own_key(at: int) -> bytes:
    return b"%d" % at


def shop(target: Callable[[float, bytes, int], tuple[float, Status]], events: int, **more: Any) -> Shop:
    return Shop(Rig(jitter=drawn(7), **more), target, own_key, events)


@pytest.mark.parametrize("attempts", [3, 8])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_way_that_cuts_many_calls_dead_letters_nobody(share: float, attempts: int) -> None:
    """Without the weight: one event in some hundreds fails eight times in a row by mere chance."""
    draw = drawn(1)
    run = shop(
        lambda now_ms, key, out: (5.0, UNAVAILABLE if draw() < share else OK), 1_500, attempts=attempts
    )
    run.run(10 * HOUR_MS)
    assert run.dead == []
    assert run.rig.tally.acked == 1_500
    assert run.ended["UNAVAILABLE"] > 500


@pytest.mark.parametrize("took_ms", [5.0, 500.0])
@pytest.mark.parametrize("attempts", [2, 8])
def test_a_target_that_flaps_dead_letters_nobody(took_ms: float, attempts: int) -> None:
    """Up for a second, down for five, for half an hour: what is out when it goes down fails."""

    def target(now_ms: float, key: bytes, out: int) -> tuple[float, Status]:
        left_ms = 1_000.0 - now_ms % 6_000.0
        if left_ms <= 0:
            return 1.0, UNAVAILABLE
        return (took_ms, OK) if took_ms < left_ms else (left_ms, UNAVAILABLE)

    run = shop(target, 20_000, attempts=attempts, concurrency=20)
    run.run(HOUR_MS / 2)
    assert run.dead == []
    assert run.ended["UNAVAILABLE"] > 100


def test_an_event_that_needs_longer_than_the_target_is_up_waits_for_it_to_stay() -> None:
    def target(now_ms: float, key: bytes, out: int) -> tuple[float, Status]:
        took_ms = 3_000.0 if key == b"3" else 50.0
        left_ms = 1_000.0 - now_ms % 6_000.0 if now_ms < HOUR_MS / 2 else HOUR_MS
        if left_ms <= 0:
            return 1.0, UNAVAILABLE
        return (took_ms, OK) if took_ms < left_ms else (left_ms, UNAVAILABLE)

    run = shop(target, 100_000, concurrency=4)
    run.run(0.51 * HOUR_MS)
    assert run.dead == []
    assert run.rig.engine.lowest is None or run.rig.engine.lowest.event.offset > 3


@pytest.mark.parametrize("attempts", [3, 8])
def test_poison_is_set_aside_and_nobody_else(attempts: int) -> None:
    """One event in a hundred hangs, whenever it is called; the others come at a steady pace."""

    def target(now_ms: float, key: bytes, out: int) -> tuple[float, Status]:
        return (2_000.0, DEADLINE) if int(key) % 100 == 0 else (5.0, OK)

    run = shop(target, 5_000, attempts=attempts)
    run.rig.limits.slots.rate = Rate(50.0)
    run.run(HOUR_MS)
    # Beside the last ones nobody is called: that looks like an outage.
    assert set(map(int, run.dead)) <= set(range(0, 5_000, 100))
    assert len(run.dead) >= 15
    assert run.rig.tally.acked == 4_950


def test_a_whole_class_that_hangs_is_not_moved_out_of_a_target() -> None:
    """A third of all events hang: dead letters keep to what the successes have earned."""

    def target(now_ms: float, key: bytes, out: int) -> tuple[float, Status]:
        return (1_000.0, DEADLINE) if int(key) % 3 == 0 else (5.0, OK)

    run = shop(target, 6_000, attempts=2)
    run.run(HOUR_MS)
    assert len(run.dead) <= 10 + run.rig.tally.acked * 0.05
