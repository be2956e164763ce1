"""Every command: what it answers, how it ends, how fast it helps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pelton import __version__
from tests.cli.conftest import PATIENCE_S, Pelton, environment

#: `--help` shall take 200 ms on a quiet computer; tests run on busy ones.
HELP_CEILING_S = 2.0


def test_help_names_every_command(pelton: Pelton) -> None:
    ended = pelton("--help")
    assert (ended.code, ended.err) == (0, "")
    for command in ("serve", "publish", "tail", "release", "kafka", "version"):
        assert f" {command} " in ended.out
    assert pelton().out == ended.out, "no command at all is a cry for help"


@pytest.mark.parametrize("command", ["serve", "publish", "tail", "release", "kafka", "version"])
def test_every_command_has_help(pelton: Pelton, command: str) -> None:
    ended = pelton(command, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert f"Usage: pelton {command}" in ended.out


def test_help_is_fast(tmp_path: Path, note: Callable[[str], None]) -> None:
    """With bytecode, as an installed package has it; where Python may write none, help pays for compiling."""
    variables = environment(PYTHONPYCACHEPREFIX=str(tmp_path))
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    took = []
    for _ in range(6):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "pelton", "--help"], env=variables, stdout=subprocess.DEVNULL, check=True
        )
        took.append(time.perf_counter() - start)
    best = min(took[1:])
    note(f"pelton --help: best of 5 {best * 1_000:.0f} ms")
    assert best <= HELP_CEILING_S


def test_help_imports_neither_clients_nor_parsers() -> None:
    """What `--help` costs is what it imports; these would each cost more than half of it."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pelton", "--help"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "cyclopts" in imported
    heavy = {
        "confluent_kafka",
        "grpc",
        "pydantic",
        "structlog",
        "rich.markdown",
        "google.protobuf",
        "asyncio",
    }
    assert not heavy & imported


def test_versions(pelton: Pelton) -> None:
    assert pelton("--version").out == f"{__version__}\n"
    ended = pelton("version")
    assert ended.code == 0
    assert ended.out.startswith(f"pelton {__version__}\npython 3.")
    assert "\nconfluent-kafka 2." in ended.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nope"], 'Unknown command "nope"'),
        (["serve", "--nope"], "Unknown option: --nope"),
        (
            ["serve", "shop.yaml"],
            "'shop.yaml' is more than it takes; what has an option follows it, as in --config FILE.",
        ),
        (["serve", "shop.yaml"], "See `pelton serve --help`."),
        (["tail"], "requires an argument"),
        (["tail", "t", "--from", "noon"], 'Invalid value for --from: unable to convert "noon"'),
        (["tail", "t", "--max", "0"], "--max"),
        (["tail", "t"], "no Kafka is named, and none runs from .pelton/kafka. Give --bootstrap"),
        (["publish", "t", "x"], "no Kafka is named"),
        (["publish", "t", "{", "--json"], "it is not JSON"),
        (["publish", "t", "x", "--header", "novalue"], "'novalue' is no header. Write it as NAME=VALUE"),
        (["publish", "t", "@nowhere"], "nowhere cannot be read: No such file or directory"),
        (["publish", "t", "x", "--tombstone"], "a tombstone has no value"),
        (["publish", "t", "x", "--id", "1", "--count", "2"], "would be the same event"),
        (["serve", "-c", "nowhere.yaml"], "nowhere.yaml: 1 problem"),
    ],
)
def test_what_is_wrong_is_told_in_a_line_or_two(pelton: Pelton, arguments: list[str], told: str) -> None:
    ended = pelton(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("pelton: ")
    assert told in ended.err
    assert "Traceback" not in ended.err
    assert ended.err.count("\n") <= 4


def test_debug_shows_where(pelton: Pelton) -> None:
    ended = pelton("--debug", "serve", "-c", "nowhere.yaml")
    assert ended.code == 2
    assert "Traceback (most recent call last)" in ended.err
    assert pelton("serve", "-c", "nowhere.yaml", "--debug").err == ended.err
    # After -- it is a value like any other.
    assert "Traceback" not in pelton("publish", "t", "--header", "bad", "--", "--debug").err


def test_a_broker_that_is_not_there_is_an_error_and_not_a_flood(pelton: Pelton) -> None:
    ended = pelton("tail", "t", "--bootstrap", "127.0.0.1:1")
    assert ended.code == 1
    assert "127.0.0.1:1" in ended.err
    assert "Traceback" not in ended.err
    assert ended.err.count("\n") <= 6


def test_a_missing_library_says_what_to_install() -> None:
    """For the command line itself, and for what a command needs."""
    for name, arguments in (
        ("cyclopts", ["--help"]),
        ("confluent_kafka", ["tail", "t", "--bootstrap", "x:1"]),
    ):
        code = (
            f"import sys; sys.modules[{name!r}] = None; sys.argv[1:] = {arguments!r};"
            "from pelton.__main__ import main; main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert name in done.stderr
        assert "pip install 'pelton[server]'" in done.stderr
        assert "Traceback" not in done.stderr


def test_whoever_stops_reading_is_not_an_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pelton", "version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    told = process.stderr.read()
    process.stderr.close()
    assert process.wait(PATIENCE_S) == 141
    assert told == b""


@pytest.mark.parametrize("module", ["cyclopts", "confluent_kafka"])
def test_an_interrupt_before_there_is_anything_to_stop(module: str, tmp_path: Path) -> None:
    """A Ctrl-C while modules are imported: those of the command line, and those of one command."""
    (tmp_path / f"{module}.py").write_text("print('importing', flush=True)\nimport time\ntime.sleep(60)\n")
    env = environment()
    env["PYTHONPATH"] = os.pathsep.join((str(tmp_path), env["PYTHONPATH"]))
    with subprocess.Popen(
        [sys.executable, "-m", "pelton", "publish", "t", "x", "--bootstrap", "127.0.0.1:1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode in (-signal.SIGINT, 130)
    assert (out, err) == ("", "")
