"""Many schedules, on all cores; or one, told step by step.

python -m tests.simulation.run --schedules 10000        the seeds from 0 on
python -m tests.simulation.run --seconds 600            as many as fit
python -m tests.simulation.run --seed 4711              replays one, with what happened
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.simulation.schedule import draw
from tests.simulation.situations import Reached, table
from tests.simulation.world import World

__all__ = ["Run", "replay_line", "run_many", "run_one"]

ROOT = Path(__file__).resolve().parents[2]
#: Failures after which a run ends: each has a seed, and more of them say little more.
FAILURES_MAX = 5


def replay_line(seed: int) -> str:
    return f'make sim ARGS="--seed {seed}"'


@dataclass
class Run:
    """What came of some schedules."""

    schedules: int = 0
    #: Virtual seconds that passed in all of them together.
    virtual_s: float = 0.0
    reached: Reached = field(default_factory=Reached)
    #: Seed and what it showed.
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Mapping[str, Any]) -> None:
        self.schedules += other["schedules"]
        self.virtual_s += other["virtual_s"]
        self.reached.add(other["reached"])
        self.failures += [(seed, text) for seed, text in other["failures"]]

    def as_json(self) -> str:
        return json.dumps(
            {
                "schedules": self.schedules,
                "virtual_s": self.virtual_s,
                "reached": self.reached.counts,
                "failures": self.failures,
            }
        )


def run_one(seed: int, *, tracing: bool = False) -> tuple[World, BaseException | None]:
    """One schedule, and what went wrong in it."""
    world = World(draw(seed), tracing=tracing)
    try:
        world.run()
    except Exception as error:
        return world, error
    return world, None


def run_here(seeds: Iterable[int], *, until: float = float("inf"), failures_max: int = FAILURES_MAX) -> Run:
    """In this process, one after the other."""
    # What the code under test logs at each fault is not what is looked for, and costs more than the run.
    logging.disable(logging.CRITICAL)
    run = Run()
    try:
        for seed in seeds:
            if time.monotonic() > until:
                break
            world, error = run_one(seed)
            run.schedules += 1
            run.virtual_s += world.loop.now
            run.reached.add(world.reached.counts)
            if error is not None:
                where = traceback.extract_tb(error.__traceback__)[-1]
                run.failures.append(
                    (seed, f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})")
                )
                if len(run.failures) >= failures_max:
                    break
    finally:
        logging.disable(logging.NOTSET)
    return run


def run_many(first: int, schedules: int, *, jobs: int, seconds: float | None = None) -> Run:
    """In `jobs` processes of their own, the seeds dealt out in turn."""
    workers = []
    for job in range(jobs):
        command = [sys.executable, "-m", "tests.simulation.run", "--worker", str(first + job), str(jobs)]
        command += ["--schedules", str(len(range(job, schedules, jobs)))]
        command += ["--seconds", str(seconds)] if seconds is not None else []
        workers.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
    run = Run()
    try:
        for worker in workers:
            out, _ = worker.communicate()
            if worker.returncode != 0:
                raise RuntimeError(f"a worker ended with {worker.returncode}: {out}")
            run.add(json.loads(out))
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return run


def replay(seed: int) -> int:
    world, error = run_one(seed, tracing=True)
    schedule = world.schedule
    print(f"seed {seed}: {schedule}\n")
    print("\n".join(world.lines))
    digest = hashlib.sha256("\n".join(world.lines).encode()).hexdigest()
    print(f"\n{len(world.lines)} steps, {world.loop.now:.1f} s of virtual time, trace {digest[:16]}")
    if error is None:
        print("nothing went wrong")
        return 0
    traceback.print_exception(error)
    print(f"replay: {replay_line(seed)}")
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--worker", type=int, nargs=2, metavar=("FIRST", "STEP"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return replay(arguments.seed)
    started = time.monotonic()
    until = started + arguments.seconds if arguments.seconds is not None else float("inf")
    schedules = arguments.schedules if arguments.seconds is None else 1 << 40
    if arguments.worker is not None:
        first, step = arguments.worker
        print(run_here(range(first, first + schedules * step, step), until=until).as_json())
        return 0
    run = run_many(arguments.first, schedules, jobs=arguments.jobs, seconds=arguments.seconds)
    print("\n".join(table(run.reached.counts)))
    took_s = time.monotonic() - started
    print(f"\n{run.schedules} schedules, {run.virtual_s / 3600:.1f} virtual hours, in {took_s:.0f} s")
    for seed, text in run.failures:
        print(f"seed {seed}: {text}\n  replay: {replay_line(seed)}")
    if run.reached.never:
        print("never reached: " + ", ".join(run.reached.never))
    return 1 if run.failures or run.reached.never else 0


if __name__ == "__main__":
    sys.exit(main())
