"""Writes the Python of the contracts: message classes, their types, and the service stubs.

Runs in `.venv-proto`, whose generator is the oldest that Pelton supports (requirements/proto.txt): what it
writes imports under every newer grpcio and protobuf, while a newer generator's code refuses older ones.
The proto package is `pelton.v1` in `proto/pelton/v1`, so imports come out right and nothing is rewritten.
Usage: generate.py FOLDER (`src`, or a scratch folder to compare with).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["generate"]

CONTRACTS = Path(__file__).resolve().parent


def generate(folder: Path) -> int:
    """Writes `pelton/v1/*_pb2*` below the folder; returns the generator's exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(str(path.relative_to(CONTRACTS)) for path in CONTRACTS.glob("pelton/**/*.proto"))
    options = [f"--{kind}_out={folder.resolve()}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{CONTRACTS}", *options, *files]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: generate.py FOLDER")
    sys.exit(generate(Path(sys.argv[1])))
