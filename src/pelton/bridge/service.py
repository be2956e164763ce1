"""The server: start, watch, drain, stop.

Reads top to bottom as a life: configuration, check, start, wait, drain, stop. The first SIGTERM or SIGINT
drains; a second one cuts. What a subscription cannot recover from ends the process with a clear message:
whoever supervises it decides what comes next.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from pelton import failpoints
from pelton.bridge import logs
from pelton.bridge.check import check_subscriptions
from pelton.bridge.dead_letters import DeadLetters
from pelton.bridge.health import HttpServer, Probes
from pelton.bridge.heap import share_arenas
from pelton.bridge.listening import listen
from pelton.bridge.metrics import ServerCollector
from pelton.bridge.running import Running
from pelton.bridge.worker import Place
from pelton.config import secrets
from pelton.config.load import load
from pelton.config.settings import Config
from pelton.core.limits import Bound
from pelton.errors import BrokerError
from pelton.rpc.channels import Channels
from pelton.rpc.health import HealthServer

__all__ = ["run"]

#: Exit codes beyond 0: a failure while running, and a configuration that cannot be used.
EXIT_FAILED = 1
EXIT_CONFIG = 2
#: A bug of ours: what we believe is not so, and going on could lose events.
EXIT_BUG = 70
#: After a second signal nothing is waited for: the shell's code for an interrupt.
EXIT_CUT = 130

#: How long one thread keeps the interpreter from another. The consumers' threads need it several times for
#: every poll and commit; at Python's own 5 ms each, a busy loop would hold their commits up beyond what may
#: repeat after a hard kill. But each that waits asks again after every interval, and fifty of them that ask
#: every millisecond leave it to nobody: then it is Python's own again.
_SWITCH_INTERVAL_S = 0.001
_SWITCH_INTERVAL_MAX_S = 0.005
#: So many subscriptions make it a millisecond longer.
_SUBSCRIPTIONS_A_MS = 10
#: So many objects more than at its last look make the collector look again; an open event is a dozen.
_GC_OBJECTS = 100_000
#: How often readiness is compared with what gRPC health watchers were told.
_HEALTH_EVERY_S = 0.5


def run(path: Path, *, check: bool = False, place: Place | None = None) -> int:
    """Serve the configuration at `path` until told to stop; with `check`, only say whether it could be.

    `place` makes it one of several workers: it answers its supervisor there, and ends with it.

    Returns the exit code. Raises PeltonError for what keeps it from starting.
    """
    config = load(path, os.environ)
    sys.setswitchinterval(_switch_interval_s(len(config.subscriptions)))
    share_arenas()
    failpoints.arm(os.environ, source=str(path))
    logs.configure(config.logging, worker=None if place is None else place.number)
    return uvloop.run(_Service(config, place, source=str(path)).run(check=check))


def _switch_interval_s(subscriptions: int) -> float:
    """For so many consumers' threads."""
    return min(_SWITCH_INTERVAL_MAX_S, _SWITCH_INTERVAL_S * max(1.0, subscriptions / _SUBSCRIPTIONS_A_MS))


