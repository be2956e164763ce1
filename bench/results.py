"""What the measurements gave, as values, and as JSON and back: a report can be written anew from a record.

Nothing is judged here, and nothing shown.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.cells import Bridge, Cell, Kill, Latency, Poison, Speed

__all__ = ["Found", "Killed", "Late", "Poisoned", "Results", "Throughput"]


@dataclass(frozen=True, slots=True)
class Throughput:
    """What one run of a `Speed` gave, from where its measurement begins to the last answer."""

    events_per_s: float
    #: CPU-seconds for a million events.
    cpu_s: float
    target_cpu_s: float
    rss_mb: float
    #: From the start of the process to the first call.
    first_event_s: float
    #: As the target saw it, each 0 in a run that is right.
    repeats: int
    disorder: int
    #: Calls of a key while one of it was out.
    overlaps: int
    #: Events whose offset the group has not passed after a clean stop; None where nobody can tell.
    not_committed: int | None
    #: Of the broker, for a million events; what it serves elsewhere meanwhile is in it.
    broker_cpu_s: float = 0.0
    #: That came at the target for each event: the value, and all that goes with a call.
    wire_bytes: float = 0.0
    cpu_by_thread: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Late:
    """Of a `Latency`: from the moment an event was due to be published to its call, in milliseconds."""

    p50_ms: float
    p99_ms: float
    p999_ms: float
    worst_ms: float
    #: The publisher's own part.
    publisher_p99_ms: float
    samples: int
    repeats: int
    disorder: int


@dataclass(frozen=True, slots=True)
class Killed:
    """Of a `Kill`."""

    #: From the second start to its first call.
    first_event_s: float
    repeats: int
    #: What may repeat: the calls that can be out, and what was settled right before.
    repeats_bound: int
    disorder: int
    #: Settled when it was killed, of so many.
    settled: int
    events: int
    #: That never came: the group had passed them before they were settled.
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Poisoned:
    """Of a `Poison`: events a second of the keys that are none, without poison and with it."""

    control_per_s: float
    poisoned_per_s: float
    #: Of those keys: what never came, since everything had stopped.
    undelivered: int
    #: Calls that were refused.
    refused: int

    @property
    def kept(self) -> float:
        return 0.0 if self.undelivered else self.poisoned_per_s / self.control_per_s


Found = Throughput | Late | Killed | Poisoned

_KINDS: dict[str, tuple[type[Any], type[Any]]] = {
    "speed": (Speed, Throughput),
    "latency": (Latency, Late),
    "kill": (Kill, Killed),
    "poison": (Poison, Poisoned),
}


@dataclass(slots=True)
class Results:
    """A whole run: on what, how, and what came of it, round by round."""

    machine: list[tuple[str, str]]
    command: str
    #: ISO 8601, UTC.
    began: str
    #: That were asked for, and that were measured from the first cell to the last.
    rounds: int
    whole_rounds: int = 0
    #: The names of all cells that were asked for.
    planned: list[str] = field(default_factory=list)
    took_s: float = 0.0
    #: `machine.pulse_ms` before each measurement.
    pulses_ms: list[float] = field(default_factory=list)
    #: Modes that are not measured, and why.
    missing: dict[str, str] = field(default_factory=dict)
    #: Runs that do not count, by the cell's name, and why.
    refused: dict[str, list[str]] = field(default_factory=dict)
    found: dict[Cell, list[Found]] = field(default_factory=dict)

    @property
    def is_cut(self) -> bool:
        return self.whole_rounds < self.rounds

    @property
    def not_reached(self) -> list[str]:
        """Cells that the run was cut before."""
        reached = {cell.name for cell in self.found} | self.refused.keys()
        return [name for name in self.planned if name not in reached]

    def speeds(self) -> dict[Speed, list[Throughput]]:
        return self._of(Speed, Throughput)

    def latencies(self) -> dict[Latency, list[Late]]:
        return self._of(Latency, Late)

    def kills(self) -> dict[Kill, list[Killed]]:
        return self._of(Kill, Killed)

    def poisons(self) -> dict[Poison, list[Poisoned]]:
        return self._of(Poison, Poisoned)

    def _of(self, kind: type[Any], found: type[Any]) -> dict[Any, list[Any]]:
        assert all(
            isinstance(one, found) for cell, runs in self.found.items() for one in runs if type(cell) is kind
        )
        return {cell: runs for cell, runs in self.found.items() if isinstance(cell, kind) and runs}

    def to_json(self) -> str:
        rows = [
            {
                "kind": next(name for name, (kind, _) in _KINDS.items() if isinstance(cell, kind)),
                "cell": asdict(cell),
                "found": [asdict(one) for one in runs],
            }
            for cell, runs in self.found.items()
        ]
        return json.dumps(
            {
                "machine": self.machine,
                "command": self.command,
                "began": self.began,
                "rounds": self.rounds,
                "whole_rounds": self.whole_rounds,
                "planned": self.planned,
                "took_s": self.took_s,
                "pulses_ms": self.pulses_ms,
                "missing": self.missing,
                "refused": self.refused,
                "cells": rows,
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> Results:
        told = json.loads(text)
        found: dict[Cell, list[Found]] = {}
        for row in told["cells"]:
            kind, result = _KINDS[row["kind"]]
            cell = kind(**{**row["cell"], "bridge": Bridge(**row["cell"]["bridge"])})
            found[cell] = [result(**one) for one in row["found"]]
        machine = [(name, text) for name, text in told["machine"]]
        kept = {name: told[name] for name in told.keys() - {"machine", "cells"}}
        return cls(machine=machine, found=found, **kept)
