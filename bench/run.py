"""Speed, CPU, latency and memory of Pelton on a real Kafka: `make bench`, `make bench ARGS="--quick"`.

Every run has fresh processes and a consumer group of its own; rounds go over all cells before any is
measured again, so that a slow minute of the computer hits all of them. It measures and compares with the
budgets; it asserts nothing about time. Exit code 1 if a run was not right: repeats, disorder, events not
committed.
"""

from __future__ import annotations

import argparse
import pstats
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

# Run by its path, so that only its own folder is known; tests import it as `bench`, and so do its parts.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import figures, machine
from bench.cells import (
    BUDGET_P50_MS,
    BUDGET_P99_MS,
    BUDGET_PER_CPU_SECOND,
    BUDGET_RSS_MB,
    MODES,
    Cell,
    cells,
    parse_cell,
)
from bench.measure import LATENCY_PER_SECOND, LATENCY_WARM_UP_S, Bench, Latency, Throughput
from bench.processes import Failed, build_target
from pelton.errors import PeltonError
from pelton.local.broker import LocalKafka

EVENTS = 200_000
EVENTS_QUICK = 50_000
ROUNDS = 3
LATENCY_S = 15.0
LATENCY_QUICK_S = 5.0
#: Functions that `--profile` lists.
TOP = 25


