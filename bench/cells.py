"""What is measured: the cells of the table, how many events each gets, and what DESIGN asks of pure Python.

Values only; nothing here starts, measures or prints.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BUDGET_P50_MS",
    "BUDGET_P99_MS",
    "BUDGET_PER_CPU_SECOND",
    "BUDGET_RSS_MB",
    "DELAYS_MS",
    "EVENT_BYTES",
    "KEYS",
    "MODES",
    "PARTITIONS",
    "Cell",
    "cells",
    "parse_cell",
]

PARTITIONS = 8
KEYS = 10_000
EVENT_BYTES = 200

MODES = ("unary", "stream")
DELAYS_MS = (0, 1, 10, 100)
CONCURRENCY = 256
#: Beside the default where the delay makes the calls that are out the limit.
CONCURRENCY_MORE = 1_000

#: What a pure-Python Pelton must reach: events per CPU-second by mode. The stream's is asked at 0 ms.
BUDGET_PER_CPU_SECOND = {"unary": 12_000.0, "stream": 150_000.0}
BUDGET_P50_MS = 1.5
BUDGET_P99_MS = 5.0
#: At 1 000 in flight.
BUDGET_RSS_MB = 150.0

#: A cell is to take a few seconds. Unary calls cost several times a stream's delivery, and where the target
#: waits 100 ms the concurrency ends at 2 560 or 10 000 events/s whatever Pelton costs.
UNARY_SHARE = 5
SLOW_SHARE = 20
SLOW_MS = 100
#: Each cell gets as many as it takes to have more than the first fetch.
EVENTS_MIN = 2_000


@dataclass(frozen=True, slots=True)
class Cell:
    """One row: how the target is called, how long it takes, how many calls may be out."""

    mode: str
    delay_ms: int
    concurrency: int
    events: int

    def __str__(self) -> str:
        return f"{self.mode}:{self.delay_ms}:{self.concurrency}"


def _events(mode: str, delay_ms: int, concurrency: int, most: int) -> int:
    if delay_ms >= SLOW_MS:
        events = most // SLOW_SHARE * (2 if concurrency > CONCURRENCY else 1)
    else:
        events = most // UNARY_SHARE if mode == "unary" else most
    return max(events, EVENTS_MIN)


def cells(events: int) -> list[Cell]:
    """The whole table; `events` is the number for the fastest cells."""
    return [
        Cell(mode, delay_ms, concurrency, _events(mode, delay_ms, concurrency, events))
        for mode in MODES
        for delay_ms in DELAYS_MS
        for concurrency in ((CONCURRENCY, CONCURRENCY_MORE) if delay_ms >= 10 else (CONCURRENCY,))
    ]


def parse_cell(text: str, events: int) -> Cell:
    """`unary:0` or `stream:10:1000`; ValueError says what is wrong."""
    mode, *numbers = text.split(":")
    if mode not in MODES or not 1 <= len(numbers) <= 2 or not all(n.isdecimal() for n in numbers):
        raise ValueError(f"{text!r} is no cell: write <{'|'.join(MODES)}>:<delay ms>[:<concurrency>]")
    delay_ms = int(numbers[0])
    concurrency = int(numbers[1]) if len(numbers) > 1 else CONCURRENCY
    return Cell(mode, delay_ms, concurrency, _events(mode, delay_ms, concurrency, events))
