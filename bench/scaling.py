"""How Pelton grows: partitions, keys, sizes, subscriptions, and a backlog before a dead target.

`make bench-scaling`, or shorter with ARGS="--rounds 1 --scale 0.1 --steps keys:*". The target answers at
once, so that Pelton, and what it stands on, is the limit. Exit code 1 where a run was not right, or the
memory's cap did not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

# Run by its path, so that only its own folder is known; tests import it as `bench`, and so do its parts.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import machine, memory, physical
from bench.builds import build
from bench.measure import Bench
from bench.processes import ROOT, program, reason_of
from bench.scaling_report import Backlog, Grown, report, summary
from bench.steps import Step, choose
from bench.writing import recorded, write
from pelton.local.broker import LocalKafka

ROUNDS = 3
BACKLOG_EVENTS = 10_000_000
BACKLOG_BYTES = 100
RECORD = ROOT / "build" / "bench" / "scaling.json"


def main() -> int:
    options = _options()
    if options.record:
        grown = recorded(options.record, Grown.from_json)
    else:
        grown = _run(options)
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        RECORD.write_text(grown.to_json())
    print(summary(grown))
    if options.write:
        for path in write(report(grown)):
            print(f"written: {path.relative_to(ROOT)}")
    return 1 if grown.faults else 0


def _run(options: argparse.Namespace) -> Grown:
    started = time.monotonic()
    grown = Grown(
        machine=machine.describe(),
        command=machine.command("bench-scaling"),
        began=machine.now(),
        rounds=options.rounds,
        floor=physical.measure(),
    )
    for name, text in grown.machine:
        print(f"{name + ':':<9}{text}")
    chosen: list[Step] = options.chosen
    with tempfile.TemporaryDirectory(prefix="pelton-scaling-") as name, LocalKafka.temporary() as kafka:
        folder = Path(name)
        built = build(folder)
        grown.missing = {mode: why for mode, why in built.missing.items() if mode in {s.mode for s in chosen}}
        for mode, why in grown.missing.items():
            print(f"MISSING: {mode}: {why}")
        bench = Bench(kafka.bootstrap, kafka.status().pid, built, folder / "bytecode")
        for mode in sorted({step.mode for step in chosen} - grown.missing.keys()):
            bench.compile(mode)
        try:
            _rounds(bench, chosen, grown)
            if options.backlog:
                grown.backlog = _backlog(kafka, folder, options.backlog)
        except (KeyboardInterrupt, SystemExit) as error:
            # What has been measured is not for nothing.
            print(f"CUT: {error!r}", file=sys.stderr, flush=True)
            grown.refused["the rest"] = ["the run was cut before it"]
    grown.took_s = time.monotonic() - started
    return grown


def _rounds(bench: Bench, chosen: list[Step], grown: Grown) -> None:
    for number in range(grown.rounds):
        for step in chosen:
            if step.mode in grown.missing:
                continue
            try:
                found = bench.speed(
                    step.cell,
                    events=step.events,
                    subscriptions=step.subscriptions,
                    from_part=step.from_part,
                )
            except Exception as error:  # one step's trouble, whatever it is, is not the others'
                reason = reason_of(error)
                grown.refused.setdefault(step.name, []).append(reason)
                told = f"REFUSED: {reason}"
            else:
                grown.found.setdefault(step, []).append(found)
                told = f"{found.events_per_s:,.0f} events/s, {found.cpu_s:.1f} CPU-s per million"
            print(f"round {number + 1}: {step.name}: {told}", file=sys.stderr, flush=True)


def _backlog(kafka: LocalKafka, folder: Path, events: int) -> Backlog:
    """Once: it is a cap that holds or does not."""
    print(f"a backlog of {events:,} events, and a target that refuses", file=sys.stderr, flush=True)
    case = memory.Case(f"{events:,} events", memory.Backlog("scaling-backlog", events, BACKLOG_BYTES))
    found = []
    for backlog in (memory.NOTHING, case.backlog):
        memory.publish(kafka.bootstrap, backlog)
        name = f"scaling-{backlog.topic}"
        found.append(memory.measure(kafka.bootstrap, case, name, backlog.topic, folder))
    idle, most = found
    return Backlog(events, BACKLOG_BYTES, idle, most, memory.cap_of(idle, case.limits))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-scaling", description="How Pelton grows.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--scale", type=float, default=1.0, help="so many times as many events; default 1")
    parser.add_argument(
        "--steps",
        default="*",
        metavar="NAME,…",
        help="only these, like keys:1000:native; * matches anything",
    )
    parser.add_argument(
        "--backlog", type=int, default=BACKLOG_EVENTS, metavar="EVENTS", help="0 leaves it out"
    )
    parser.add_argument("--write", action="store_true", help="write docs/performance/scaling.md")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="measure nothing: take the results of an earlier run"
    )
    options = parser.parse_args()
    if options.rounds < 1 or options.scale <= 0:
        parser.error("at least one round, of something")
    try:
        options.chosen = choose([one for one in options.steps.split(",") if one], options.scale)
    except ValueError as error:
        parser.error(str(error))
    return options


if __name__ == "__main__":
    program("bench-scaling", main)
