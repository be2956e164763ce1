"""The Go writer and server of `examples/go`, on a real Kafka: Pelton's config alone connects them.

The committed config files are served as they are, but for the addresses, topic and group of this test,
which come as environment overrides.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pelton.local.broker import LocalKafka

pytestmark = [pytest.mark.needs_tool("go"), pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "go"

#: A first build may download the modules.
BUILD_TIMEOUT_S = 240.0
#: Ten times what it takes on a busy computer.
DEADLINE_S = 60.0
#: As many as show that it goes on: some from before Pelton's start, and some from after it.
EVENTS = 20
INTERVAL = "100ms"


class Program:
    """A process whose output can be read while it runs."""

    def __init__(self, name: str, folder: Path, command: list[str], environ: Mapping[str, str]) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environ},
            )

    @property
    def output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> int:
        """Ask it to stop, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)


class Programs:
    """The processes of one test; none outlives it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[Program] = []

    def start(self, name: str, *command: str, **environ: str) -> Program:
        program = Program(name, self._folder, list(command), environ)
        self._running.append(program)
        return program

    def wait_for(self, program: Program, pattern: str, times: int = 1) -> re.Match[str]:
        """The last of so many occurrences in its output. None of the programs may end meanwhile by itself."""
        deadline = time.monotonic() + DEADLINE_S
        while len(found := list(re.finditer(pattern, program.output))) < times:
            assert all(one.process.poll() in (None, 0) for one in self._running), "a program has failed"
            assert time.monotonic() < deadline, f"{program.name}: {len(found)} of {times} × {pattern!r}"
            time.sleep(0.02)
        return found[times - 1]

    def end(self) -> None:
        for program in self._running:
            program.kill()
            # Shown by pytest where the test failed.
            sys.stdout.write(f"--- {program.name}\n{program.output}")


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two programs, built as the README's `go run` builds them."""
    folder = tmp_path_factory.mktemp("go")
    built = subprocess.run(
        ["go", "build", "-mod=readonly", "-o", f"{folder}/", "./writer", "./server"],
        cwd=EXAMPLE,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    programs = Programs(tmp_path)
    yield programs
    programs.end()


@pytest.mark.parametrize(
    ("config", "handled"),
    [
        pytest.param("pelton.yaml", r'handled "Some event"\n', id="message"),
        pytest.param("pelton-priority.yaml", r'handled "Some event" with priority "high"\n', id="priority"),
    ],
)
def test_the_config_alone_connects_writer_and_server(
    config: str,
    handled: str,
    binaries: Path,
    kafka: LocalKafka,
    topic_name: str,
    programs: Programs,
) -> None:
    server = programs.start("server", f"{binaries}/server", "-address", "127.0.0.1:0")
    address = programs.wait_for(server, r"listening on (\S+)")[1]
    writer = programs.start(
        "writer", f"{binaries}/writer", "-interval", INTERVAL, BROKERS=kafka.bootstrap, TOPIC=topic_name
    )
    programs.wait_for(writer, r'wrote "Some event"', 3)

    pelton = programs.start(
        "pelton",
        sys.executable,
        *("-m", "pelton", "serve", "-c", str(EXAMPLE / config)),
        PELTON_KAFKA__BOOTSTRAP_SERVERS=kafka.bootstrap,
        PELTON_TARGETS__SHOP__ADDRESS=address,
        PELTON_SUBSCRIPTIONS__NOTIFY_SHOP__TOPICS=f"[{topic_name}]",
        PELTON_SUBSCRIPTIONS__NOTIFY_SHOP__GROUP=topic_name,
        PELTON_SERVER__HTTP="127.0.0.1:0",
        PELTON_SERVER__GRPC="127.0.0.1:0",
    )
    programs.wait_for(server, handled, EVENTS)

    assert writer.stop() == 0
    wrote = writer.output.count('wrote "Some event"')
    programs.wait_for(server, handled, wrote)
    assert pelton.stop() == 0, pelton.output
    # Each event once, and none with more or less in it than the config says.
    assert len(re.findall(handled, server.output)) == wrote
    assert server.output.count("handled ") == wrote
