"""One measurement: fresh processes, a group of its own, and the figures of one cell.

Nothing is judged here, and nothing printed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import figures, source
from bench.cells import Cell
from bench.processes import Pelton, Sampler, Target
from pelton.local.ports import free_ports

__all__ = ["LATENCY_PER_SECOND", "LATENCY_WARM_UP_S", "Bench", "Latency", "Throughput"]

#: Without a single event settled for so long, a run has failed.
STALL_S = 30.0
ASK_EVERY_S = 0.05
#: Offered in the latency runs, whatever Pelton makes of it; the first seconds do not count.
LATENCY_PER_SECOND = 500
LATENCY_WARM_UP_S = 3.0


@dataclass(frozen=True, slots=True)
class Throughput:
    """What one run of a cell gave, from the first call at the target to the last answer."""

    events_per_s: float
    #: CPU-seconds for a million events.
    cpu_s: float
    target_cpu_s: float
    rss_mb: float
    #: As the target saw it, each 0 in a run that is right.
    repeats: int
    disorder: int
    #: Calls of a key while one of it was out.
    overlaps: int
    #: Events whose offset the group has not passed after a clean stop.
    not_committed: int
    cpu_by_thread: dict[str, float]

    @property
    def faults(self) -> int:
        return self.repeats + self.disorder + self.overlaps + self.not_committed


@dataclass(frozen=True, slots=True)
class Latency:
    """From the moment an event was due to be published to its call at the target, in milliseconds."""

    p50_ms: float
    p99_ms: float
    worst_ms: float
    #: The publisher's own part.
    publisher_p99_ms: float
    samples: int


class Bench:
    """Where the measurements take place: one broker, one target binary."""

    def __init__(self, bootstrap: str, target: Path) -> None:
        self._bootstrap = bootstrap
        self._target = target
        #: Compiled once, by the first Pelton.
        self._bytecode = target.parent / "bytecode"
        self._runs = 0

    def prepare(self, events: int) -> None:
        """The topic for cells of so many events, its order checked."""
        topic = _topic(events)
        source.create_topic(self._bootstrap, topic)
        source.preload(self._bootstrap, topic, events)
        source.check_order(self._bootstrap, topic, events)

    def throughput(self, cell: Cell, profile: Path | None = None) -> Throughput:
        topic = _topic(cell.events)
        group = self._name("throughput")
        with (
            Target(self._target, delay_ms=cell.delay_ms) as target,
            self._pelton(cell, topic, group, target, profile) as pelton,
        ):
            samplers = [Sampler(one.pid) for one in (pelton, target)]
            if profile is not None:
                _answered(pelton, target, 1)
                pelton.begin_profile()
            stats = _answered(pelton, target, cell.events)
            # What was used up to the last answer, not what is noted about it now.
            time.sleep(ASK_EVERY_S)
            for sampler in samplers:
                sampler.stop()
            rss_mb = pelton.rss_peak_mb()
            cpu_by_thread = pelton.cpu_by_thread()
            pelton.stop()
            # Repeats would come as late as this.
            stats = {**target.stats(), "last_ns": stats["last_ns"]}
        passed = source.committed(self._bootstrap, topic, group)
        first, last = stats["first_ns"], stats["last_ns"]
        cpu_s, target_cpu_s = (
            (figures.at(one.samples, last) - figures.at(one.samples, first)) * 1e6 / cell.events
            for one in samplers
        )
        return Throughput(
            events_per_s=cell.events / ((last - first) / 1e9),
            cpu_s=cpu_s,
            target_cpu_s=target_cpu_s,
            rss_mb=rss_mb,
            repeats=stats["repeats"],
            disorder=stats["disorder"],
            overlaps=stats["overlaps"],
            not_committed=cell.events - passed,
            cpu_by_thread=cpu_by_thread,
        )

    def latency(self, cell: Cell, seconds: float) -> Latency:
        """Open loop: `cell.events` is not used, the clock says how many."""
        topic = self._name("latency")
        source.create_topic(self._bootstrap, topic)
        with (
            Target(self._target, delay_ms=cell.delay_ms, latency=True) as target,
            self._pelton(cell, topic, topic, target, None) as pelton,
        ):
            pelton.wait_until_ready()
            paced = source.publish_paced(
                self._bootstrap, topic, per_second=LATENCY_PER_SECOND, seconds=LATENCY_WARM_UP_S + seconds
            )
            _answered(pelton, target, paced.events)
            pairs = target.latencies()
            pelton.stop()
        counted_from = paced.first_due_ns + int(LATENCY_WARM_UP_S * 1e9)
        late_ms = [late / 1e6 for due, late in pairs if due >= counted_from]
        return Latency(
            p50_ms=figures.percentile(late_ms, 50),
            p99_ms=figures.percentile(late_ms, 99),
            worst_ms=max(late_ms),
            publisher_p99_ms=figures.percentile(paced.late_ms[-len(late_ms) :], 99),
            samples=len(late_ms),
        )

    def _name(self, what: str) -> str:
        self._runs += 1
        return f"{what}-{self._runs}"

    @contextmanager
    def _pelton(
        self, cell: Cell, topic: str, group: str, target: Target, profile: Path | None
    ) -> Iterator[Pelton]:
        with (
            tempfile.TemporaryDirectory(prefix="pelton-bench-") as folder,
            Pelton(
                Path(folder),
                bootstrap=self._bootstrap,
                topic=topic,
                group=group,
                cell=cell,
                address=target.address,
                http_port=free_ports(1)[0],
                bytecode=self._bytecode,
                profile=profile,
            ) as pelton,
        ):
            yield pelton


def _topic(events: int) -> str:
    return f"bench-{events}"


def _answered(pelton: Pelton, target: Target, events: int) -> dict[str, int]:
    """The target's journal once it has answered every event."""
    settled, moved = 0, time.monotonic()
    while True:
        stats = target.stats()
        if stats["settled"] >= events:
            return stats
        if stats["settled"] > settled:
            settled, moved = stats["settled"], time.monotonic()
        pelton.check()
        if time.monotonic() - moved > STALL_S:
            raise pelton.failure(f"{settled} of {events} events settled, and none more for {STALL_S:.0f} s")
        time.sleep(ASK_EVERY_S)
