"""The report in docs/performance/: what was measured, on what, how, and which budgets are met. Pure.

Results come in; files' names with their text go out. Nothing is measured or written here, so that a report of
recorded figures can be tested, and written anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench import figures, svg, tables
from bench.cells import CONCURRENCY_MORE, DELAYS_MS, JVM_LOOPS, MODES, Speed
from bench.results import Results, Throughput
from bench.scaling_report import Backlog, backlog_told

__all__ = ["Line", "budgets", "report"]

#: What Pelton is held to. Rates are events per CPU-second of Pelton.
PYTHON_PER_CPU_S = 12_000.0
STREAM_PER_CPU_S = 150_000.0
P50_MS = 1.5
P99_MS = 5.0
FIRST_EVENT_S = 3.0
KEPT = 0.95
RSS_MB = 150.0
LATENCY_PER_S = 500
#: What the Go keyed loop took where these were set: CPU an event at 0 ms, and the slowest of its latencies at
#: that rate. Another computer, or a slower hour of the same, is held to as many times what it takes there.
GO_CPU_US = 16.0
GO_P50_MS = 0.68
GO_P99_MS = 3.7
BACKLOG_EVENTS = 10_000_000

MET, MISSED, UNKNOWN = "met", "**missed**", "not measured"


@dataclass(frozen=True, slots=True)
class Line:
    """One budget: what is asked, what was found, and whether that is enough."""

    of: str
    asked: str
    found: str
    verdict: str
    #: Of a budget that depends on the computer: the same beside the Go keyed loop.
    beside: str = ""


def budgets(results: Results, backlog: Backlog | None = None) -> list[Line]:
    """Every budget there is, in the order of the design."""
    return [
        _against_keyed(results),
        *(_ahead(results, "native", delay_ms) for delay_ms in DELAYS_MS[1:]),
        _per_cpu(results, "stream", STREAM_PER_CPU_S),
        *(_ahead(results, "stream", delay_ms) for delay_ms in DELAYS_MS),
        _per_cpu(results, "aio", PYTHON_PER_CPU_S),
        *(_latency(results, mode) for mode in MODES),
        *(_killed(results, mode) for mode in MODES),
        *(_poisoned(results, mode) for mode in MODES),
        _memory(results),
        _bounded(backlog),
    ]


def _judged(of: str, asked: str, found: str, holds: bool, beside: str = "") -> Line:
    return Line(of, asked, found, MET if holds else MISSED, beside)


def _unknown(of: str, asked: str) -> Line:
    return Line(of, asked, "–", UNKNOWN)


def _best(results: Results, wanted: Callable[[Speed], bool]) -> tuple[Speed, list[Throughput]] | None:
    """The fastest of those cells, by its median."""
    found = [(cell, runs) for cell, runs in results.speeds().items() if wanted(cell)]
    return max(found, key=lambda row: median(one.events_per_s for one in row[1]), default=None)


def _plain(mode: str, delay_ms: int) -> Callable[[Speed], bool]:
    """One process that keeps the order of a key."""
    return lambda cell: (
        cell.bridge.mode == mode
        and cell.delay_ms == delay_ms
        and cell.bridge.workers == 1
        and cell.bridge.ordering == "key"
    )


def _against_keyed(results: Results) -> Line:
    of = "unary, key order, 0 ms (native)"
    asked = "≥ 1.00 × the Go keyed loop's events/s, ≤ 1.00 × its CPU an event"
    ours, keyed = _best(results, _plain("native", 0)), _best(results, _plain("go-keyed", 0))
    if ours is None or keyed is None:
        return _unknown(of, asked)
    pairs = list(zip(ours[1], keyed[1], strict=False))
    pace = median(one.events_per_s / two.events_per_s for one, two in pairs)
    cost = median(one.cpu_s / two.cpu_s for one, two in pairs)
    return _judged(of, asked, f"{pace:.2f} × and {cost:.2f} ×", pace >= 1.0 and cost <= 1.0)


def _ahead(results: Results, mode: str, delay_ms: int) -> Line:
    """Of all loops that keep a key in order; those that keep none do less."""
    of = f"{mode}, key order, {delay_ms} ms"
    asked = "ahead of every loop that keeps order"
    ours = _best(results, _plain(mode, delay_ms))
    other = _best(
        results,
        lambda cell: (
            not cell.bridge.is_pelton and cell.delay_ms == delay_ms and cell.bridge.ordering == "key"
        ),
    )
    if ours is None or other is None:
        return _unknown(of, asked)
    we, they = (median(one.events_per_s for one in runs) for _, runs in (ours, other))
    found = f"{we:,.0f}/s ({ours[0].bridge.concurrency} out); {other[0].bridge}: {they:,.0f}/s"
    return _judged(of, asked, found, we > they)


def _per_cpu(results: Results, mode: str, least: float) -> Line:
    of, asked = f"{mode}, key order, 0 ms", f"≥ {least:,.0f} events per CPU-second"
    ours = _best(results, _plain(mode, 0))
    if ours is None:
        return _unknown(of, asked)
    found = median(1e6 / one.cpu_s for one in ours[1])
    keyed = _best(results, _plain("go-keyed", 0))
    pairs = [] if keyed is None else zip(ours[1], keyed[1], strict=False)
    beside = _beside(("CPU an event", [one.cpu_s / two.cpu_s for one, two in pairs], 1e6 / least / GO_CPU_US))
    return _judged(of, asked, f"{found:,.0f}", found >= least, beside)


def _beside(*compared: tuple[str, list[float], float]) -> str:
    """Of what, how many times what the Go loop took, round by round, and how many times it may be."""
    if not all(times for _, times, _ in compared):
        return ""
    told = "; ".join(f"{median(times):.2f} × its {what}, ≤ {most:.2f} ×" for what, times, most in compared)
    holds = all(median(times) <= most for _, times, most in compared)
    return f"{told}: {MET if holds else MISSED}"


def _latency(results: Results, mode: str) -> Line:
    of = f"latency at {LATENCY_PER_S} events/s, {mode}"
    asked = f"p50 < {P50_MS:g} ms, p99 < {P99_MS:g} ms"
    late = {
        cell.bridge.mode: runs
        for cell, runs in results.latencies().items()
        if cell.per_second == LATENCY_PER_S
    }
    if mode not in late:
        return _unknown(of, asked)
    runs = late[mode]
    p50, p99 = median(one.p50_ms for one in runs), median(one.p99_ms for one in runs)
    pairs = list(zip(runs, late.get("go-keyed", []), strict=False))
    beside = _beside(
        ("p50", [one.p50_ms / two.p50_ms for one, two in pairs], P50_MS / GO_P50_MS),
        ("p99", [one.p99_ms / two.p99_ms for one, two in pairs], P99_MS / GO_P99_MS),
    )
    return _judged(of, asked, f"{p50:.2f} ms, {p99:.2f} ms", p50 < P50_MS and p99 < P99_MS, beside)


def _killed(results: Results, mode: str) -> Line:
    """By the worst round: a bound is no median."""
    of = f"kill -9 under load, {mode}"
    asked = (
        "repeats ≤ calls out + settled in the last 200 ms and a commit's round trip;"
        f" first event < {FIRST_EVENT_S:g} s"
    )
    runs = next((runs for cell, runs in results.kills().items() if cell.bridge.mode == mode), None)
    if runs is None:
        return _unknown(of, asked)
    within = all(one.repeats <= one.repeats_bound for one in runs)
    first_s = max(one.first_event_s for one in runs)
    most = max(runs, key=lambda one: one.repeats - one.repeats_bound)
    lost = sum(one.lost for one in runs)
    found = (
        f"{most.repeats:,} repeats of {most.repeats_bound:,} allowed, {first_s:.2f} s, each at its worst;"
        f" {lost:,} lost"
    )
    return _judged(of, asked, found, within and first_s < FIRST_EVENT_S and not lost)


def _poisoned(results: Results, mode: str) -> Line:
    of, asked = f"1 % of keys poison, {mode}", f"the others keep ≥ {KEPT:.0%} of a paired control's pace"
    kept = {
        cell.status: median(one.kept for one in runs)
        for cell, runs in results.poisons().items()
        if cell.bridge.mode == mode
    }
    if not kept:
        return _unknown(of, asked)
    found = ", ".join(f"{status} {100 * part:.1f} %" for status, part in kept.items())
    return _judged(of, asked, found, min(kept.values()) >= KEPT)


def _memory(results: Results) -> Line:
    of, asked = f"memory at {CONCURRENCY_MORE:,} calls out", f"≤ {RSS_MB:g} MB"
    most: dict[str, float] = {}
    for cell, runs in results.speeds().items():
        bridge = cell.bridge
        if bridge.is_pelton and bridge.concurrency == CONCURRENCY_MORE and bridge.workers == 1:
            most[bridge.mode] = max(most.get(bridge.mode, 0.0), *(one.rss_mb for one in runs))
    if not most:
        return _unknown(of, asked)
    found = ", ".join(f"{mode} {mb:.0f} MB" for mode, mb in most.items())
    return _judged(of, asked, f"{found} at most", max(most.values()) <= RSS_MB)


def _bounded(backlog: Backlog | None) -> Line:
    """Of the latest `make bench-scaling`, which measures it."""
    of, asked = "memory before a dead target", f"bounded with a backlog of {BACKLOG_EVENTS:,} events"
    if backlog is None:
        return _unknown(of, asked)
    return _judged(of, asked, backlog_told(backlog), backlog.holds and backlog.events >= BACKLOG_EVENTS)


def report(results: Results, backlog: Backlog | None = None, *, scaling: bool = False) -> dict[str, str]:
    """The files of docs/performance/ that a run of `make bench` writes, by name; `scaling` says that there is
    a page of that name beside them."""
    charts = {f"{name}.svg": drawn for name, drawn in _charts(results).items()}
    return {"README.md": _readme(results, budgets(results, backlog), list(charts), scaling), **charts}


def _charts(results: Results) -> dict[str, str]:
    drawn: dict[str, str] = {}
    speeds = results.speeds()
    modes = [
        mode for mode in (*MODES, "go-keyed", *JVM_LOOPS) if any(cell.bridge.mode == mode for cell in speeds)
    ]
    pace: dict[str, dict[str, float]] = {}
    cost: dict[str, dict[str, float]] = {}
    for delay_ms in DELAYS_MS:
        for mode in modes:
            best = _best(results, lambda cell, at=delay_ms, who=mode: _one_of(cell, who, at))  # type: ignore[misc]
            if best is not None:
                group = f"target {delay_ms} ms"
                pace.setdefault(group, {})[mode] = median(one.events_per_s for one in best[1])
                cost.setdefault(group, {})[mode] = median(one.cpu_s for one in best[1])
    if pace:
        drawn["throughput"] = svg.bars("Throughput, the best concurrency of each", "events a second", pace)
        drawn["cpu"] = svg.bars("What an event costs", "CPU-seconds for a million events", cost, digits=1)
    late: dict[str, dict[str, float]] = {}
    for cell, runs in results.latencies().items():
        late.setdefault(f"{cell.per_second:,} events/s", {})[cell.bridge.mode] = median(
            one.p99_ms for one in runs
        )
    if late:
        drawn["latency"] = svg.bars(
            "From the moment an event was due to its call", "99th percentile, milliseconds", late, digits=2
        )
    return drawn


def _one_of(cell: Speed, mode: str, delay_ms: int) -> bool:
    """One process, in the order that it is made for."""
    bridge = cell.bridge
    ordered = bridge.ordering == "key" or not bridge.is_pelton
    return bridge.mode == mode and cell.delay_ms == delay_ms and bridge.workers == 1 and ordered


SCALING = " Where it bends with partitions, keys, sizes and subscriptions, and why: [scaling.md](scaling.md)."
CUT = """**This run was cut**: {whole} of {rounds} rounds are whole. A cell has the rounds it was reached in,
and what was not reached at all is named under "No figure".
"""
SETUP = """One broker, the target and what is measured share the cores, so compare within this run only.
Each run has fresh processes and a consumer group of its own; rounds go over all cells before any is
measured again, and another cell is first each time. Figures are medians over {rounds} rounds, with the
least and the most in parentheses.

