"""What `import pelton` gives, and what it must not cost."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pelton

ROOT = Path(__file__).resolve().parent.parent

PUBLIC = [
    "App",
    "Context",
    "DeadLetter",
    "Drop",
    "Event",
    "Json",
    "NewEvent",
    "PeltonError",
    "PublishError",
    "Publisher",
    "Retry",
    "__version__",
]


def fresh(code: str) -> str:
    """Run it in an interpreter that has imported nothing yet."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_public_names_are_exactly_these() -> None:
    assert pelton.__all__ == PUBLIC
    assert dir(pelton) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(pelton, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = pelton.Nothing  # type: ignore[attr-defined]


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert pelton.__version__ == project["version"]


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import pelton", ["grpc", "google.protobuf", "confluent_kafka", "asyncio"]),
        ("import pelton; pelton.App; pelton.Context; pelton.Retry", ["grpc", "confluent_kafka"]),
        ("import pelton.sdk.app, pelton.sdk.stream, pelton.sdk.wire", ["grpc", "confluent_kafka"]),
        ("import pelton.sdk.serve", ["confluent_kafka", "pelton.core", "pelton.kafka", "pelton.rpc"]),
    ],
)
def test_imports_bring_no_more_than_they_need(code: str, absent: list[str]) -> None:
    loaded = fresh(f"import sys; {code}; print(*sys.modules)").split()
    assert "pelton" in loaded
    assert not set(absent) & set(loaded)


def test_the_handler_side_needs_no_kafka_client_installed() -> None:
    assert (
        fresh(
            "import sys; sys.modules['confluent_kafka'] = None\n"
            "import pelton.sdk.serve\n"
            "from pelton import App, PublishError\n"
            "try:\n"
            "    from pelton import Publisher\n"
            "except ImportError as error:\n"
            "    print(error)\n"
        )
        == "pelton.Publisher needs the Kafka client, which is not installed: pip install 'pelton[kafka]'"
    )


def test_other_import_errors_are_not_dressed_up() -> None:
    code = (
        "import sys; sys.modules['pelton.kafka'] = None; import pelton\n"
        "try:\n    pelton.Publisher\nexcept ImportError as error:\n    print(error)\n"
    )
    assert "pelton[kafka]" not in fresh(code)


def test_type_checkers_are_told_that_there_are_types() -> None:
    assert (ROOT / "src" / "pelton" / "py.typed").exists()
