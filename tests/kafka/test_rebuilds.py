"""A consumer that is fenced is made anew a few times, and no more."""

from __future__ import annotations

from pelton.kafka.rebuilds import REBUILD_WINDOW_S, REBUILDS_MAX, Rebuilds


def test_the_first_is_made_at_once_and_each_further_one_later() -> None:
    rebuilds = Rebuilds()
    waits = [rebuilds.wait_s(now) for now in range(REBUILDS_MAX)]
    assert waits == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert rebuilds.count == REBUILDS_MAX
    assert rebuilds.wait_s(REBUILDS_MAX) is None
    # It ended with that; asked again, it is still no.
    assert rebuilds.wait_s(REBUILDS_MAX + 1) is None


def test_one_that_has_been_left_in_peace_begins_anew() -> None:
    rebuilds = Rebuilds()
    for now in range(REBUILDS_MAX):
        assert rebuilds.wait_s(now) is not None
    assert rebuilds.wait_s(REBUILD_WINDOW_S - 0.1) is None
    assert rebuilds.wait_s(REBUILD_WINDOW_S) == 4.0
    assert rebuilds.wait_s(REBUILD_WINDOW_S) is None
    assert rebuilds.wait_s(3 * REBUILD_WINDOW_S) == 0.0
