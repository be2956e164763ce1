"""Rows in which the computer itself is the fault: its clock, its memory, its descriptors."""

from __future__ import annotations

import importlib.util
import resource
from pathlib import Path

from tests.faults.matrix import Row, SkippedError
from tests.faults.proxy import Way
from tests.faults.scene import Scene
from tests.integration.delivery.processes import DEADLINE_S, until

__all__ = ["ROWS"]

JUMPS = ("+1h", "-1h", "+1d", "-1d", "+0")
#: Under a dead target, with 10 kB events: the process's bound of 64 MiB, librdkafka's own queues, and Python.
RSS_MB_MAX = 400
BACKLOG = 12_000


def _library() -> Path:
    """libfaketime, as its Python package brings it; SkippedError where it does not fit this computer."""
    found = importlib.util.find_spec("libfaketime")
    if found is None or found.origin is None:
        raise SkippedError("libfaketime is not installed")
    (path,) = Path(found.origin).parent.rglob("libfaketime.so.1")
    return path


def clock_jumps(scene: Scene) -> None:
    """The wall's clock of the bridge alone; the monotonic one, as with a real jump, goes on."""
    now = scene.directory / "clock"
    now.write_text("+0\n")
    # Its lines bear a time that jumps, so nothing is judged by them.
    scene.owned_is_dated = False
    pelton = scene.serve(
        environ={
            "LD_PRELOAD": str(_library()),
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_TIMESTAMP_FILE": str(now),
            "FAKETIME_NO_CACHE": "1",
        }
    )
    scene.flow()
    if "ERROR: ld.so" in pelton.log():
        raise SkippedError("libfaketime does not fit this computer")
    for jump in JUMPS:
        now.write_text(jump + "\n")
        scene.flow(250)
    assert "-1d" in JUMPS
    assert _days(pelton.log()) >= 1
    scene.recovering()
    scene.flow()


def _days(log: str) -> int:
    """How many different days the log's lines bear: the jumps were seen."""
    return len(
        {line.split('"timestamp": "', 1)[1][:10] for line in log.splitlines() if '"timestamp": "' in line}
    )


def memory(scene: Scene) -> None:
    """A target that is away, and a backlog that would not fit."""
    scene.proxy.spoil(up=Way(black_hole=True), down=Way(black_hole=True))
    pelton = scene.serve()
    most = 0

    def grown() -> bool:
        nonlocal most
        most = max(most, rss_mb(pelton.process.pid))
        return scene.sent() >= BACKLOG

    until(grown, "a backlog of 120 MB", DEADLINE_S)
    for _ in range(30):
        scene.wait(0.1)
        grown()
    scene.figure = f"RSS at most {most} MB"
    assert most < RSS_MB_MAX, f"RSS {most} MB"
    scene.publisher.stop()
    with scene.cut("heal"):
        scene.proxy.heal()
        scene.recovering()
        scene.flow(1_000)


def rss_mb(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() // (1024 * 1024)


def no_descriptors(scene: Scene) -> None:
    """Its connections are cut, and it may open no others: until it may."""
    pelton = scene.serve()
    scene.flow()
    pid = pelton.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with scene.outage("no descriptors"):
        # What is open stays open; nothing can be opened that has a higher number than these.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, before[1]))
        scene.proxy.reset()
        scene.cluster.brokers[0].proxy.reset()
        at = scene.taken()
        scene.wait(4.0)
        assert scene.taken() - at < 300, "it goes on without descriptors"
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        scene.recovering()
        scene.flow(600)


ROWS = [
    Row(
        *("27", "clock jumps", "the bridge's wall clock +1 h, -1 h, +1 d, -1 d (libfaketime)"),
        *("nothing", "nothing", clock_jumps),
        repeats_none=True,
    ),
    Row(
        *("28", "dead target, backlog beyond memory", "120 MB of 10 kB events, target in a black hole"),
        *(f"pauses, RSS < {RSS_MB_MAX} MB", "calls whose answer was cut", memory),
        scene={"rate": 1_200.0, "value_bytes": 10_000, "timeout": "2s"},
        bites=lambda history, report: report.sent >= BACKLOG,
    ),
    Row(
        *("29", "out of descriptors", "RLIMIT_NOFILE below what is open, all connections reset, 4 s"),
        *("waits, recovers by itself", "what was settled and not committed", no_descriptors),
        scene={"through": True},
    ),
]
