"""Memory beside targets that are dead: `python bench/memory.py`. Exit code 1 where a cap does not hold.

Each case is a real `pelton serve` on a real Kafka. Its subscriptions' targets refuse connections, or take
them and never answer; their topic has a backlog, which cases share. What is printed is the kernel's
high-water mark of the process, beside that of the same process with nothing to read, and the cap that
docs/configuration.md states. `--only TEXT` runs the cases whose name has it, `--scale 0.1` a tenth of their
events.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Run by its path, so that only its own folder is known; the harness is the delivery tests'.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.processes import program
from pelton.config.settings import ProcessLimits
from pelton.local.broker import LocalKafka
from tests.integration.delivery.processes import Pelton, until

MIB = 1 << 20
PARTITIONS = 8
LIMITS = ProcessLimits()
#: What the documentation states: a process without events, then `limits.bytes` so often, and so much for
#: each of `limits.events`.
BYTES_TIMES = 3.0
EVENT_BYTES = 2_048
#: It is watched so long from the first events on, and then until the high-water mark has not grown for as
#: long as the second says: retries come back, probes go out, what is read ahead has come.
WATCHED_MIN_S = 15.0
QUIET_S = 5.0
WATCHED_MAX_S = 60.0
PUBLISH_TIMEOUT_S = 600.0
#: Values are cut from so many random bytes, which no compression makes smaller; in a packed one, after so
#: many of them as many times zeros follow.
NOISE_BYTES = 8 * MIB
NOISE_PART = 100
PACKED_TO = 10


@dataclass(frozen=True, slots=True)
class Backlog:
    """Events in a topic of their own, each of a key of its own. Packed ones are a tenth on the wire."""

    topic: str
    events: int
    size_bytes: int
    packed: bool = False


NOTHING = Backlog("nothing", 0, 0)
SMALL = Backlog("small", 1_000_000, 1_000)
LARGE = Backlog("large", 2_000, 1_000_000)
SMALL_PACKED = Backlog("small-packed", 1_000_000, 1_000, packed=True)
LARGE_PACKED = Backlog("large-packed", 2_000, 1_000_000, packed=True)


@dataclass(frozen=True, slots=True)
class Case:
    """A backlog for so many `subscriptions` whose target refuses, or is `silent`."""

    name: str
    backlog: Backlog
    subscriptions: int = 1
    silent: bool = False
    limits: ProcessLimits = LIMITS


CASES = (
    Case("1 M events of 1 KB, refused", SMALL),
    Case("1 M events of 1 KB, silent", SMALL, silent=True),
    Case("2 000 events of 1 MB, refused", LARGE),
    Case("2 000 events of 1 MB, silent", LARGE, silent=True),
    Case("1 M packed events of 1 KB, refused", SMALL_PACKED),
    Case("2 000 packed events of 1 MB, refused", LARGE_PACKED),
    Case("4 subscriptions, 2 000 events of 1 MB, silent", LARGE, subscriptions=4, silent=True),
    Case("30 subscriptions, 1 M events of 1 KB", SMALL, subscriptions=30),
    Case("30 subscriptions, 2 000 events of 1 MB", LARGE, subscriptions=30),
)


def publish(bootstrap: str, backlog: Backlog, scale: float = 1.0) -> None:
    """Its events, or that part of them, into a new topic."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    config = {"max.message.bytes": str(2 * MIB)}
    for future in admin.create_topics([NewTopic(backlog.topic, PARTITIONS, 1, config=config)]).values():
        future.result()
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": 1,
            "linger.ms": 20,
            "batch.size": MIB,
            "message.max.bytes": 2 * MIB,
            "compression.type": "lz4" if backlog.packed else "none",
        }
    )
    noise = os.urandom(NOISE_BYTES)
    if backlog.packed:
        zeros = bytes(NOISE_PART * (PACKED_TO - 1))
        parts = (noise[at : at + NOISE_PART] + zeros for at in range(0, NOISE_BYTES, NOISE_PART * PACKED_TO))
        noise = b"".join(parts)[:NOISE_BYTES]
    room = NOISE_BYTES - backlog.size_bytes
    for number in range(int(backlog.events * scale)):
        at = number * 4_099 % room
        value = noise[at : at + backlog.size_bytes - 8]
        while True:
            try:
                producer.produce(backlog.topic, value, key=b"%08d" % number)
                break
            except BufferError:
                producer.poll(0.01)
    left = producer.flush(PUBLISH_TIMEOUT_S)
    assert left == 0, f"{left} events were not written"


