"""The handler of a fault run: a process of its own whose journal is on the disk before its answer leaves.

It takes any unary method and `HandleStream`, over grpc.aio, or any unary method over `h2_server.py` with
`--wire`. How to behave it is told on its standard input: one JSON object a line, answered by a line, in force
for the calls that begin afterwards. Calls and statuses are written as `journals.py` reads them. It serves
until SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop

from pelton.v1 import handler_pb2
from tests.conformance.authority import Pair
from tests.faults.h2_server import Deed, Do, H2Server, Peer, Request
from tests.faults.journals import Journal
from tests.integration.delivery.answers import answer

__all__: list[str] = []

HANDLE_STREAM = "/pelton.v1.EventHandler/HandleStream"
#: No stream of a run has given out so many tokens.
FAR = 1_000_000_000
#: Deeds that are a whole answer: the call ends as `grpc_status` says.
WHOLE = {Do.ANSWER, Do.TRAILERS_ONLY, Do.RST_AFTER_TRAILERS, Do.GOAWAY_GRACEFUL}


@dataclass(slots=True)
class Behaviour:
    """What a handler does with a call."""

    delay_ms: float = 2.0
    #: Calls begin, and never end.
    hang: bool = False
    #: The end is written and the answer kept back, until told otherwise.
    withhold: bool = False
    status: str = "OK"
    #: By key, as text.
    status_of_key: dict[str, str] = field(default_factory=dict)
    #: Who does not bear it is not let in; empty lets everybody in.
    token: str = ""
    #: Calls of a generation older than the newest that has called for the partition are not taken.
    fencing: bool = False
    #: By the oracle of `tests/integration/delivery/answers.py`.
    seed: str = ""
    #: On a stream: every so manieth batch is settled together with a token that was never given out. 0: none.
    lies_every: int = 0
    #: Over the wire: what is done with one request after the other, again and again.
    deeds: list[dict[str, Any]] = field(default_factory=list)


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, journal: Journal) -> None:
        self.behaviour = Behaviour()
        self.journal = journal
        self.changed = asyncio.Event()
        #: By topic and partition, as the delivery id has them.
        self._newest: dict[str, int] = {}
        self._numbers = itertools.count(1)
        self._batches = itertools.count(1)
        self._handler: Any = grpc.unary_unary_rpc_method_handler(self._call)
        self._streams: Any = grpc.stream_stream_rpc_method_handler(self._stream)

    def begin(self, metadata: dict[str, Any]) -> str:
        name = f"{os.getpid()}-{next(self._numbers)}"
        self.journal.add(
            "s",
            name,
            time.monotonic_ns(),
            time.time(),
            metadata["pelton-delivery-id"],
            int(metadata["pelton-attempt"]),
            metadata.get("pelton-param-instance", ""),
            int(metadata.get("pelton-param-fence", "0")),
        )
        return name

    def is_stale(self, metadata: dict[str, Any]) -> bool:
        """Somebody newer has called for this partition before."""
        partition = metadata["pelton-delivery-id"].rpartition("/")[0]
        fence = int(metadata.get("pelton-param-fence", "0"))
        newest = self._newest[partition] = max(fence, self._newest.get(partition, 0))
        return fence < newest

    async def end(self, name: str, status: str) -> None:
        self.journal.add("e", name, time.monotonic_ns(), status)
        await self.journal.durable()
        while self.behaviour.withhold:
            await self.changed.wait()

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method == HANDLE_STREAM:
            return self._streams
        # It offers no reflection; everything else is a method of some service.
        return None if handler_call_details.method.startswith("/grpc.reflection.") else self._handler

    async def _call(self, request: bytes, context: Any) -> bytes:
        metadata = dict(context.invocation_metadata())
        name = self.begin(metadata)
        behaviour = self.behaviour
        stale = self.is_stale(metadata)
        if behaviour.delay_ms:
            await asyncio.sleep(behaviour.delay_ms / 1_000.0)
        while self.behaviour.hang:
            await self.changed.wait()
        key = metadata.get("pelton-key-bin", b"").decode()
        status = behaviour.status_of_key.get(key, behaviour.status)
        said: Sequence[tuple[str, str]] = ()
        if behaviour.fencing and stale:
            status = "ABORTED"
        elif behaviour.token and metadata.get("authorization") != f"Bearer {behaviour.token}":
            status = "UNAUTHENTICATED"
        elif behaviour.seed:
            oracle = answer(behaviour.seed, metadata["pelton-delivery-id"], int(metadata["pelton-attempt"]))
            status, said = oracle.status, oracle.trailers
        await self.end(name, _ended(status, said))
        if said:
            context.set_trailing_metadata(tuple(said))
        if status != "OK":
            context.set_code(grpc.StatusCode[status])
            context.set_details("as told")
        return b""

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            batch = handler_pb2.DeliveryBatch.FromString(request)
            begun = [
                self.begin(
                    {
                        "pelton-delivery-id": delivery.delivery_id,
                        "pelton-attempt": delivery.attempt,
                        "pelton-param-instance": {**batch.parameters, **delivery.parameters}["instance"],
                    }
                )
                for delivery in batch.deliveries
            ]
            behaviour = self.behaviour
            if behaviour.delay_ms:
                await asyncio.sleep(behaviour.delay_ms / 1_000.0)
            lies = behaviour.lies_every > 0 and next(self._batches) % behaviour.lies_every == 0
            told = [behaviour.status_of_key.get(each.event.key.decode(), "OK") for each in batch.deliveries]
            for name, status in zip(begun, told, strict=True):
                self.journal.add("e", name, time.monotonic_ns(), "LIED" if lies else status)
            await self.journal.durable()
            if batch.deliveries:
                yield _settlements(batch, told, lies=lies).SerializeToString()


def _settlements(
    batch: handler_pb2.DeliveryBatch, told: Sequence[str], *, lies: bool
) -> handler_pb2.SettlementBatch:
    said = list(zip((delivery.token for delivery in batch.deliveries), told, strict=True))
    return handler_pb2.SettlementBatch(
        acked=[token for token, status in said if status == "OK"] + [said[-1][0] + FAR] * lies,
        settlements=[
            # grpc's codes are (number, text); the stubs do not say so.
            handler_pb2.Settlement(token=token, code=grpc.StatusCode[status].value[0], message="as told")
            for token, status in said
            if status != "OK"
        ],
    )


def _ended(status: str, trailers: Sequence[tuple[str, str]]) -> str:
    """The status for the journal: an OK that a trailer takes back is none."""
    verdict = dict(trailers).get("pelton-verdict", "")
    if verdict:
        return "DROPPED" if verdict == "drop" else "ASKS"
    return status


class _Wire:
    """The same over frames of our own."""

    def __init__(self, handler: _Handler) -> None:
        self._handler = handler
        self.server = H2Server(self._plan, on_request=self._on_request)
        #: Answers that are held to the journal, by request.
        self._count = itertools.count()

    def _plan(self, request: Request) -> Deed:
        if request.path.startswith("/grpc.reflection."):
            return Deed(Do.TRAILERS_ONLY, grpc_status=12)
        deeds = self._handler.behaviour.deeds
        if not deeds:
            return Deed()
        said = dict(deeds[next(self._count) % len(deeds)])
        return Deed(Do(said.pop("do")), **said)

    async def _on_request(self, request: Request, deed: Deed) -> None:
        if request.path.startswith("/grpc.reflection."):
            return
        name = self._handler.begin(dict(request.headers))
        if self._handler.behaviour.delay_ms:
            await asyncio.sleep(self._handler.behaviour.delay_ms / 1_000.0)
        whole = deed.do in WHOLE and deed.grpc_status == 0
        await self._handler.end(name, "OK" if whole else deed.do.value.upper())


def _credentials(arguments: argparse.Namespace) -> grpc.ServerCredentials:
    pair = Pair(arguments.cert, arguments.key)
    return grpc.ssl_server_credentials([pair.contents()])


async def _main(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    handler = _Handler(Journal(Path(arguments.journal)))
    wire = _Wire(handler)
    server: grpc.aio.Server | None = None
    if arguments.wire:
        await wire.server.start(arguments.port)
        port = wire.server.port
    else:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((handler,))
        address = f"127.0.0.1:{arguments.port}"
        if arguments.cert:
            port = server.add_secure_port(address, _credentials(arguments))
        else:
            port = server.add_insecure_port(address)
        await server.start()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    def told() -> None:
        line = sys.stdin.readline()
        if not line:
            # Nobody is left who could tell us anything: the run is over.
            loop.remove_reader(0)
            stop.set()
            return
        orders = json.loads(line)
        if (peer := orders.pop("peer", None)) is not None:
            wire.server.peer = Peer(**peer)
        if storm := orders.pop("storm", 0):
            wire.server.storm(count=storm)
        if orders.pop("fresh", False):
            handler.behaviour = Behaviour()
        for name, value in orders.items():
            assert hasattr(handler.behaviour, name), name
            setattr(handler.behaviour, name, value)
        handler.changed.set()
        handler.changed.clear()
        sys.stdout.write("done\n")
        sys.stdout.flush()

    loop.add_reader(0, told)
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await stop.wait()
    if server is not None:
        await server.stop(0)
    await wire.server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--journal", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--wire", action="store_true")
    parser.add_argument("--cert", default="")
    parser.add_argument("--key", default="")
    uvloop.run(_main(parser.parse_args()))
