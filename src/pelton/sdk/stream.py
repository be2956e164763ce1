"""One HandleStream: batches of deliveries come down, settlements go up as handlers finish, in any order.

Who may settle: an attempt is open from its arrival until exactly one of four ends, and whatever comes later
finds its token gone and is silent.
1. Its handler ends: settled with the answer.
2. The batch's timeout passes: its handler is cancelled, settled as DEADLINE_EXCEEDED.
3. Pelton says it is no longer waited for: its handler is cancelled, settled as CANCELLED. Nobody waits for
   the answer, but without one Pelton must believe that the key's handler still runs, and give the stream up.
4. The server stops before its handler started: not settled. A stream that ends well with attempts open tells
   Pelton to try them elsewhere, at no cost to them.

Half-close ends the stream when all is settled. No gRPC here: reading and writing are handed in by `serve.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from pelton.sdk.app import Answer, App
from pelton.sdk.context import Failure
from pelton.sdk.wire import context_of, event_of, parameters_of, settlement_of, timeout_s
from pelton.v1 import handler_pb2

__all__ = ["OPEN_MAX", "HandlerStream"]

#: Attempts taken from a stream and not yet told off, running ones and waiting ones. At this many nothing more
#: is read and HTTP/2 makes the peer wait; far above any concurrency that makes sense for one subscription,
#: so it only guards against a peer that sends without listening.
OPEN_MAX: Final = 4_096

#: Settlements that are no plain ack, in one message: with their text at its longest they stay below the 4 MiB
#: that a gRPC client takes by default.
SETTLEMENTS_MAX: Final = 500

_CANCELLED: Final = 1
_INVALID_ARGUMENT: Final = 3
_DEADLINE_EXCEEDED: Final = 4


class _Batch:
    """What the attempts of one message share: whatever was said once, and one timer for all."""

    __slots__ = ("deadline", "open", "parameters", "subscription", "timer", "tokens")

    def __init__(self, subscription: str, parameters: Mapping[str, str], tokens: list[int]) -> None:
        self.subscription = subscription
        self.parameters = parameters
        self.tokens = tokens
        #: Attempts of this batch that are open.
        self.open = len(tokens)
        self.deadline: float | None = None
        self.timer: asyncio.TimerHandle | None = None


class _Attempt:
    __slots__ = ("batch", "message", "running", "task")

    def __init__(self, message: handler_pb2.Delivery, batch: _Batch) -> None:
        self.message = message
        self.batch = batch
        #: Its handler has been started; until then it waits for a slot.
        self.running = False
        self.task: asyncio.Task[None] | None = None


class HandlerStream:
    """Serves one stream. `slots` bounds the handlers that run, over all streams and calls of the server."""

    def __init__(
        self,
        app: App,
        slots: asyncio.Semaphore,
        stopping: asyncio.Event,
        read: Callable[[], Awaitable[handler_pb2.DeliveryBatch | None]],
        write: Callable[[handler_pb2.SettlementBatch], Awaitable[None]],
    ) -> None:
        self._app = app
        self._slots = slots
        self._stopping = stopping
        self._read = read
        self._write = write
        self._loop = asyncio.get_running_loop()
        #: By token.
        self._open: dict[int, _Attempt] = {}
        self._acked: list[int] = []
        self._settlements: list[handler_pb2.Settlement] = []
        self._something_to_write = asyncio.Event()
        #: Set whenever fewer than OPEN_MAX are held.
        self._room = asyncio.Event()
        self._nothing_open = asyncio.Event()
        self._nothing_open.set()
        self._finished = False

    async def run(self) -> None:
        """Serve until half-close or stop, then finish what runs. When cancelled, everything is."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write_settlements())
            reader = tasks.create_task(self._read_batches(tasks))
            stop = tasks.create_task(self._stop_taking(reader))
            await asyncio.wait({reader})
            await self._nothing_open.wait()
            stop.cancel()
            self._finished = True
            self._something_to_write.set()

    async def _read_batches(self, tasks: asyncio.TaskGroup) -> None:
        while (batch := await self._read()) is not None:
            for token in batch.cancelled:
                attempt = self._open.get(token)
                if attempt is not None and attempt.task is not None:
                    attempt.task.cancel()
                    self._settle(token, attempt, Failure(_CANCELLED, "no longer waited for"))
            while self._held() >= OPEN_MAX:
                self._room.clear()
                await self._room.wait()
            if batch.deliveries:
                self._take(batch, tasks)

    def _take(self, message: handler_pb2.DeliveryBatch, tasks: asyncio.TaskGroup) -> None:
        batch = _Batch(
            message.subscription,
            parameters_of(message.parameters),
            [delivery.token for delivery in message.deliveries],
        )
        if message.HasField("timeout"):
            timeout = timeout_s(message.timeout)
            batch.deadline = time.monotonic() + timeout
            batch.timer = self._loop.call_later(timeout, self._expire, batch, timeout)
        self._nothing_open.clear()
        for delivery in message.deliveries:
            attempt = _Attempt(delivery, batch)
            self._open[delivery.token] = attempt
            attempt.task = tasks.create_task(self._attempt(attempt))

    async def _attempt(self, attempt: _Attempt) -> None:
        message, batch = attempt.message, attempt.batch
        async with self._slots:
            attempt.running = True
            answer: Answer
            if message.HasField("event"):
                context = context_of(
                    message,
                    subscription=batch.subscription,
                    shared=batch.parameters,
                    deadline=batch.deadline,
                )
                answer = await self._app.handle(event_of(message.event), context)
            else:
                answer = Failure(_INVALID_ARGUMENT, "the delivery carries no event")
        self._settle(message.token, attempt, answer)

    def _expire(self, batch: _Batch, timeout: float) -> None:
        for token in batch.tokens:
            attempt = self._open.get(token)
            if attempt is None or attempt.batch is not batch or attempt.task is None:
                continue
            attempt.task.cancel()
            what = "the handler has not finished" if attempt.running else "no handler was free"
            self._settle(token, attempt, Failure(_DEADLINE_EXCEEDED, f"{what} within {timeout:g} s"))

    async def _stop_taking(self, reader: asyncio.Task[None]) -> None:
        await self._stopping.wait()
        reader.cancel()
        for token, attempt in list(self._open.items()):
            if not attempt.running and attempt.task is not None:
                attempt.task.cancel()
                self._close(token)

    def _settle(self, token: int, attempt: _Attempt, answer: Answer) -> None:
        if self._open.get(token) is not attempt:
            return  # expired or cancelled, and its handler came to an end all the same
        if answer is None:
            self._acked.append(token)
        else:
            self._settlements.append(settlement_of(token, answer))
        self._close(token)
        # The writer runs in the loop's next turn and takes all that has ended until then.
        self._something_to_write.set()

    def _close(self, token: int) -> None:
        batch = self._open.pop(token).batch
        batch.open -= 1
        if not batch.open and batch.timer is not None:
            batch.timer.cancel()
        if not self._open:
            self._nothing_open.set()
        if self._held() < OPEN_MAX:
            self._room.set()

    def _held(self) -> int:
        return len(self._open) + len(self._acked) + len(self._settlements)

    async def _write_settlements(self) -> None:
        while not self._finished:
            await self._something_to_write.wait()
            self._something_to_write.clear()
            while self._acked or self._settlements:
                batch = handler_pb2.SettlementBatch(
                    acked=self._acked, settlements=self._settlements[:SETTLEMENTS_MAX]
                )
                self._acked = []
                del self._settlements[:SETTLEMENTS_MAX]
                self._room.set()
                await self._write(batch)
