"""Figures from samples, and how they are shown. Pure: what was measured comes in, text goes out."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

__all__ = ["at", "by_room", "percentile", "spread", "table", "verdict"]


def percentile(samples: Iterable[float], percent: float) -> float:
    """The smallest sample that so many per cent of all do not exceed."""
    ordered = sorted(samples)
    if not ordered:
        raise ValueError("no samples")
    return ordered[max(math.ceil(percent / 100.0 * len(ordered)), 1) - 1]


def at(samples: Sequence[tuple[float, float]], when: float) -> float:
    """The value at a moment, of (moment, value) samples in order: a straight line between two of them."""
    if not samples:
        raise ValueError("no samples")
    index = bisect_left(samples, when, key=lambda sample: sample[0])
    if index == 0:
        return samples[0][1]
    if index == len(samples):
        return samples[-1][1]
    (t0, v0), (t1, v1) = samples[index - 1], samples[index]
    return v0 + (v1 - v0) * (when - t0) / (t1 - t0)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median; with several rounds, also the least and the most."""
    middle = f"{median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def verdict(value: float, *, least: float = -math.inf, most: float = math.inf) -> str:
    """Whether a budget is kept, and the budget."""
    bound = f"≥ {least:,.0f}" if least > -math.inf else f"≤ {most:,g}"
    return f"{'met' if least <= value <= most else 'missed'} ({bound})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, aligned for a terminal; the first column is text, the others are figures."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        first = row[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(head), rule, *(line(row) for row in rows)])


def by_room(seconds: Mapping[str, float]) -> list[tuple[str, float]]:
    """Own time by room, most first: of files given by path, Pelton's by folder, libraries by name."""
    rooms: dict[str, float] = {}
    for path, spent in seconds.items():
        room = _room(path)
        rooms[room] = rooms.get(room, 0.0) + spent
    return sorted(rooms.items(), key=lambda item: -item[1])


def _room(path: str) -> str:
    if path == "~":
        return "built in (C code)"
    for mark in ("/src/pelton/", "/site-packages/"):
        _, found, below = path.partition(mark)
        if found:
            first = below.partition("/")[0].removesuffix(".py")
            return f"pelton.{first}" if mark == "/src/pelton/" else first
    return "the standard library" if "/lib/python" in path else path
