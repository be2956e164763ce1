"""The limit finds the knee of a simulated target, and leaves one alone that has none."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import pytest

from pelton.core.adaptive import LIMIT_MIN, Adaptive
from pelton.core.limits import Slots
from pelton.core.outcome import Status
from tests.core.rig import Rig, limits_of
from tests.core.shop import Shop, Target, drawn


def run(target: Target, *, seconds: float, limit_max: int = 256, acts: bool = True) -> tuple[Shop, Adaptive]:
    adaptive = Adaptive(limit_max, acts=acts)
    rig = Rig(concurrency=limit_max)
    rig.limits.slots.adaptive = adaptive
    shop = Shop(rig, target, lambda at: b"%d" % at, 10_000_000)
    shop.run(seconds * 1_000)
    return shop, adaptive


def knee(capacity: int, took_ms: float, draw: Callable[[], float] = lambda: 0.5) -> Target:
    """So many at once at full pace; more make all wait."""
    return lambda now_ms, key, out: (took_ms * (0.9 + 0.2 * draw()) * max(1.0, out / capacity), Status.OK)


def queue(capacity: int, took_ms: float, draw: Callable[[], float]) -> Target:
    """So many are worked on at once, whoever comes later queues."""
    free_ms = [0.0] * capacity

    def call(now_ms: float, key: bytes, out: int) -> tuple[float, Status]:
        ends_ms = max(now_ms, heapq.heappop(free_ms)) + took_ms * (0.9 + 0.2 * draw())
        heapq.heappush(free_ms, ends_ms)
        return ends_ms - now_ms, Status.OK

    return call


@pytest.mark.parametrize(("capacity", "took_ms"), [(5, 20.0), (8, 300.0), (40, 100.0)])
def test_it_does_not_begin_with_a_queue_that_it_takes_for_the_usual_pace(
    capacity: int, took_ms: float
) -> None:
    _, adaptive = run(queue(capacity, took_ms, drawn(3)), seconds=8)
    assert capacity * 0.8 <= adaptive.found <= capacity * 1.3


def test_it_doubles_until_calls_wait_and_then_has_what_is_worked_on() -> None:
    adaptive = Adaptive(256, acts=True)
    found = []
    for window in range(1, 8):
        adaptive.samples += [10.0 * max(1.0, adaptive.found / 20)] * 10
        adaptive.busy = True
        adaptive.turn(window * 1_000.0, adaptive.found, 0)
        found.append(adaptive.found)
    assert found == [8, 16, 32, 20, 22, 24, 24]


def test_calls_that_were_out_before_a_step_say_nothing_of_it() -> None:
    adaptive = Adaptive(256, acts=True)

    def window(now_ms: float, took_ms: float) -> int:
        adaptive.samples += [took_ms] * 10
        adaptive.busy = True
        adaptive.turn(now_ms, adaptive.found, 0)
        return adaptive.found

    assert window(1_000.0, 500.0) == 8
    assert window(1_499.0, 500.0) == 8, "these began before the step"
    assert window(1_500.0, 500.0) == 8, "and of these there is not a whole window"
    assert window(1_601.0, 500.0) == 16


def test_observing_says_how_many_do_not_wait() -> None:
    adaptive = Adaptive(256, acts=False)

    def windows(first: int, took_ms: float, count: int = 20) -> int:
        for window in range(first, first + count):
            # So many are out whatever it finds.
            adaptive.turn(window * 1_000.0 + 500.0, 64, 0)
            adaptive.samples += [took_ms] * 10
            adaptive.turn(window * 1_000.0 + 999.0, 63, 0)
        return adaptive.found

    assert windows(1, 10.0) == 128, "it grew while there were more than it would have let out"
    assert windows(21, 10.0 * 64 / 24, 60) == 24, "also when it is time to measure the best again"
    assert adaptive.limit == 256


@pytest.mark.parametrize(("capacity", "took_ms"), [(10, 20.0), (40, 100.0)])
def test_it_finds_the_knee(capacity: int, took_ms: float) -> None:
    _, adaptive = run(knee(capacity, took_ms, drawn(3)), seconds=8, limit_max=100)
    assert capacity * 0.9 <= adaptive.found <= capacity * 1.6


def test_observing_finds_one_too_and_leaves_the_calls_alone() -> None:
    shop, adaptive = run(knee(200, 50.0, drawn(3)), seconds=5, limit_max=150, acts=False)
    assert adaptive.found == adaptive.limit == shop.rig.limits.slots.limit == 150


def test_a_steady_target_is_not_punished() -> None:
    _, adaptive = run(knee(10_000, 100.0, drawn(5)), seconds=6, limit_max=100)
    assert adaptive.found == 100


def test_keys_that_hang_do_not_shrink_it() -> None:
    draw = drawn(9)
    _, adaptive = run(
        lambda now_ms, key, out: (5_000.0 if draw() < 0.02 else 40.0, Status.OK), seconds=15, limit_max=32
    )
    assert adaptive.found == 32


def test_it_follows_a_target_that_becomes_slower_for_good() -> None:
    def target(now_ms: float, key: bytes, out: int) -> tuple[float, Status]:
        return (50.0 if now_ms < 10_000 else 150.0), Status.OK

    _, adaptive = run(target, seconds=80, limit_max=24)
    assert adaptive.found == 24


def test_what_is_not_answered_halves_it_down_to_the_minimum() -> None:
    adaptive = Adaptive(256, acts=True)
    for window in range(1, 20):
        adaptive.samples += [5.0] * 10
        adaptive.turn(window * 1_000.0, 16, window * 5)
    assert adaptive.found == adaptive.limit == LIMIT_MIN
    assert Adaptive(2, acts=True).limit == 2


def test_an_idle_target_keeps_what_was_found() -> None:
    adaptive = Adaptive(256, acts=True)
    for window in range(1, 20):
        adaptive.samples += [5.0] * 10
        adaptive.turn(window * 1_000.0, 3, 0)
    assert adaptive.found == LIMIT_MIN


def test_observing_holds_nobody_back() -> None:
    slots = Slots(256)
    slots.adaptive = Adaptive(256, acts=False)
    assert slots.free == 256
    slots.take(256)
    slots.adaptive.acts = True
    assert slots.free == 0, "more are out than it would allow: nothing starts"
    slots.give(254)
    assert slots.free == LIMIT_MIN - 2
    assert limits_of(Rig().engine.subscription).slots.adaptive is None
