"""`make soak`: composed random faults on three brokers and two bridges, under load; then the checker.

    make soak ARGS="--minutes 30 --seed 7"

A seed is a schedule: which fault begins when, and how long it lasts, on four tracks (bridge, handler,
network, brokers) that know nothing of each other, so faults meet. One bridge is never killed: its memory and
its descriptors are sampled, and must be flat. A bridge that ends by itself is started again, as whoever
supervises it would, and the end says how often that was. The matrix runs first, unless `--no-rows` says
otherwise.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pelton.bridge.service import EXIT_FAILED
from tests.faults import run as matrix_run
from tests.faults.checker import Expected, check
from tests.faults.cluster import Cluster, cluster
from tests.faults.history import Blast, Fault
from tests.faults.proxy import Way
from tests.faults.rows_machine import rss_mb
from tests.faults.scene import STARVED_NS, Scene
from tests.integration.delivery.processes import Pelton

__all__ = ["Kind", "Planned", "figure", "main", "schedule"]

#: After the last fault; and before the first, so that everything runs.
QUIET_S = 10.0
SAMPLE_EVERY_S = 1.0
#: What happens to a broker or to the way to it may end sessions (10 s), and what follows takes a while.
SESSION_NS = 25_000_000_000
POISONED = ("key-7",)
#: A long run's last quarter may stand so far above its first: caches fill, and a heap is never quite still.
GROWTH_MAX = 1.25
GROWTH_MB = 24
DESCRIPTORS_MAX = 24


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault."""

    name: str
    #: How long it lasts at least and at most; 0 and 0: it is over at once.
    least_s: float = 0.0
    most_s: float = 0.0


