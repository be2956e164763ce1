"""The benchmark's arithmetic: a wrong percentile would look like a fast Pelton."""

from __future__ import annotations

import random

import pytest

from bench import figures


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (50.5, 51), (99, 99), (99.1, 100), (100, 100)]
)
def test_a_percentile_is_a_sample_that_so_many_do_not_exceed(percent: float, expected: float) -> None:
    samples = list(range(1, 101))
    random.Random(1).shuffle(samples)
    assert figures.percentile(samples, percent) == expected


def test_the_worst_of_a_few_is_their_99th_percentile() -> None:
    assert figures.percentile([3.0, 1.0, 2.0], 99) == 3.0
    assert figures.percentile([7.0], 50) == 7.0


def test_no_samples_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no samples"):
        figures.percentile([], 50)


@pytest.mark.parametrize(
    ("when", "expected"), [(0, 1.0), (10, 1.0), (15, 1.5), (20, 2.0), (25, 4.0), (30, 6.0), (99, 6.0)]
)
def test_between_two_samples_lies_a_straight_line(when: float, expected: float) -> None:
    assert figures.at([(10, 1.0), (20, 2.0), (30, 6.0)], when) == expected


def test_moments_as_large_as_nanoseconds_since_the_epoch() -> None:
    now = 1_800_000_000_000_000_000
    assert figures.at([(now, 1.0), (now + 20_000_000, 2.0)], now + 10_000_000) == pytest.approx(1.5)


def test_a_spread_is_shown_where_there_is_one() -> None:
    assert figures.spread([1234.5], 1) == "1,234.5"
    assert figures.spread([3.0, 1.0, 2.0]) == "2 (1–3)"


def test_a_verdict_names_its_budget() -> None:
    assert figures.verdict(12_000, least=12_000) == "met (≥ 12,000)"
    assert figures.verdict(11_999, least=12_000) == "missed (≥ 12,000)"
    assert figures.verdict(1.5, most=1.5) == "met (≤ 1.5)"
    assert figures.verdict(1.51, most=1.5) == "missed (≤ 1.5)"


def test_a_table_is_markdown() -> None:
    assert figures.table(["name", "value"], [["a", "1"], ["bcdef", "10,000"]]).splitlines() == [
        "| name  |  value |",
        "|-------|-------:|",
        "| a     |      1 |",
        "| bcdef | 10,000 |",
    ]


def test_time_is_summed_by_room_most_first() -> None:
    rooms = figures.by_room(
        {
            "/x/src/pelton/core/engine.py": 1.0,
            "/x/src/pelton/core/lane.py": 2.0,
            "/x/src/pelton/event.py": 0.5,
            "/x/.venv/lib/python3.11/site-packages/grpc/aio/_call.py": 4.0,
            "/usr/lib/python3.11/asyncio/runners.py": 0.25,
            "~": 5.0,
        }
    )
    assert rooms == [
        ("built in (C code)", 5.0),
        ("grpc", 4.0),
        ("pelton.core", 3.0),
        ("pelton.event", 0.5),
        ("the standard library", 0.25),
    ]
