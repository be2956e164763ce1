"""The processes of a run, the target and what is measured, and what the kernel says about each.

Each is started fresh, ends with its `with` block, and is asked nothing that would cost it noticeable time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TypedDict

from bench.cells import GO_LOOPS, JVM_LOOPS, POISON, Bridge
from pelton.errors import PeltonError

__all__ = [
    "METHOD",
    "ROOT",
    "Failed",
    "Sampler",
    "Stats",
    "Subject",
    "Target",
    "Work",
    "go_loop",
    "jvm_loop",
    "pelton",
    "program",
    "reason_of",
    "with_children",
]

ROOT = Path(__file__).resolve().parents[1]
#: The target answers any.
METHOD = "/bench.v1.Target/Take"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
ASK_TIMEOUT_S = 5.0
#: The kernel counts CPU time in steps of 10 ms; asking more often tells nothing.
SAMPLE_S = 0.02
#: What a container of 1 GiB would give it; more made it no faster.
JVM_OPTIONS = ("-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error")
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A run that cannot be counted, and why."""


def reason_of(error: Exception) -> str:
    """Why there is no figure: one run's trouble, whatever it is, is not the others'."""
    return str(error) if isinstance(error, Failed) else repr(error)


def program(name: str, main: Callable[[], int]) -> NoReturn:
    """Run a benchmark's `main` as the process that `make NAME` starts, and end with its exit code.

    SIGTERM unwinds as Ctrl-C does: what was started is stopped, and loads no later measurement.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        sys.exit(main())
    except (Failed, PeltonError) as error:
        sys.exit(f"{name}: {error}")


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=ASK_TIMEOUT_S) as answer:
        return json.load(answer)


class Sampler:
    """CPU time of some processes together over wall time, as (nanoseconds since the epoch, CPU-seconds).

    Which ones is asked again each time: those that a supervisor starts come later than itself.
    """

    def __init__(self, pids: Callable[[], Sequence[int]]) -> None:
        self.samples: list[tuple[float, float]] = []
        self._pids = pids
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="sampler", daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._over.is_set():
            try:
                used_s = sum(_cpu_s(Path(f"/proc/{pid}/stat").read_text()) for pid in self._pids())
            except (FileNotFoundError, ProcessLookupError):
                return
            self.samples.append((time.time_ns(), used_s))
            self._over.wait(SAMPLE_S)

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def _cpu_s(stat: str) -> float:
    """User and system time of a `stat` file; the name in parentheses may hold anything."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


class Stats(TypedDict):
    """What the target's journal says; `bench/target/journal.go` explains each."""

    calls: int
    settled: int
    repeats: int
    disorder: int
    overlaps: int
    refused: int
    first_ns: int
    last_ns: int
    now_ns: int
    connections: list[int]


class Target:
    """The Go target on free ports; `with` starts and ends it. Poison is refused with `poison_code`."""

    def __init__(
        self, binary: Path, *, delay_ms: int, latency: bool = False, poison_code: int | None = None
    ) -> None:
        command = [str(binary), f"-delay={delay_ms}ms", *(["-latency"] if latency else [])]
        if poison_code is not None:
            command += [f"-poison={POISON}", f"-poison-code={poison_code}"]
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

    def stats(self) -> Stats:
        stats: Stats = _get(f"{self._url}/stats")
        return stats

    def mark(self) -> None:
        """The next call counts as the first."""
        with urllib.request.urlopen(f"{self._url}/mark", data=b"", timeout=ASK_TIMEOUT_S):
            pass

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


