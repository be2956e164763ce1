"""What the server works out before it starts; `tests/cli` and `tests/integration` run it."""

from __future__ import annotations

import pytest

from pelton.bridge.service import _switch_interval_s


@pytest.mark.parametrize(
    ("subscriptions", "interval_s"), [(0, 0.001), (10, 0.001), (30, 0.003), (200, 0.005)]
)
def test_a_thread_asks_for_the_interpreter_less_often_where_many_do(
    subscriptions: int, interval_s: float
) -> None:
    assert _switch_interval_s(subscriptions) == pytest.approx(interval_s)
