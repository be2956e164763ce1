"""The rounds of a run: one cell's trouble is not the others', and a run that is cut keeps what it has."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from bench import machine, run
from bench.cells import Cell, choose
from bench.measure import Bench
from bench.processes import Failed
from bench.results import Results
from tests.bench.recorded import throughput


class Measuring:
    """Fails where it is told to."""

    def __init__(self, **failing: BaseException) -> None:
        self._failing = failing

    def prepare(self, events: object) -> None:
        """Nothing is written anywhere."""

    def measure(self, cell: Cell, latency_s: float, number: int) -> Any:
        if error := self._failing.get(cell.bridge.mode):
            raise error
        return throughput(1_000.0)


CELLS = choose(["aio:0:256", "native:0:256", "stream:0:256"], 1.0)
FOREVER = float("inf")


def rounds(results: Results, until: float = FOREVER, **failing: BaseException) -> None:
    run._round(cast("Bench", Measuring(**failing)), CELLS, 0, 1.0, results, until)


def test_whatever_a_cell_fails_with_the_others_are_measured() -> None:
    results = Results([], "", "", 1)
    rounds(results, aio=Failed("why"), native=ConnectionResetError("gone"))
    assert results.refused == {"aio:0:256": ["why"], "native:0:256": ["ConnectionResetError('gone')"]}
    assert [cell.name for cell in results.found] == ["stream:0:256"]


@pytest.mark.parametrize("signal", [SystemExit(143), KeyboardInterrupt()])
def test_a_signal_is_no_cell_s_trouble_and_what_came_before_it_stays(signal: BaseException) -> None:
    results = Results([], "", "", 1)
    with pytest.raises(type(signal)):
        rounds(results, native=signal)
    assert [cell.name for cell in results.found] == ["aio:0:256"]
    assert not results.refused


def test_no_cell_begins_after_its_time() -> None:
    results = Results([], "", "", 1)
    with pytest.raises(run.Cut):
        rounds(results, time.monotonic())
    assert not results.found


def test_what_a_kill_does_to_a_loop_is_measured_once() -> None:
    results = Results([], "", "", 2)
    cells = choose(["kill:aio", "kill:go-keyed", "go-keyed:0:64"], 1.0)
    for number in range(2):
        run._round(cast("Bench", Measuring()), cells, number, 1.0, results, FOREVER)
    assert [len(results.found[cell]) for cell in cells] == [2, 1, 2]


def test_how_fast_the_computer_is_is_asked_before_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PULSE_STEPS", 10)
    monkeypatch.setattr(machine, "PULSE_TIMES", 2)
    results = Results([], "", "", 1)
    rounds(results, aio=Failed("why"))
    assert len(results.pulses_ms) == len(CELLS)
    assert min(results.pulses_ms) > 0.0
