"""The sharpest rows of the fault matrix, with every test run; all of them are `make faults`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster, cluster
from tests.faults.elsewhere import ELSEWHERE
from tests.faults.matrix import Row, run, table
from tests.faults.run import DOCUMENT, ROWS, chosen

QUICK = [row for row in ROWS if row.quick]


@pytest.fixture(scope="module")
def one_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("kafka")) as one:
        yield one


@pytest.mark.timeout(300)
@pytest.mark.parametrize("row", QUICK, ids=[f"{row.number}-{row.fault.replace(' ', '-')}" for row in QUICK])
def test_row(row: Row, one_broker: Cluster, tmp_path: Path, note: Callable[[str], None]) -> None:
    assert row.nodes == 1
    result = run(row, one_broker, tmp_path)
    assert result.problems == []
    assert result.passed
    note(f"faults: {table([result]).splitlines()[1]}")


def test_rows_have_numbers_of_their_own() -> None:
    assert len({row.number for row in ROWS}) == len(ROWS)
    assert 5 <= len(QUICK) <= 8


def test_what_is_shown_elsewhere_is_there() -> None:
    for number, _, test in ELSEWHERE:
        path, _, function = test.partition("::")
        text = (DOCUMENT.parents[1] / path).read_text(encoding="utf-8")
        assert f"def {function}" in text, (number, test)


def test_rows_are_chosen_by_number_or_family() -> None:
    assert [row.number for row in chosen("12")] == ["12"]
    assert [row.number for row in chosen("15b, 12")] == ["12", "15b"]
    assert {row.number for row in chosen("1")} == {"1a", "1b", "1c", "1d", "1e", "1f", "1g", "1h"}
    assert chosen("") == list(ROWS)
    with pytest.raises(SystemExit, match="no such row: 99"):
        chosen("99")
