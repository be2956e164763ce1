"""Results as tables in Markdown, for a terminal and for the report. Pure: results in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench import figures
from bench.cells import Speed
from bench.results import Results, Throughput

__all__ = ["beside", "kills", "latencies", "poisons", "refusals", "speeds", "starts"]

NOBODY_KNOWS = "–"


def speeds(results: Results) -> str:
    rows = [
        [
            f"{cell.bridge}, target {cell.delay_ms} ms",
            figures.spread([one.events_per_s for one in runs]),
            figures.spread([one.cpu_s for one in runs], 1),
            figures.spread([1e6 / one.cpu_s for one in runs if one.cpu_s]),
            figures.spread([one.rss_mb for one in runs]),
            figures.spread([one.target_cpu_s for one in runs], 1),
            _faults(cell, runs),
        ]
        for cell, runs in results.speeds().items()
    ]
    head = [
        "bridge", "events/s", "CPU-s per million", "events per CPU-s", "peak RSS MB", "target's CPU-s",
        "faults",
    ]  # fmt: skip
    return figures.table(head, rows) if rows else ""


def _faults(cell: Speed, runs: Sequence[Throughput]) -> str:
    """Of all rounds together; what was not asked for is no fault."""
    ordered = cell.bridge.keeps_order
    told = [
        str(sum(one.repeats for one in runs)),
        str(sum(one.disorder for one in runs)) if ordered else NOBODY_KNOWS,
        str(sum(one.overlaps for one in runs)) if ordered else NOBODY_KNOWS,
        NOBODY_KNOWS
        if any(one.not_committed is None for one in runs)
        else str(sum(one.not_committed or 0 for one in runs)),
    ]
    return " / ".join(told)


def beside(results: Results) -> str:
    """Each bridge beside the Go loop with keyed lanes at the same delay and its best, round by round."""
    found = results.speeds()
    loops = [(cell, runs) for cell, runs in found.items() if cell.bridge.mode == "go-keyed"]
    loops.sort(key=lambda loop: median(one.events_per_s for one in loop[1]))
    keyed = {cell.delay_ms: runs for cell, runs in loops}
    rows = []
    for cell, runs in found.items():
        other = keyed.get(cell.delay_ms)
        if other is None or other is runs:
            continue
        # A round that one of them has no figure of has no pair.
        pairs = list(zip(runs, other, strict=False))
        pace = [one.events_per_s / two.events_per_s for one, two in pairs]
        cost = [one.cpu_s / two.cpu_s for one, two in pairs if two.cpu_s]
        rows.append(
            [
                f"{cell.bridge}, target {cell.delay_ms} ms",
                figures.spread(pace, 2),
                figures.spread(cost, 2) if cost else NOBODY_KNOWS,
            ]
        )
    return figures.table(["bridge", "events/s", "CPU an event"], rows) if rows else ""


def latencies(results: Results) -> str:
    rows = [
        [
            f"{cell.bridge}, {cell.per_second:,} events/s",
            figures.spread([one.p50_ms for one in runs], 2),
            figures.spread([one.p99_ms for one in runs], 2),
            figures.spread([one.p999_ms for one in runs], 2),
            figures.spread([one.worst_ms for one in runs], 1),
            figures.spread([one.publisher_p99_ms for one in runs], 2),
            f"{sum(one.samples for one in runs):,}",
        ]
        for cell, runs in results.latencies().items()
    ]
    head = ["bridge", "p50 ms", "p99 ms", "p99.9 ms", "worst ms", "publisher's own p99 ms", "events"]
    return figures.table(head, rows) if rows else ""


def starts(results: Results) -> str:
    """From the start of a process to its first call, by bridge, of all its runs at the least delay."""
    first: dict[str, list[float]] = {}
    for cell, runs in results.speeds().items():
        if cell.delay_ms == 0 and cell.bridge.workers == 1:
            first.setdefault(cell.bridge.mode, []).extend(one.first_event_s for one in runs)
    rows = [[mode, figures.spread(seconds, 2), str(len(seconds))] for mode, seconds in first.items()]
    return figures.table(["bridge", "s to the first event", "starts"], rows) if rows else ""


def kills(results: Results) -> str:
    rows = [
        [
            str(cell.bridge),
            figures.spread([one.first_event_s for one in runs], 2),
            figures.spread([one.repeats for one in runs]),
            figures.spread([one.repeats_bound for one in runs]),
            figures.spread([one.lost for one in runs]),
            str(sum(one.disorder for one in runs)) if cell.bridge.keeps_order else NOBODY_KNOWS,
            figures.spread([one.settled for one in runs]),
        ]
        for cell, runs in results.kills().items()
    ]
    head = [
        "bridge",
        "s to the first event",
        "repeats",
        "may repeat",
        "lost",
        "disorder",
        "settled at the kill",
    ]
    return figures.table(head, rows) if rows else ""


def poisons(results: Results) -> str:
    rows = [
        [
            f"{cell.bridge}, {cell.status}",
            figures.spread([one.control_per_s for one in runs]),
            figures.spread([one.poisoned_per_s for one in runs]),
            figures.spread([100 * one.kept for one in runs], 1),
            f"{round(median(one.undelivered for one in runs)):,}",
            figures.spread([one.refused for one in runs]),
        ]
        for cell, runs in results.poisons().items()
    ]
    head = ["bridge", "without poison, events/s", "with it", "kept %", "never delivered", "calls refused"]
    return figures.table(head, rows) if rows else ""


def refusals(results: Results) -> str:
    """What there is no figure of, and why: a line each."""
    lines = [f"- **{mode}** is missing: {_line(reason)}" for mode, reason in results.missing.items()]
    for name, reasons in results.refused.items():
        lines.append(f"- `{name}`: {len(reasons)} of {results.rounds} runs do not count: {_line(reasons[0])}")
    lines += [f"- `{name}` was not reached before the run was cut" for name in results.not_reached]
    return "\n".join(lines)


def _line(text: str) -> str:
    return " ".join(text.splitlines()[0].split()) if text.strip() else "no reason was given"
