"""The demo's processes: each with a log of its own, and none outlives the demo.

Pelton's supervisor of its local Kafka stands between: when this process ends, be it by kill -9, the
supervisors end theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pelton.local import supervise

__all__ = ["Failed", "Process", "Processes"]

ROOT: Final = Path(__file__).resolve().parents[2]
#: Each says so within 2 s on an idle computer.
START_TIMEOUT_S: Final = 60.0
#: Above Pelton's drain_timeout of 15 s.
STOP_TIMEOUT_S: Final = 20.0
KILL_TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.05
#: Of a log, in an error.
TAIL_LINES: Final = 15


class Failed(Exception):
    """A process did not do what it is here for; the message shows the end of its log."""


class Process:
    """One of them. Python runs it as a module, from the root of the repository."""

    def __init__(
        self, name: str, directory: Path, words: tuple[str, ...], environ: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        command = supervise.command([sys.executable, "-m", *words], orphans=directory)
        with self.log.open("wb") as log:
            self._supervisor = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **environ},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the demo alone, which then ends the others in their order.
                start_new_session=True,
            )

    @property
    def code(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._supervisor.poll()

    async def says(self, pattern: str) -> str:
        """Wait until its log has this; returns the first group."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while (found := re.search(pattern, self._text(), re.MULTILINE)) is None:
            if self.code is not None:
                raise self.failed(f"ended when it should have started, with exit code {self.code}")
            if time.monotonic() > deadline:
                raise self.failed(f"did not start within {START_TIMEOUT_S:.0f} s")
            await asyncio.sleep(POLL_S)
        return found[1]

    def ask_to_stop(self) -> None:
        self._supervisor.terminate()

    async def stop(self) -> None:
        """Ask it to end and wait for it. It must end well."""
        self.ask_to_stop()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self.code is None:
            if time.monotonic() > deadline:
                raise self.failed(f"did not stop within {STOP_TIMEOUT_S:.0f} s")
            await asyncio.sleep(POLL_S)
        if self.code:
            raise self.failed(f"did not stop in order: exit code {self.code}")

    def kill(self) -> None:
        """At once, whatever it does. Twice is safe."""
        if self.code is None:
            self._supervisor.send_signal(supervise.KILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._supervisor.wait(KILL_TIMEOUT_S)
        assert self._supervisor.stdin is not None
        self._supervisor.stdin.close()
        self._supervisor.wait()

    def failed(self, what: str) -> Failed:
        tail = "\n".join(self._text().splitlines()[-TAIL_LINES:])
        return Failed(f"{self.name} {what}; the end of {self.log}:\n{tail}")

    def _text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


class Processes:
    """All of them; what still runs after the block is killed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._started: list[Process] = []

    def start(self, name: str, *words: str, environ: Mapping[str, str] | None = None) -> Process:
        process = Process(name, self._directory, words, environ or {})
        self._started.append(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._started):
            process.kill()
