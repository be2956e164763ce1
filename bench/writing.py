"""Where reports stand: docs/performance/, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from bench.processes import ROOT, Failed

__all__ = ["FOLDER", "recorded", "write"]

T = TypeVar("T")

FOLDER = ROOT / "docs" / "performance"


def write(files: Mapping[str, str], folder: Path = FOLDER) -> list[Path]:
    """Each of them anew; the others that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in files.items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def recorded(path: Path, parse: Callable[[str], T]) -> T:
    """What an earlier run has recorded; Failed says what is wrong with the file."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Failed(f"--record {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Failed(f"--record {path} is no record of this version: {error!r}") from error
