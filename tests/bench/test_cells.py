"""The benchmark's cells: the table is whole, and a cell on the command line is what was meant."""

from __future__ import annotations

import pytest

from bench.cells import Cell, cells, parse_cell


def test_the_table_has_every_mode_delay_and_concurrency() -> None:
    table = [(cell.mode, cell.delay_ms, cell.concurrency) for cell in cells(200_000)]
    assert table == [
        (mode, delay, out)
        for mode in ("unary", "stream")
        for delay, out in [(0, 256), (1, 256), (10, 256), (10, 1000), (100, 256), (100, 1000)]
    ]


def test_no_cell_takes_longer_than_its_delay_makes_it() -> None:
    for cell in cells(200_000):
        seconds = cell.events / cell.concurrency * cell.delay_ms / 1000
        assert seconds <= 8, f"{cell} would take {seconds} s"


def test_the_fewest_events_still_make_a_run() -> None:
    assert {cell.events for cell in cells(1)} == {2_000}


def test_a_cell_of_the_command_line_is_that_of_the_table() -> None:
    table = {str(cell): cell for cell in cells(100_000)}
    for text, cell in table.items():
        assert parse_cell(text, 100_000) == cell
    assert parse_cell("unary:1", 100_000) == Cell("unary", 1, 256, 20_000)


@pytest.mark.parametrize("text", ["", "unary", "handler:0", "unary:fast", "unary:0:1:2", "stream:-1"])
def test_what_is_no_cell_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is no cell"):
        parse_cell(text, 100_000)