- **The source** is read back before it is used: every number once, each key in one partition and in order.
- **The target** is a Go gRPC server that answers every call after the delay and keeps a journal.
  Throughput, repeats, disorder and latency are what it saw. A run whose journal does not show every event
  has no figure.
- **Budgets of CPU-seconds and milliseconds** were set where the Go keyed loop took {go_cpu:g} µs of CPU an
  event, and {go_p50:g} ms (p50) and {go_p99:g} ms (p99) at 500 events/s. What is found depends on the
  computer and on its hour; beside the same loop in the same rounds it depends less on them.
- **CPU** is user and system time of the bridge's processes, from the first call to the last answer; memory
  is their peak.
- **Latency** is open-loop: events are published by the clock, each carries the moment it was due, and one
  that is late does not hold up the next.
- **The JVM** is measured after its first 8 s of calls (10 s in the latency runs), Pelton and Go from the
  first call on.
- **Several workers** are measured from where all of them have calls.
- **kill -9** comes when 40 % are settled; the same command starts again at once, with the same group.
- **Poison**: 1 % of the keys are refused for ever, beside a control without, with a target that takes 1 ms.
- **The loops** retry nothing and keep no account of what is settled out of order (Go), or do what their
  library does by default (JVM). What a kill and poison do to them is measured in the first round only, since
  most of it is waiting for a session's or a stall's end. A loop that loses events after a kill, or stops at
  poison, is shown as doing so."""


def _rounds(results: Results) -> str:
    """How many a figure is the median of."""
    whole = results.whole_rounds
    return f"{whole} or {whole + 1}" if results.is_cut else str(results.rounds)


def _hour(results: Results) -> list[tuple[str, str]]:
    """How fast the computer was while it measured."""
    if not results.pulses_ms:
        return []
    told = figures.spread(results.pulses_ms)
    return [("its hours", f"a million steps of a loop in this Python, before each run: {told} ms")]


def _readme(results: Results, lines: Sequence[Line], charts: Sequence[str], scaling: bool) -> str:
    parts = [
        "# Performance\n",
        f"Measured on {results.began} in {results.took_s / 60:.0f} minutes.{SCALING if scaling else ''}"
        " Memory beside dead targets: [memory.md](memory.md). One bad target beside a good one:"
        " [isolation.md](isolation.md). Where an event's time goes: [profile.md](profile.md).\n",
        *([CUT.format(whole=results.whole_rounds, rounds=results.rounds)] if results.is_cut else []),
        "## The budgets\n",
        _table(
            ["what", "asked", "found", "", "beside the Go keyed loop"],
            [[line.of, line.asked, line.found, line.verdict, line.beside] for line in lines],
        ),
        "## On what\n",
        _table(["", ""], [[name, text] for name, text in [*results.machine, *_hour(results)]]),
        "## How\n",
        SETUP.format(rounds=_rounds(results), go_cpu=GO_CPU_US, go_p50=GO_P50_MS, go_p99=GO_P99_MS) + "\n",
        "Again, on a computer that does nothing else:\n",
        f"```sh\n{results.command}\n```\n",
    ]
    for title, table, chart in (
        ("Throughput, CPU and memory", tables.speeds(results), ["throughput.svg", "cpu.svg"]),
        ("Beside the Go keyed loop, round by round", tables.beside(results), []),
        ("Latency", tables.latencies(results), ["latency.svg"]),
        ("The first event after a start", tables.starts(results), []),
        ("kill -9 under load", tables.kills(results), []),
        ("1 % of the keys poison", tables.poisons(results), []),
    ):
        if table:
            parts.append(f"## {title}\n")
            parts += [f"![{title}]({name})\n" for name in chart if name in charts]
            parts.append(table + "\n")
            if title.startswith("Throughput"):
                parts.append("Faults: repeats / disorder in a key / overlaps in a key / not committed.\n")
    if told := tables.refusals(results):
        parts += ["## No figure\n", told + "\n"]
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Of texts, unlike `figures.table`: nothing is aligned."""
    body = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(body) + "\n"
