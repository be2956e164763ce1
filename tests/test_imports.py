"""The import contracts of pyproject.toml hold, and each of them can fail.

The contracts are run as `make imports` runs them; then, on a scratch copy of the package, one forbidden
import at a time is added, and the contract that forbids it must be the one that breaks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

__all__: list[str] = []

ROOT = Path(__file__).resolve().parent.parent

# (the file that gets the line, the line, the contract that must break)
FORBIDDEN = [
    ("core/probe.py", "import time", "the core is pure"),
    ("core/probe.py", "import asyncio.events", "the core is pure"),
    ("core/probe.py", "from google.protobuf import message", "the core is pure"),
    ("core/probe.py", "from pelton.v1 import Delivery", "the core is pure"),
    ("event.py", "import logging", "the core is pure"),
    ("subscription.py", "import os", "the core is pure"),
    ("core/probe.py", "import pelton.rpc.transport", "layers"),
    ("rpc/probe.py", "import pelton.kafka.probe", "layers"),
    ("kafka/probe.py", "import pelton.bridge.probe", "layers"),
    ("bridge/probe.py", "import pelton.cli.probe", "layers"),
    ("event.py", "import pelton.subscription", "layers"),
    ("event.py", "import pelton.errors", "layers"),
    ("unplaced.py", "import pelton.errors", "layers"),
    ("bridge/probe.py", "import confluent_kafka", "only pelton.kafka speaks Kafka"),
    ("__init__.py", "from confluent_kafka import Producer", "only pelton.kafka speaks Kafka"),
    ("bridge/probe.py", "import grpc", "only rpc and sdk.serve speak gRPC"),
    ("bridge/probe.py", "import pelton_native", "only rpc and sdk.serve speak gRPC"),
    ("sdk/app.py", "import grpc.aio", "only rpc and sdk.serve speak gRPC"),
    (
        "request/probe.py",
        "from grpc_reflection import v1alpha",
        "only rpc and sdk.serve speak gRPC",
    ),
    (
        "request/probe.py",
        "from pelton.v1 import handler_pb2_grpc",
        "only rpc and sdk.serve speak gRPC",
    ),
    ("sdk/probe.py", "import pelton.core.outcome", "the SDK stands alone"),
    ("sdk/__init__.py", "import pelton.kafka.probe", "the SDK stands alone"),
    ("config/probe.py", "import pelton.testing.probe", "production does not import pelton.testing"),
    ("v1/__init__.py", "import pelton.testing.probe", "production does not import pelton.testing"),
]

ALLOWED = [
    ("kafka/probe.py", "import confluent_kafka"),
    ("rpc/probe.py", "import grpc.aio"),
    ("rpc/probe.py", "import pelton_native"),
    ("rpc/probe.py", "from pelton.v1 import handler_pb2_grpc"),
    ("sdk/serve.py", "import grpc.aio"),
    ("bridge/probe.py", "import pelton.kafka.probe"),
    ("testing/probe.py", "import pelton.bridge.probe"),
]

ROOMS = ("cli", "bridge", "kafka", "rpc", "request", "config", "local", "core", "sdk", "testing")


def broken_contracts(folder: Path) -> tuple[set[str], str]:
    """Runs the contracts on the package below the folder: the names of the broken ones, and the output."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert "Analyzed" in output, output
    broken = set(re.findall(r"^(.*) BROKEN", output, re.MULTILINE))
    assert bool(broken) == (done.returncode != 0), output
    return broken, output


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A copy of the package in which every room has an empty module named `probe`."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    package = tmp_path / "src" / "pelton"
    shutil.copytree(ROOT / "src" / "pelton", package, ignore=shutil.ignore_patterns("__pycache__"))
    for room in ROOMS:
        (package / room).mkdir(exist_ok=True)
        (package / room / "__init__.py").touch()
        (package / room / "probe.py").touch()
    return tmp_path


def add(folder: Path, file: str, line: str) -> None:
    path = folder / "src" / "pelton" / file
    with path.open("a") as opened:
        opened.write(f"\n{line}\n")


def test_the_contracts_hold() -> None:
    broken, output = broken_contracts(ROOT)
    assert not broken, output


@pytest.mark.parametrize(("file", "line", "contract"), FORBIDDEN)
def test_a_forbidden_import_breaks_its_contract(scratch: Path, file: str, line: str, contract: str) -> None:
    add(scratch, file, line)
    broken, output = broken_contracts(scratch)
    assert contract in broken, output


def test_what_is_allowed_breaks_nothing(scratch: Path) -> None:
    for file, line in ALLOWED:
        add(scratch, file, line)
    broken, output = broken_contracts(scratch)
    assert not broken, output