#: By track; one fault of a track at a time.
KINDS: dict[str, tuple[Kind, ...]] = {
    "bridge": (
        Kind("bridge killed"),
        Kind("bridge stopped and started"),
        Kind("bridge frozen", 1.0, 14.0),
        Kind("survivor frozen", 0.5, 5.0),
    ),
    "handler": (
        Kind("handler killed"),
        Kind("handler hangs", 0.5, 4.0),
        Kind("handler frozen", 0.5, 4.0),
        Kind("handler slow", 1.0, 6.0),
        Kind("handler unwell", 0.5, 4.0),
    ),
    "network": (
        Kind("connections reset"),
        Kind("connections ended"),
        Kind("black hole", 0.5, 5.0),
        Kind("answers cut", 0.5, 5.0),
        Kind("slow line", 1.0, 6.0),
        Kind("byte by byte", 0.5, 2.0),
        Kind("refused", 0.5, 4.0),
    ),
    "brokers": (
        Kind("a broker killed", 1.0, 8.0),
        Kind("a broker stopped", 0.5, 4.0),
        Kind("a broker frozen", 0.5, 8.0),
        Kind("connections to a broker reset"),
        Kind("black hole to a broker", 0.5, 6.0),
        Kind("slow line to all brokers", 1.0, 5.0),
    ),
}
#: The wait between two faults of a track, drawn evenly.
PAUSE_S = {"bridge": (8.0, 25.0), "handler": (5.0, 20.0), "network": (5.0, 20.0), "brokers": (15.0, 40.0)}


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault of a schedule."""

    at_s: float
    lasts_s: float
    track: str
    name: str
    #: Which broker, where it is about one.
    pick: int


def schedule(seed: int, minutes: float) -> list[Planned]:
    """The same for the same seed: a shorter run is the beginning of a longer one."""
    planned: list[Planned] = []
    for track, kinds in KINDS.items():
        choose = random.Random(f"{seed}/{track}")
        at_s = QUIET_S
        while True:
            at_s += choose.uniform(*PAUSE_S[track])
            kind = choose.choice(kinds)
            lasts_s = choose.uniform(kind.least_s, kind.most_s)
            pick = choose.randrange(3)
            if at_s + lasts_s > minutes * 60.0:
                break
            planned.append(Planned(at_s, lasts_s, track, kind.name, pick))
            at_s += lasts_s
    return sorted(planned, key=lambda fault: (fault.at_s, fault.track))


@dataclass(slots=True)
class Samples:
    """Of one process: seconds, MB, descriptors."""

    at_s: list[float]
    rss_mb: list[float]
    descriptors: list[int]


def figure(samples: Samples) -> tuple[str, list[str]]:
    """The line about memory and descriptors, and what is wrong with them."""
    count = len(samples.at_s)
    if count < 8:
        return "too short to judge memory", []
    quarter = max(1, count // 4)
    rss, fds = samples.rss_mb, [float(number) for number in samples.descriptors]
    first, last = statistics.median(rss[:quarter]), statistics.median(rss[-quarter:])
    fds_first, fds_last = statistics.median(fds[:quarter]), statistics.median(fds[-quarter:])
    slope, fd_slope = (statistics.linear_regression(samples.at_s, each).slope * 3_600 for each in (rss, fds))
    # A leak goes on for ever, caches and heaps level off: the slope of the whole cannot tell them apart.
    eighths = (statistics.median(rss[count * at // 8 : count * (at + 1) // 8]) for at in range(8))
    text = (
        f"survivor over {samples.at_s[-1] - samples.at_s[0]:.0f} s: RSS first quarter {first:.0f} MB, last"
        f" {last:.0f}, max {max(rss):.0f}, slope {slope:+.1f} MB/h, by eighths"
        f" {' '.join(f'{each:.0f}' for each in eighths)}; descriptors first {fds_first:.0f},"
        f" last {fds_last:.0f}, max {max(fds):.0f}, slope {fd_slope:+.1f}/h"
    )
    problems: list[str] = []
    if last > first * GROWTH_MAX + GROWTH_MB:
        problems.append(f"memory grows: {first:.0f} MB to {last:.0f}")
    if fds_last > fds_first + DESCRIPTORS_MAX:
        problems.append(f"descriptors grow: {fds_first:.0f} to {fds_last:.0f}")
    return text, problems


class _Soak:
    """One run: does what is planned when it is due, and undoes it."""

    def __init__(self, scene: Scene, around: Cluster) -> None:
        self._scene = scene
        self._cluster = around
        self.survivor = scene.serve()
        self._victim = scene.serve()
        #: What ends when: moment, a number for the order, what to do.
        self._ends: list[tuple[float, int, Callable[[], None]]] = []
        #: Tracks with a fault in progress.
        self._busy: set[str] = set()
        self._numbers = itertools.count()
        self.samples = Samples([], [], [])
        #: The last words of bridges that ended by themselves.
        self.ended: list[str] = []

    def run(self, planned: Sequence[Planned], seconds: float) -> None:
        started = time.monotonic()
        sampled_s = 0.0
        waiting = list(reversed(planned))
        while (now_s := time.monotonic() - started) < seconds or waiting:
            while self._ends and self._ends[0][0] <= now_s:
                heapq.heappop(self._ends)[2]()
            # Whoever is late (a broker's stop may take a while) is not overtaken: the frozen hear nothing.
            if waiting and waiting[-1].at_s <= now_s and waiting[-1].track not in self._busy:
                fault = waiting.pop()
                print(f"{now_s:7.1f} s  {fault.name} for {fault.lasts_s:.1f} s", flush=True)
                self._begin(fault, now_s)
            self._supervise(now_s)
            if now_s >= sampled_s:
                sampled_s = now_s + SAMPLE_EVERY_S
                self._sample(now_s)
            self._scene.wait(0.02)
        while self._ends:
            heapq.heappop(self._ends)[2]()

    def _begin(self, fault: Planned, now_s: float) -> None:
        undo = self._do(fault)

        def end() -> None:
            undo()
            self._busy.discard(fault.track)

        self._busy.add(fault.track)
        heapq.heappush(self._ends, (now_s + fault.lasts_s, next(self._numbers), end))

    def _supervise(self, now_s: float) -> None:
        for pelton in (self.survivor, self._victim):
            code = pelton.process.poll()
            if code is None:
                continue
            # When it died is known to a turn of the loop; since when it had not committed is not.
            from_ns = time.monotonic_ns() - SESSION_NS
            words = pelton.log().strip().rpartition("\n")[2][:300]
            self.ended.append(f"exit code {code}: {words}")
            print(f"{now_s:7.1f} s  a bridge ended by itself, {self.ended[-1]}", flush=True)
            pelton.wait()
            after = self._scene.serve()
            self._scene.crashed(from_ns, "ended by itself", pelton)
            if pelton is self.survivor:
                self.survivor = after
                self.samples = Samples([], [], [])
            else:
                self._victim = after

    def _sample(self, now_s: float) -> None:
        pid = self.survivor.process.pid
        self.samples.at_s.append(now_s)
        self.samples.rss_mb.append(rss_mb(pid))
        self.samples.descriptors.append(len(list(Path(f"/proc/{pid}/fd").iterdir())))

    def _do(self, fault: Planned) -> Callable[[], None]:
        """Begin it; returns what ends it."""
        match fault.track:
            case "bridge":
                return self._on_bridge(fault)
            case "handler":
                return self._on_handler(fault)
            case "network":
                return self._on_network(fault)
            case _:
                return self._on_brokers(fault)

    def _blast(self, blast: Blast, what: str) -> Callable[[], None]:
        """From now until it is called, and what follows from it."""
        from_ns = time.monotonic_ns() - STARVED_NS
        after_ns = SESSION_NS if blast is Blast.CRASH else STARVED_NS

        def over() -> None:
            self._scene.history.faults.append(Fault(blast, from_ns, time.monotonic_ns() + after_ns, what))

        return over

    def _on_bridge(self, fault: Planned) -> Callable[[], None]:
        scene = self._scene
        match fault.name:
            case "bridge killed":
                over = self._blast(Blast.CRASH, fault.name)
                self._victim = scene.kill(self._victim)
                return over
            case "bridge stopped and started":
                # Partitions go to the survivor and come back: nothing may be repeated for it.
                self._victim.process.terminate()
                code = self._victim.wait()
                # Told before it owns anything: it may not listen for signals yet, or have found no broker.
                young = code in (-signal.SIGTERM, EXIT_FAILED) and '"assigned"' not in self._victim.log()
                assert code == 0 or young, f"exit code {code}; its log:\n{self._victim.log()[-2_000:]}"
                self._victim = scene.serve()
                return lambda: None
            case _:
                frozen = self.survivor if fault.name.startswith("survivor") else self._victim
                over = self._blast(Blast.CRASH, fault.name)
                frozen.process.send_signal(signal.SIGSTOP)
                return lambda: self._thaw(frozen, over)

    def _thaw(self, frozen: Pelton, over: Callable[[], None]) -> None:
        frozen.process.send_signal(signal.SIGCONT)
        over()

    def _on_handler(self, fault: Planned) -> Callable[[], None]:
        handler = self._scene.handler
        over = self._blast(Blast.CUT, fault.name)
        match fault.name:
            case "handler killed":
                handler.kill()
                handler.start()
                self._poison()
                return over
            case "handler frozen":
                handler.freeze()

                def thaw() -> None:
                    handler.thaw()
                    over()

                return thaw
            case "handler hangs":
                handler.tell(hang=True)
            case "handler slow":
                handler.tell(delay_ms=200)
            case _:
                handler.tell(status="UNAVAILABLE")

        def undo() -> None:
            handler.tell(hang=False, delay_ms=2, status="OK")
            over()

        return undo

    def _poison(self) -> None:
        self._scene.handler.tell(status_of_key=dict.fromkeys(POISONED, "INVALID_ARGUMENT"))

    def _on_network(self, fault: Planned) -> Callable[[], None]:
        proxy = self._scene.proxy
        over = self._blast(Blast.CUT, fault.name)
        match fault.name:
            case "connections reset":
                proxy.reset()
            case "connections ended":
                proxy.close()
            case "black hole":
                proxy.spoil(up=Way(black_hole=True), down=Way(black_hole=True))
            case "answers cut":
                proxy.spoil(down=Way(black_hole=True))
            case "slow line":
                slow = Way(latency_ms=100, jitter_ms=75, bytes_per_s=128_000)
                proxy.spoil(up=slow, down=slow)
            case "byte by byte":
                proxy.spoil(up=Way(slice_bytes=1), down=Way(slice_bytes=1))
            case _:
                proxy.refuse()
                proxy.close()

        def undo() -> None:
            proxy.heal()
            over()

        return undo

    def _on_brokers(self, fault: Planned) -> Callable[[], None]:
        broker = self._cluster.brokers[fault.pick]
        over = self._blast(Blast.CRASH, fault.name)
        match fault.name:
            case "a broker killed":
                broker.kill()
            case "a broker stopped":
                broker.stop()
            case "a broker frozen":
                broker.freeze()
            case "connections to a broker reset":
                broker.proxy.reset()
            case "black hole to a broker":
                broker.proxy.spoil(up=Way(black_hole=True), down=Way(black_hole=True))
            case _:
                slow = Way(latency_ms=100, jitter_ms=50)
                for each in self._cluster.brokers:
                    each.proxy.spoil(up=slow, down=slow)

        def undo() -> None:
            self._cluster.heal()
            over()

        return undo

    def begin(self) -> None:
        self._poison()
        self._scene.flow()


def soak(seed: int, minutes: float, directory: Path) -> int:
    """One run; 0 if nothing is wrong with it."""
    planned = schedule(seed, minutes)
    print(f"soak: seed {seed}, {minutes:g} minutes, {len(planned)} faults", flush=True)
    with (
        cluster(directory / "cluster", 3) as around,
        Scene(around, directory / "soak", f"soak-{seed}", rate=200.0, through=True, timeout="5s") as scene,
    ):
        running = _Soak(scene, around)
        running.begin()
        running.run(planned, minutes * 60.0 + QUIET_S)
        scene.recovering()
        scene.finish()
        poisoned = {key.encode() for key in POISONED}
        letters = frozenset(record.number for record in scene.history.stored if record.key in poisoned)
        report = check(scene.history, Expected(letters=letters, zombies=True))
        text, problems = figure(running.samples)
        problems = [str(finding) for finding in report.findings] + problems
        print(
            f"soak: seed {seed}: {report.ended} of {report.sent} events settled, {report.lost} lost,"
            f" {report.disorder} out of order, {report.repeats} repeats of {report.repeats_max} that the"
            f" faults allow, {report.letters} dead letters, {report.zombie_calls} calls by a bridge that did"
            " not know yet"
        )
        print(f"soak: {text}")
        print(f"soak: bridges that ended by themselves: {len(running.ended)}")
    for problem in problems[:40]:
        print(f"    {problem}")
    print(f"soak: {'FAILED: replay it with --seed ' + str(seed) if problems else 'passed'}")
    return 1 if problems else 0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument(
        "--seed", type=int, default=None, help="of the schedule; a new one each time without it"
    )
    parser.add_argument("--no-rows", action="store_true", help="not the matrix first")
    parser.add_argument("--keep", default="", help="a directory for the journals and logs, to look at")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    failed = 0 if options.no_rows else matrix_run.main([])
    with tempfile.TemporaryDirectory(prefix="pelton-soak-") as directory:
        return soak(seed, options.minutes, Path(options.keep or directory)) or failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
