"""An App as a gRPC server: EventHandler, health and reflection; the only part of the SDK that knows gRPC.

Stopping has an order, and each step has a reason:
1. health says NOT_SERVING, so that those who ask send nothing new;
2. new calls are refused with UNAVAILABLE, streams read no further;
3. what runs finishes and is answered, within `drain_timeout`;
4. only then are connections closed, and what is left is cancelled: unsettled, so attempted again elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from pelton.errors import HandlerError
from pelton.sdk.app import App
from pelton.sdk.certificates import Certificates, Pems
from pelton.sdk.context import Failure, Trace
from pelton.sdk.stream import HandlerStream
from pelton.sdk.wire import context_of, event_of, parameters_of, reply_of, text_of
from pelton.v1 import handler_pb2, handler_pb2_grpc

__all__ = ["Server", "Tls", "run", "serve_until_stopped"]

_SERVICE: Final = handler_pb2.DESCRIPTOR.services_by_name["EventHandler"].full_name

#: Unary calls that wait for a free handler; more are refused, which makes Pelton back off. A server with
#: more than this many waiting will not answer the last of them before its deadline anyway.
WAITING_CALLS_MAX: Final = 10_000

#: A peer may ping this often on a quiet connection before it is sent away. gRPC's own limit, five minutes,
#: is longer than many a firewall remembers a connection.
PING_INTERVAL_MIN_MS: Final = 5_000

#: After the drain: for whoever watches health to read the last word. Nobody's answer depends on it.
GOODBYE_S: Final = 0.1

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_ACKED: Final = handler_pb2.Reply()

_log = logging.getLogger("pelton.sdk")


@dataclass(frozen=True, slots=True)
class Tls:
    """The server's certificate chain and key, PEM files. `client_ca`: only clients that it signed get in.

    They are read again when they change: new connections get the new certificate, others stay as they are.
    """

    certificate: str | Path
    key: str | Path
    client_ca: str | Path | None = None


class Server:
    """One App on one address. Starts once, may be stopped twice; `stop` returns when nothing runs."""

    def __init__(
        self,
        app: App,
        address: str,
        *,
        tls: Tls | None = None,
        max_message_bytes: int = 4 * 1024 * 1024,
        drain_timeout: float = 15.0,
    ) -> None:
        if not app.has_handlers:
            raise HandlerError(f"{app.name}: nothing to serve; register a function with @app.handler first")
        self.app = app
        self.address = address
        #: The port that is listened on; 0 before `start`, and for Unix sockets.
        self.port = 0
        self._tls = tls
        self._drain_timeout = drain_timeout
        self._stopping = asyncio.Event()
        self._cut = asyncio.Event()
        self._health = health.aio.HealthServicer()
        self._calls = _Calls(app, self._stopping)
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", max_message_bytes),
                # Else a second server on the same port takes half of the connections, silently.
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MIN_MS),
                ("grpc.keepalive_permit_without_calls", 1),
            )
        )
        handler_pb2_grpc.add_EventHandlerServicer_to_server(self._calls, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        _add_reflection(self._server)

    async def start(self) -> None:
        """Listen. Raises HandlerError where the address or the certificate cannot be used."""
        credentials = None if self._tls is None else _credentials(self._tls)
        try:
            if credentials is None:
                self.port = self._server.add_insecure_port(self.address)
            else:
                self.port = self._server.add_secure_port(self.address, credentials)
        except RuntimeError as error:
            raise HandlerError(
                f"{self.app.name}: cannot listen on {self.address}: is the port taken, the host one of this"
                f" computer's, the certificate a good one? ({error})"
            ) from error
        if credentials is None and not _is_local(self.address):
            _log.warning("%s is reachable from other computers, and not encrypted; see Tls", self.address)
        await self._server.start()
        await self._health.set(_SERVICE, health_pb2.HealthCheckResponse.SERVING)
        _log.info("%s serves %s on %s", self.app.name, _SERVICE, self._where())

    async def stop(self) -> None:
        """Drain and close, in the order that stands at the top of this file."""
        await self._health.enter_graceful_shutdown()
        self._stopping.set()
        drained = asyncio.ensure_future(self._calls.none_open.wait())
        cut = asyncio.ensure_future(self._cut.wait())
        try:
            await asyncio.wait(
                {drained, cut}, timeout=self._drain_timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            if not drained.done():
                _log.warning("%s: %d calls and streams cut off", self.app.name, self._calls.open)
            drained.cancel()
            cut.cancel()
        await self._server.stop(GOODBYE_S)
        if left := self.app.close():
            _log.warning("%s: %d sync handlers still run and are abandoned", self.app.name, left)

    def cut(self) -> None:
        """End a drain now."""
        self._cut.set()

    def _where(self) -> str:
        host, colon, port = self.address.rpartition(":")
        return f"{host}:{self.port}" if colon and port.isdigit() else self.address

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


class _Calls(handler_pb2_grpc.EventHandlerServicer):
    """The two methods of the contract."""

    def __init__(self, app: App, stopping: asyncio.Event) -> None:
        self._app = app
        self._stopping = stopping
        self._slots = asyncio.Semaphore(app.concurrency)
        self._waiting = 0
        #: Calls and streams that have not ended on the wire.
        self.open = 0
        self.none_open = asyncio.Event()
        self.none_open.set()

    async def Handle(
        self, request: handler_pb2.Delivery, context: grpc.aio.ServicerContext[Any, Any]
    ) -> handler_pb2.Reply:
        await self._enter(context)
        if not request.HasField("event"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the delivery carries no event")
        if self._waiting >= WAITING_CALLS_MAX:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls wait for a handler")
        remaining: float | None = context.time_remaining()
        about = context_of(
            request,
            subscription="",
            shared=parameters_of({}),
            deadline=None if remaining is None else time.monotonic() + remaining,
            trace=_trace(context),
        )
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            answer = await self._app.handle(event_of(request.event), about)
        finally:
            self._slots.release()
        if isinstance(answer, Failure):
            await context.abort(_CODES[answer.code], text_of(answer.message))
        return _ACKED if answer is None else reply_of(answer)

    async def HandleStream(
        self,
        request_iterator: object,
        context: grpc.aio.ServicerContext[handler_pb2.DeliveryBatch, handler_pb2.SettlementBatch],
    ) -> None:
        await self._enter(context)

        async def read() -> handler_pb2.DeliveryBatch | None:
            batch: Any = await context.read()
            return None if batch is grpc.aio.EOF else batch

        await HandlerStream(self._app, self._slots, self._stopping, read, context.write).run()

    async def _enter(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Count the call until its answer is on the wire; refuse it where the server stops."""
        self.open += 1
        self.none_open.clear()
        # The stub asks for a class that exists only in the stub.
        context.add_done_callback(self._left)  # type: ignore[arg-type]
        if self._stopping.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"{self._app.name} is stopping")

    def _left(self, ctx: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.open -= 1
        if not self.open:
            self.none_open.set()


def _trace(context: grpc.aio.ServicerContext[Any, Any]) -> Trace | None:
    """The call's own trace, which is closer than the publisher's."""
    found = {}
    for name, value in context.invocation_metadata() or ():
        if name in ("traceparent", "tracestate") and isinstance(value, str):
            found[name] = value
    return Trace(found["traceparent"], found.get("tracestate", "")) if "traceparent" in found else None


def _add_reflection(server: grpc.aio.Server) -> None:
    """Under both its names: the package has only v1alpha, and v1 has the same messages."""
    services = (_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(services, server)
    method = grpc.stream_stream_rpc_method_handler(
        reflection.aio.ReflectionServicer(services).ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "grpc.reflection.v1.ServerReflection", {"ServerReflectionInfo": method}
            ),
        )
    )


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Asked for at each handshake, so that a certificate that is replaced is served from then on."""
    certificates = Certificates(tls.certificate, tls.key, tls.client_ca)

    def configuration(pems: Pems) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(pems.key, pems.certificate)], root_certificates=pems.client_ca
        )

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        try:
            changed = certificates.changed()
            return None if changed is None else configuration(changed)
        except Exception:  # it would be raised into gRPC's core, and end the handshake
            _log.exception("looking at the certificates failed; the old ones stay in use")
            return None

    return grpc.dynamic_ssl_server_credentials(
        configuration(certificates.pems),
        fetch,  # type: ignore[arg-type]  # None keeps the old ones, which the stub does not know
        require_client_authentication=tls.client_ca is not None,
    )


def _is_local(address: str) -> bool:
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")


async def serve_until_stopped(server: Server) -> None:
    """Serve until SIGTERM or SIGINT, or until cancelled; then drain. A second signal cuts the drain short."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            server.cut()
        stop.set()

    caught = []
    for number in (signal.SIGTERM, signal.SIGINT):
        # Outside the main thread signals are not ours to take: then a cancel is the way to stop.
        with suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, on_signal)
            caught.append(number)
    try:
        async with server:
            await stop.wait()
            _log.info("%s is stopping", server.app.name)
    finally:
        for number in caught:
            loop.remove_signal_handler(number)


def run(serving: Coroutine[Any, Any, None]) -> None:
    """Run to the end on an event loop of its own, the faster one where it is installed."""
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        from uvloop import new_event_loop
    except ImportError:
        asyncio.run(serving)
        return
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serving)
