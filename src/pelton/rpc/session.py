"""One `HandleStream`, from its opening to its end: batches down, settlements up.

A session knows its tokens and nothing of what comes after it: which session is used, when deliveries expire
and when to connect anew is `stream.py`. It never retries; what is open on it when it ends is handed back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice

import grpc.aio
from google.protobuf.message import DecodeError

from pelton.core.delivery import Delivery
from pelton.core.outcome import CANCELLED_BY_US, Outcome, Status
from pelton.rpc.batch import (
    BATCH_OVERHEAD_BYTES,
    CANCELLED_BYTES,
    DELIVERY_OVERHEAD_BYTES,
    compose,
    delivery_fields,
)
from pelton.rpc.status import outcome_of_settlement, outcome_of_stream_end
from pelton.rpc.transport import Metadata
from pelton.v1 import handler_pb2

__all__ = ["BATCH_BYTES_MAX", "BATCH_EVENTS_MAX", "Flight", "Session", "delivery_bytes_max", "expired"]

#: Larger batches gain nothing (the cost of a call is spread thin already) and delay the first of them.
BATCH_EVENTS_MAX = 500
BATCH_BYTES_MAX = 1 << 20
#: Cancelled tokens said in one batch; the others wait for the next.
BATCH_CANCELLED_MAX = 1_000

#: The first batch goes alone: until the handler has answered it, or this is over. A write to a stream that
#: the server has just refused would hide the server's own status (see `status.py`).
OPENING_WAIT_S = 0.1

#: The handler is told of this much less than there is (a tenth of it, if that is less), so that one which
#: ends a late delivery itself and settles it does so before we give it up.
SETTLE_MARGIN_MS = 50.0

_Call = grpc.aio.StreamStreamCall[bytes, bytes]


class Flight:
    """One attempt on its way: waiting for a session, or open on one."""

    __slots__ = ("body", "deadline_s", "delivery", "session", "timeout_ms", "token")

    def __init__(self, delivery: Delivery, body: bytes, timeout_ms: float, deadline_s: float) -> None:
        self.delivery = delivery
        self.body = body
        self.timeout_ms = timeout_ms
        #: On the loop's clock.
        self.deadline_s = deadline_s
        #: None while it waits in the queue.
        self.session: Session | None = None
        #: Names this attempt on its session; 0 while it waits.
        self.token = 0


def delivery_bytes_max(message_bytes_max: int, head: bytes) -> int:
    """The largest delivery that fits into a batch of its own."""
    return message_bytes_max - len(head) - BATCH_OVERHEAD_BYTES - DELIVERY_OVERHEAD_BYTES


class Session:
    """Sends what stands in `queue` while it is the current one; settles what comes back."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        path: str,
        metadata: Metadata,
        authorization: Metadata,
        *,
        head: bytes,
        bytes_max: int,
        queue: deque[Flight],
        on_acked: Callable[[Session, list[Flight]], None],
        on_outcome: Callable[[Flight, Outcome], None],
        on_ended: Callable[[Session, Outcome], None],
    ) -> None:
        self.channel = channel
        #: The credentials it was opened with; those of a stream cannot be changed.
        self.authorization = authorization
        #: What the handler has and may still settle, by token. Bounded by the calls submitted.
        self.open: dict[int, Flight] = {}
        #: Expired, but perhaps still worked on: their results wait for a settlement or the end. The value
        #: has the moment until which that is waited for.
        self.hung: dict[int, tuple[Flight, float]] = {}
        #: At least one settlement came: the handler works, whatever happened to some delivery.
        self.worked = False
        #: It was connected: a failure from here on is not one to connect.
        self.connected = False
        #: No longer the current one: sends nothing but cancelled tokens.
        self.retired = False
        #: The handler has settled what it was never given, or sent nonsense: the stream is over.
        self.lied = False
        self._head = head
        self._bytes_max = bytes_max
        self._queue = queue
        self._on_acked = on_acked
        self._on_outcome = on_outcome
        self._on_ended = on_ended
        self._loop = asyncio.get_running_loop()
        #: Given out so far; the next one is one more. So a token up to this was given out, whatever became
        #: of it, and one above it is a lie.
        self._last_token = 0
        self._cancelled: deque[int] = deque()
        self._finishing = False
        self._wake = asyncio.Event()
        self._answered = asyncio.Event()
        self._reason: Outcome | None = None
        self._call: _Call = channel.stream_stream(path)(metadata=metadata + authorization)
        self.task = self._loop.create_task(self._run(), name="rpc-session")

    @property
    def in_company(self) -> bool:
        """More than one delivery was ever sent on it: what it does need not be any one event's doing."""
        return self._last_token > 1

    def wake(self) -> None:
        """Something stands in the queue."""
        self._wake.set()

    def expire(self, flight: Flight, until_s: float) -> None:
        """The flight's time is over: tell the handler, and wait until then for a sign that it let go."""
        del self.open[flight.token]
        self.hung[flight.token] = (flight, until_s)
        self._say_cancelled(flight.token)

    def forget(self, flight: Flight) -> None:
        """The flight has its result already: tell the handler, expect nothing more."""
        if self.open.pop(flight.token, None) is None:
            self.hung.pop(flight.token, None)
        self._say_cancelled(flight.token)

    def _say_cancelled(self, token: int) -> None:
        self._cancelled.append(token)
        self._wake.set()

    def finish(self) -> None:
        """Half-close once the queue is empty; the handler settles what it has and ends the stream."""
        self._finishing = True
        self._wake.set()

    def cancel(self, reason: Outcome) -> None:
        """End the stream now; what is open on it ends as `reason`."""
        if self._reason is None:
            self._reason = reason
            self._call.cancel()

    async def _run(self) -> None:
        writer = self._loop.create_task(self._write(), name="rpc-session-writer")
        outcome = CANCELLED_BY_US
        try:
            outcome = await self._read()
        except grpc.aio.AioRpcError as error:
            outcome = outcome_of_stream_end(error)
        except asyncio.CancelledError:
            # The call was cancelled (by `cancel`, or with its channel), or this task was, with the loop.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        finally:
            writer.cancel()
            await asyncio.wait([writer])
            self._call.cancel()
            self._on_ended(self, self._reason or outcome)

    async def _read(self) -> Outcome:
        while True:
            settled = await self._call.read()
            if not isinstance(settled, bytes):
                break
            self._answered.set()
            lie = self._settle(settled)
            if lie is not None:
                self.lied = True
                return Outcome(Status.UNAVAILABLE, f"the stream was cancelled: the handler {lie}")
        # Ended well although deliveries may be open: a handler that goes away in good order. What is open
        # is called again at once and burns nothing; but a handler that never settled anything is not well.
        return Outcome(
            Status.UNAVAILABLE, "the handler ended the stream before settling", cancelled=self.worked
        )

    def _settle(self, settled: bytes) -> str | None:
        """Take one batch of settlements as a whole, or say what is wrong with it and take none."""
        try:
            batch = handler_pb2.SettlementBatch.FromString(settled)
        except DecodeError:
            return "sent what is no SettlementBatch"
        acked: list[int] = list(batch.acked)
        tokens = acked + [settlement.token for settlement in batch.settlements]
        if not tokens:
            return None
        if max(tokens) > self._last_token or min(tokens) < 1:
            return "settled a token that was never given out"
        self.worked = True
        # First what is no plain ack: a token said both ways is not acked.
        for settlement in batch.settlements:
            self._take(settlement.token, outcome_of_settlement(settlement))
        opened = self.open
        taken: list[Flight] = []
        for token in acked:
            flight = opened.get(token)
            if flight is not None:
                del opened[token]
                taken.append(flight)
            else:
                self._let_go(token)
        if taken:
            self._on_acked(self, taken)
        return None

    def _take(self, token: int, outcome: Outcome) -> None:
        flight = self.open.pop(token, None)
        if flight is not None:
            self._on_outcome(flight, outcome)
        else:
            self._let_go(token)

    def _let_go(self, token: int) -> None:
        """A settlement of an expired token: what it says has no effect, but the handler has let go of it."""
        hung = self.hung.pop(token, None)
        if hung is not None:
            self._on_outcome(hung[0], expired(hung[0]))

    async def _write(self) -> None:
        try:
            await self._call.wait_for_connection()
            self.connected = True
            while True:
                batch = self._next_batch()
                if batch is not None:
                    await self._call.write(batch)
                    if not self._answered.is_set():
                        await self._opening()
                elif self._finishing:
                    await self._call.done_writing()
                    return
                else:
                    self._wake.clear()
                    await self._wake.wait()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The stream has ended; the reader has been told why.
            return

    async def _opening(self) -> None:
        try:
            async with asyncio.timeout(OPENING_WAIT_S):
                await self._answered.wait()
        except TimeoutError:
            # A handler may well take longer than this to settle anything.
            self._answered.set()

    def _next_batch(self) -> bytes | None:
        """What can be sent now, within the bounds; None where there is nothing."""
        deliveries: list[bytes] = []
        timeout_ms = 0.0
        if not self.retired and self._queue:
            now_s = self._loop.time()
            free_bytes = min(BATCH_BYTES_MAX, self._bytes_max) - len(self._head) - BATCH_OVERHEAD_BYTES
            earliest_s = float("inf")
            first_token = token = self._last_token + 1
            bodies: list[bytes] = []
            for flight in islice(self._queue, BATCH_EVENTS_MAX):
                body = flight.body
                free_bytes -= len(body) + DELIVERY_OVERHEAD_BYTES
                # One that is too large for any batch of several goes alone.
                if free_bytes < 0 and bodies:
                    break
                bodies.append(body)
                flight.session, flight.token = self, token
                self.open[token] = flight
                token += 1
                if flight.deadline_s < earliest_s:
                    earliest_s = flight.deadline_s
            self._last_token = token - 1
            for _ in bodies:
                self._queue.popleft()
            deliveries = delivery_fields(bodies, first_token)
            # One number for all of them: the time left to the one that has least.
            left_ms = (earliest_s - now_s) * 1_000.0
            timeout_ms = max(left_ms - min(SETTLE_MARGIN_MS, left_ms / 10), 1.0)
        count = min(len(self._cancelled), BATCH_CANCELLED_MAX)
        if count:
            room_bytes = self._bytes_max - len(self._head) - sum(map(len, deliveries)) - BATCH_OVERHEAD_BYTES
            count = max(0, min(count, room_bytes // CANCELLED_BYTES))
        if not deliveries and not count:
            return None
        cancelled = [self._cancelled.popleft() for _ in range(count)]
        return compose(self._head, deliveries, timeout_ms, cancelled)


def expired(flight: Flight) -> Outcome:
    """The outcome of a delivery that was not settled in time."""
    return Outcome(Status.DEADLINE_EXCEEDED, f"not settled within {flight.timeout_ms:.0f} ms")
