"""What is built before anything is measured: the target, and the loops that Pelton is measured beside.

What cannot be built where this runs is named, with the reason: it is missing from the table, never left out
in silence. The target is needed for all.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from bench.cells import GO_LOOPS, JVM_LOOPS, MODES
from bench.processes import ROOT, Failed
from pelton.rpc.native_dial import native_missing

__all__ = ["Built", "build", "build_java", "build_loops", "build_target"]

#: A first build downloads what it needs.
TIMEOUT_S = 600.0
JAVA = ROOT / "bench" / "loops" / "java"
#: Outside the source, and kept from run to run.
JAVA_OUT = ROOT / "build" / "java-loops"


@dataclass(frozen=True, slots=True)
class Built:
    """Where the programs are, and which modes there are not, with the reason."""

    target: Path
    #: The Go loops; None where there are none.
    loops: Path | None = None
    #: The folder with one folder for each of the JVM's loops.
    java: Path | None = None
    missing: dict[str, str] = field(default_factory=dict)


def build(folder: Path) -> Built:
    """Everything there can be."""
    missing: dict[str, str] = {}
    if reason := native_missing():
        missing["native"] = reason
    target = build_target(folder)
    loops = java = None
    try:
        loops = build_loops(folder)
    except Failed as error:
        missing |= dict.fromkeys(GO_LOOPS, str(error))
    try:
        java = build_java()
    except Failed as error:
        missing |= dict.fromkeys(JVM_LOOPS, str(error))
    assert missing.keys() <= {*MODES, *GO_LOOPS, *JVM_LOOPS}
    return Built(target, loops, java, missing)


def build_target(folder: Path) -> Path:
    """Build the Go target; the module cache makes every build but the first quick."""
    return _go("target", folder)


def build_loops(folder: Path) -> Path:
    """Build the Go loops."""
    return _go("loops", folder)


def build_java() -> Path:
    """Build the JVM's loops; what Maven has fetched once it needs no network for."""
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            raise Failed(f"the loops of the JVM need `java` and `mvn`, and no `{tool}` is on the path")
    command = ["mvn", "-q", "-B", "-Dmaven.test.skip=true", f"-Dout={JAVA_OUT}", "package"]
    _run(command, JAVA, "bench/loops/java")
    return JAVA_OUT


def _go(program: str, folder: Path) -> Path:
    if shutil.which("go") is None:
        raise Failed(
            f"the benchmark's {program} is written in Go, and no `go` is on the path: see https://go.dev/dl"
        )
    binary = folder / program
    _run(
        ["go", "build", "-mod=readonly", "-o", str(binary), "."], ROOT / "bench" / program, f"bench/{program}"
    )
    return binary


def _run(command: list[str], folder: Path, what: str) -> None:
    try:
        built = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{what} was not built within {TIMEOUT_S:.0f} s") from None
    if built.returncode != 0:
        raise Failed(f"{what} does not build:\n{(built.stderr or built.stdout)[-2_000:]}")
