"""Several workers as one server: `pelton serve --workers N`.

The supervisor starts N processes that serve the same configuration and share its consumer groups, answers
for all of them on one HTTP and one gRPC port, and replaces one that dies. It touches no event: what it knows
of a worker is what the worker answers. SIGTERM stops one worker after another, so that at any time one at
most is draining and the group hands its partitions over once; SIGHUP replaces one after another, each only
when the one before it is ready. A second SIGTERM cuts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import h11
import uvloop
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from pelton.bridge import logs
from pelton.bridge.health import HttpServer
from pelton.bridge.listening import listen
from pelton.bridge.worker import Phase, Place, Worker
from pelton.config.load import load
from pelton.config.settings import Config
from pelton.rpc.health import HealthServer

__all__ = ["run"]

#: How often each worker is asked how it is.
ASK_EVERY_S: Final = 0.5
#: Before a worker that died is replaced, doubling with each death that follows within the window.
REPLACE_FIRST_S: Final = 0.2
REPLACE_MAX_S: Final = 10.0
#: So many deaths of one worker within the window are no accident: the server ends and says so.
DEATHS_MAX: Final = 5
DEATHS_WINDOW_S: Final = 60.0
#: Beyond its drain: the last commit, leaving the group, closing. A worker that takes longer is killed.
STOP_GRACE_S: Final = 30.0
#: A worker that has been without progress, or has not answered, for so long is killed and replaced. It says
#: itself that it is not alive only after a minute without progress.
STUCK_AFTER_S: Final = 30.0
#: How long a replacement is waited for before the next worker is replaced.
READY_TIMEOUT_S: Final = 60.0

EXIT_FAILED: Final = 1
#: A start that failed with one of these failed for a reason that a second try does not change.
_EXIT_CODES_OF_START: Final = frozenset({1, 2})
#: After a second signal: the shell's code for an interrupt.
EXIT_CUT: Final = 130


def run(path: Path, count: int) -> int:
    """Serve the configuration at `path` with `count` workers until told to stop. Returns the exit code."""
    assert count > 1
    config = load(path, os.environ)
    logs.configure(config.logging)
    with tempfile.TemporaryDirectory(prefix="pelton-workers-") as sockets:
        workers = [Worker(Place(number, Path(sockets) / f"{number}.sock"), path) for number in range(count)]
        return uvloop.run(_Supervisor(config, workers, source=str(path)).run())


class _Gathered(Collector):
    """What all workers measure, each sample with its worker; and the supervisor's own process."""

    def __init__(self, workers: list[Worker], deaths: Mapping[int, int]) -> None:
        self._workers = workers
        self._deaths = deaths
        self._texts: list[tuple[str, str]] = []
        self._own = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._own)

    async def refresh(self) -> None:
        """Before a scrape reads it. A worker that does not answer is left out; `pelton_workers` says so."""
        self._texts = [
            ("supervisor", generate_latest(self._own).decode()),
            *await asyncio.gather(*map(self._ask, self._workers)),
        ]

    async def _ask(self, worker: Worker) -> tuple[str, str]:
        try:
            _, text = await worker.get("/metrics")
        except (OSError, TimeoutError, h11.RemoteProtocolError):
            text = ""
        return str(worker.number), text

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for which, text in self._texts:
            for family in text_string_to_metric_families(text):
                gathered = families.get(family.name)
                if gathered is None:
                    gathered = families[family.name] = Metric(family.name, family.documentation, family.type)
                for sample in family.samples:
                    gathered.add_sample(sample.name, {**sample.labels, "worker": which}, sample.value)
        yield from families.values()
        phases = GaugeMetricFamily("pelton_workers", "Workers, by phase.", labels=["phase"])
        for phase in Phase:
            phases.add_metric([phase.value], sum(worker.phase is phase for worker in self._workers))
        deaths = CounterMetricFamily("pelton_worker_deaths", "Workers that ended unasked.", labels=["worker"])
        for number, count in self._deaths.items():
            deaths.add_metric([str(number)], count)
        yield from (phases, deaths)


