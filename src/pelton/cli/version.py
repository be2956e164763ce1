"""`pelton version`: what a bug report needs to say first."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

from pelton import __version__
from pelton.core import engine

__all__ = ["is_compiled", "version"]

LIBRARIES = ("confluent-kafka", "grpcio", "protobuf", "uvloop")


def version() -> None:
    """Versions of Pelton and what it runs on."""
    compiled = ", compiled" if is_compiled() else ""
    lines = [f"pelton {__version__}{compiled}", f"python {platform.python_version()}"]
    for name in LIBRARIES:
        try:
            lines.append(f"{name} {version_of(name)}")
        except PackageNotFoundError:
            lines.append(f"{name} not installed")
    sys.stdout.write("\n".join(lines) + "\n")


def is_compiled() -> bool:
    """Whether the hot path is, or runs as the Python that it is written in."""
    return not engine.__file__.endswith(".py")
