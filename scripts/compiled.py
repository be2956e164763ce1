"""Pelton with its hot path compiled: `python scripts/compiled.py` builds it and says where it is.

The same sources, compiled to C by mypyc: what an event goes through from the record to the settled offset.
The result is a wheel like any other, for this Python and this kind of computer, and the same wheel unpacked,
which `PYTHONPATH` puts before the sources: that is what the tests and the benchmarks of it run. It is kept by
the content of what it is made of, so it is never older than the sources (decision 0034).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "src"
OUT = ROOT / "build" / "compiled"

#: What is done for every event, and what these share their types with. What is done for every partition,
#: start or fault stays Python.
MODULES = (
    "pelton/event.py",
    "pelton/varint.py",
    "pelton/core/*.py",
    "pelton/kafka/assignment.py",
    "pelton/kafka/records.py",
    "pelton/bridge/pump.py",
    "pelton/bridge/requests.py",
    "pelton/bridge/shares.py",
    "pelton/request/handler.py",
    "pelton/rpc/batch.py",
    "pelton/rpc/metadata.py",
    "pelton/rpc/native.py",
    "pelton/rpc/results.py",
    "pelton/rpc/session.py",
    "pelton/rpc/stream.py",
    "pelton/rpc/transport.py",
)
#: Of this program, where nothing can be compiled: no failure, and whoever asked says what is left out.
EXIT_MISSING = 3
#: Set while a wheel is built that is to be compiled.
ASKED = "PELTON_COMPILED"


class CompiledHook(BuildHookInterface[Any]):
    """Puts what is compiled beside its sources in the wheel; does nothing where nobody asked for it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "standard" or ASKED not in os.environ:
            return
        built = Path(os.environ[ASKED])
        subprocess.run([sys.executable, __file__, "--only-compile", str(built)], check=True)
        build_data["pure_python"], build_data["infer_tag"] = False, True
        build_data["force_include"] |= {
            str(library): str(library.relative_to(built)) for library in built.rglob("*.so")
        }


def missing() -> str | None:
    """Why nothing can be compiled here; None where it can."""
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        return f"there is no C compiler ({compiler})"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "the headers of this Python are not there (Debian and Ubuntu: python3-dev)"
    return None


def modules() -> list[str]:
    """The files to compile, relative to `ROOT`."""
    found = [path for pattern in MODULES for path in sorted(SOURCES.glob(pattern)) if path.stem != "__init__"]
    return [str(path.relative_to(ROOT)) for path in found]


def compile_into(folder: Path) -> None:
    """The compiled modules as they stand in a wheel; what the compiler needs on the way lies beside them."""
    from mypyc.build import mypycify
    from setuptools import setup  # type: ignore[import-untyped]

    os.chdir(ROOT)
    extensions = mypycify(
        ["--config-file", str(ROOT / "pyproject.toml"), *modules()],
        opt_level="3",
        debug_level="0",
        target_dir=str(folder.with_suffix(".c")),
        group_name="pelton",
    )
    places = ["--build-lib", str(folder), "--build-temp", str(folder.with_suffix(".o"))]
    setup(name="pelton", packages=[], ext_modules=extensions, script_args=["--quiet", "build_ext", *places])


def build() -> Path:
    """The folder with the unpacked wheel, built if there is none of these sources for this Python."""
    digest = hashlib.sha256(sys.version.encode())
    made_of = [path for path in SOURCES.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in [
        ROOT / "pyproject.toml",
        ROOT / "requirements" / "dev.txt",
        Path(__file__),
        *sorted(made_of),
    ]:
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    there = OUT / digest.hexdigest()[:16]
    if there.exists():
        return there
    print("compiling Pelton's hot path (about a minute)", file=sys.stderr, flush=True)
    shutil.rmtree(OUT, ignore_errors=True)
    work = OUT / "work"
    work.mkdir(parents=True)
    options = ["--quiet", "--wheel", "--offline", "--no-build-isolation", "--out-dir", str(OUT)]
    subprocess.run(
        [str(Path(sys.executable).with_name("uv")), "build", *options, str(ROOT)],
        check=True,
        env={**os.environ, ASKED: str(work / "lib")},
    )
    shutil.rmtree(work)
    (wheel,) = OUT.glob("*.whl")
    with ZipFile(wheel) as packed:
        packed.extractall(OUT / "unpacked")
    (OUT / "unpacked").rename(there)
    return there


def main() -> None:
    if sys.argv[1:2] == ["--only-compile"]:
        compile_into(Path(sys.argv[2]))
    elif reason := missing():
        print(f"NOT COMPILED: {reason}", file=sys.stderr)
        raise SystemExit(EXIT_MISSING)
    else:
        print(build())


if __name__ == "__main__":
    main()
