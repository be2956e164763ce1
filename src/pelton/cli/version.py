"""`pelton version`: what a bug report needs to say first."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

from pelton import __version__

__all__ = ["version"]

LIBRARIES = ("confluent-kafka", "grpcio", "protobuf", "uvloop")


def version() -> None:
    """Versions of Pelton and what it runs on."""
    lines = [f"pelton {__version__}", f"python {platform.python_version()}"]
    for name in LIBRARIES:
        try:
            lines.append(f"{name} {version_of(name)}")
        except PackageNotFoundError:
            lines.append(f"{name} not installed")
    sys.stdout.write("\n".join(lines) + "\n")
