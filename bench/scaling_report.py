"""How Pelton grows, as a page: figures, charts, where it bends, and how far it is from what is possible.

Pure: what was measured comes in, text goes out. The reasons are ours, and stand beside figures that can
refute them; which step bends and how far off it is are worked out of the figures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median

from bench import figures, svg
from bench.physical import MESSAGE_BYTES, Floor
from bench.results import Throughput
from bench.source import Events
from bench.steps import AXES, Step

__all__ = ["Backlog", "Grown", "backlog_told", "bend", "report", "summary"]

#: A step bends where it has lost so much of the best step's pace.
BENT = 0.8
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Backlog:
    """Memory in bytes before a dead target: with nothing to read, the most with the backlog, the cap."""

    events: int
    size_bytes: int
    idle: int
    most: int
    cap: int

    @property
    def holds(self) -> bool:
        return self.most <= self.cap


@dataclass(slots=True)
class Grown:
    """A whole run."""

    machine: list[tuple[str, str]]
    command: str
    began: str
    rounds: int
    floor: Floor
    took_s: float = 0.0
    missing: dict[str, str] = field(default_factory=dict)
    refused: dict[str, list[str]] = field(default_factory=dict)
    found: dict[Step, list[Throughput]] = field(default_factory=dict)
    backlog: Backlog | None = None

    @property
    def faults(self) -> int:
        wrong = sum(map(len, self.refused.values()))
        for runs in self.found.values():
            wrong += sum(one.repeats + one.disorder + one.overlaps + (one.not_committed or 0) for one in runs)
        return wrong + (self.backlog is not None and not self.backlog.holds)

    def to_json(self) -> str:
        rest = {name: getattr(self, name) for name in _PLAIN}
        found = [
            {"step": asdict(step), "found": [asdict(one) for one in runs]}
            for step, runs in self.found.items()
        ]
        backlog = None if self.backlog is None else asdict(self.backlog)
        return json.dumps({**rest, "floor": asdict(self.floor), "backlog": backlog, "found": found}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Grown:
        told = json.loads(text)
        found = {
            Step(**{**row["step"], "events": Events(**row["step"]["events"])}): [
                Throughput(**one) for one in row["found"]
            ]
            for row in told["found"]
        }
        rest = {name: told[name] for name in _PLAIN}
        rest["machine"] = [(name, text) for name, text in told["machine"]]
        backlog = None if told["backlog"] is None else Backlog(**told["backlog"])
        return cls(**rest, floor=Floor(**told["floor"]), found=found, backlog=backlog)


_PLAIN = ("machine", "command", "began", "rounds", "took_s", "missing", "refused")


def middle(runs: list[Throughput], of: Callable[[Throughput], float]) -> float:
    return median(of(one) for one in runs)


def pace(runs: list[Throughput]) -> float:
    return middle(runs, lambda one: one.events_per_s)


def ceiling(floor: Floor, runs: list[Throughput]) -> float:
    """Events a second if the bridge cost nothing and all cores did nothing else: target and broker remain."""
    rest_s = middle(runs, lambda one: one.target_cpu_s + one.broker_cpu_s)
    return floor.cores * 1e6 / rest_s if rest_s else float("inf")


def busy(floor: Floor, runs: list[Throughput]) -> float:
    """Which part of all cores bridge, target and broker use together."""
    all_s = middle(runs, lambda one: one.cpu_s + one.target_cpu_s + one.broker_cpu_s)
    return pace(runs) * all_s / 1e6 / floor.cores


def bend(steps: list[tuple[Step, list[Throughput]]]) -> Step | None:
    """The first step after the best one that has lost more than a fifth of its pace."""
    best = max(range(len(steps)), key=lambda number: pace(steps[number][1]))
    most = pace(steps[best][1])
    return next((step for step, runs in steps[best + 1 :] if pace(runs) < BENT * most), None)


def along(grown: Grown, axis: str, mode: str) -> list[tuple[Step, list[Throughput]]]:
    return [(step, runs) for step, runs in grown.found.items() if (step.axis, step.mode) == (axis, mode)]


def table(grown: Grown, axis: str) -> str:
    rows = [
        [
            f"{step.place} {axis}, {step.mode}",
            figures.spread([one.events_per_s for one in runs]),
            figures.spread([one.events_per_s * step.events.size_bytes / 1e6 for one in runs], 1),
            figures.spread([one.cpu_s for one in runs], 1),
            figures.spread([one.target_cpu_s for one in runs], 1),
            figures.spread([one.broker_cpu_s for one in runs], 1),
            f"{middle(runs, lambda one: one.wire_bytes) - step.events.size_bytes:,.0f}",
            figures.spread([one.rss_mb for one in runs]),
            f"{busy(grown.floor, runs):.0%}",
            f"{pace(runs) / ceiling(grown.floor, runs):.0%}",
        ]
        for step, runs in grown.found.items()
        if step.axis == axis
    ]
    head = [
        "", "events/s", "MB/s of values", "CPU-s per million", "target's", "broker's",
        "bytes beside the value", "peak RSS MB", "of all cores", "of a bridge that is free",
    ]  # fmt: skip
    return figures.table(head, rows) if rows else ""


def summary(grown: Grown) -> str:
    parts = [text for axis in AXES if (text := table(grown, axis))]
    parts += [_floor(grown.floor), _backlog(grown)]
    parts += [f"{name}: refused: {reasons[0]}" for name, reasons in grown.refused.items()]
    return "\n\n".join(part for part in parts if part) + f"\n\n{grown.took_s:.0f} s in all"


def report(grown: Grown) -> dict[str, str]:
    """The files of docs/performance/ that a run of `make bench-scaling` writes, by name."""
    charts = {f"scaling-{axis}.svg": chart for axis in AXES if (chart := _chart(grown, axis))}
    parts = [
        "# Scaling\n",
        f"Measured on {grown.began} in {grown.took_s / 60:.0f} minutes, medians over {grown.rounds} rounds,"
        " with the least and the most in parentheses. The target answers at once, so that the limit is"
        " Pelton and what it stands on; it, the broker and Pelton share the cores. How it is measured"
        " otherwise: [README.md](README.md).\n",
        "\n".join(f"- **{name}**: {text}" for name, text in grown.machine) + "\n",
        f"```sh\n{grown.command}\n```\n",
        "## The physical limit\n",
        _floor(grown.floor) + "\n",
        LIMIT + "\n",
    ]
    for axis, constant in AXES.items():
        text = table(grown, axis)
        if not text:
            continue
        parts += [f"## {axis.capitalize()}\n", f"{constant}.\n"]
        if f"scaling-{axis}.svg" in charts:
            parts.append(f"![Events a second by {axis}](scaling-{axis}.svg)\n")
        parts += [text + "\n", *(told + "\n" for told in _bends(grown, axis)), REASONS[axis] + "\n"]
    if grown.backlog is not None:
        parts += ["## A backlog before a dead target\n", _backlog(grown) + "\n", BACKLOG + "\n"]
    if grown.missing or grown.refused:
        parts += ["## No figure\n"]
        parts += [f"- **{mode}** is missing: {why.splitlines()[0]}" for mode, why in grown.missing.items()]
        parts += [
            f"- {name}: {len(reasons)} of {grown.rounds} runs do not count: {reasons[0].splitlines()[0]}"
            for name, reasons in grown.refused.items()
        ]
        parts.append("")
    return {"scaling.md": "\n".join(parts), **charts}


def _chart(grown: Grown, axis: str) -> str:
    modes = list(dict.fromkeys(step.mode for step in grown.found if step.axis == axis))
    places = list(dict.fromkeys(step.place for step in grown.found if step.axis == axis))
    if not places:
        return ""
    series: dict[str, list[float | None]] = {}
    for mode in modes:
        found = {step.place: pace(runs) for step, runs in along(grown, axis, mode)}
        series[mode] = [found.get(place) for place in places]
    return svg.lines(f"Throughput by {axis}", "events a second", places, series)


def _bends(grown: Grown, axis: str) -> list[str]:
    told = []
    for mode in dict.fromkeys(step.mode for step in grown.found if step.axis == axis):
        steps = along(grown, axis, mode)
        bent = bend(steps)
        best, runs = max(steps, key=lambda one: pace(one[1]))
        where = (
            f"bends at {bent.place}: less than {BENT:.0%} of its best is left"
            if bent
            else f"does not bend: at least {BENT:.0%} of its best is left from there on"
        )
        told.append(
            f"**{mode}** is fastest at {best.place} ({pace(runs):,.0f}/s,"
            f" {pace(runs) / ceiling(grown.floor, runs):.0%} of what a bridge that costs nothing could reach"
            f" here) and {where}."
        )
    return told


def _floor(floor: Floor) -> str:
    return (
        f"Plain sockets over loopback in the same run, nothing parsed: one connection copies"
        f" {floor.copied_mb_per_s:,.0f} MB/s one way, and a message of {MESSAGE_BYTES} bytes with a send and"
        f" a receive of its own costs {floor.message_us:.1f} µs of CPU, both ends together."
        f" {floor.cores} cores."
    )


def _backlog(grown: Grown) -> str:
    return "" if grown.backlog is None else backlog_told(grown.backlog)


def backlog_told(found: Backlog) -> str:
    return (
        f"{found.events:,} events of {found.size_bytes} bytes, target refusing: {found.most / MIB:.0f} MiB at"
        f" most, {found.idle / MIB:.0f} MiB with nothing to read, the cap is {found.cap / MIB:.0f} MiB:"
        f" it {'holds' if found.holds else 'does NOT hold'}."
    )


LIMIT = """\
What no bridge can save, for each event:

- **The target's own cost** and **the broker's**: their columns. Had the bridge cost nothing, the cores
  would be theirs; the last column of each table says how much of that pace is reached. It
  cannot be all of it.
- **Bytes copied.** A value crosses loopback twice, from the broker and to the target, and each crossing
  copies it into the kernel and out of it. Half of the copying pace above bounds the MB/s of values.
- **Syscalls.** A call with a send and a receive of its own, and so its answer, costs at least two
  messages as above. A bridge goes below that only by putting several calls into one write, as `native`
  does for a batch and `stream` by its nature.
- **HPACK and frames.** "Bytes beside the value" is what a call carries besides: HTTP/2 frames, and
  metadata that differ from call to call (offset, delivery id, key), which HPACK cannot take from its
  table. A stream's delivery carries them as fields."""

REASONS = {
    "partitions": """\
With one partition all calls still go out at once, since order is by key. With many, each fetch brings
fewer events of each partition, so that what is done once a batch and partition is done for fewer events:
an engine's turn, its commit with its map, and the broker's own work for a fetch.""",
    "keys": """\
A key has one call out at a time, so few keys leave most of the concurrency unused: with 10 keys at most
10 calls are out, and the pace is 10 divided by a round trip. That is what order costs, at any bridge.
With many keys each event opens a lane of its own and closes it again.""",
    "bytes": """\
Small events cost by the call, large ones by the byte: the copying in the kernel, librdkafka's and the
target's, and memory that grows with what is in flight. Where the MB/s stop growing, bytes are what is
paid for.""",
    "subscriptions": """\
Each subscription is a consumer group, with a consumer of its own: the topic is fetched once for each, and
each has a thread and buffers in the client. Their threads take turns at the interpreter, and a batch is
smaller. Memory grows by what a consumer takes, since all of them share one bound for events.""",
}

BACKLOG = """\
Intake pauses at its limits, however much is behind them: the breaker opens, what was read stays, and
nothing more is asked of the broker. So memory depends on the limits, and not on the backlog."""
