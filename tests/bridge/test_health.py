"""What the probes answer, and why not: alive is about progress, ready about having begun."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pelton.bridge.health import STUCK_AFTER_MS, Probes
from pelton.bridge.running import Running


def running(*, started: bool = True, overdue_ms: float = 0.0, not_ready: str = "") -> Running:
    pump: Any = SimpleNamespace(overdue_ms=lambda: overdue_ms)
    return cast("Running", SimpleNamespace(name="s", started=started, pump=pump, not_ready=not_ready))


@pytest.mark.parametrize("overdue_ms", [0.0, STUCK_AFTER_MS])
def test_waiting_is_alive(overdue_ms: float) -> None:
    assert Probes(lambda: [running(overdue_ms=overdue_ms)]).not_alive() == []


def test_no_progress_is_not_alive_and_says_where() -> None:
    probes = Probes(lambda: [running(), running(overdue_ms=STUCK_AFTER_MS + 1_000)])
    assert probes.not_alive() == ["s: no progress for 61 s with events open"]


def test_what_has_not_started_is_alive_and_not_ready() -> None:
    probes = Probes(lambda: [running(started=False, not_ready="the target does not answer")])
    assert probes.not_alive() == []
    assert probes.not_ready() == ["s: the target does not answer"]


def test_a_server_that_stops_is_not_ready_whatever_else_is_true() -> None:
    probes = Probes(lambda: [running()])
    assert probes.not_ready() == []
    probes.stopping = True
    assert probes.not_ready() == ["stopping"]
