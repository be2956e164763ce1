"""Results as a run would record them, with round figures that nobody measured."""

from __future__ import annotations

from bench.cells import Bridge, Kill, Latency, Poison, Speed, cells
from bench.results import Found, Killed, Late, Poisoned, Results, Throughput

__all__ = ["recorded", "throughput"]

MACHINE = [("CPU", "made up, 2 cores"), ("Kafka", "0.0.0")]
#: Events a second at 0 ms; each delay halves it.
PACE = {
    "aio": 10_000.0,
    "native": 50_000.0,
    "stream": 100_000.0,
    "go-keyed": 40_000.0,
    "go-unordered": 45_000.0,
    "go-serial": 1_000.0,
    "parallel-consumer": 8_000.0,
    "share-group": 30_000.0,
}
ROUNDS = 3


def throughput(pace: float, *, cpu_s: float = 10.0, rss_mb: float = 100.0, disorder: int = 0) -> Throughput:
    return Throughput(
        events_per_s=pace,
        cpu_s=cpu_s,
        target_cpu_s=15.0,
        rss_mb=rss_mb,
        first_event_s=0.5,
        repeats=0,
        disorder=disorder,
        overlaps=0,
        not_committed=0,
    )


def recorded() -> Results:
    """Of every cell, three rounds that differ by 10 %."""
    results = Results(
        MACHINE, "make bench ARGS=--write", "2026-01-02 03:04 UTC", ROUNDS, ROUNDS, took_s=600.0
    )
    for cell in cells():
        results.found[cell] = [_found(cell, factor) for factor in (0.9, 1.0, 1.1)]
    return results


def _found(cell: Speed | Latency | Kill | Poison, factor: float) -> Found:
    bridge: Bridge = cell.bridge
    match cell:
        case Speed(delay_ms=delay_ms):
            pace = PACE[bridge.mode] / {0: 1, 1: 2, 10: 4, 100: 8}[delay_ms]
            return throughput(pace * factor, cpu_s={"stream": 5.0, "aio": 80.0}.get(bridge.mode, 10.0))
        case Latency():
            return Late(1.0 * factor, 4.0 * factor, 9.0 * factor, 20.0, 0.5, 5_000, 0, 0)
        case Kill():
            return Killed(2.0 * factor, 100, 300, 0, 10_000, 25_000)
        case Poison():
            stops = bridge.mode == "parallel-consumer"
            return Poisoned(1_000.0, 980.0 * factor, 5_000 if stops else 0, 800)
