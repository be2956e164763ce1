"""What the engine costs, in µs an event: `python bench/micro_engine.py [--against SRC]`. Asserts nothing.

Events are fed, started and acked in batches, as the pump does it; nothing is built or sent. With `--against`
the same is measured on another checkout's `src`, in turns with this one, and the ratio is printed: the only
comparison that a busy computer allows.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent / "src"
EVENTS = 20_000
BATCH = 500
ROUNDS = 5


def one_round(keys: Callable[[int], bytes | None]) -> tuple[float, float, float]:
    """µs an event for intake, for starting and for acks."""
    from pelton.core.breaker import Breaker
    from pelton.core.engine import Engine
    from pelton.core.limits import Bound, Limits, Slots
    from pelton.core.outcome import ACKED
    from pelton.core.tally import Tally
    from pelton.event import Event, Partition
    from pelton.subscription import Subscription, Target

    subscription = Subscription("s", ("t",), Target("t", "a"), "/a.B/C", "g", concurrency=BATCH)
    engine = Engine(
        subscription,
        Partition("t", 0),
        generation=1,
        committed=0,
        metadata=None,
        log_end=-1,
        limits=Limits(Bound(50_000, 64 << 20), Bound(10_000, 32 << 20), Slots(BATCH)),
        breaker=Breaker(),
        tally=Tally(),
        jitter=lambda: 0.5,
        now_ms=0.0,
    )
    batches = [
        [Event("t", 0, at, keys(at), b"value", b"value", (), 0) for at in range(first, first + BATCH)]
        for first in range(0, EVENTS, BATCH)
    ]
    intake = start = ack = 0.0
    now_ms = 0.0
    for batch in batches:
        now_ms += 5.0
        t0 = time.process_time()
        engine.on_events(batch, now_ms)
        t1 = time.process_time()
        intake += t1 - t0
        while engine.open_events:
            t0 = time.process_time()
            actions = engine.take_actions(now_ms, BATCH)
            t1 = time.process_time()
            now_ms += 1.0
            results = [(delivery, ACKED) for delivery in actions.calls]
            t2 = time.process_time()
            engine.on_outcomes(results, now_ms)
            t3 = time.process_time()
            start += t1 - t0
            ack += t3 - t2
    return intake / EVENTS * 1e6, start / EVENTS * 1e6, ack / EVENTS * 1e6


CASES: dict[str, Callable[[int], bytes | None]] = {
    "every key its own": lambda at: b"%d" % at,
    "no keys": lambda at: None,
    "100 keys": lambda at: b"%d" % (at % 100),
}


def measured(src: Path) -> dict[str, tuple[float, float, float]]:
    """CPU time, the best of some rounds, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure"],
        env={"PYTHONPATH": str(src)},
        check=True,
        capture_output=True,
        text=True,
    )
    return {name: tuple(times) for name, times in json.loads(done.stdout).items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--against", type=Path, help="src of another checkout")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        gc.disable()
        best = {
            name: [min(times) for times in zip(*(one_round(keys) for _ in range(ROUNDS)), strict=True)]
            for name, keys in CASES.items()
        }
        print(json.dumps(best))
        return
    pairs = [
        (measured(HERE), measured(options.against) if options.against else None) for _ in range(options.pairs)
    ]
    print(f"{'µs an event, the median of ' + str(options.pairs):<34} intake   start     ack     all   ratio")
    for name in CASES:
        mine = [statistics.median(pair[0][name][at] for pair in pairs) for at in range(3)]
        ratio = ""
        if options.against:
            ratio = f"{statistics.median(sum(a[name]) / sum(b[name]) for a, b in pairs if b):7.3f}"
        print(f"{name:<34}" + "".join(f"{value:8.3f}" for value in (*mine, sum(mine))) + ratio)


if __name__ == "__main__":
    main()
