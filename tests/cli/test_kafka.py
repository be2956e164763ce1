"""`pelton kafka …` as a person uses it: real processes, a real broker."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pelton.cli.kafka import EXIT_NOT_RUNNING
from pelton.local.broker import LocalKafka

#: Everything here takes 1–3 s on an idle computer.
DEADLINE_S = 60


def pelton(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    # As in a plain container: no locale, and nothing that makes output longer.
    environment = {**os.environ, "LC_ALL": "C", "COLUMNS": "200"}
    command = [sys.executable, "-m", "pelton", "kafka", *words]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A project's directory with a name that is hard on programs; whatever runs there is ended."""
    path = tmp_path / "pröject a"
    path.mkdir()
    yield path
    LocalKafka(path / ".pelton" / "kafka").kill()


def test_a_broker_in_the_background(project: Path) -> None:
    assert pelton("status", cwd=project).returncode == EXIT_NOT_RUNNING

    started = pelton("start", "--port", "0", cwd=project)
    assert started.returncode == 0, started.stderr
    kafka = LocalKafka(project / ".pelton" / "kafka")
    assert f'kafka: {{ bootstrap.servers: "{kafka.bootstrap}" }}' in started.stdout
    assert "  end it:         pelton kafka stop\n" in started.stdout
    assert kafka.status().serving

    status = pelton("status", cwd=project)
    assert status.returncode == 0
    assert f"serves at {kafka.bootstrap}" in status.stdout

    again = pelton("start", "--port", "0", cwd=project)
    assert again.returncode == 0
    assert f"already serves at {kafka.bootstrap}" in again.stdout

    elsewhere = pelton("start", "--port", "1", cwd=project)
    assert elsewhere.returncode != 0
    assert f"already runs from {kafka.directory} at {kafka.bootstrap}" in elsewhere.stderr
    assert "Traceback" not in elsewhere.stderr

    # What is said to be typed is for the directory that was meant.
    where = os.path.join(project.name, ".pelton", "kafka")
    from_above = pelton("start", "--port", "1", "--directory", where, cwd=project.parent)
    said = re.search("end it with `pelton kafka (.*)`", from_above.stderr)
    assert said is not None
    assert shlex.split(said[1]) == ["stop", "--directory", where]

    logs = pelton("logs", "--lines", "2", cwd=project)
    assert len(logs.stdout.splitlines()) == 2

    stopped = pelton("stop", cwd=project)
    assert stopped.returncode == 0
    assert "stopped" in stopped.stdout
    assert pelton("status", cwd=project).returncode == EXIT_NOT_RUNNING
    assert (kafka.data / "meta.properties").exists()

    assert pelton("reset", cwd=project).returncode == 0
    assert not kafka.data.exists()
    none = pelton("logs", cwd=project)
    assert none.returncode != 0
    assert "`pelton kafka start` makes one" in none.stderr


@contextlib.contextmanager
def running(*words: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "pelton", "kafka", *words]
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"it ended without saying {text!r}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_broker_in_the_foreground_ends_with_its_command(project: Path, number: int) -> None:
    kafka = LocalKafka(project / ".pelton" / "kafka")
    with running("start", "--port", "0", "--foreground", cwd=project) as process:
        lines_until(process, "Ctrl-C")
        assert kafka.status().serving
        process.send_signal(number)
        lines_until(process, "Kafka stopped")
        assert process.wait(DEADLINE_S) == 0
    assert not kafka.status().running


def test_a_broker_in_the_foreground_can_be_stopped_from_elsewhere(project: Path) -> None:
    with running("start", "--port", "0", "--foreground", cwd=project) as process:
        lines_until(process, "Ctrl-C")
        assert pelton("stop", cwd=project).returncode == 0
        lines_until(process, "Kafka was stopped")
        assert process.wait(DEADLINE_S) == 0


def test_a_log_is_followed_over_a_roll(tmp_path: Path) -> None:
    log = LocalKafka(tmp_path).log
    log.parent.mkdir()
    log.write_text("old\nfirst\n")
    with running("logs", "--follow", "--lines", "1", "--directory", str(tmp_path), cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "first\n"
        with log.open("a") as file:
            file.write("second\n")
        assert process.stdout.readline() == "second\n"
        log.rename(log.with_name("kafka.log.1"))
        log.write_text("third\n")
        assert process.stdout.readline() == "third\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
