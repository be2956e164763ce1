"""The contracts: generated code and image are what the .proto files say, and nothing in them breaks.

The generator and the oldest supported libraries live in environments of their own, which `make test` sets up
(`.venv-proto`, `.venv-lowest`). Their libraries have no wheels for a Python newer than 3.13: only there are
those tests skipped.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

__all__: list[str] = []

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ROOT / "src" / "pelton" / "v1"
IMAGE = ROOT / "proto" / "image.yaml"
BUF = Path(sys.executable).with_name("buf")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, cwd=ROOT
    )


def old_python(environment: str) -> Path:
    """The interpreter of an environment that holds old libraries."""
    python = ROOT / environment / "bin" / "python"
    if sys.version_info >= (3, 14):
        pytest.skip(f"missing tool: {environment} (its libraries have no wheels for this Python)")
    assert python.exists(), f"{environment} is not set up: `make test` does it"
    return python


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A copy of the contracts, to be broken."""
    copy = tmp_path / "proto"
    shutil.copytree(ROOT / "proto", copy)
    return copy


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_regenerating_changes_nothing(tmp_path: Path) -> None:
    done = run(old_python(".venv-proto"), ROOT / "proto" / "generate.py", tmp_path)
    assert done.returncode == 0, done.stderr
    fresh = {path.name: path.read_bytes() for path in (tmp_path / "pelton" / "v1").iterdir()}
    committed = {path.name: path.read_bytes() for path in GENERATED.glob("*_pb2*")}
    assert sorted(fresh) == sorted(committed)
    stale = [name for name, content in fresh.items() if committed[name] != content]
    assert not stale, "run `make proto`"


def test_a_changed_contract_is_seen_as_stale(changed: Path, tmp_path: Path) -> None:
    replace(
        changed / "pelton" / "v1" / "event.proto",
        "string subject = 4;",
        "string subject = 4;\n  int32 x = 99;",
    )
    done = run(old_python(".venv-proto"), changed / "generate.py", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    fresh = (tmp_path / "out" / "pelton" / "v1" / "event_pb2.py").read_bytes()
    assert fresh != (GENERATED / "event_pb2.py").read_bytes()


def test_lint_and_format() -> None:
    for command in (("lint",), ("format", "--diff", "--exit-code")):
        done = run(BUF, *command, "proto")
        assert done.returncode == 0, done.stdout + done.stderr


def test_lint_can_fail(changed: Path) -> None:
    replace(changed / "pelton" / "v1" / "event.proto", "string subject = 4;", "string Subject = 4;")
    done = run(BUF, "lint", changed)
    assert done.returncode != 0
    assert (
        "FIELD_LOWER_SNAKE_CASE" in done.stdout + done.stderr
        or "lower_snake_case" in done.stdout + done.stderr
    )


def test_the_image_is_current(tmp_path: Path) -> None:
    built = tmp_path / "image.yaml"
    done = run(BUF, "build", "proto", "--exclude-source-info", "--output", built)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(built.read_text()) == yaml.safe_load(IMAGE.read_text()), "run `make proto`"


def test_nothing_breaks_the_image() -> None:
    done = run(BUF, "breaking", "proto", "--against", IMAGE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("string subject = 4;", ""),
        ("string subject = 4;", "bytes subject = 4;"),
        ("string subject = 4;", "string subject = 44;"),
        ("message Position {", "message Place {"),
    ],
    ids=["field removed", "type changed", "number changed", "message renamed"],
)
def test_a_breaking_change_is_refused(changed: Path, old: str, new: str) -> None:
    replace(changed / "pelton" / "v1" / "event.proto", old, new)
    if new.startswith("message"):
        replace(changed / "pelton" / "v1" / "event.proto", "Position position = 11;", "Place position = 11;")
    done = run(BUF, "breaking", changed, "--against", IMAGE)
    assert done.returncode != 0
    assert "event.proto" in done.stdout + done.stderr


def test_an_addition_is_allowed(changed: Path) -> None:
    replace(
        changed / "pelton" / "v1" / "event.proto",
        "string subject = 4;",
        "string subject = 4;\n  int32 x = 99;",
    )
    done = run(BUF, "breaking", changed, "--against", IMAGE)
    assert done.returncode == 0, done.stdout + done.stderr


# Fails on any warning, and where importing the messages would import grpc.
IMPORT_EVERYTHING = """
import importlib, pathlib, sys
import pelton.v1
assert not {"grpc", "confluent_kafka"} & set(sys.modules), "the messages must not need them"
assert pelton.v1.Delivery(event=pelton.v1.Event(value=b"")).event.HasField("value")
for path in pathlib.Path(pelton.v1.__file__).parent.glob("*_pb2*.py"):
    importlib.import_module("pelton.v1." + path.stem)
import google.protobuf, grpc
print(google.protobuf.__version__, grpc.__version__)
"""


def test_stubs_import_without_a_warning() -> None:
    done = run(sys.executable, "-W", "error", "-c", IMPORT_EVERYTHING)
    assert done.returncode == 0, done.stderr


def test_messages_are_all_exported() -> None:
    from pelton import v1
    from pelton.v1 import event_pb2, handler_pb2

    names = {name for module in (event_pb2, handler_pb2) for name in module.DESCRIPTOR.message_types_by_name}
    assert set(v1.__all__) == names


def test_the_lowest_supported_libraries_will_do() -> None:
    python = old_python(".venv-lowest")
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n{IMPORT_EVERYTHING}"
    done = run(python, "-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr
    # Otherwise the environment is not what it claims to be, and the test proves nothing.
    assert done.stdout.split()[1] == "1.71.2"
    assert done.stdout.startswith("5.29.")


def test_the_handler_side_needs_no_more_than_those() -> None:
    """The environment holds the core dependencies alone: no Kafka client, no config or CLI libraries."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\nimport pelton.sdk.serve; print(pelton.App)"
    )
    done = run(old_python(".venv-lowest"), "-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr
    assert run(old_python(".venv-lowest"), "-c", "import confluent_kafka").returncode != 0
