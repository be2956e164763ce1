"""The breaker: when it opens, when it probes, what closes it, and what says nothing."""

from __future__ import annotations

import pytest

from pelton.core.breaker import (
    IN_A_ROW,
    OUTCOMES_MIN,
    PROBE_FIRST_MS,
    PROBE_MAX_MS,
    TRANSITIONS,
    UNWELL_SHARE,
    WINDOW_MS,
    Breaker,
    Health,
)

CALL, OTHER = object(), object()


def opened(now_ms: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(IN_A_ROW):
        breaker.unwell(CALL, now_ms)
    assert breaker.health is Health.UNWELL
    return breaker


def test_the_figures_are_the_designs() -> None:
    assert (UNWELL_SHARE, OUTCOMES_MIN, WINDOW_MS, IN_A_ROW) == (0.5, 20, 10_000, 5)
    assert (PROBE_FIRST_MS, PROBE_MAX_MS) == (1_000, 5_000)


def test_it_is_well_until_told_otherwise() -> None:
    breaker = Breaker()
    assert breaker.closed
    assert breaker.health is Health.WELL
    assert breaker.open_ms(1e9) == 0
    assert not breaker.may_probe(1e9)
    assert not breaker.well_lately(0)


def test_it_opens_after_five_in_a_row() -> None:
    breaker = Breaker()
    for at in range(4):
        breaker.unwell(CALL, at)
        assert breaker.closed
    breaker.unwell(CALL, 4)
    assert breaker.health is Health.UNWELL
    assert not breaker.closed
    assert breaker.opened == 1


def test_something_good_between_them_breaks_the_row() -> None:
    breaker = Breaker()
    for at in range(8):
        breaker.unwell(CALL, at * 2_000)
        if at % 4 == 3:
            breaker.good(1, at, at * 2_000)
    assert breaker.closed


@pytest.mark.parametrize(
    ("good", "unwell", "opens"), [(10, 10, True), (11, 10, False), (10, 9, False), (9, 10, False)]
)
def test_it_opens_when_half_of_twenty_are_unwell(good: int, unwell: int, opens: bool) -> None:
    breaker = Breaker()
    # Spread so that no row comes together: all the good ones in the middle.
    for _ in range(4):
        breaker.unwell(CALL, 0)
    breaker.good(good, 0, 0)
    for at in range(unwell - 4):
        breaker.unwell(CALL, 0)
        if at % 4 == 3:
            breaker._unwell_in_a_row = 0
    assert breaker.closed is not opens


def test_what_is_older_than_its_window_does_not_count() -> None:
    breaker = Breaker()
    for _ in range(2):
        for _ in range(4):
            breaker.unwell(CALL, 500)
        breaker.good(1, 0, 500)
    for _ in range(4):
        breaker.unwell(CALL, 500)
    # 12 of 14 unwell; eight more answers make it 22, of which more than half are unwell, but later.
    breaker.good(7, 10_400, 10_600)
    breaker.unwell(CALL, 10_700)
    assert breaker.closed
    assert len(breaker._buckets) == 1


def test_its_memory_is_bounded() -> None:
    breaker = Breaker()
    for second in range(1_000):
        breaker.good(1, second * 1_000.0, second * 1_000.0)
    assert len(breaker._buckets) == WINDOW_MS // 1_000


def test_it_probes_after_one_second_then_doubles_to_five() -> None:
    breaker = opened(now_ms=100)
    now_ms, waits = 100.0, []
    for _ in range(6):
        assert not breaker.may_probe(breaker.next_probe_ms - 1)
        waits.append(breaker.next_probe_ms - now_ms)
        now_ms = breaker.next_probe_ms
        assert breaker.may_probe(now_ms)
        breaker.probing(CALL)
        breaker.unwell(CALL, now_ms)
    assert waits == [1_000, 2_000, 4_000, 5_000, 5_000, 5_000]
    assert breaker.opened == 1


def test_one_probe_at_a_time() -> None:
    breaker = opened()
    breaker.probing(CALL)
    assert not breaker.may_probe(1e9)
    assert breaker.next_probe_ms == float("inf")
    with pytest.raises(AssertionError):
        breaker.probing(OTHER)


def test_no_probe_while_it_is_closed() -> None:
    with pytest.raises(AssertionError):
        Breaker().probing(CALL)


def test_a_probes_good_answer_closes_it() -> None:
    breaker = opened(now_ms=0)
    breaker.probing(CALL)
    breaker.good(1, 1_000, 1_500, CALL)
    assert breaker.closed
    assert breaker.health is Health.WELL
    assert breaker.open_ms(99_999) == 1_500
    # What led to it is forgotten: one more failure does not open it again.
    for _ in range(IN_A_ROW - 1):
        breaker.unwell(CALL, 1_600)
        assert breaker.closed
    breaker.unwell(CALL, 1_600)
    assert breaker.opened == 2
    assert breaker.next_probe_ms == 1_600 + PROBE_FIRST_MS
    assert breaker.open_ms(2_600) == 2_500


def test_stragglers_do_not_close_it() -> None:
    breaker = opened()
    breaker.good(3, 0, 500)
    breaker.good(1, 0, 500, OTHER)
    assert not breaker.closed
    breaker.probing(CALL)
    breaker.good(1, 0, 1_500, OTHER)
    assert not breaker.closed
    breaker.good(1, 0, 1_500, CALL)
    assert breaker.closed


def test_stragglers_do_not_postpone_the_probe() -> None:
    breaker = opened()
    for _ in range(50):
        breaker.unwell(OTHER, 900)
        breaker.miswired(OTHER, 900)
    assert breaker.health is Health.UNWELL
    assert breaker.next_probe_ms == PROBE_FIRST_MS


def test_a_probe_that_we_gave_up_makes_room_for_another() -> None:
    breaker = opened()
    breaker.probing(CALL)
    breaker.abandoned(OTHER, 2_000)
    assert not breaker.may_probe(2_000)
    breaker.abandoned(CALL, 2_000)
    assert breaker.may_probe(2_000)


def test_it_takes_five_miswired_in_a_row_and_no_success_for_ten_seconds() -> None:
    breaker = Breaker()
    for _ in range(IN_A_ROW - 1):
        breaker.miswired(CALL, 0)
    assert breaker.closed
    breaker.miswired(CALL, 0)
    assert breaker.health is Health.MISWIRED


def test_a_success_lately_keeps_miswired_answers_from_opening_it() -> None:
    breaker = Breaker()
    breaker.good(1, 0, 0)
    for _ in range(100):
        breaker.miswired(CALL, WINDOW_MS)
    assert breaker.closed
    breaker.miswired(CALL, WINDOW_MS + 1)
    assert breaker.health is Health.MISWIRED


def test_a_success_breaks_a_miswired_row() -> None:
    breaker = Breaker()
    for _ in range(4):
        breaker.miswired(CALL, 0)
    breaker.good(1, 0, 0)
    for _ in range(4):
        breaker.miswired(CALL, WINDOW_MS * 2)
    assert breaker.closed


def test_a_probe_tells_unwell_and_miswired_apart() -> None:
    breaker = opened()
    breaker.probing(CALL)
    breaker.miswired(CALL, 1_000)
    seen = [breaker.health]
    breaker.probing(CALL)
    breaker.unwell(CALL, 3_000)
    seen.append(breaker.health)
    assert seen == [Health.MISWIRED, Health.UNWELL]
    assert not breaker.closed
    assert breaker.next_probe_ms == 7_000


def test_success_is_remembered_by_when_its_call_started() -> None:
    breaker = Breaker()
    breaker.good(2, 100, 500)
    breaker.good(1, 50, 600)
    assert breaker.newest_good_start_ms == 100
    assert breaker.well_lately(10_600)
    assert not breaker.well_lately(10_601)


def test_every_health_can_be_left_and_none_leads_to_itself() -> None:
    assert set(TRANSITIONS) == set(Health)
    for health, into in TRANSITIONS.items():
        assert into
        assert health not in into
