"""What is measured: the cells of the table, and how many events each gets.

Values only; nothing here starts, measures or prints. A cell has a name, which is also how it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

__all__ = [
    "CONCURRENCY",
    "CONCURRENCY_MORE",
    "DELAYS_MS",
    "EVENT_BYTES",
    "GO_LOOPS",
    "JVM_LOOPS",
    "KEYS",
    "MODES",
    "MORE_OUT",
    "PARTITIONS",
    "POISON",
    "RATES_PER_S",
    "STATUSES",
    "Bridge",
    "Cell",
    "Kill",
    "Latency",
    "Poison",
    "Speed",
    "cells",
    "choose",
    "parse_speed",
]

PARTITIONS = 8
KEYS = 10_000
EVENT_BYTES = 200
#: A key that ends so is poison where there is any: of keys numbered in decimal, 1 %.
POISON = "00"

#: How Pelton calls its target: unary calls through grpc.aio or through `pelton_native`, or a stream.
MODES = ("aio", "native", "stream")
#: What it is measured beside: a name in the table, and what `bench/loops` calls it.
GO_LOOPS = {"go-keyed": "keyed", "go-unordered": "unordered", "go-serial": "serial"}
#: And what the folder in `bench/loops/java` is called.
JVM_LOOPS = {"parallel-consumer": "parallel", "share-group": "share"}
#: Whose order is none, whatever they are asked for.
UNORDERED = frozenset({"go-unordered", "share-group"})

DELAYS_MS = (0, 1, 10, 100)
RATES_PER_S = (500, 5_000)
#: With which poison is refused, and the number gRPC has for it.
STATUSES = {"INVALID_ARGUMENT": 3, "UNKNOWN": 2}

CONCURRENCY = 256
#: Where the delay makes the calls that are out the limit.
CONCURRENCY_MORE = 1_000
#: Of a loop: more lanes cost it time where the calls are quick, fewer where they are slow.
LANES = 64
LANES_MORE = 512
#: Of Parallel Consumer: threads.
THREADS = 100
THREADS_MORE = 1_000
SLOW_MS = 10

#: A virtual machine compiles what it runs; measured before that, it would look slower than it is.
JVM_WARM_UP_S = 8.0
#: Several workers share the partitions out between them while the first already calls.
SHARING_OUT_S = 4.0
#: How long a measurement is to take, beyond what a start takes. With it and what each is known to reach at
#: most, the events are counted out: a cell that is slower than that takes longer, and is as right.
MEASURED_S = 2.5
#: And at the least so many delays: in the first and the last of them not all calls are out.
MEASURED_DELAYS = 35
#: A share group is handed whole batches, which may be so many times what its consumers asked for.
MORE_OUT = {"share-group": 3}
#: Calls a second that Pelton, or a loop, makes at most on two cores, by mode.
PACE_MAX = {
    "aio": 24_000,
    "native": 55_000,
    "stream": 160_000,
    "go-keyed": 50_000,
    "go-unordered": 50_000,
    "go-serial": 4_000,
    "parallel-consumer": 14_000,
    "share-group": 52_000,
}
#: Without an order two workers of `stream` make more of them than one.
PACE_MAX_SHARED = {**PACE_MAX, "stream": 240_000}
#: Where the target takes its time, what works in batches is slower by more than the delay.
PACE_MAX_DELAYED = {**PACE_MAX, "share-group": 45_000}
#: A call to a target that answers at once, there and back, in milliseconds: what the calls that are out can
#: be used for beside the delay.
ROUND_TRIP_MS = 1.0
#: Each cell gets as many as it takes to have more than the first fetch.
EVENTS_MIN = 2_000
#: Topics are made in these steps, so that cells share them.
EVENTS_STEP = 10_000
#: A kill comes in the middle of so many seconds of work.
KILL_S = 4.0
#: However short the rest is: the first events of each poison key are tried again for seconds.
POISON_S = 8.0
KILL_DELAY_MS = 1


@dataclass(frozen=True, slots=True)
class Bridge:
    """Who calls the target: how, with how many calls out, in which order, in how many processes."""

    mode: str
    concurrency: int
    ordering: str = "key"
    workers: int = 1

    @property
    def is_pelton(self) -> bool:
        return self.mode in MODES

    @property
    def warm_up_s(self) -> float:
        """How long it must have called before it is measured."""
        return JVM_WARM_UP_S if self.mode in JVM_LOOPS else 0.0

    @property
    def begins_after_s(self) -> float:
        """How long after its first call the measurement is expected to begin."""
        return SHARING_OUT_S if self.workers > 1 else self.warm_up_s

    @property
    def keeps_order(self) -> bool:
        return self.ordering != "none"

    def __str__(self) -> str:
        """What stands in a table."""
        order = "" if self.ordering == "key" or not self.is_pelton else f", order {self.ordering}"
        workers = "" if self.workers == 1 else f", {self.workers} workers"
        return f"{self.mode}{order}{workers}, {self.concurrency} out"


@dataclass(frozen=True, slots=True)
class Speed:
    """As fast as it goes: a topic full of events, and a target that takes so long for each."""

    bridge: Bridge
    delay_ms: int
    events: int

    @property
    def name(self) -> str:
        bridge = self.bridge
        order = ":none" if bridge.is_pelton and bridge.ordering == "none" else ""
        workers = f":{bridge.workers}w" if bridge.workers > 1 else ""
        return f"{bridge.mode}:{self.delay_ms}:{bridge.concurrency}{order}{workers}"


@dataclass(frozen=True, slots=True)
class Latency:
    """So many events a second, by the clock, to a target that answers at once."""

    bridge: Bridge
    per_second: int

    @property
    def name(self) -> str:
        return f"latency:{self.bridge.mode}:{self.per_second}"


@dataclass(frozen=True, slots=True)
class Kill:
    """kill -9 in the middle of the events, and the same again at once."""

    bridge: Bridge
    delay_ms: int
    events: int

    @property
    def name(self) -> str:
        return f"kill:{self.bridge.mode}"


@dataclass(frozen=True, slots=True)
class Poison:
    """1 % of the keys refused for ever, beside the same without."""

    bridge: Bridge
    status: str
    delay_ms: int
    events: int

    @property
    def name(self) -> str:
        return f"poison:{self.bridge.mode}:{self.status}"


Cell = Speed | Latency | Kill | Poison


def cells(scale: float = 1.0) -> list[Cell]:
    """The whole table; `scale` makes all of it shorter, or longer."""
    return [
        *(_speed(bridge, delay_ms, scale) for bridge, delay_ms in _speeds()),
        *(
            Latency(_usual(mode), per_second)
            for per_second in RATES_PER_S
            for mode in ("go-keyed", *MODES, *JVM_LOOPS)
        ),
        *(
            Kill(bridge, KILL_DELAY_MS, _events(bridge, KILL_DELAY_MS, KILL_S * scale))
            for bridge in map(_usual, ("go-keyed", *MODES, *JVM_LOOPS))
        ),
        *(
            Poison(bridge, status, KILL_DELAY_MS, _events(bridge, KILL_DELAY_MS, POISON_S * max(1.0, scale)))
            for status in STATUSES
            for bridge in map(_usual, ("go-keyed", *MODES, *JVM_LOOPS))
        ),
    ]


def _speeds() -> Iterator[tuple[Bridge, int]]:
    for delay_ms in DELAYS_MS:
        lanes = LANES if delay_ms < SLOW_MS else LANES_MORE
        yield Bridge("go-keyed", lanes), delay_ms
        if delay_ms == 0:
            # What suits each best is not known beforehand.
            yield Bridge("go-keyed", LANES_MORE), delay_ms
        yield Bridge("go-unordered", lanes, "none"), delay_ms
        if delay_ms < SLOW_MS:
            yield Bridge("go-serial", 1), delay_ms
        for threads in (THREADS, THREADS_MORE):
            yield Bridge("parallel-consumer", threads), delay_ms
        yield Bridge("share-group", THREADS_MORE, "none"), delay_ms
        out = CONCURRENCY if delay_ms < SLOW_MS else CONCURRENCY_MORE
        for mode in MODES:
            yield Bridge(mode, out), delay_ms
            if out != CONCURRENCY:
                yield Bridge(mode, CONCURRENCY), delay_ms
            if delay_ms == 0:
                yield Bridge(mode, CONCURRENCY_MORE), delay_ms
            yield Bridge(mode, out, "none"), delay_ms
            yield Bridge(mode, out, workers=2), delay_ms
            if delay_ms == 0:
                yield Bridge(mode, out, "none", workers=2), delay_ms


def _usual(mode: str) -> Bridge:
    """As many calls out as it has by default, or as suits it where the target is quick."""
    if mode in MODES:
        return Bridge(mode, CONCURRENCY)
    concurrency = THREADS_MORE if mode in JVM_LOOPS else 1 if mode == "go-serial" else LANES
    return Bridge(mode, concurrency, "none" if mode in UNORDERED else "key")


def _speed(bridge: Bridge, delay_ms: int, scale: float) -> Speed:
    seconds = max(MEASURED_S * scale, MEASURED_DELAYS * delay_ms / 1_000)
    return Speed(bridge, delay_ms, _events(bridge, delay_ms, seconds + bridge.begins_after_s))


def _events(bridge: Bridge, delay_ms: int, seconds: float) -> int:
    """As many as it can at most deliver in the time."""
    most_out = bridge.concurrency * bridge.workers * MORE_OUT.get(bridge.mode, 1)
    is_shared = bridge.workers > 1 and not bridge.keeps_order
    paces = PACE_MAX_DELAYED if delay_ms else PACE_MAX_SHARED if is_shared else PACE_MAX
    pace = min(paces[bridge.mode], most_out / (delay_ms + ROUND_TRIP_MS) * 1_000)
    events = int(pace * seconds)
    if events < EVENTS_STEP:
        return max(events // EVENTS_MIN * EVENTS_MIN, EVENTS_MIN)
    return events // EVENTS_STEP * EVENTS_STEP


def choose(patterns: Sequence[str], scale: float) -> list[Cell]:
    """The cells of the table whose names match, `*` standing for anything; a speed that is not in it is made.

    ValueError says what is wrong.
    """
    table = cells(scale)
    if not patterns:
        return table
    found: list[Cell] = []
    for pattern in patterns:
        matching = [cell for cell in table if fnmatchcase(cell.name, pattern)]
        if not matching and "*" in pattern:
            raise ValueError(f"no cell's name matches {pattern!r}; --list has them")
        found += [cell for cell in matching or [parse_speed(pattern, scale)] if cell not in found]
    return found


def parse_speed(text: str, scale: float = 1.0) -> Speed:
    """`native:0`, `stream:10:1000`, `aio:1:256:none:2w` or `go-keyed:1:64`; ValueError says what is wrong."""
    mode, *rest = text.split(":")
    workers, ordering = 1, "none" if mode in UNORDERED else "key"
    if rest and mode in MODES and rest[-1].endswith("w") and rest[-1][:-1].isdecimal():
        workers = int(rest.pop()[:-1])
    if rest and mode in MODES and rest[-1] == "none":
        ordering = rest.pop()
    if mode not in PACE_MAX or not 1 <= len(rest) <= 2 or not all(n.isdecimal() for n in rest) or not workers:
        raise ValueError(
            f"{text!r} is no cell: write <{'|'.join(PACE_MAX)}>:<delay ms>[:<calls out>][:none][:<workers>w],"
            " or a name that --list has"
        )
    delay_ms = int(rest[0])
    concurrency = int(rest[1]) if len(rest) > 1 else _usual(mode).concurrency
    return _speed(Bridge(mode, concurrency, ordering, workers), delay_ms, scale)
