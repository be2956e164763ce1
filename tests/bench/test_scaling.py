"""How Pelton grows: the steps are whole, and the page says of made-up figures what is true of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import physical
from bench.physical import Floor
from bench.scaling_report import Backlog, Grown, bend, busy, ceiling, report, summary
from bench.steps import AXES, Step, choose, steps
from tests.bench.recorded import MACHINE, throughput

FLOOR = Floor(2, 4_000.0, 2.0)


def grown() -> Grown:
    """Along every axis the pace halves at its last step."""
    made = Grown(MACHINE, "make bench-scaling", "2026-01-02 03:04 UTC", 1, FLOOR)
    last = {axis: [step.place for step in steps() if step.axis == axis][-1] for axis in AXES}
    for step in steps():
        pace = 20_000.0 if step.place == last[step.axis] else 40_000.0
        made.found[step] = [replace(throughput(pace), broker_cpu_s=5.0, wire_bytes=450.0)]
    made.backlog = Backlog(10_000_000, 200, 80 << 20, 300 << 20, 400 << 20)
    return made


def test_every_axis_goes_as_far_as_was_asked() -> None:
    places = {axis: [s.place for s in steps() if (s.axis, s.mode) == (axis, "native")] for axis in AXES}
    assert places == {
        "partitions": ["1", "8", "64", "512"],
        "keys": ["10", "100", "1,000", "10,000", "100,000", "1,000,000"],
        "bytes": ["100", "1,000", "10,000", "100,000"],
        "subscriptions": ["1", "10", "50", "200"],
    }
    for step in steps():
        assert step.place == f"{_size(step):,}"
        assert step.events.count * step.events.size_bytes <= 400_000_000
        assert step.events.count >= 1_000


def _size(step: Step) -> int:
    return {
        "partitions": step.events.partitions,
        "keys": step.events.keys,
        "bytes": step.events.size_bytes,
        "subscriptions": step.subscriptions,
    }[step.axis]


def test_steps_are_chosen_by_pattern_and_once() -> None:
    assert choose(["*"], 1.0) == steps()
    names = [step.name for step in choose(["keys:1000:*", "keys:1000:native", "bytes:100000:stream"], 1.0)]
    assert names == ["keys:1000:native", "keys:1000:stream", "bytes:100000:stream"]
    with pytest.raises(ValueError, match="no step's name matches 'key:10'"):
        choose(["key:10"], 1.0)


def test_a_record_comes_back_as_it_was() -> None:
    made = grown()
    made.refused["keys:10:native"] = ["why"]
    assert Grown.from_json(made.to_json()) == made
    made.backlog = None
    assert Grown.from_json(made.to_json()) == made


def test_it_bends_where_a_fifth_of_the_best_is_lost_and_not_before() -> None:
    found = [(step, grown().found[step]) for step in steps() if (step.axis, step.mode) == ("bytes", "native")]
    paces = iter([100.0, 120.0, 96.0, 95.0])
    with_paces = [(step, [throughput(next(paces))]) for step, _ in found]
    bent = bend(with_paces)
    assert bent is not None
    assert bent.place == "100,000"
    assert bend(with_paces[:3]) is None
    # It grows on the way up; that is no bend.
    rising = [(step, [throughput(10.0 * number)]) for number, (step, _) in enumerate(found, start=1)]
    assert bend(rising) is None


def test_what_a_bridge_that_costs_nothing_could_reach() -> None:
    runs = [replace(throughput(40_000.0, cpu_s=20.0), broker_cpu_s=5.0)]
    # Target 15 and broker 5 CPU-seconds for a million, on two cores.
    assert ceiling(FLOOR, runs) == 100_000.0
    assert busy(FLOOR, runs) == pytest.approx(0.8)


def test_the_page_says_of_each_axis_where_it_bends_and_how_far_off_it_is() -> None:
    files = report(grown())
    page = files["scaling.md"]
    assert files.keys() == {"scaling.md", *(f"scaling-{axis}.svg" for axis in AXES)}
    for axis in AXES:
        assert f"](scaling-{axis}.svg)" in page
    # 40 000 of 100 000.
    assert (
        "**native** is fastest at 1 (40,000/s, 40% of what a bridge that costs nothing could reach here)"
        in page
    )
    assert page.count("and bends at 200: less than 80% of its best is left.") == 2
    assert "copies 4,000 MB/s one way" in page
    assert "300 MiB at most, 80 MiB with nothing to read, the cap is 400 MiB: it holds." in page
    assert "No figure" not in page


def test_a_cap_that_does_not_hold_and_a_run_that_is_refused_are_faults_and_told() -> None:
    made = grown()
    assert made.faults == 0
    made.backlog = Backlog(1, 200, 1, 3, 2)
    made.refused["keys:10:stream"] = ["5 of 10 events settled\n  log"]
    assert made.faults == 2
    page = report(made)["scaling.md"]
    assert "it does NOT hold" in page
    assert "- keys:10:stream: 1 of 1 runs do not count: 5 of 10 events settled\n" in page
    assert "keys:10:stream: refused" in summary(made)


def test_the_floor_is_measured() -> None:
    floor = physical.measure()
    assert floor.cores >= 1
    assert floor.copied_mb_per_s > 0
    assert floor.message_us > 0
