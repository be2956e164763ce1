"""Whether the server is alive and ready, over HTTP and over gRPC's health protocol.

Alive is a promise to whoever would restart us: only what a restart could mend makes it false. So a target
that is down, or a dead-letter topic that cannot be written, is not a reason; a partition with work in which
nothing has moved for `STUCK_AFTER_MS` is. Ready says that every subscription has its requests checked and
its place in the group, and that its brokers have been heard lately (`running.BROKERS_SILENT_MS`).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from pelton.bridge.running import Running

__all__ = ["STUCK_AFTER_MS", "Answering", "HttpServer", "Probes"]

#: Beyond its attempt's time-out, its backoff or its probe, whichever it waits for.
STUCK_AFTER_MS = 60_000.0

#: How long open connections have to finish when the server stops.
_CLOSE_SECONDS = 2


class Answering(Protocol):
    """Who answers the two questions: each with the reasons against it, none where all is well."""

    def not_alive(self) -> list[str]: ...
    def not_ready(self) -> list[str]: ...


class Probes:
    """The answers to the two questions, each with the reason against it."""

    def __init__(self, running: Callable[[], Sequence[Running]]) -> None:
        self._running = running
        #: The process is draining or has failed: not ready, whatever else is true.
        self.stopping = False

    def not_alive(self) -> list[str]:
        return [
            f"{one.name}: no progress for {one.pump.overdue_ms() / 1000:.0f} s with events open"
            for one in self._running()
            if one.started and one.pump.overdue_ms() > STUCK_AFTER_MS
        ]

    def not_ready(self) -> list[str]:
        if self.stopping:
            return ["stopping"]
        return [f"{one.name}: {one.not_ready}" for one in self._running() if one.not_ready]


class _Server(uvicorn.Server):
    """Leaves the signals alone: a stop drains first, and the probes answer meanwhile."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class HttpServer:
    """`/livez`, `/readyz` and `/metrics` on the server's own loop, on a host and port or a Unix socket."""

    def __init__(
        self, probes: Answering, scrape: Callable[[], Awaitable[bytes]], place: tuple[str, int] | Path
    ) -> None:
        self._probes = probes
        self._scrape = scrape
        app = Starlette(
            routes=[
                Route("/livez", self._livez),
                Route("/readyz", self._readyz),
                Route("/metrics", self._metrics),
            ]
        )
        host, port, uds = (*place, None) if isinstance(place, tuple) else ("", 0, str(place))
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            uds=uds,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=_CLOSE_SECONDS,
            limit_concurrency=64,
            h11_max_incomplete_event_size=16 << 10,
        )
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen; returns the port. Raises OSError where the address cannot be had."""
        host, port = self._server.config.host, self._server.config.port
        if self._server.config.uds is not None:
            self._serving = asyncio.create_task(self._server.serve(), name="http")
            return 0
        # Not uvicorn's own way, which ends the process where the address is taken.
        sock = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        taken: int = sock.getsockname()[1]
        self._serving = asyncio.create_task(self._server.serve([sock]), name="http")
        return taken

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving

    async def _livez(self, _: Request) -> Response:
        return _answer(self._probes.not_alive())

    async def _readyz(self, _: Request) -> Response:
        return _answer(self._probes.not_ready())

    async def _metrics(self, _: Request) -> Response:
        return Response(await self._scrape(), media_type=CONTENT_TYPE_LATEST)


def _answer(reasons: list[str]) -> Response:
    if reasons:
        return PlainTextResponse("\n".join(reasons) + "\n", status_code=503)
    return PlainTextResponse("ok\n")
