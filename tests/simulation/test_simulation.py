"""Thousands of schedules without a violation, every situation reached, every run repeatable."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from pelton.core import ackmap
from tests.simulation.loop import BusyLoop, VirtualLoop
from tests.simulation.reading import read_map
from tests.simulation.run import ROOT, replay_line, run_many, run_one
from tests.simulation.situations import table

#: Fewer for a quick look; the rarest situations need most of them.
SCHEDULES = int(os.environ.get("PELTON_SIM_SCHEDULES", "10000"))
#: From so many on, every situation must have been reached.
SCHEDULES_FOR_ALL = 10_000
#: Seeds whose traces are compared.
REPEATED = range(24)


@pytest.mark.timeout(900)
def test_no_schedule_shows_a_violation(note: Callable[[str], None]) -> None:
    run = run_many(0, SCHEDULES, jobs=os.cpu_count() or 1)
    note(f"simulation: {run.schedules} schedules, {run.virtual_s / 3600:.1f} virtual hours")
    for line in table(run.reached.counts):
        note("  " + line)
    failures = [f"seed {seed}: {text}\n  replay: {replay_line(seed)}" for seed, text in run.failures]
    assert not failures, "\n" + "\n".join(failures)
    assert run.schedules == SCHEDULES
    if SCHEDULES >= SCHEDULES_FOR_ALL:
        assert not run.reached.never, "situations that were never reached"


def digests() -> list[str]:
    """Of each trace: the same in every run."""
    return [
        hashlib.sha256("\n".join(run_one(seed, tracing=True)[0].lines).encode()).hexdigest()
        for seed in REPEATED
    ]


def test_a_seed_is_the_same_run_every_time() -> None:
    """Also in another process, in which sets and dictionaries hash otherwise."""
    here = digests()
    assert here == digests()
    assert len(set(here)) == len(here)
    program = "from tests.simulation.test_simulation import digests; print(*digests())"
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        assert done.stdout.split() == here


def test_a_replay_tells_the_story_and_ends_as_the_run_did() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.run", "--seed", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0
    assert "attempt 1" in done.stdout
    assert "nothing went wrong" in done.stdout


# -- What it stands on -------------------------------------------------------------------------------------


def test_time_jumps_and_order_is_kept() -> None:
    loop = VirtualLoop(_raise)
    seen: list[str] = []
    loop.call_at(3_600.0, seen.append, "an hour")
    loop.call_at(1.0, seen.append, "first of two")
    loop.call_at(1.0, seen.append, "second of two")
    loop.call_soon(seen.append, "now")
    loop.run_forever()
    assert seen == ["now", "first of two", "second of two", "an hour"]
    assert 3_600.0 < loop.time() < 3_600.001


def test_callbacks_that_chase_each_other_are_noticed() -> None:
    loop = VirtualLoop(_raise)

    def again() -> None:
        loop.call_soon(again)

    again()
    with pytest.raises(BusyLoop):
        loop.run_forever()


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "ranges",
    [
        [(7, 8)],
        [(5, 6), (9, 300)],
        [(5 + 2 * at, 6 + 2 * at) for at in range(900)],
        [(1 << 30, (1 << 30) + 2)],
    ],
    ids=["one", "runs", "scattered", "far"],
)
def test_the_auditors_own_reading_of_a_map(ranges: list[tuple[int, int]]) -> None:
    text = ackmap.encode(5, ranges)
    expected = {offset for start, end in ranges for offset in range(start, end)}
    assert read_map(5, text, -1) == expected
    assert read_map(5, text + "\0garbage", -1) == expected
    assert read_map(6, text, -1) is None
    assert read_map(5, text[:-1], -1) is None
    assert read_map(5, text, ranges[-1][1] - 1) is None