class Subject:
    """What is measured, as a process of its own that answers `/readyz`; `with` sees to its end."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        *,
        http_port: int,
        environ: Mapping[str, str] | None = None,
        supervises: bool = False,
    ) -> None:
        self.name = name
        self._supervises = supervises
        self._log = folder / "log"
        self.exec_ns = time.time_ns()
        self._url = f"http://127.0.0.1:{http_port}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environ,
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
                    raise self.failure(f"{self.name} was not ready within {START_TIMEOUT_S:.0f} s") from None
                time.sleep(0.02)

    def check(self) -> None:
        """Raise if it has ended."""
        if self._process.poll() is not None:
            raise self.failure(f"{self.name} ended with exit code {self._process.returncode}")

    def failure(self, what: str) -> Failed:
        lines = self._log.read_text(errors="replace").splitlines()[-15:]
        return Failed("\n  ".join([what, *lines]))

    def pids(self) -> list[int]:
        """Itself, and the workers that it has started."""
        if not self._supervises:
            return [self.pid]
        return with_children(self.pid)

    def rss_peak_mb(self) -> float:
        """Of all of its processes together."""
        return sum(_rss_peak_mb(pid) for pid in self.pids())

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

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def begin_profile(self) -> None:
        """From now on, if it is a Pelton that was started with `profile`."""
        self._process.send_signal(signal.SIGUSR1)

    def stop(self) -> None:
        """Drain and end, as an operator would have it; Failed if that is not what happens."""
        self.check()
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise self.failure(f"{self.name} did not stop within {STOP_TIMEOUT_S:.0f} s") from None
        if code != 0:
            raise self.failure(f"{self.name} stopped with exit code {code}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def with_children(pid: int) -> list[int]:
    """Of one process: itself and what it has started."""
    children = (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [pid, *(int(pid) for text in children for pid in text.split())]


def _rss_peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024.0


@dataclass(frozen=True, slots=True)
class Work:
    """What a subject is to do: which events, as which group, to which target, and where it is asked."""

    bootstrap: str
    topic: str
    group: str
    bridge: Bridge
    address: str
    http_port: int
    #: Of Pelton: so many that all read the topic, each with a group of its own.
    subscriptions: int = 1


def pelton(folder: Path, work: Work, *, bytecode: Path, profile: Path | None = None) -> Subject:
    """`pelton serve` for one cell: compiled where this process is, but for `aio`, which is Python alone, and
    for a profile, which sees no other."""
    config = folder / "pelton.json"
    # YAML includes JSON.
    config.write_text(json.dumps(_config(work), indent=2))
    program = ["-m", "pelton"] if profile is None else [str(ROOT / "bench" / "profiled.py"), str(profile)]
    command = [sys.executable, *program, "serve", "-c", str(config)]
    several = work.bridge.workers > 1
    if several:
        command += ["--workers", str(work.bridge.workers)]
    return Subject(
        "Pelton",
        command,
        folder,
        http_port=work.http_port,
        environ=_environ(bytecode, interpreted=profile is not None or work.bridge.mode == "aio"),
        supervises=several,
    )


def go_loop(folder: Path, work: Work, binary: Path) -> Subject:
    """One of the Go loops for one cell."""
    command = [
        str(binary),
        f"-loop={GO_LOOPS[work.bridge.mode]}",
        f"-lanes={work.bridge.concurrency}",
        f"-brokers={work.bootstrap}",
        f"-topic={work.topic}",
        f"-group={work.group}",
        f"-target={work.address}",
        f"-method={METHOD}",
        f"-http=127.0.0.1:{work.http_port}",
    ]
    return Subject(work.bridge.mode, command, folder, http_port=work.http_port)


def jvm_loop(folder: Path, work: Work, java: Path) -> Subject:
    """One of the JVM's loops for one cell."""
    name = JVM_LOOPS[work.bridge.mode]
    command = [
        "java",
        *JVM_OPTIONS,
        "-cp",
        f"{java / name / 'loop.jar'}{os.pathsep}{java / name / 'lib'}/*",
        f"loops.{name.capitalize()}",
        f"brokers={work.bootstrap}",
        f"topic={work.topic}",
        f"group={work.group}",
        f"target={work.address}",
        f"method={METHOD}",
        f"concurrency={work.bridge.concurrency}",
        f"http-port={work.http_port}",
    ]
    return Subject(work.bridge.mode, command, folder, http_port=work.http_port)


def _environ(bytecode: Path, *, interpreted: bool) -> dict[str, str]:
    """Ours, without what would configure Pelton or make every start compile all of it again."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PELTON_")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    if interpreted:
        kept.pop("PYTHONPATH", None)
    return {**kept, "PYTHONPYCACHEPREFIX": str(bytecode)}


def _config(work: Work) -> dict[str, object]:
    mode = work.bridge.mode
    called: dict[str, object]
    if mode == "stream":
        called = {"delivery": "stream"}
    else:
        called = {"method": METHOD, "request": "raw", "transport": mode}
    names = [f"bench-{number}" for number in range(work.subscriptions)]
    return {
        "kafka": {"bootstrap.servers": work.bootstrap},
        "targets": {"bench": {"address": work.address}},
        "subscriptions": {
            name: {
                "topics": [work.topic],
                "group": work.group if work.subscriptions == 1 else f"{work.group}.{name}",
                "target": "bench",
                **called,
                "ordering": work.bridge.ordering,
                "concurrency": work.bridge.concurrency,
                # It has as many partitions as its source, which differ.
                "dead_letters": {"topic": f"dlq.{work.topic}"},
            }
            for name in names
        },
        "server": {"http": f"127.0.0.1:{work.http_port}", "grpc": "127.0.0.1:0"},
        "logging": {"format": "json", "level": "warning"},
    }
