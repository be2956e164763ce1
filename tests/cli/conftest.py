"""Real processes: what a person at a terminal gets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["PATIENCE_S", "Ended", "Pelton", "environment"]

#: A command that takes longer than this hangs.
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Pelton = Callable[..., Ended]


def environment(**more: str) -> dict[str, str]:
    """This interpreter's modules, and nothing of the person who runs the tests."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PELTON_")}
    return {**clean, "PYTHONPATH": path, "COLUMNS": "100", **more}


@pytest.fixture
def pelton(tmp_path: Path) -> Pelton:
    """Run `pelton …` in a directory of its own, where no broker is known, and say how it ended."""

    def run(*arguments: str, stdin: bytes = b"", **variables: str) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "pelton", *arguments],
            input=stdin,
            capture_output=True,
            cwd=tmp_path,
            env=environment(**variables),
            timeout=PATIENCE_S,
            check=False,
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run
