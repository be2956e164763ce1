"""A target in the test's own process, for few events: it answers as a script says, by subscription and event.

All three modes on one port, on grpc's threaded server: the test itself waits in plain polls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from pelton.v1 import handler_pb2

__all__ = ["UNARY", "Script", "Scripted", "Seen"]

UNARY = "/test.v1.Service/Call"
#: A stream keeps a thread for its life, and so does a call that hangs.
THREADS = 128


@dataclass(frozen=True, slots=True)
class Script:
    """What to answer."""

    code: int = 0
    hang: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """One attempt, as the target saw it."""

    subscription: str
    value: bytes
    attempt: int
    answer: Script
    metadata: dict[str, str | bytes]


class Scripted(grpc.GenericRpcHandler):
    """`script` is asked for each attempt, by subscription and the event's value."""

    def __init__(self, script: Callable[[str, bytes], Script]) -> None:
        self._script = script
        self.seen: list[Seen] = []
        self._server: Any = None

    def start(self, port: int = 0, credentials: Any = None) -> int:
        self._server = grpc.server(ThreadPoolExecutor(THREADS), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        address = f"127.0.0.1:{port}"
        if credentials is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, credentials)
        self._server.start()
        return port

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(0).wait()

    def service(self, call: Any) -> Any:
        match call.method:
            case "/test.v1.Service/Call":
                return grpc.unary_unary_rpc_method_handler(self._unary)
            case "/pelton.v1.EventHandler/Handle":
                return grpc.unary_unary_rpc_method_handler(
                    self._handle, handler_pb2.Delivery.FromString, handler_pb2.Reply.SerializeToString
                )
            case "/pelton.v1.EventHandler/HandleStream":
                return grpc.stream_stream_rpc_method_handler(
                    self._stream,
                    handler_pb2.DeliveryBatch.FromString,
                    handler_pb2.SettlementBatch.SerializeToString,
                )
        return None

    def _asked(self, subscription: str, value: bytes, attempt: int, context: Any) -> Script:
        script = self._script(subscription, value)
        metadata = dict(context.invocation_metadata())
        self.seen.append(Seen(subscription, value, attempt, script, metadata))
        return script

    def _unary(self, request: bytes, context: Any) -> bytes:
        metadata = dict(context.invocation_metadata())
        script = self._asked(
            metadata["pelton-subscription"], request, int(metadata["pelton-attempt"]), context
        )
        self._answer(script, context)
        return b""

    def _handle(self, delivery: handler_pb2.Delivery, context: Any) -> handler_pb2.Reply:
        self._answer(
            self._asked(delivery.subscription, delivery.event.value, delivery.attempt, context), context
        )
        return handler_pb2.Reply()

    def _answer(self, script: Script, context: Any) -> None:
        if script.hang:
            ended = threading.Event()
            if context.add_callback(ended.set):
                ended.wait()
        elif script.code:
            code = next(code for code in grpc.StatusCode if code.value[0] == script.code)
            context.abort(code, "as the script says")

    def _stream(
        self, batches: Iterator[handler_pb2.DeliveryBatch], context: Any
    ) -> Iterator[handler_pb2.SettlementBatch]:
        for batch in batches:
            answer = handler_pb2.SettlementBatch()
            for delivery in batch.deliveries:
                script = self._asked(batch.subscription, delivery.event.value, delivery.attempt, context)
                if script.code:
                    answer.settlements.add(
                        token=delivery.token, code=script.code, message="as the script says"
                    )
                elif not script.hang:
                    answer.acked.append(delivery.token)
            yield answer
