"""The processes of a run, the Go target and Pelton, and what the kernel says about each.

Each is started fresh, ends with its `with` block, and is asked nothing that would cost it noticeable time.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.cells import Cell

__all__ = ["Failed", "Pelton", "Sampler", "Target", "build_target"]

ROOT = Path(__file__).resolve().parents[1]
#: A first build downloads grpc-go.
BUILD_TIMEOUT_S = 300.0
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
ASK_TIMEOUT_S = 5.0
#: The kernel counts CPU time in steps of 10 ms; asking more often tells nothing.
SAMPLE_S = 0.02
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A run that cannot be counted, and why."""


def build_target(folder: Path) -> Path:
    """Build the Go target; the module cache makes every build but the first quick."""
    if shutil.which("go") is None:
        raise Failed(
            "the benchmark's target is written in Go, and no `go` is on the path: see https://go.dev/dl"
        )
    binary = folder / "target"
    built = subprocess.run(
        ["go", "build", "-mod=readonly", "-o", str(binary), "."],
        cwd=ROOT / "bench" / "target",
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if built.returncode != 0:
        raise Failed(f"the target does not build:\n{built.stderr}")
    return binary


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=ASK_TIMEOUT_S) as answer:
        return json.load(answer)


class Sampler:
    """CPU time of a process over wall time, as (nanoseconds since the epoch, CPU-seconds)."""

    def __init__(self, pid: int) -> None:
        self.samples: list[tuple[float, float]] = []
        self._stat = Path(f"/proc/{pid}/stat")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name=f"sampler of {pid}", daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._over.is_set():
            try:
                stat = self._stat.read_text()
            except (FileNotFoundError, ProcessLookupError):
                return
            self.samples.append((time.time_ns(), _cpu_s(stat)))
            self._over.wait(SAMPLE_S)

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def _cpu_s(stat: str) -> float:
    """User and system time of a `stat` file; the name in parentheses may hold anything."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


class Target:
    """The Go target on free ports; `with` starts and ends it."""

    def __init__(self, binary: Path, *, delay_ms: int, latency: bool = False) -> None:
        command = [str(binary), f"-delay={delay_ms}ms", *(["-latency"] if latency else [])]
        self._process = subprocess.Popen(
            command,
            # The target ends when this does, and so with us, whatever happens.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed("the target did not start")
        addresses = json.loads(line)
        self.address: str = addresses["grpc"]
        self._url = f"http://{addresses['http']}"
        self.pid = self._process.pid

    def stats(self) -> dict[str, int]:
        stats: dict[str, int] = _get(f"{self._url}/stats")
        return stats

    def latencies(self) -> list[tuple[int, int]]:
        """When each event was due, and how much later it came, in nanoseconds."""
        return [(due, late) for due, late in _get(f"{self._url}/latencies")]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


class Pelton:
    """`pelton serve` as a process of its own; `with` starts it and sees to its end."""

    def __init__(
        self,
        folder: Path,
        *,
        bootstrap: str,
        topic: str,
        group: str,
        cell: Cell,
        address: str,
        http_port: int,
        bytecode: Path,
        profile: Path | None = None,
    ) -> None:
        config = folder / "pelton.json"
        # YAML includes JSON.
        config.write_text(json.dumps(_config(bootstrap, topic, group, cell, address, http_port), indent=2))
        self._log = folder / "pelton.log"
        self._url = f"http://127.0.0.1:{http_port}"
        program = ["-m", "pelton"] if profile is None else [str(ROOT / "bench" / "profiled.py"), str(profile)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *program, "serve", "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=_environ(bytecode),
            )
        self.pid = self._process.pid

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            self.check()
            try:
                with urllib.request.urlopen(f"{self._url}/readyz", timeout=ASK_TIMEOUT_S):
                    return
            except (urllib.error.URLError, ConnectionError):
                if time.monotonic() > deadline:
                    raise self.failure(f"Pelton was not ready within {START_TIMEOUT_S:.0f} s") from None
                time.sleep(0.02)

    def check(self) -> None:
        """Raise if it has ended."""
        if self._process.poll() is not None:
            raise self.failure(f"Pelton ended with exit code {self._process.returncode}")

    def failure(self, what: str) -> Failed:
        lines = self._log.read_text(errors="replace").splitlines()[-15:]
        return Failed("\n  ".join([what, *lines]))

    def rss_peak_mb(self) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024.0

    def cpu_by_thread(self) -> dict[str, float]:
        """CPU-seconds by the names that threads have for the kernel; those of one kind together."""
        found: dict[str, float] = {}
        # What Python starts has the program's name, until Python names threads itself.
        own = Path(f"/proc/{self.pid}/comm").read_text().strip()
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            name = "main thread" if task.name == str(self.pid) else (task / "comm").read_text().strip()
            name = "Python's other threads, the consumer's among them" if name == own else name
            found[name] = found.get(name, 0.0) + _cpu_s((task / "stat").read_text())
        return found

    def begin_profile(self) -> None:
        """From now on, if it was started with `profile`."""
        self._process.send_signal(signal.SIGUSR1)

    def stop(self) -> None:
        """Drain and end, as an operator would have it; Failed if that is not what happens."""
        self.check()
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise self.failure(f"Pelton did not stop within {STOP_TIMEOUT_S:.0f} s") from None
        if code != 0:
            raise self.failure(f"Pelton stopped with exit code {code}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def _environ(bytecode: Path) -> dict[str, str]:
    """Ours, without what would configure Pelton or make every start compile all of it again."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PELTON_")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**kept, "PYTHONPYCACHEPREFIX": str(bytecode)}


def _config(
    bootstrap: str, topic: str, group: str, cell: Cell, address: str, http_port: int
) -> dict[str, object]:
    called = (
        {"delivery": "stream"}
        if cell.mode == "stream"
        else {"method": "/bench.v1.Target/Take", "request": "raw"}
    )
    return {
        "kafka": {"bootstrap.servers": bootstrap},
        "targets": {"bench": {"address": address}},
        "subscriptions": {
            "bench": {
                "topics": [topic],
                "group": group,
                "target": "bench",
                **called,
                "ordering": "key",
                "concurrency": cell.concurrency,
            }
        },
        "server": {"http": f"127.0.0.1:{http_port}", "grpc": "127.0.0.1:0"},
        "logging": {"format": "json", "level": "warning"},
    }
