"""On what a run took place: a figure without it cannot be compared with another."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from bench.cells import EVENT_BYTES, KEYS, PARTITIONS
from pelton.local.download import KAFKA_VERSION

__all__ = ["describe"]


def describe() -> list[tuple[str, str]]:
    """What there is and in which version, in the order to be shown."""
    go = subprocess.run(["go", "version"], capture_output=True, text=True, check=True).stdout.split()
    go_mod = (Path(__file__).parent / "target" / "go.mod").read_text()
    grpc_go = re.search(r"google\.golang\.org/grpc (v\S+)", go_mod)
    assert grpc_go is not None, "the target is built on grpc-go"
    libraries = ("grpcio", "confluent-kafka", "protobuf", "uvloop")
    python = f"{platform.python_implementation()} {platform.python_version()}"
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return [
        ("CPU", f"{_cpu_model()}, {len(os.sched_getaffinity(0))} cores for this run, load {load} before it"),
        ("system", f"{platform.system()} {platform.release()}, {python}"),
        ("Pelton", f"{version('pelton')}; " + ", ".join(f"{name} {version(name)}" for name in libraries)),
        ("Kafka", f"{KAFKA_VERSION}, one node on the same cores"),
        ("target", f"{go[2]}, grpc-go {grpc_go[1]}, on the same cores"),
        ("events", f"{EVENT_BYTES} bytes, {KEYS:,} keys, {PARTITIONS} partitions, ordering: key"),
    ]


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
