"""On what a run took place: a figure without it cannot be compared with another."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from bench.cells import EVENT_BYTES, KEYS, PARTITIONS
from bench.processes import JVM_OPTIONS
from pelton.cli.version import is_compiled
from pelton.local.download import KAFKA_VERSION

__all__ = ["command", "describe", "now", "pulse_ms"]

LOOPS = Path(__file__).parent / "loops"
#: Of the loop that tells how fast the computer is at the moment.
PULSE_STEPS = 200_000
PULSE_TIMES = 5


def command(target: str) -> str:
    """What this process was started by: `make TARGET` with its arguments."""
    arguments = [f"ARGS={shlex.join(sys.argv[1:])}"] if sys.argv[1:] else []
    return shlex.join(["make", target, *arguments])


def now() -> str:
    """To the minute."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def pulse_ms() -> float:
    """How long a fixed piece of Python takes at the moment, for a million steps of it: one computer has good
    hours and bad ones. The median of a few, since it is of the hour and not of the best moment in it."""
    took_s: list[float] = []
    for _ in range(PULSE_TIMES):
        begun = time.perf_counter()
        held: dict[int, tuple[int, int]] = {}
        for number in range(PULSE_STEPS):
            # Objects that come and go, as events do.
            held[number & 0xFFF] = (number, number + 1)
        took_s.append(time.perf_counter() - begun)
    return median(took_s) * 1_000.0 * (1_000_000 / PULSE_STEPS)


def describe() -> list[tuple[str, str]]:
    """What there is and in which version, in the order to be shown."""
    go = _said("go", "version").split()[2]
    grpc_go = _go_version("target", "google.golang.org/grpc")
    franz, segmentio = (
        _go_version("loops", f"github.com/{name}") for name in ("twmb/franz-go", "segmentio/kafka-go")
    )
    libraries = ("grpcio", "confluent-kafka", "protobuf", "uvloop")
    python = f"{platform.python_implementation()} {platform.python_version()}"
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return [
        ("CPU", f"{_cpu_model()}, {len(os.sched_getaffinity(0))} cores for this run, load {load} before it"),
        ("system", f"{platform.system()} {platform.release()}, {python}"),
        ("Pelton", f"{_pelton()}; " + ", ".join(f"{name} {version(name)}" for name in libraries)),
        ("Kafka", f"{KAFKA_VERSION}, one node on the same cores"),
        ("target", f"{go}, grpc-go {grpc_go}, on the same cores"),
        (
            "Go",
            f"{go}, grpc-go {grpc_go}, franz-go {franz}, kafka-go {segmentio}; no retries, no durable acks",
        ),
        ("JVM", _jvm()),
        ("events", f"{EVENT_BYTES} bytes, {KEYS:,} keys, {PARTITIONS} partitions, ordering: key"),
    ]


def _pelton() -> str:
    """Its version, which commit of it, and as what it runs."""
    commit = _said("git", "-C", str(LOOPS), "describe", "--always", "--dirty").strip()
    form = "hot path compiled, but for aio" if is_compiled() else "not compiled"
    return f"{version('pelton')} ({commit + ', ' if commit else ''}{form})"


def _jvm() -> str:
    pom = (LOOPS / "java" / "pom.xml").read_text()
    names = {
        "parallel-consumer": "Parallel Consumer",
        "parallel-consumer.kafka": "kafka-clients under it",
        "share.kafka": "kafka-clients of the share group",
        "grpc": "grpc-java",
    }
    found = {shown: re.search(rf"<{name}\.version>(.+?)<", pom) for name, shown in names.items()}
    told = ", ".join(f"{shown} {match[1]}" for shown, match in found.items() if match is not None)
    java = _said("java", "-version").splitlines()
    return f"{java[0] if java else 'no java'}, {JVM_OPTIONS[0]}, {told}"


def _said(*command: str) -> str:
    """What a program says of itself; nothing where there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return (done.stdout or done.stderr) if done.returncode == 0 else ""


def _go_version(program: str, module: str) -> str:
    folder = LOOPS if program == "loops" else LOOPS.parent / program
    found = re.search(rf"{re.escape(module)} (v\S+)", (folder / "go.mod").read_text())
    assert found is not None, f"bench/{program} is not built on {module}"
    return found[1]


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