def main() -> int:
    options = _options()
    started = time.monotonic()
    for name, text in machine.describe():
        print(f"{name + ':':<9}{text}")
    print(f"rounds:  {options.rounds}, up to {options.events:,} events a cell\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="pelton-bench-") as folder, LocalKafka.temporary() as kafka:
        bench = Bench(kafka.bootstrap, build_target(Path(folder)))
        chosen: list[Cell] = options.cells or cells(options.events)
        for events in sorted({cell.events for cell in chosen}):
            bench.prepare(events)
        if options.profile:
            _profile(bench, chosen[0], Path(folder) / "profile")
            return 0
        faults = _measure(bench, chosen, options.rounds, options.latency_seconds)
    print(f"\n{time.monotonic() - started:.0f} s in all")
    return 1 if faults else 0


def _measure(bench: Bench, chosen: Sequence[Cell], rounds: int, latency_seconds: float) -> int:
    """All rounds, then the tables; returns how many faults the targets saw."""
    through: dict[Cell, list[Throughput]] = {cell: [] for cell in chosen}
    late: dict[str, list[Latency]] = {mode: [] for mode in MODES if any(cell.mode == mode for cell in chosen)}
    for number in range(rounds):
        # Another one first each time: the first of a round has the coldest caches.
        turn = number % len(chosen)
        for cell in [*chosen[turn:], *chosen[:turn]]:
            through[cell].append(bench.throughput(cell))
            _progress(f"round {number + 1}: {cell}: {through[cell][-1].events_per_s:,.0f} events/s")
        for mode, found in late.items():
            if latency_seconds:
                found.append(bench.latency(Cell(mode, 0, chosen[0].concurrency, 0), latency_seconds))
                _progress(f"round {number + 1}: {mode}: p50 {found[-1].p50_ms:.2f} ms")
    _show_throughput(through)
    if latency_seconds:
        _show_latency(late)
    return sum(one.faults for runs in through.values() for one in runs)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _show_throughput(through: dict[Cell, list[Throughput]]) -> None:
    rows = []
    for cell, runs in through.items():
        per_cpu_s = [1e6 / one.cpu_s for one in runs]
        middle = figures.percentile(per_cpu_s, 50)
        asked = cell.mode == "unary" or cell.delay_ms == 0
        rows.append(
            [
                f"{cell.mode}, target {cell.delay_ms} ms, {cell.concurrency} out",
                figures.spread([one.events_per_s for one in runs]),
                figures.spread([one.cpu_s for one in runs], 1),
                figures.spread(per_cpu_s),
                figures.verdict(middle, least=BUDGET_PER_CPU_SECOND[cell.mode]) if asked else "–",
                figures.spread([one.rss_mb for one in runs]),
                figures.verdict(max(one.rss_mb for one in runs), most=BUDGET_RSS_MB),
                figures.spread([one.target_cpu_s for one in runs], 1),
                " / ".join(
                    str(sum(counts))
                    for counts in zip(
                        *((one.repeats, one.disorder, one.overlaps, one.not_committed) for one in runs),
                        strict=True,
                    )
                ),
            ]
        )
    head = [
        "key order", "events/s", "CPU-s per million", "events per CPU-s", "budget", "peak RSS MB", "budget",
        "target's CPU-s", "faults",
    ]  # fmt: skip
    print(figures.table(head, rows))
    print("\nFaults: repeats / disorder in a key / overlaps in a key / not committed.")
    print("Budgets: pure Python; the stream has its own, whatever carries it.")


def _show_latency(late: dict[str, list[Latency]]) -> None:
    rows = [
        [
            f"{mode}, {runs[0].samples * len(runs):,} events",
            figures.spread([one.p50_ms for one in runs], 2),
            figures.verdict(figures.percentile([one.p50_ms for one in runs], 50), most=BUDGET_P50_MS),
            figures.spread([one.p99_ms for one in runs], 2),
            figures.verdict(figures.percentile([one.p99_ms for one in runs], 50), most=BUDGET_P99_MS),
            figures.spread([one.worst_ms for one in runs], 1),
            figures.spread([one.publisher_p99_ms for one in runs], 2),
        ]
        for mode, runs in late.items()
    ]
    head = ["latency", "p50 ms", "budget", "p99 ms", "budget", "worst ms", "publisher's own p99 ms"]
    print(
        f"\nFrom the moment an event was due at {LATENCY_PER_SECOND}/s, target 0 ms;"
        f" the first {LATENCY_WARM_UP_S:.0f} s are not counted.\n"
    )
    print(figures.table(head, rows))


def _profile(bench: Bench, cell: Cell, out: Path) -> None:
    """Where Pelton's CPU goes: by thread in a plain run, by room and function in a traced one."""
    plain = bench.throughput(cell)
    print(f"{cell}: {plain.events_per_s:,.0f} events/s, {plain.cpu_s:.1f} CPU-s per million events\n")
    whole = sum(plain.cpu_by_thread.values())
    by_thread = sorted(plain.cpu_by_thread.items(), key=lambda item: -item[1])
    rows = [[name, f"{spent:.2f}", f"{spent / whole:.0%}"] for name, spent in by_thread if spent]
    print(figures.table(["thread, untraced, start included", "CPU-s", "share"], rows))
    bench.throughput(cell, out)
    stats = pstats.Stats(str(out))
    own = {where: entry[2] for where, entry in stats.stats.items()}  # type: ignore[attr-defined]
    counts = {where: entry[1] for where, entry in stats.stats.items()}  # type: ignore[attr-defined]
    total = sum(own.values())
    by_file: dict[str, float] = {}
    for where, spent in own.items():
        by_file[where[0]] = by_file.get(where[0], 0.0) + spent
    rows = [[room, f"{spent:.2f}", f"{spent / total:.0%}"] for room, spent in figures.by_room(by_file)[:12]]
    print("\n" + figures.table(["main thread, traced", "own s", "share"], rows) + "\n")
    rows = [
        [
            f"{_short(where[0])}:{where[1]} {where[2]}",
            f"{spent:.2f}",
            f"{spent / total:.0%}",
            f"{counts[where]:,}",
        ]
        for where, spent in sorted(own.items(), key=lambda item: -item[1])[:TOP]
    ]
    print(figures.table(["function", "own s", "share", "calls"], rows))


def _short(path: str) -> str:
    for mark in ("/src/", "/site-packages/"):
        if mark in path:
            return path.partition(mark)[2]
    return path.rpartition("/")[2]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure Pelton on a real Kafka.")
    parser.add_argument("--quick", action="store_true", help="one round and fewer events: under two minutes")
    parser.add_argument("--rounds", type=int, help=f"over all cells; default {ROUNDS}")
    parser.add_argument("--events", type=int, help=f"for the fastest cells; default {EVENTS:,}")
    parser.add_argument(
        "--latency-seconds", type=float, help=f"that count; 0 leaves it out; default {LATENCY_S:g}"
    )
    parser.add_argument(
        "--cell", action="append", default=[], metavar="MODE:DELAY[:OUT]", help="only this one; repeatable"
    )
    parser.add_argument("--profile", action="store_true", help="of one cell (the first): where the CPU goes")
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = 1 if options.quick else ROUNDS
    if options.events is None:
        options.events = EVENTS_QUICK if options.quick else EVENTS
    if options.latency_seconds is None:
        options.latency_seconds = LATENCY_QUICK_S if options.quick else LATENCY_S
    if options.rounds < 1 or options.events < 1:
        parser.error("at least one round and one event")
    try:
        options.cells = [parse_cell(text, options.events) for text in options.cell]
    except ValueError as error:
        parser.error(str(error))
    return options


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failed, PeltonError) as error:
        sys.exit(f"bench: {error}")