class _Service:
    """One run of the server."""

    def __init__(self, config: Config, place: Place | None, *, source: str) -> None:
        self._config = config
        self._place = place
        self._source = source
        self._log = logs.logger()
        self._failure: BrokerError | None = None
        self._stop = asyncio.Event()

    async def run(self, *, check: bool) -> int:
        config = self._config
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_exception)
        kafka = secrets.resolve(config.kafka, os.environ)
        # One reading of both clocks: the wall may jump, the deliveries' times must not. Not of the loop's own
        # clock, which is the same one but lags behind it: no due time may be read as earlier than it is.
        epoch_ms = time.time() * 1000.0 - time.monotonic() * 1000.0

        def wall_ms_of(now_ms: float) -> float:
            return epoch_ms + now_ms

        channels = Channels()
        try:
            subscriptions = [
                replace(subscription, kafka=secrets.resolve(subscription.kafka, os.environ))
                for subscription in config.subscriptions
            ]
            self._on_signals(loop)
            checking = asyncio.create_task(
                check_subscriptions(
                    subscriptions, kafka, channels, wall_ms_of, source=self._source, create_topics=not check
                ),
                name="check",
            )
            stopping = asyncio.create_task(self._stop.wait(), name="stop")
            await asyncio.wait({checking, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not checking.done():
                checking.cancel()
                return EXIT_CUT if check else 0
            checked = checking.result()
            if check:
                for one in checked:
                    missing = one.waiting_for or one.unseen
                    state = f"method not checked: {missing}" if missing else "ok"
                    carried = f"calls by {one.transport}"
                    print(f"{one.subscription.name}: {state} ({carried})")  # noqa: T201 - what --check was asked for
                return 0
            process = Bound(config.limits.events_max, config.limits.bytes_max)
            dead_letters = DeadLetters(kafka, loop, wall_ms_of)
            running = [
                Running(
                    one.subscription,
                    loop=loop,
                    kafka=kafka,
                    process=process,
                    sharers=len(checked),
                    channels=channels,
                    dead_letters=dead_letters,
                    wall_ms_of=wall_ms_of,
                    on_failed=self._fail,
                )
                for one in checked
            ]
            probes = Probes(lambda: running)
            http, health = await self._listen(probes, running, process)
            watching = asyncio.create_task(_watch(probes, running, health), name="health") if health else None
            for subscription, found in zip(running, checked, strict=True):
                subscription.start(found)
            # What start made stays: the collector need not walk it again and again. What comes holds no
            # cycles and goes when it ends, so it need not look at every batch either.
            gc.collect()
            gc.freeze()
            gc.set_threshold(_GC_OBJECTS)
            await stopping

            probes.stopping = True
            self._log.info(
                "draining", events_open=sum(one.pump.open_events for one in running if one.started)
            )
            await asyncio.gather(*(one.stop() for one in running))
            await dead_letters.close()
            if health is not None and watching is not None:
                watching.cancel()
                await health.stop()
            await http.stop()
            self._log.info("stopped")
        finally:
            await channels.close()
        if self._failure is not None:
            raise self._failure
        return 0

    async def _listen(
        self, probes: Probes, running: list[Running], process: Bound
    ) -> tuple[HttpServer, HealthServer | None]:
        registry = CollectorRegistry()
        registry.register(ServerCollector(lambda: [one for one in running if one.started], process))
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)

        async def scrape() -> bytes:
            return generate_latest(registry)

        if self._place is not None:
            http = HttpServer(probes, scrape, self._place.socket)
            await http.start()
            return http, None
        server = self._config.server
        http = HttpServer(probes, scrape, (server.http_host, server.http_port))
        return http, await listen(server, http, source=self._source)

    def _on_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        def stop(number: signal.Signals) -> None:
            if self._stop.is_set():
                self._log.warning("cut by a second signal", signal=number.name)
                os._exit(EXIT_CUT)
            self._log.info("stopping", signal=number.name)
            self._stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)
        if self._place is not None:
            # The supervisor holds the other end of our standard input, so its end ends us, in order.
            def orphaned() -> None:
                loop.remove_reader(sys.stdin)
                self._log.warning("stopping: the supervisor is gone")
                self._stop.set()

            loop.add_reader(sys.stdin, orphaned)

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback has raised. On the data path that is a bug: end at once, and commit nothing more."""
        error = context.get("exception")
        ours = isinstance(error, BaseException) and any(
            frame.f_globals.get("__name__", "").startswith(("pelton.core.", "pelton.bridge."))
            for frame, _ in traceback.walk_tb(error.__traceback__)
        )
        if not ours:
            loop.default_exception_handler(context)
            return
        self._log.critical("bug on the data path: ending without a commit", exc_info=error)
        logging.shutdown()
        os._exit(EXIT_BUG)

    def _fail(self, name: str, error: BrokerError) -> None:
        self._log.error("subscription failed for good", subscription=name, error=str(error))
        self._failure = self._failure or error
        self._stop.set()


async def _watch(probes: Probes, running: list[Running], health: HealthServer) -> None:
    """Tell gRPC health watchers what `/readyz` says."""
    while True:
        for one in running:
            await health.set(one.name, serving=not probes.stopping and not one.not_ready)
        await health.set("", serving=not probes.not_ready())
        await asyncio.sleep(_HEALTH_EVERY_S)
