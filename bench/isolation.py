"""What one subscription's bad target costs another's latency: `python bench/isolation.py`.

Two subscriptions in one process, each with a topic that is published to at a fixed rate, whatever becomes of
the events. The other one's target is well, refuses, takes connections and says nothing, or answers after
seconds; where it is not well, a backlog waits for it from the start. Or it is idle: nothing is published to
it. Measured is how late the healthy one's events come to its target, by that target's own clock, from the
moment each was due to be published: a publisher that is held up counts, so nothing is left out.

A round has all in turn, each with processes and topics of its own, and who begins changes. Both well is run
twice in it: the mean of the two is what the others are held against, and how far the two differ is what this
computer's noise makes of nothing. A healthy neighbour is work for the process, and one that is dead is none:
what a dead one costs by itself is its CPU time beside that of an idle one.

Printed is each p99 beside that mean, the median of the rounds with the least and the most, the p99 over all
rounds together, and the process's CPU time a second. Exit code 1 where a median is `RATIO_MAX` or more; where
that of twice the same is, nothing can be said, and it is 1 too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median

# Run by its path, so that only its own folder is known; the harness is the delivery tests'.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import figures, source
from bench.builds import build_target
from bench.memory import dead_port
from bench.processes import METHOD, Sampler, Target, program
from pelton.local.broker import LocalKafka
from tests.integration.delivery.processes import Pelton, until

RATIO_MAX = 1.10
#: Offered to each of the two.
PER_SECOND = 300
WARM_UP_S = 3.0
#: A quick service's.
DELAY_MS = 2
#: More than the calls that may be out take of what is offered: it is at its limit all the time.
SLOW_MS = 4_000
WELL, AGAIN = "well", "well again"
#: Nothing is published to the other one's topic: shown beside the others, and not judged.
IDLE = "idle"
BAD = ("refusing", "silent", "slow")
WAYS = (WELL, "refusing", IDLE, AGAIN, "silent", "slow")
#: Waits for a target that is not well: more than its subscription takes in.
BACKLOG = 20_000


@dataclass(frozen=True, slots=True)
class Found:
    """One run: how late each event came, and the process's CPU time a second."""

    late_ms: list[float]
    cpu_ms: float

    @property
    def p99_ms(self) -> float:
        return figures.percentile(self.late_ms, 99)


@contextmanager
def other_target(binary: Path, way: str) -> Iterator[int]:
    """The port of a target that behaves that way."""
    if way in ("refusing", "silent"):
        with dead_port(silent=way == "silent") as port:
            yield port
    else:
        with Target(binary, delay_ms=SLOW_MS if way == "slow" else DELAY_MS) as target:
            yield _port(target)


def _port(target: Target) -> int:
    return int(target.address.rpartition(":")[2])


def configure(folder: Path, bootstrap: str, name: str, transport: str, ports: tuple[int, int]) -> Path:
    lines = [
        f'kafka: {{ bootstrap.servers: "{bootstrap}" }}',
        "server: { http: 127.0.0.1:0, grpc: 127.0.0.1:0 }",
    ]
    lines += [
        "targets:",
        *(f'  {who}: {{ address: "127.0.0.1:{port}" }}' for who, port in zip("ab", ports, strict=True)),
    ]
    lines += ["subscriptions:"]
    lines += [
        f"  {name}-{who}: {{ topics: [{name}-{who}], target: {who}, method: {METHOD}, timeout: 5s,"
        f" transport: {transport} }}"
        for who in "ab"
    ]
    path = folder / f"{name}.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def measure(
    bootstrap: str,
    binary: Path,
    folder: Path,
    name: str,
    transport: str,
    way: str,
    options: argparse.Namespace,
) -> Found:
    """Of the healthy one, beside another whose target is that way."""
    topics = [f"{name}-{who}" for who in "ab"]
    for topic in topics:
        source.create_topic(bootstrap, topic)
    if way in BAD:
        source.preload(bootstrap, source.Events(options.backlog), topics[1])
    with Target(binary, delay_ms=DELAY_MS, latency=True) as target, other_target(binary, way) as port:
        pelton = Pelton(
            configure(folder, bootstrap, name, transport, (_port(target), port)), folder / f"{name}.log"
        )
        try:
            until(pelton.ready, "pelton to be ready")
            sampler = Sampler(lambda: [pelton.process.pid])
            to = topics[:1] if way == IDLE else topics
            with ProcessPoolExecutor(len(to), mp_context=get_context("spawn")) as publishers:
                paced, *_ = publishers.map(_publish, [bootstrap] * len(to), to, [options] * len(to))
            until(lambda: target.stats()["settled"] >= paced.events, "all events of the healthy one")
            late = target.latencies()
            sampler.stop()
        finally:
            pelton.end()
    counted_from = paced.first_due_ns + int(WARM_UP_S * 1e9)
    used_s = [figures.at(sampler.samples, counted_from + s * 1e9) for s in (0.0, options.seconds)]
    return Found(
        [ns / 1e6 for due, ns in late if due >= counted_from],
        1_000 * (used_s[1] - used_s[0]) / options.seconds,
    )


