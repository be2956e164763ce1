"""A row that fails, or is skipped shows it: in its result, in the table and in the document."""

from __future__ import annotations

from dataclasses import replace

from tests.faults.checker import Anomaly, Finding, Report
from tests.faults.matrix import NOT_RUN, Result, Row, cells_in, markdown, table

ROW = Row("1a", "a fault", "so", "that", "nothing", lambda scene: None)
REPORT = Report(sent=10, ended=9, repeats=1, repeats_max=3, letters=2)


def test_a_row_that_passes() -> None:
    result = Result(ROW, REPORT, recovered_s=1.25, took_s=3)
    assert result.passed
    assert result.cells() == ["9 of 10", "0", "1 of 3", "0", "2", "1.2 s", "pass"]


def test_a_row_with_a_problem() -> None:
    report = Report(sent=10, ended=9, findings=[Finding(Anomaly.UNSEEN, "0/1")])
    result = Result(ROW, report, problems=["unseen: 0/1"])
    assert not result.passed
    assert result.cells() == ["9 of 10", "1", "0 of 0", "0", "0", "–", "FAILED"]


def test_a_row_that_never_came_to_its_end() -> None:
    assert Result(ROW, problems=["waited"]).cells() == [*["–"] * 6, "FAILED"]


def test_a_row_that_was_skipped() -> None:
    result = Result(ROW, skipped="no mount(8)")
    assert not result.passed
    assert result.cells()[-1] == "skipped: no mount(8)"


def test_the_table_and_the_document_have_every_row() -> None:
    results = [Result(ROW, REPORT), Result(ROW, skipped="no mount(8)")]
    lines = table(results).splitlines()
    assert len(lines) == 3
    assert lines[1].split() == [
        "1a",
        "a",
        "fault",
        "9",
        "of",
        "10",
        "0",
        "1",
        "of",
        "3",
        "0",
        "2",
        "–",
        "pass",
    ]
    other = replace(ROW, number="2")
    text = markdown([ROW, other], {"1a": results[0].cells()}, "The last run.")
    assert "| 1a | a fault | so | that | nothing | 9 of 10 | 0 | 1 of 3 | 0 | 2 | – | pass |" in text
    assert "| 2 | a fault | so | that | nothing | – | – | – | – | – | – | not run |" in text
    assert "The last run." in text
    assert cells_in(text) == {"1a": results[0].cells(), "2": NOT_RUN}
    assert "Shown by a test" not in text
    more = markdown([ROW], {}, "The last run.", [("22", "too large", "tests/x.py::test_y")])
    assert "| 22 | too large | `tests/x.py::test_y` |" in more
    assert cells_in(more) == {"1a": NOT_RUN}