class _Supervisor:
    """One run of the server."""

    def __init__(self, config: Config, workers: list[Worker], *, source: str) -> None:
        self._config = config
        self._workers = workers
        self._source = source
        self._log = logs.logger()
        self._stop = asyncio.Event()
        self._replace = asyncio.Event()
        self._exit_code = 0
        self._deaths = dict.fromkeys(range(len(workers)), 0)
        self._stop_timeout_s = STOP_GRACE_S + max(
            (one.drain_timeout_ms / 1000 for one in config.subscriptions), default=0.0
        )

    async def run(self) -> int:
        gathered = _Gathered(self._workers, self._deaths)
        registry = CollectorRegistry()
        registry.register(gathered)

        async def scrape() -> bytes:
            await gathered.refresh()
            return generate_latest(registry)

        server = self._config.server
        http = HttpServer(self, scrape, (server.http_host, server.http_port))
        health = await listen(server, http, source=self._source)
        self._on_signals(asyncio.get_running_loop())
        keeping = [asyncio.create_task(self._keep(worker)) for worker in self._workers]
        background = [asyncio.create_task(self._watch(health)), asyncio.create_task(self._roll())]
        await self._stop.wait()

        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        for worker, kept in zip(self._workers, keeping, strict=True):
            await self._end(worker, kept)
        await asyncio.gather(http.stop(), health.stop())
        self._log.info("stopped", workers=len(self._workers))
        return self._exit_code

    # -- What it answers ---------------------------------------------------------------------------------

    def not_alive(self) -> list[str]:
        return self._reasons(lambda worker: worker.answers.not_alive)

    def not_ready(self) -> list[str]:
        if self._stop.is_set():
            return ["stopping"]
        return self._reasons(lambda worker: worker.answers.not_ready)

    def _reasons(self, of: Callable[[Worker], Iterable[str]]) -> list[str]:
        return [f"worker {worker.number}: {reason}" for worker in self._workers for reason in of(worker)]

    async def _watch(self, health: HealthServer) -> None:
        """Ask every worker how it is, and tell gRPC's health watchers what comes of it."""
        names = [one.name for one in self._config.subscriptions]
        while True:
            await asyncio.gather(*(worker.ask() for worker in self._workers if worker.running))
            for worker in self._workers:
                if worker.running and worker.unwell_s() > STUCK_AFTER_S:
                    self._log.error("worker is stuck: killed", worker=worker.number, why=worker.answers.all)
                    worker.kill()
            for name in names:
                against = any(worker.answers.against(name) for worker in self._workers)
                await health.set(name, serving=not against)
            await health.set("", serving=not self.not_ready())
            await asyncio.sleep(ASK_EVERY_S)

    # -- What it does ------------------------------------------------------------------------------------

    async def _keep(self, worker: Worker) -> None:
        """The worker's process, and the next one when it has ended, until the server stops."""
        deaths: deque[float] = deque(maxlen=DEATHS_MAX)
        wait_s = REPLACE_FIRST_S
        served = False
        while not self._stop.is_set():
            await worker.start()
            ended = await worker.wait()
            served = served or ended.phase is Phase.SERVING
            if ended.phase is Phase.STOPPING:
                continue
            if not served and ended.code in _EXIT_CODES_OF_START:
                self._fail(ended.code, f"worker {worker.number} cannot start; what it said stands above")
                return
            now = time.monotonic()
            again = bool(deaths) and now - deaths[-1] < DEATHS_WINDOW_S
            wait_s = min(wait_s * 2, REPLACE_MAX_S) if again else REPLACE_FIRST_S
            deaths.append(now)
            self._deaths[worker.number] += 1
            if len(deaths) == DEATHS_MAX and now - deaths[0] < DEATHS_WINDOW_S:
                text = f"worker {worker.number} ended {DEATHS_MAX} times within {DEATHS_WINDOW_S:.0f} s"
                self._fail(EXIT_FAILED, text)
                return
            self._log.error("worker died: replaced", worker=worker.number, exit_code=ended.code)
            await self._stopped_within(wait_s)

    async def _roll(self) -> None:
        """SIGHUP: every worker is replaced, one after another; what is new in the file is read."""
        while True:
            await self._replace.wait()
            self._replace.clear()
            self._log.info("replacing every worker", workers=len(self._workers))
            for worker in self._workers:
                starts = worker.starts
                worker.stop()
                if not await _comes(worker, partial(_started_since, worker, starts), self._stop_timeout_s):
                    self._log.error("worker does not end: killed", worker=worker.number)
                    worker.kill()
                if not await _comes(worker, partial(_serves_since, worker, starts), READY_TIMEOUT_S):
                    self._log.error("the replacement is not ready: the others stay", worker=worker.number)
                    break

    async def _end(self, worker: Worker, kept: asyncio.Task[None]) -> None:
        worker.stop()
        done, _ = await asyncio.wait({kept}, timeout=self._stop_timeout_s)
        if not done:
            self._log.error("worker does not end: killed", worker=worker.number)
            worker.kill()
        await kept

    def _fail(self, code: int, text: str) -> None:
        self._log.error("stopping: a worker keeps failing", reason=text)
        self._exit_code = self._exit_code or code
        self._stop.set()

    async def _stopped_within(self, wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._stop.wait()

    def _on_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        def stop(number: signal.Signals) -> None:
            if self._stop.is_set():
                self._log.warning("cut by a second signal", signal=number.name)
                for worker in self._workers:
                    worker.kill()
                os._exit(EXIT_CUT)
            self._log.info("stopping one worker after another", signal=number.name)
            self._stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._replace.set)


def _started_since(worker: Worker, starts: int) -> bool:
    return worker.starts > starts


def _serves_since(worker: Worker, starts: int) -> bool:
    return worker.starts > starts and worker.phase is Phase.SERVING


async def _comes(worker: Worker, holds: Callable[[], bool], timeout_s: float) -> bool:
    """Whether it holds in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await worker.until(holds)
    return holds()
