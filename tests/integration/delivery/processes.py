"""The processes of a delivery proof: Pelton as it is served, and the target with its journal.

All times are CLOCK_MONOTONIC, which is the same for every process of a computer. Nothing here judges.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from pelton import failpoints

__all__ = ["DEADLINE_S", "Call", "Metrics", "Pelton", "Target", "serving", "until"]

ROOT = Path(__file__).parents[3]
#: Ten times what the slowest of these takes on an idle computer.
DEADLINE_S = 100.0
POLL_S = 0.02


def until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Poll until `condition` holds; fail with what was waited for."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"waited {deadline_s} s for {what}"
        time.sleep(POLL_S)


@dataclass(frozen=True, slots=True)
class Call:
    """One call as the target saw it.

    `status` is ASKS where a trailer said more than the status, and CUT where nobody waited for the answer.
    `peer` is the connection it came on: one for each Pelton process, as long as nothing breaks it.
    """

    start_ns: int
    end_ns: int
    delivery_id: str
    attempt: int
    status: str
    peer: str


class Target:
    """The process of `target.py`. It can be stopped and started again on the same port."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._journal = directory / "target.jsonl"
        self._options = options
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.integration.delivery.target", "--journal", str(self._journal)]
        command += ["--port", str(self.port), *self._options]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def change(self) -> int:
        """From now on it works on the next number of calls at once; returns when it was told."""
        assert self._process is not None
        at_ns = time.monotonic_ns()
        self._process.send_signal(signal.SIGUSR1)
        return at_ns

    def stop(self) -> None:
        """Calls that are out are cut. Twice is safe."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(DEADLINE_S)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def journal(self) -> list[Call]:
        """Every call there was, by its start. Stop it first."""
        assert self._process is None
        with self._journal.open(encoding="utf-8") as lines:
            return sorted((Call(*json.loads(line)) for line in lines), key=lambda call: call.start_ns)


@contextmanager
def serving(target: Target) -> Iterator[Target]:
    target.start()
    try:
        yield target
    finally:
        target.stop()


class Metrics:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self._samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def sum(self, name: str, **labels: str) -> float:
        """All samples of this name that have these labels, added up; 0 where there is none."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


class Pelton:
    """One `pelton serve`, its log in a file. Its ports are its own choice, and read from that log.

    `wrapper` is a program that runs it in its own place (it must exec), `environ` are more variables.
    """

    def __init__(
        self,
        config: Path,
        log: Path,
        *options: str,
        failpoint: str = "",
        wrapper: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._log_path = log
        # A log may have been written by earlier ones.
        self._log_from = log.stat().st_size if log.exists() else 0
        self._log = log.open("ab")
        self.started_ns = time.monotonic_ns()
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-m", "pelton", "serve", "-c", str(config), *options],
            cwd=ROOT,
            env={**os.environ, failpoints.VARIABLE: failpoint, **(environ or {})},
            stderr=self._log,
            stdout=self._log,
        )

    # -- How it ends -------------------------------------------------------------------------------------

    def kill(self) -> int:
        """kill -9; returns when it was sent."""
        at_ns = time.monotonic_ns()
        self.process.send_signal(signal.SIGKILL)
        self.wait()
        return at_ns

    def stop(self) -> float:
        """SIGTERM; returns the seconds it took. It must end well."""
        start = time.monotonic()
        self.process.terminate()
        code = self.wait()
        assert code == 0, f"exit code {code}; its log:\n{self.log()[-2_000:]}"
        return time.monotonic() - start

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        code = self.process.wait(DEADLINE_S)
        self._log.close()
        return code

    def end(self) -> None:
        """Whatever state it is in: it does not outlive the test."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

    # -- What it says of itself --------------------------------------------------------------------------

    def log(self) -> str:
        with self._log_path.open("rb") as file:
            file.seek(self._log_from)
            return file.read().decode()

    @property
    def http(self) -> str:
        """Where /livez, /readyz and /metrics are; waits until it listens."""
        return f"http://{self._listening('http')}"

    @property
    def health(self) -> str:
        """Where gRPC health is; waits until it listens."""
        return self._listening("grpc_health")

    @property
    def listens(self) -> bool:
        """It can be asked; until then, asking waits."""
        return self._address("http") is not None

    def _listening(self, name: str) -> str:
        until(lambda: self._address(name), "pelton to listen")
        address = self._address(name)
        assert address is not None
        return address

    def _address(self, name: str) -> str | None:
        assert self.process.poll() is None, f"pelton ended by itself:\n{self.log()[-2_000:]}"
        found = re.search(rf'"{name}": "([^"]+)".*"event": "listening"', self.log())
        return None if found is None else found[1]

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        try:
            with urllib.request.urlopen(f"{self.http}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def metrics(self) -> Metrics:
        status, text = self.get("/metrics")
        assert status == 200
        return Metrics(text)
