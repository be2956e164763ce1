"""What an event costs in Python from consume to commit, in µs: `python bench/micro_path.py [--against SRC]`.

The real pump, engines, requests and the consumer's own steps over the client's own records; only the broker
and the target are not there: records are made before, calls are answered from a list, and what the consumer
is asked for is forgotten. So it is the budget "at most 5 µs an event outside the transport", alone on a core.
With `--against` the same is measured on another checkout's `src`, in turns with this one.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

HERE = Path(__file__).resolve().parent.parent / "src"
EVENTS = 100_000
PARTITIONS = 8
KEYS = 10_000
BATCH = 500
#: Results that come together: measured of `native:0:1000`, 297 a batch, of 4 partitions of 8.
ANSWERS = 256
ROUNDS = 5
#: Calls that may be out, and events that are open when the next ones come.
OUT = 1_000
OPEN = 4_000

CASES = {"order key": "key", "order none": "none"}


async def one_round(ordering: str) -> tuple[float, float, float]:
    """µs an event for the consumer's thread, for events in, and for results; both of these make calls."""
    from confluent_kafka import Message

    from pelton.bridge.logs import PumpLog
    from pelton.bridge.pump import Pump
    from pelton.bridge.requests import prepare
    from pelton.core.limits import Bound, Limits, Slots
    from pelton.core.outcome import ACKED
    from pelton.core.tally import Tally
    from pelton.event import Partition
    from pelton.kafka.assignment import Assignment
    from pelton.kafka.listener import Assigned
    from pelton.kafka.records import RecordStatistics, events_of
    from pelton.subscription import Ordering, Subscription, Target

    class Source:
        def forget(self, *what: object) -> None:
            pass

        pause = resume = commit = read_again = release = forget

    class Transport:
        def __init__(self) -> None:
            self.out: list[Any] = []

        def submit(self, calls: list[Any]) -> None:
            self.out += [call.delivery for call in calls]

    transport = Transport()
    subscription = Subscription(
        "s", ("t",), Target("t", "a"), "/a.B/C", "g", concurrency=OUT, ordering=Ordering(ordering)
    )
    tally = Tally()
    pump = Pump(
        subscription,
        loop=asyncio.get_running_loop(),
        limits=Limits(Bound(50_000, 64 << 20), Bound(10_000, 32 << 20), Slots(OUT)),
        tally=tally,
        jitter=lambda: 0.5,
        requests=prepare(subscription, None, lambda now_ms: now_ms),
        open_transport=lambda on_results: cast(Any, transport),
        open_sink=lambda pump: cast(Any, None),
        open_source=lambda pump: cast(Any, Source()),
        on_failed=lambda error: None,
        log=PumpLog("s"),
        wall_ms_of=lambda now_ms: now_ms,
    )
    partitions = [Partition("t", number) for number in range(PARTITIONS)]
    pump.on_assigned([Assigned(partition, 1, 0, None) for partition in partitions])
    assignment = Assignment()
    assignment.add(partitions)
    for held in assignment:
        held.announced = held.flowing = True
    chance = random.Random(0)
    keys = [b"key-%d" % number for number in range(KEYS)]
    offsets = [0] * PARTITIONS
    value = b"v" * 200
    statistics_ = RecordStatistics()
    own: frozenset[str] = frozenset()
    consuming = arriving = answering = 0.0
    for first in range(0, EVENTS, BATCH):
        messages = []
        # The client hands over one partition's records after another's.
        for partition in chance.sample(range(PARTITIONS), 2):
            for _ in range(BATCH // 2):
                key = keys[chance.randrange(KEYS // PARTITIONS) * PARTITIONS + partition]
                messages.append(Message("t", partition, offsets[partition], key, value, timestamp=(1, 5)))
                offsets[partition] += 1
        t0 = time.perf_counter()
        batch = assignment.take(events_of(cast(Any, messages), statistics_, own))
        sum(map(len, messages))
        t1 = time.perf_counter()
        pump.on_events(batch)
        t2 = time.perf_counter()
        consuming += t1 - t0
        arriving += t2 - t1
        ahead = 0 if first + BATCH == EVENTS else OPEN
        while pump.open_events > ahead:
            answered, transport.out[:ANSWERS] = transport.out[:ANSWERS], []
            results = [(delivery, ACKED) for delivery in answered]
            t3 = time.perf_counter()
            pump.on_results(results)
            answering += time.perf_counter() - t3
    assert tally.acked == EVENTS, f"{tally.acked} of {EVENTS} events were acked"
    await pump.drain()
    return consuming / EVENTS * 1e6, arriving / EVENTS * 1e6, answering / EVENTS * 1e6


def measured(src: Path) -> dict[str, tuple[float, float, float]]:
    """The best of some rounds, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure"],
        env={"PYTHONPATH": str(src)},
        check=True,
        capture_output=True,
        text=True,
    )
    return {name: tuple(times) for name, times in json.loads(done.stdout.splitlines()[-1]).items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--against", type=Path, help="src of another checkout")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        gc.disable()
        best = {}
        for name, ordering in CASES.items():
            rounds = [asyncio.run(one_round(ordering)) for _ in range(ROUNDS)]
            best[name] = min(rounds, key=sum)
        print(json.dumps(best))
        return
    pairs = [
        (measured(HERE), measured(options.against) if options.against else None) for _ in range(options.pairs)
    ]
    print(f"{'µs an event, the median of ' + str(options.pairs):<30} consume  events  results    all   ratio")
    for name in CASES:
        mine = [statistics.median(pair[0][name][at] for pair in pairs) for at in range(3)]
        ratio = ""
        if options.against:
            ratio = f"{statistics.median(sum(a[name]) / sum(b[name]) for a, b in pairs if b):8.3f}"
        print(f"{name:<30}" + "".join(f"{value:8.3f}" for value in (*mine, sum(mine))) + ratio)


if __name__ == "__main__":
    main()
