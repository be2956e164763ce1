"""The report, on recorded figures: what is met is said to be, what is not is not, nothing is left out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import svg, tables
from bench.cells import Bridge, Kill, Latency, Poison, Speed, choose
from bench.processes import Failed
from bench.report import MET, MISSED, UNKNOWN, Line, budgets, report
from bench.results import Late, Poisoned, Results
from bench.run import faults
from bench.scaling_report import Backlog
from bench.writing import recorded as read_record
from bench.writing import write
from tests.bench.recorded import recorded, throughput

BACKLOG = Backlog(10_000_000, 100, 80, 300, 400)


def line(results: Results, of: str) -> Line:
    [found] = [one for one in budgets(results, BACKLOG) if one.of == of]
    return found


def test_a_record_comes_back_as_it_was() -> None:
    results = recorded()
    results.missing["share-group"] = "no `mvn` is on the path"
    results.refused["kill:go-keyed"] = ["10 of 20 events settled"]
    results.pulses_ms = [61.5, 110.0]
    assert Results.from_json(results.to_json()) == results


def test_every_budget_is_judged_and_some_are_missed() -> None:
    lines = budgets(recorded(), BACKLOG)
    assert not [one for one in lines if one.verdict == UNKNOWN]
    assert {one.of for one in lines if one.verdict == MISSED} == set()
    empty = Results([], "", "", 1)
    assert [one.of for one in budgets(empty)] == [one.of for one in lines]
    assert {one.verdict for one in budgets(empty)} == {UNKNOWN}


def speed(results: Results, name: str) -> Speed:
    [cell] = [cell for cell in results.found if isinstance(cell, Speed) and cell.name == name]
    return cell


@pytest.mark.parametrize(
    ("name", "factor", "of"),
    [
        ("go-keyed:0:64", 1.3, "unary, key order, 0 ms (native)"),
        ("go-keyed:1:64", 1.3, "native, key order, 1 ms"),
        ("parallel-consumer:10:1000", 9.0, "native, key order, 10 ms"),
        ("go-keyed:100:512", 3.0, "stream, key order, 100 ms"),
    ],
)
def test_a_loop_that_is_faster_is_a_budget_missed(name: str, factor: float, of: str) -> None:
    results = recorded()
    cell = speed(results, name)
    assert line(results, of).verdict == MET
    results.found[cell] = [throughput(one.events_per_s * factor) for one in results.speeds()[cell]]
    assert line(results, of).verdict == MISSED


def test_what_costs_more_than_the_go_loop_misses_whatever_its_pace() -> None:
    results = recorded()
    cell = speed(results, "native:0:256")
    results.found[cell] = [throughput(one.events_per_s, cpu_s=10.1) for one in results.speeds()[cell]]
    missed = line(results, "unary, key order, 0 ms (native)")
    assert (missed.verdict, missed.found) == (MISSED, "1.25 × and 1.01 ×")


@pytest.mark.parametrize(("mode", "cpu_s"), [("stream", 6.7), ("aio", 83.4)])
def test_events_per_cpu_second_are_counted_by_the_bridge(mode: str, cpu_s: float) -> None:
    results = recorded()
    of = f"{mode}, key order, 0 ms"
    judged = [one for one in budgets(results) if one.of == of and "CPU-second" in one.asked]
    assert [one.verdict for one in judged] == [MET]
    for out in (256, 1_000):
        results.found[speed(results, f"{mode}:0:{out}")] = [throughput(1_000.0, cpu_s=cpu_s)]
    judged = [one for one in budgets(results) if one.of == of and "CPU-second" in one.asked]
    assert [one.verdict for one in judged] == [MISSED]


@pytest.mark.parametrize(
    ("mode", "cpu_s", "told"),
    [
        ("stream", 4.1, "0.41 × its CPU an event, ≤ 0.42 ×: met"),
        ("stream", 4.2, "0.42 × its CPU an event, ≤ 0.42 ×: **missed**"),
        ("aio", 52.0, "5.20 × its CPU an event, ≤ 5.21 ×: met"),
        ("aio", 52.2, "5.22 × its CPU an event, ≤ 5.21 ×: **missed**"),
    ],
)
def test_cpu_is_told_beside_the_go_loop_in_the_same_rounds(mode: str, cpu_s: float, told: str) -> None:
    results = recorded()
    keyed = speed(results, "go-keyed:0:64")
    # A computer whose speed changes between the rounds.
    slower = (1.0, 2.0, 3.0)
    results.found[keyed] = [throughput(1e6, cpu_s=10.0 * times) for times in slower]
    for out in (256, 1_000):
        ours = speed(results, f"{mode}:0:{out}")
        results.found[ours] = [throughput(1e6, cpu_s=cpu_s * times) for times in slower]
    of = f"{mode}, key order, 0 ms"
    [beside] = [one.beside for one in budgets(results) if one.of == of and "CPU-second" in one.asked]
    assert beside == told
    del results.found[keyed]
    del results.found[speed(results, "go-keyed:0:512")]
    assert {one.beside for one in budgets(results) if one.of == of} == {""}


@pytest.mark.parametrize(
    ("p50_ms", "p99_ms", "told"),
    [
        (4.4, 13.5, "2.20 × its p50, ≤ 2.21 ×; 1.35 × its p99, ≤ 1.35 ×: met"),
        (4.6, 13.5, "2.30 × its p50, ≤ 2.21 ×; 1.35 × its p99, ≤ 1.35 ×: **missed**"),
        (4.4, 14.0, "2.20 × its p50, ≤ 2.21 ×; 1.40 × its p99, ≤ 1.35 ×: **missed**"),
    ],
)
def test_latency_is_told_beside_the_go_loop_in_the_same_rounds(
    p50_ms: float, p99_ms: float, told: str
) -> None:
    results = recorded()
    slow = Late(2.0, 10.0, 90.0, 90.0, 0.5, 5_000, 0, 0)
    for cell in results.latencies():
        if cell.per_second == 500 and cell.bridge.mode == "go-keyed":
            results.found[cell] = [slow]
    results.found[Latency(Bridge("native", 256), 500)] = [replace(slow, p50_ms=p50_ms, p99_ms=p99_ms)]
    found = line(results, "latency at 500 events/s, native")
    assert (found.verdict, found.beside) == (MISSED, told)
    for cell in [cell for cell in results.latencies() if cell.bridge.mode == "go-keyed"]:
        del results.found[cell]
    assert line(results, "latency at 500 events/s, native").beside == ""


def test_order_none_and_two_workers_are_not_what_a_budget_is_met_with() -> None:
    results = recorded()
    results.found[speed(results, "native:1:256:none")] = [throughput(1e9)]
    results.found[speed(results, "native:1:256:2w")] = [throughput(1e9)]
    assert "25,000/s" in line(results, "native, key order, 1 ms").found


def test_a_bound_is_judged_by_the_worst_round() -> None:
    results = recorded()
    [cell] = [cell for cell in results.found if isinstance(cell, Kill) and cell.bridge.mode == "aio"]
    runs = results.kills()[cell]
    assert line(results, "kill -9 under load, aio").verdict == MET
    results.found[cell] = [*runs[:2], replace(runs[2], repeats=301)]
    assert line(results, "kill -9 under load, aio").verdict == MISSED
    results.found[cell] = [*runs[:2], replace(runs[2], first_event_s=3.0)]
    assert line(results, "kill -9 under load, aio").verdict == MISSED
    results.found[cell] = [*runs[:2], replace(runs[2], lost=1)]
    assert line(results, "kill -9 under load, aio").verdict == MISSED
    cell_of_1000 = speed(results, "native:10:1000")
    assert line(results, "memory at 1,000 calls out").verdict == MET
    results.found[cell_of_1000] = [throughput(1.0), throughput(1.0, rss_mb=150.1)]
    assert line(results, "memory at 1,000 calls out").verdict == MISSED


def test_latency_at_5_000_events_a_second_is_not_what_is_asked() -> None:
    results = recorded()
    slow = Late(1.6, 4.0, 9.0, 20.0, 0.5, 5_000, 0, 0)
    for cell in results.latencies():
        if cell.bridge.mode == "native" and cell.per_second == 5_000:
            results.found[cell] = [slow]
    assert line(results, "latency at 500 events/s, native").verdict == MET
    results.found[Latency(Bridge("native", 256), 500)] = [slow]
    assert line(results, "latency at 500 events/s, native").verdict == MISSED


def test_poison_that_stops_the_others_keeps_nothing_of_their_pace() -> None:
    results = recorded()
    stopped = Poisoned(1_000.0, 999.0, 1, 800)
    assert stopped.kept == 0.0
    for cell in results.poisons():
        if cell.bridge.mode == "stream" and cell.status == "UNKNOWN":
            results.found[cell] = [stopped]
    judged = line(results, "1 % of keys poison, stream")
    assert (judged.verdict, judged.found) == (MISSED, "INVALID_ARGUMENT 98.0 %, UNKNOWN 0.0 %")


@pytest.mark.parametrize("backlog", [replace(BACKLOG, most=401), replace(BACKLOG, events=9_999_999)])
def test_a_backlog_that_is_over_the_cap_or_too_small_meets_nothing(backlog: Backlog) -> None:
    assert line(recorded(), "memory before a dead target").verdict == MET
    assert budgets(recorded(), backlog)[-1].verdict == MISSED


def test_a_run_that_was_cut_says_so_and_names_what_it_did_not_reach() -> None:
    results = recorded()
    results.whole_rounds = 1
    results.planned = ["kill:aio", "kill:never", "poison:refused"]
    results.refused["poison:refused"] = ["why"]
    readme = report(results)["README.md"]
    assert "**This run was cut**: 1 of 3 rounds are whole." in readme
    assert re.findall(r"`(\S+)` was not reached", readme) == ["kill:never"]
    assert "was cut" not in report(recorded())["README.md"]


@pytest.mark.parametrize("text", [None, "no JSON", "{}", "[]"])
def test_what_is_no_record_is_one_error(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Failed, match=r"results\.json"):
        read_record(path, Results.from_json)


def test_only_what_is_there_is_linked() -> None:
    assert "scaling.md" not in report(recorded())["README.md"]
    assert "[scaling.md](scaling.md)" in report(recorded(), scaling=True)["README.md"]


def test_only_pelton_is_at_fault() -> None:
    results = recorded()
    assert faults(results) == 0
    results.refused["kill:go-keyed"] = ["lost"]
    results.found[speed(results, "go-keyed:0:64")] = [throughput(1.0, disorder=3)]
    assert faults(results) == 0
    results.found[speed(results, "aio:0:256")] = [throughput(1.0, disorder=2)]
    results.refused["kill:native"] = ["lost", "lost"]
    assert faults(results) == 4
    for cell, runs in results.kills().items():
        if cell.bridge.mode in ("go-keyed", "stream"):
            results.found[cell] = [replace(runs[0], lost=5)]
    assert faults(results) == 9


def test_a_table_has_a_row_for_each_cell_and_the_spread_of_its_rounds() -> None:
    results = recorded()
    for kind, table in (
        (Speed, tables.speeds(results)),
        (Latency, tables.latencies(results)),
        (Kill, tables.kills(results)),
        (Poison, tables.poisons(results)),
    ):
        rows = table.splitlines()[2:]
        assert len(rows) == sum(isinstance(cell, kind) for cell in results.found)
        assert len(set(rows)) == len(rows)
    assert "50,000 (45,000–55,000)" in tables.speeds(results)
    assert "1.25 (1.25–1.25)" in tables.beside(results)


def test_disorder_is_not_told_of_what_promises_no_order() -> None:
    results = Results([], "", "", 1)
    for name in ("native:0:256", "native:0:256:none", "go-unordered:0:64"):
        results.found[choose([name], 1.0)[0]] = [throughput(1.0, disorder=7)]
    told = [
        row.rpartition("|")[0].rpartition("|")[2].strip() for row in tables.speeds(results).splitlines()[2:]
    ]
    assert told == ["0 / 7 / 0 / 0", "0 / – / – / 0", "0 / – / – / 0"]


def test_what_is_missing_or_refused_is_named_with_its_reason() -> None:
    results = recorded()
    results.missing["share-group"] = "no `mvn` is on the path\nmore"
    results.refused["kill:go-keyed"] = ["10 of 20 events settled\n  log", "another"]
    readme = report(results)["README.md"]
    assert "- **share-group** is missing: no `mvn` is on the path\n" in readme
    assert "- `kill:go-keyed`: 2 of 3 runs do not count: 10 of 20 events settled\n" in readme


def test_how_fast_the_computer_was_is_told_where_it_was_asked() -> None:
    results = recorded()
    assert "its hours" not in report(results)["README.md"]
    results.pulses_ms = [61.0, 110.0, 55.0]
    assert "before each run: 61 (55–110) ms |" in report(results)["README.md"]


def test_the_report_is_whole_and_its_images_are_there(tmp_path: Path) -> None:
    files = report(recorded())
    readme = files["README.md"]
    assert set(re.findall(r"\]\((\S+\.svg)\)", readme)) == files.keys() - {"README.md"}
    for part in ("The budgets", "On what", "How", "Throughput", "Latency", "kill -9", "poison"):
        assert f"## {part}" in readme or f"keys {part}" in readme
    assert "```sh\nmake bench ARGS=--write\n```" in readme
    assert "made up, 2 cores" in readme
    beside = [one.beside for one in budgets(recorded()) if one.beside]
    assert len(beside) == 5
    assert all(f" | {told} |" in readme for told in beside)
    assert "took 16 µs of CPU" in readme
    assert "No figure" not in readme
    (tmp_path / "scaling.md").write_text("mine")
    assert {path.name for path in write(files, tmp_path)} == files.keys()
    assert {path.name for path in tmp_path.iterdir()} == files.keys() | {"scaling.md"}


SVG = "{http://www.w3.org/2000/svg}"


def test_a_bar_is_as_long_as_its_figure_and_named() -> None:
    chart = svg.bars("Pace & cost", "events/s", {"0 ms": {"a<b": 50.0, "c": 100.0}, "1 ms": {"c": 25.0}})
    root = ElementTree.fromstring(chart)
    drawn = [one for one in root.iter(f"{SVG}rect") if one.get("class") != "ground"]
    a, c, later_c = (float(one.get("width", "")) for one in drawn)
    assert (a / c, later_c / c) == (0.5, 0.25)
    # One bridge has one colour in every group.
    assert drawn[1].get("class") == drawn[2].get("class") != drawn[0].get("class")
    texts = [one.text for one in root.iter(f"{SVG}text")]
    assert {"a<b", "c", "50", "100", "25", "0 ms", "1 ms", "Pace & cost", "events/s"} <= set(texts)
    told = root.find(f"{SVG}desc")
    assert told is not None
    assert told.text == "0 ms: a<b 50, c 100; 1 ms: c 25"


def test_a_line_leaves_out_what_was_not_measured() -> None:
    chart = svg.lines("Pace", "events/s", ["1", "8", "64"], {"a": [10.0, None, 40.0], "b": [40.0, 20.0, 0.0]})
    root = ElementTree.fromstring(chart)
    points = [(one.get("class"), float(one.get("cy", ""))) for one in root.iter(f"{SVG}circle")]
    assert [kind for kind, _ in points] == ["c0", "c0", "c1", "c1", "c1"]
    top, middle, bottom = points[2][1], points[3][1], points[4][1]
    assert middle == pytest.approx((top + bottom) / 2)
    assert top < points[0][1] < bottom


def test_a_chart_can_be_read_in_the_light_and_in_the_dark() -> None:
    chart = svg.bars("t", "u", {"g": {"a": 1.0}})
    light, dark = chart.split("@media (prefers-color-scheme:dark)")
    for part, ground in ((light, "#ffffff"), (dark, "#0d1117")):
        assert f".ground{{fill:{ground}}}" in part
        ink = re.search(r"\}text\{fill:(#\w{6})\}", part)
        assert ink is not None
        # The contrast that WCAG asks of small text.
        assert _contrast(ground, ink[1]) >= 7.0
        colours = re.findall(r"\.c\d\{fill:(#\w{6})", part)
        assert len(set(colours)) == len(svg.LIGHT) == len(svg.DARK)
        assert all(_contrast(ground, colour) >= 3.0 for colour in colours)


def _contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dim, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dim + 0.05)