def _publish(bootstrap: str, topic: str, options: argparse.Namespace) -> source.Paced:
    return source.publish_paced(
        bootstrap, topic, per_second=options.rate, seconds=WARM_UP_S + options.seconds
    )


def report(transport: str, found: dict[str, list[Found]]) -> bool:
    """Prints each way beside both well; whether all bounds hold."""
    base_ms = [fmean((one.p99_ms, two.p99_ms)) for one, two in zip(found[WELL], found[AGAIN], strict=True)]
    base_all_ms = figures.percentile(
        [ms for way in (WELL, AGAIN) for one in found[way] for ms in one.late_ms], 99
    )
    holds = True
    for way in WAYS[1:]:
        against = [one.p99_ms for one in found[WELL]] if way == AGAIN else base_ms
        ratios = [one.p99_ms / base for one, base in zip(found[way], against, strict=True)]
        ratio = median(ratios)
        all_ms = figures.percentile([ms for one in found[way] for ms in one.late_ms], 99)
        over = way != IDLE and (ratio >= RATIO_MAX or (way == AGAIN and ratio <= 1 / RATIO_MAX))
        holds &= not over
        print(
            f"{transport}: beside one that is {way}: p99 x{figures.spread(ratios, 2)},"
            f" all rounds together {all_ms:.2f} ms to {base_all_ms:.2f} ms;"
            f" CPU {median(one.cpu_ms for one in found[way]):.0f} ms/s"
            f" to {median(one.cpu_ms for one in found[WELL]):.0f} ms/s"
            + (f"  {'TOO MUCH NOISE TO TELL' if way == AGAIN else f'OVER {RATIO_MAX}'}" if over else ""),
            flush=True,
        )
    return holds


def main() -> int:
    options = _options()
    holds = True
    with tempfile.TemporaryDirectory(prefix="pelton-isolation-") as name, LocalKafka.temporary() as kafka:
        folder = Path(name)
        binary = build_target(folder)
        for transport in options.transport:
            found: dict[str, list[Found]] = {way: [] for way in WAYS}
            for number in range(options.rounds):
                at = number % len(WAYS)
                for way in (*WAYS[at:], *WAYS[:at]):
                    run = f"{transport}-{number}-{way.replace(' ', '-')}"
                    found[way].append(measure(kafka.bootstrap, binary, folder, run, transport, way, options))
                print(
                    f"{transport} round {number + 1}: p99 "
                    + ", ".join(f"{way} {found[way][-1].p99_ms:.2f} ms" for way in WAYS),
                    flush=True,
                )
            holds &= report(transport, found)
    return 0 if holds else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="that count, of each run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=int, default=PER_SECOND, help="events a second for each of the two")
    parser.add_argument("--backlog", type=int, default=BACKLOG, help="events that wait for a bad target")
    parser.add_argument("--transport", nargs="+", default=["native", "aio"])
    return parser.parse_args()


if __name__ == "__main__":
    program("bench-isolation", main)
