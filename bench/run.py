"""Pelton on a real Kafka, beside the loops that teams write by hand: `make bench`, or with ARGS="--quick".

Every run has fresh processes and a consumer group of its own; rounds go over all cells before any is
measured again, so that a slow minute of the computer hits all of them. It measures and compares with the
budgets; it asserts nothing about time. A run whose journal shows a loss has no figure: it is told as refused.
Exit code 1 where Pelton was not right: repeats, disorder, loss, events not committed, or a run that was
refused; and where the run was cut, by `--minutes` or a signal: its report says so.
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

from bench import figures, machine, tables
from bench.builds import build
from bench.cells import MODES, Cell, Kill, Latency, Poison, Speed, cells, choose
from bench.measure import Bench
from bench.processes import ROOT, Failed, program, reason_of
from bench.report import report
from bench.results import Killed, Late, Poisoned, Results, Throughput
from bench.scaling_report import Grown
from bench.source import Events
from bench.writing import FOLDER, recorded, write
from pelton.local.broker import LocalKafka

ROUNDS = 5
SCALE_QUICK = 0.2
LATENCY_S = 10.0
LATENCY_QUICK_S = 3.0
#: Of `--quick`: what a change is looked at with, in two minutes.
QUICK = (
    "go-keyed:0:*", "aio:0:256", "native:0:256", "stream:0:256", "native:10:1000", "latency:native:500",
)  # fmt: skip
#: Where the results of the latest run are kept, whatever else is written.
RECORD = ROOT / "build" / "bench" / "results.json"
#: Of `make bench-scaling`, which measures one of the budgets.
SCALING_RECORD = RECORD.with_name("scaling.json")
#: Functions that `--profile` lists.
TOP = 25


def main() -> int:
    options = _options()
    if options.list:
        print("\n".join(cell.name for cell in cells()))
        return 0
    if options.record:
        results = recorded(options.record, Results.from_json)
    else:
        measured = _run(options)
        if measured is None:
            return 0
        results = measured
    _show(results)
    if options.write:
        grown = recorded(SCALING_RECORD, Grown.from_json) if SCALING_RECORD.exists() else None
        backlog = None if grown is None else grown.backlog
        for path in write(report(results, backlog, scaling=(FOLDER / "scaling.md").exists())):
            print(f"written: {path.relative_to(ROOT)}")
        print("Link it where it is not yet: README.md and CHANGELOG.md, as docs/performance/README.md.")
    return 1 if faults(results) or results.is_cut else 0


def _run(options: argparse.Namespace) -> Results | None:
    """Everything that was chosen, round by round; None after a profile."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pelton-bench-") as name, LocalKafka.temporary() as kafka:
        folder = Path(name)
        built = build(folder)
        results = Results(machine.describe(), machine.command("bench"), machine.now(), options.rounds)
        for what, text in results.machine:
            print(f"{what + ':':<9}{text}")
        chosen = [cell for cell in options.chosen if cell.bridge.mode not in built.missing]
        results.missing = {
            mode: reason
            for mode, reason in built.missing.items()
            if any(cell.bridge.mode == mode for cell in options.chosen)
        }
        for mode, reason in results.missing.items():
            print(f"MISSING: {mode}: {reason}")
        print(f"rounds:  {options.rounds}, over {len(chosen)} cells\n", flush=True)
        bench = Bench(kafka.bootstrap, kafka.status().pid, built, folder / "bytecode")
        for mode in sorted({cell.bridge.mode for cell in chosen if cell.bridge.is_pelton}):
            try:
                bench.compile(mode)
            except Failed as error:
                results.missing[mode] = str(error)
                print(f"MISSING: {mode}: {error}", flush=True)
        chosen = [cell for cell in chosen if cell.bridge.mode not in results.missing]
        results.planned = [cell.name for cell in chosen]
        if options.profile:
            _profile(bench, chosen, folder / "profile")
            return None
        until = started + options.minutes * 60 if options.minutes else float("inf")
        try:
            for number in range(options.rounds):
                begun = time.monotonic()
                _round(bench, chosen, number, options.latency_seconds, results, until)
                results.whole_rounds = number + 1
                took_min = (time.monotonic() - begun) / 60
                print(
                    f"round {number + 1} took {took_min:.1f} min; {options.rounds} of them take about"
                    f" {took_min * options.rounds:.0f}",
                    file=sys.stderr,
                    flush=True,
                )
        except (Cut, KeyboardInterrupt, SystemExit) as error:
            # What has been measured is not for nothing.
            print(f"CUT in round {results.whole_rounds + 1}: {error!r}", file=sys.stderr, flush=True)
        finally:
            results.took_s = time.monotonic() - started
            _keep(results)
    return results


class Cut(Exception):
    """The time is over."""


def _keep(results: Results) -> None:
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(results.to_json())


