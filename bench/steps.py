"""What `make bench-scaling` measures: the axes along which load grows, and their steps. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bench.cells import CONCURRENCY, EVENT_BYTES, KEYS, PARTITIONS, Bridge, Speed
from bench.source import Events

__all__ = ["AXES", "Step", "choose", "steps"]

#: Which ways of calling are followed along an axis.
MODES = ("native", "stream")
#: Events of a step, as many as there is time for.
EVENTS = {"native": 120_000, "stream": 240_000}
#: Of few keys a call each can be out, and of large events not many fit into a broker's disk and a minute.
FEW_KEYS = 100
FEW_KEYS_EVENTS = 40_000
BYTES_MAX = 400_000_000
#: Together, of all subscriptions; each reads all events.
CALLS_OF_SUBSCRIPTIONS = 200_000
EVENTS_A_SUBSCRIPTION_MIN = 2_000
#: Many consumers take long to start, and are not all there at once.
STARTING_PART = 0.3

PARTITION_STEPS = (1, 8, 64, 512)
KEY_STEPS = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
BYTE_STEPS = (100, 1_000, 10_000, 100_000)
SUBSCRIPTION_STEPS = (1, 10, 50, 200)


@dataclass(frozen=True, slots=True)
class Step:
    """One place on one axis."""

    axis: str
    #: As it is written under a chart.
    place: str
    mode: str
    events: Events
    subscriptions: int = 1

    @property
    def cell(self) -> Speed:
        return Speed(Bridge(self.mode, CONCURRENCY), 0, self.events.count)

    @property
    def from_part(self) -> float:
        return STARTING_PART if self.subscriptions > 1 else 0.0

    @property
    def name(self) -> str:
        return f"{self.axis}:{self.place.replace(',', '')}:{self.mode}"


def choose(patterns: Sequence[str], scale: float) -> list[Step]:
    """Those whose names match, `*` standing for anything; ValueError where none does."""
    found: list[Step] = []
    for pattern in patterns:
        matching = [step for step in steps(scale) if fnmatchcase(step.name, pattern)]
        if not matching:
            raise ValueError(f"no step's name matches {pattern!r}: they are like keys:1000:native")
        found += [step for step in matching if step not in found]
    return found


def steps(scale: float = 1.0) -> list[Step]:
    """All of them, axis by axis; `scale` makes all of it shorter, or longer."""
    found: list[Step] = []
    for mode in MODES:
        usual = int(EVENTS[mode] * scale)
        found += [
            Step("partitions", f"{count:,}", mode, Events(usual, partitions=count))
            for count in PARTITION_STEPS
        ]
        found += [
            Step("keys", f"{count:,}", mode, Events(_few(usual, count, scale), keys=count))
            for count in KEY_STEPS
        ]
        found += [
            Step(
                "bytes",
                f"{size:,}",
                mode,
                Events(min(usual, int(BYTES_MAX * scale) // size), size_bytes=size),
            )
            for size in BYTE_STEPS
        ]
        found += [
            Step("subscriptions", f"{count:,}", mode, Events(_each(count, scale)), count)
            for count in SUBSCRIPTION_STEPS
        ]
    assert {step.axis for step in found} == AXES.keys()
    return found


def _few(usual: int, keys: int, scale: float) -> int:
    return min(usual, int(FEW_KEYS_EVENTS * scale)) if keys <= FEW_KEYS else usual


def _each(subscriptions: int, scale: float) -> int:
    return max(int(CALLS_OF_SUBSCRIPTIONS * scale) // subscriptions, int(EVENTS_A_SUBSCRIPTION_MIN * scale))


#: Each with what stays the same along it.
AXES = {
    "partitions": f"{KEYS:,} keys, {EVENT_BYTES} bytes, one subscription",
    "keys": f"{PARTITIONS} partitions, {EVENT_BYTES} bytes, one subscription",
    "bytes": f"{PARTITIONS} partitions, {KEYS:,} keys, one subscription",
    "subscriptions": f"{PARTITIONS} partitions, {KEYS:,} keys, {EVENT_BYTES} bytes; each reads every event",
}
