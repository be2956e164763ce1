"""A target on a real socket that does, in every mode, what the event it is called with tells it to.

Run as a program it is a target that hangs, to be killed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio

from pelton.v1 import handler_pb2

__all__ = ["HANDLE", "HANDLE_STREAM", "UNARY", "Script", "ScriptedTarget", "status"]

UNARY = "/test.v1.Service/Call"
HANDLE = "/pelton.v1.EventHandler/Handle"
HANDLE_STREAM = "/pelton.v1.EventHandler/HandleStream"


@dataclass(frozen=True)
class Script:
    """What to do with one event."""

    code: int = 0
    message: str = ""
    trailers: tuple[tuple[str, str | bytes], ...] = ()
    #: The bytes of a Reply, right or wrong; not in unary mode.
    reply: bytes = b""
    hang: bool = False
    #: Unary only: the size of the answer.
    answer_bytes: int = 0
    #: Stream only: what to do instead of settling as it should be.
    stream: str = ""


@dataclass
class Seen:
    """One attempt, as the target saw it."""

    name: str
    metadata: dict[str, str | bytes] = field(default_factory=dict)
    token: int = 0
    timeout_ms: float = 0.0
    #: Which of the streams so far, from 1; 0 for a unary call.
    stream: int = 0


def status(code: int) -> grpc.StatusCode:
    return next(one for one in grpc.StatusCode if one.value[0] == code)


class ScriptedTarget(grpc.GenericRpcHandler):
    """Serves the three modes; `scripts` say what each event means, by name."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self.seen: list[Seen] = []
        self.cancelled: list[int] = []
        self.batches: list[handler_pb2.DeliveryBatch] = []
        self.half_closed = 0
        self.streams = 0
        #: Given to those who hang, so that a test can let them go.
        self.release = asyncio.Event()
        self._changed = asyncio.Event()
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(
        self,
        credentials: grpc.ServerCredentials | None = None,
        *,
        port: int = 0,
        options: Sequence[tuple[str, int]] = (),
    ) -> str:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *options])
        self._server.add_generic_rpc_handlers((self,))
        address = f"127.0.0.1:{port}"
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)
        await self._server.start()
        return f"127.0.0.1:{self.port}"

    async def stop(self) -> None:
        self.release.set()
        if self._server is not None:
            await self._server.stop(0)

    async def until(self, condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
        """Wait until something that this target sees has come about."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def _note(self) -> None:
        self._changed.set()

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        match call.method:
            case "/test.v1.Service/Call" | "/pelton.v1.EventHandler/Handle":
                return grpc.unary_unary_rpc_method_handler(self._call)
            case "/pelton.v1.EventHandler/HandleStream":
                return grpc.stream_stream_rpc_method_handler(self._stream)
            case _:
                return None

    async def _call(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        name = _name_in(request)
        metadata = dict(context.invocation_metadata() or ())
        self.seen.append(Seen(name, metadata, timeout_ms=(context.time_remaining() or 0.0) * 1_000))
        self._note()
        script = self.scripts.get(name, Script())
        if script.hang:
            await self.release.wait()
        if script.trailers:
            context.set_trailing_metadata(script.trailers)
        if script.code:
            await context.abort(status(script.code), script.message)
        return script.reply or bytes(script.answer_bytes)

    async def _stream(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        self.streams += 1
        number = self.streams
        metadata = dict(context.invocation_metadata() or ())
        held: list[int] = []
        async for request in requests:
            batch = handler_pb2.DeliveryBatch.FromString(request)
            self.batches.append(batch)
            self.cancelled.extend(batch.cancelled)
            timeout_ms = batch.timeout.ToMilliseconds()
            self.seen.extend(
                Seen(delivery.event.value.decode(), metadata, delivery.token, timeout_ms, number)
                for delivery in batch.deliveries
            )
            self._note()
            for token in batch.cancelled:
                if self.scripts.get("late", Script()).stream == "settle late":
                    yield _settlement(token, Script())
            if held and len(self.cancelled) > 1:
                yield _acked(*held)
                held.clear()
            plain = [
                delivery.token
                for delivery in batch.deliveries
                if self.scripts.get(delivery.event.value.decode(), Script()) == Script()
            ]
            if plain:
                yield _acked(*plain)
            for delivery in batch.deliveries:
                script = self.scripts.get(delivery.event.value.decode(), Script())
                match script.stream:
                    case "":
                        if not script.hang and script != Script():
                            yield _settlement(delivery.token, script)
                    case "lie":
                        # The true token beside one that was never given out: none of it counts.
                        yield _acked(delivery.token, delivery.token + 1_000)
                    case "zero":
                        yield _acked(0)
                    case "both ways":
                        yield _acked(delivery.token) + _settlement(delivery.token, script)
                    case "twice":
                        yield _acked(delivery.token)
                        yield _settlement(delivery.token, Script(code=13))
                    case "nonsense":
                        yield b"\xff\xff\xff"
                    case "end":
                        return
                    case "abort":
                        await context.abort(status(script.code), script.message)
                    case "settle late":
                        pass
                    case "held":
                        # Until a second one is cancelled, or nothing more comes.
                        held.append(delivery.token)
                    case other:
                        raise AssertionError(other)
        self.half_closed += 1
        self._note()
        if held:
            yield _acked(*held)
            await self.release.wait()


def _name_in(request: bytes) -> str:
    """The unary mode sends the name itself, padded with zeros; the others a Delivery with it as its value."""
    if request.startswith(b"name:"):
        return request.removeprefix(b"name:").rstrip(b"\0").decode()
    return handler_pb2.Delivery.FromString(request).event.value.rstrip(b"\0").decode()


def _acked(*tokens: int) -> bytes:
    return handler_pb2.SettlementBatch(acked=tokens).SerializeToString()


def _settlement(token: int, script: Script) -> bytes:
    if not script.code and not script.reply:
        return _acked(token)
    settlement = handler_pb2.Settlement(
        token=token, code=script.code, message=script.message
    ).SerializeToString()
    if script.reply:
        # By hand, since the reply may hold what this version's classes would not write.
        settlement += bytes([4 << 3 | 2, len(script.reply)]) + script.reply
    return bytes([2 << 3 | 2, len(settlement)]) + settlement


async def _serve_for_ever() -> None:
    target = ScriptedTarget()
    hang = Script(hang=True)

    class Hanging(dict[str, Script]):
        def get(self, key: str, default: object = None) -> Script:
            sys.stdout.write(f"called {key}\n")
            sys.stdout.flush()
            return hang

    target.scripts = Hanging()
    address = await target.start()
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve_for_ever())