def _round(
    bench: Bench, chosen: Sequence[Cell], number: int, latency_s: float, results: Results, until: float
) -> None:
    """One run of each; Cut before the one that would begin after `until`."""
    # Another one first each time: the first of a round has the coldest caches.
    turn = number * len(chosen) // max(results.rounds, 1)
    for cell in [*chosen[turn:], *chosen[:turn]]:
        if number and not cell.bridge.is_pelton and isinstance(cell, Kill | Poison):
            continue
        begin = time.monotonic()
        if begin >= until:
            raise Cut("the minutes that were given are over")
        results.pulses_ms.append(machine.pulse_ms())
        try:
            if not isinstance(cell, Latency):
                bench.prepare(Events(cell.events))
            found = bench.measure(cell, latency_s, number)
        except Exception as error:  # one cell's trouble, whatever it is, is not the others'
            reason = reason_of(error)
            results.refused.setdefault(cell.name, []).append(reason)
            told = f"REFUSED: {reason}"
        else:
            results.found.setdefault(cell, []).append(found)
            told = _told(found)
        print(
            f"round {number + 1}: {cell.name}: {told} ({time.monotonic() - begin:.0f} s)",
            file=sys.stderr,
            flush=True,
        )


def _told(found: Throughput | Late | Killed | Poisoned) -> str:
    match found:
        case Throughput():
            return f"{found.events_per_s:,.0f} events/s, {found.cpu_s:.1f} CPU-s per million"
        case Late():
            return f"p50 {found.p50_ms:.2f} ms, p99 {found.p99_ms:.2f} ms"
        case Killed():
            return (
                f"{found.repeats} repeats of {found.repeats_bound} that may be, {found.lost} lost,"
                f" {found.disorder} out of order, first event after {found.first_event_s:.2f} s"
            )
        case Poisoned():
            return f"kept {100 * found.kept:.1f} %, {found.undelivered} never delivered"


def faults(results: Results) -> int:
    """What was wrong with Pelton; the loops promise no order across a crash, and some of them none at all."""
    wrong = sum(
        len(reasons) for name, reasons in results.refused.items() if set(name.split(":")) & set(MODES)
    )
    for cell, runs in results.found.items():
        if not cell.bridge.is_pelton:
            continue
        for one in runs:
            match one:
                case Throughput():
                    wrong += one.repeats + one.disorder + one.overlaps + (one.not_committed or 0)
                case Late():
                    wrong += one.repeats + one.disorder
                case Killed():
                    wrong += one.disorder + one.lost
                case Poisoned():
                    wrong += one.undelivered
    return wrong


def _show(results: Results) -> None:
    for title, text in (
        ("As fast as it goes", tables.speeds(results)),
        ("Beside go-keyed in the same round: 1.00 is as fast, or as dear", tables.beside(results)),
        ("From the moment an event was due, target 0 ms", tables.latencies(results)),
        ("From the start of the process", tables.starts(results)),
        ("After kill -9", tables.kills(results)),
        ("1 % of the keys refused for ever: the others", tables.poisons(results)),
        ("No figure", tables.refusals(results)),
    ):
        if text:
            print(f"\n{title}\n\n{text}")
    print("\nFaults: repeats / disorder in a key / overlaps in a key / not committed.")
    print(f"{results.took_s:.0f} s in all; the results are in {RECORD.relative_to(ROOT)}")


def _profile(bench: Bench, chosen: Sequence[Cell], out: Path) -> None:
    """Where Pelton's CPU goes: by thread in a plain run, by room and function in a traced one."""
    cell = next((one for one in chosen if isinstance(one, Speed) and one.bridge.is_pelton), None)
    if cell is None:
        raise Failed("a profile is of Pelton: choose one of its cells")
    plain = bench.speed(cell)
    print(f"{cell.name}: {plain.events_per_s:,.0f} events/s, {plain.cpu_s:.1f} CPU-s per million events\n")
    whole = sum(plain.cpu_by_thread.values())
    by_thread = sorted(plain.cpu_by_thread.items(), key=lambda item: -item[1])
    rows = [[name, f"{spent:.2f}", f"{spent / whole:.0%}"] for name, spent in by_thread if spent]
    print(figures.table(["thread, untraced, start included", "CPU-s", "share"], rows))
    bench.speed(cell, out)
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
    parser.add_argument("--quick", action="store_true", help="one short round over a few cells: two minutes")
    parser.add_argument("--rounds", type=int, help=f"over all cells; default {ROUNDS}")
    parser.add_argument("--scale", type=float, help="so many times as many events; default 1")
    parser.add_argument("--latency-seconds", type=float, help=f"that count; default {LATENCY_S:g}")
    parser.add_argument(
        "--cells", default="", metavar="NAME,…", help="only these; * matches anything; native:5:64 makes one"
    )
    parser.add_argument("--minutes", type=float, help="begin no cell after so many, and report what there is")
    parser.add_argument("--list", action="store_true", help="the names of all cells")
    parser.add_argument("--profile", action="store_true", help="of one cell (the first): where the CPU goes")
    parser.add_argument("--write", action="store_true", help="write the report: docs/performance/README.md")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="measure nothing: take the results of an earlier run"
    )
    options = parser.parse_args()
    quick = options.quick
    options.rounds = options.rounds or (1 if quick else ROUNDS)
    options.scale = options.scale or (SCALE_QUICK if quick else 1.0)
    options.latency_seconds = options.latency_seconds or (LATENCY_QUICK_S if quick else LATENCY_S)
    if options.rounds < 1 or options.scale <= 0 or options.latency_seconds <= 0:
        parser.error("at least one round, of something")
    patterns = [one for one in options.cells.split(",") if one] or (QUICK if quick else ())
    try:
        options.chosen = choose(patterns, options.scale)
    except ValueError as error:
        parser.error(str(error))
    return options


if __name__ == "__main__":
    program("bench", main)