@contextmanager
def dead_port(*, silent: bool) -> Iterator[int]:
    """A port that refuses connections, or takes them and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if silent:
            listening.listen(1_000)
        yield listening.getsockname()[1]


def high_water(pelton: Pelton, *, reads: bool, watched_min_s: float = WATCHED_MIN_S) -> int:
    """The most memory the process has had, once it has read what there is and has stopped growing."""
    if reads:
        until(lambda: pelton.metrics().sum("pelton_events_consumed_total") > 0, "the first events")
    else:
        until(pelton.ready, "its place in the group")
        watched_min_s = 0.0
    most, start = 0, time.monotonic()
    since = start
    while True:
        time.sleep(0.2)
        passed_s = time.monotonic() - start
        now = memory_bytes(pelton.process.pid)
        if now > most + MIB:
            most, since = now, time.monotonic()
        quiet_s = time.monotonic() - since
        if (passed_s >= watched_min_s and quiet_s >= QUIET_S) or passed_s >= WATCHED_MAX_S:
            return max(most, now)


def memory_bytes(pid: int, name: str = "VmHWM") -> int:
    """What the kernel says of a process: by default the most it has ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the kernel does not say {name}")


def configure(folder: Path, bootstrap: str, case: Case, name: str, topic: str, port: int) -> Path:
    lines = [
        f'kafka: {{ bootstrap.servers: "{bootstrap}" }}',
        f'targets: {{ dead: {{ address: "127.0.0.1:{port}" }} }}',
        "server: { http: 127.0.0.1:0, grpc: 127.0.0.1:0 }",
        f"limits: {{ events: {case.limits.events_max}, bytes: {case.limits.bytes_max} }}",
        "subscriptions:",
    ]
    for number in range(case.subscriptions):
        lines += [f"  {name}-{number}: {{ topics: [{topic}], target: dead, delivery: handler, timeout: 5s }}"]
    path = folder / f"{name}.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def measure(
    bootstrap: str, case: Case, name: str, topic: str, folder: Path, watched_min_s: float = WATCHED_MIN_S
) -> int:
    """The most memory of a process that reads `topic`, its subscriptions named after `name`."""
    with dead_port(silent=case.silent) as port:
        config = configure(folder, bootstrap, case, name, topic, port)
        pelton = Pelton(config, folder / f"{name}.log")
        try:
            return high_water(pelton, reads=topic != NOTHING.topic, watched_min_s=watched_min_s)
        finally:
            pelton.kill()


def cap_of(idle: int, limits: ProcessLimits) -> int:
    return idle + int(BYTES_TIMES * limits.bytes_max) + EVENT_BYTES * limits.events_max


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--scale", type=float, default=1.0, help="so much of each backlog")
    options = parser.parse_args()
    all_hold = True
    written: set[Backlog] = set()
    idle_of: dict[int, int] = {}
    with tempfile.TemporaryDirectory(prefix="pelton-memory-") as name, LocalKafka.temporary() as kafka:
        folder, bootstrap = Path(name), kafka.bootstrap
        publish(bootstrap, NOTHING)
        for number, case in enumerate(CASES):
            if options.only not in case.name:
                continue
            if case.backlog not in written:
                start = time.monotonic()
                publish(bootstrap, case.backlog, options.scale)
                written.add(case.backlog)
                print(f"{case.backlog.topic}: published in {time.monotonic() - start:.0f} s", flush=True)
            idle = idle_of.get(case.subscriptions)
            if idle is None:
                idle = measure(bootstrap, case, f"idle-{number}", NOTHING.topic, folder)
                idle_of[case.subscriptions] = idle
            most = measure(bootstrap, case, f"case-{number}", case.backlog.topic, folder)
            cap = cap_of(idle, case.limits)
            all_hold &= most <= cap
            print(
                f"{case.name:<46} idle {idle / MIB:6.0f} MiB, most {most / MIB:6.0f} MiB,"
                f" cap {cap / MIB:6.0f} MiB{'' if most <= cap else '  OVER'}",
                flush=True,
            )
    return 0 if all_hold else 1


if __name__ == "__main__":
    program("bench-memory", main)
