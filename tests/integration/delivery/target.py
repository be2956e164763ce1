"""The target of the delivery proofs: a process of its own that answers by the oracle and keeps a journal.

Any unary method. Serves until SIGTERM, then writes the journal: one line a call with the times of its start
and its answer (CLOCK_MONOTONIC, the same for all processes of a computer), kept apart from anything that
Pelton says of itself. Without a seed it takes everything. With `--at-once` so many calls are worked on at a
time and the others queue; SIGUSR1 goes on to the next number of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop

from tests.integration.delivery.answers import Answer, answer

_TAKEN = Answer()
#: Start, end, delivery id, attempt, status, peer.
_Line = tuple[int, int, str, int, str, str]


class _Desks:
    """So many calls are worked on at once; whoever finds all taken queues."""

    def __init__(self, numbers: list[int]) -> None:
        self._left = deque(numbers[1:])
        self._desks = numbers[0]
        self._taken = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    def change(self) -> None:
        if self._left:
            self._desks = self._left.popleft()
            self._call_in()

    async def work(self, seconds: float) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._call_in()
        await turn
        try:
            await asyncio.sleep(seconds)
        finally:
            self._taken -= 1
            self._call_in()

    def _call_in(self) -> None:
        while self._queue and self._taken < self._desks:
            turn = self._queue.popleft()
            if not turn.cancelled():
                self._taken += 1
                turn.set_result(None)


class _Target(grpc.GenericRpcHandler):
    def __init__(self, arguments: argparse.Namespace) -> None:
        self._seed: str = arguments.seed
        self._hangs: bool = arguments.hang
        self._delay_s: float = arguments.delay_ms / 1000
        self._poison_status: str = arguments.poison_status
        self._poison_until = Path(arguments.poison_until) if arguments.poison_until else None
        self._poison_keys = {key.encode() for key in arguments.poison_keys.split(",") if key}
        at_once = [int(number) for number in arguments.at_once.split(",") if number]
        self.desks = _Desks(at_once) if at_once else None
        self.journal: list[_Line] = []
        self._handler: Any = grpc.unary_unary_rpc_method_handler(self._call)

    def service(self, handler_call_details: Any) -> Any:
        # It offers no reflection; everything else is a method of some service.
        return None if handler_call_details.method.startswith("/grpc.reflection.") else self._handler

    async def _call(self, request: bytes, context: Any) -> bytes:
        start_ns = time.monotonic_ns()
        delivery_id, attempt, key = "", 0, b""
        for name, value in context.invocation_metadata():
            if name == "pelton-delivery-id":
                delivery_id = value
            elif name == "pelton-attempt":
                attempt = int(value)
            elif name == "pelton-key-bin":
                key = value
        status, trailers = _TAKEN.status, _TAKEN.trailers
        if key in self._poison_keys and not (self._poison_until and self._poison_until.exists()):
            status = self._poison_status
        elif self._seed:
            said = answer(self._seed, delivery_id, attempt)
            status, trailers = said.status, said.trailers
        ended = "CUT"
        try:
            if self._hangs:
                await asyncio.Event().wait()
            if self.desks is not None:
                await self.desks.work(self._delay_s)
            elif self._delay_s:
                await asyncio.sleep(self._delay_s)
            ended = "ASKS" if _asks(trailers) else status
        finally:
            # A call that nobody waits for any more is cancelled here.
            self.journal.append((start_ns, time.monotonic_ns(), delivery_id, attempt, ended, context.peer()))
        if trailers:
            context.set_trailing_metadata(trailers)
        if status != "OK":
            context.set_code(grpc.StatusCode[status])
            context.set_details("as the oracle says")
        return b""


def _asks(trailers: tuple[tuple[str, str], ...]) -> bool:
    return any(name == "pelton-verdict" for name, _ in trailers)


async def _main(arguments: argparse.Namespace) -> list[_Line]:
    target = _Target(arguments)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((target,))
    port = server.add_insecure_port(f"127.0.0.1:{arguments.port}")
    await server.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if target.desks is not None:
        loop.add_signal_handler(signal.SIGUSR1, target.desks.change)
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await stop.wait()
    await server.stop(0)
    return target.journal


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--journal", required=True)
    parser.add_argument("--seed", default="")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--at-once", default="", help="N,...: at first, and after each SIGUSR1")
    parser.add_argument("--hang", action="store_true")
    parser.add_argument("--poison-status", default="OK")
    parser.add_argument("--poison-keys", default="")
    parser.add_argument("--poison-until", default="", help="only until this file is there")
    arguments = parser.parse_args()
    lines = uvloop.run(_main(arguments))
    with Path(arguments.journal).open("a", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")
