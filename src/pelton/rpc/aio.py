"""Unary calls over grpc.aio: the reference transport, always there.

Of the ways to learn that a call has ended - a task a call, done callbacks on the call, long-lived workers -
the workers cost least by a little (within the noise of done callbacks) and are the only cheap one that also
hears of the failures that grpc.aio raises instead of reporting. grpc.aio itself is nine tenths of the cost.

Deadlines are gRPC's own: its core runs the timer in this process, so a call ends in time whatever the peer,
the network or name resolution do. Nothing here retries, and nothing here decides what an outcome means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence

import grpc.aio

from pelton.core.delivery import Delivery
from pelton.core.outcome import CANCELLED_BY_US, Outcome, Status
from pelton.rpc.channels import Channels
from pelton.rpc.results import Results
from pelton.rpc.status import NO_MESSAGE, illegal, outcome_of_error, outcome_of_ok, too_large
from pelton.rpc.transport import Call, Metadata, OnResults
from pelton.subscription import DeliveryMode, Subscription

__all__ = ["AioTransport"]

_Unary = grpc.aio.UnaryUnaryCall[bytes, bytes]
_Method = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
_Attempt = tuple[Delivery, _Unary]


class _Entries(grpc.aio.Metadata):
    """Metadata that stays the tuple it is: filing it by name, as the parent does, is a tenth of a call's CPU.

    For calls out only, which gRPC does nothing with but iterate; to look a name up there is nothing here.
    """

    def __init__(self, entries: Metadata) -> None:
        super().__init__()
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[tuple[str, str | bytes]]:
        return iter(self._entries)


class AioTransport:
    """`Transport` for the modes `unary` and `handler`; the mode decides whether replies are read."""

    def __init__(self, subscription: Subscription, channels: Channels, on_results: OnResults) -> None:
        """TargetError if the target's credentials cannot be used."""
        assert subscription.mode is not DeliveryMode.STREAM, (
            "a stream subscription has a transport of its own"
        )
        self._loop = asyncio.get_running_loop()
        self._lease = channels.lease(subscription.target)
        self._path = subscription.method
        self._channel = self._lease.channel()
        self._method: _Method = self._channel.unary_unary(self._path)
        self._reads_replies = subscription.mode is DeliveryMode.HANDLER
        self._bytes_max = subscription.target.max_message_bytes
        self._results = Results(on_results)
        #: The calls that are out, each by its delivery. What has left it has its result, whatever the call
        #: itself still says.
        self._open: dict[Delivery, _Unary] = {}
        #: One worker per call that was ever out at once: the engine's concurrency bounds them.
        self._workers: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[_Attempt]] = []
        #: Set while `close` waits for the last call.
        self._drained: asyncio.Future[None] | None = None
        self._closed = False

    @property
    def in_flight(self) -> int:
        return len(self._open) + len(self._results)

    def submit(self, calls: Sequence[Call]) -> None:
        if self._closed:
            for call in calls:
                self._results.add(call.delivery, CANCELLED_BY_US)
            return
        channel = self._lease.channel()
        if channel is not self._channel:
            self._channel, self._method = channel, channel.unary_unary(self._path)
        authorization = self._lease.authorization()
        for call in calls:
            self._start(call, call.common + call.metadata + authorization)

    def _start(self, call: Call, metadata: Metadata) -> None:
        delivery = call.delivery
        assert delivery not in self._open, f"{delivery!r} was submitted while its last attempt is out"
        if len(call.body) > self._bytes_max:
            self._results.add(delivery, too_large(len(call.body), self._bytes_max))
            return
        try:
            attempt = self._method(call.body, timeout=call.timeout_ms / 1_000.0, metadata=_Entries(metadata))
        except grpc.aio.UsageError:
            # The channel is closed, and only we close channels.
            self._results.add(delivery, CANCELLED_BY_US)
            return
        except (TypeError, ValueError) as error:
            self._results.add(delivery, illegal(str(error)))
            return
        self._open[delivery] = attempt
        if self._idle:
            self._idle.pop().set_result((delivery, attempt))
        else:
            worker = self._loop.create_task(self._work(delivery, attempt), name="rpc-call")
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _work(self, delivery: Delivery, attempt: _Unary) -> None:
        """Wait for one call after the other. A worker ends only with the transport."""
        while True:
            outcome: Outcome
            try:
                reply = await attempt
                trailers = await attempt.trailing_metadata()
                # grpc core calls an OK without a whole message an OK, and hands over None.
                outcome = (
                    NO_MESSAGE
                    if reply is None
                    else outcome_of_ok(trailers, reply if self._reads_replies else None)
                )
            except grpc.aio.AioRpcError as error:
                outcome = self._lease.explained(outcome_of_error(error))
            except asyncio.CancelledError:
                # The call was cancelled (by `cancel`, or with its channel), or this task was, with the loop.
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                outcome = CANCELLED_BY_US
            except (grpc.aio.InternalError, TypeError, ValueError) as error:
                # What gRPC refuses to send, it says by no status; it would refuse it again.
                outcome = illegal(f"{type(error).__name__}: {str(error)[:200]}")
            except Exception as error:
                # Not foreseen. One result for every call is a promise, so it becomes one.
                outcome = Outcome(Status.UNKNOWN, f"{type(error).__name__}: {str(error)[:200]}")
            if self._open.get(delivery) is attempt:
                del self._open[delivery]
                self._results.add(delivery, outcome)
                if self._drained is not None and not self._open and not self._drained.done():
                    self._drained.set_result(None)
            # The next one is waited for without this one's frames and buffers being kept alive.
            del attempt, outcome
            waiting: asyncio.Future[_Attempt] = self._loop.create_future()
            self._idle.append(waiting)
            delivery, attempt = await waiting

    def cancel(self, deliveries: Collection[Delivery]) -> None:
        for delivery in deliveries:
            attempt = self._open.pop(delivery, None)
            if attempt is not None:
                self._results.add(delivery, CANCELLED_BY_US)
                attempt.cancel()

    async def close(self, drain_ms: float) -> None:
        self._closed = True
        if self._open and drain_ms > 0:
            self._drained = self._loop.create_future()
            await asyncio.wait([self._drained], timeout=drain_ms / 1_000.0)
        self.cancel(list(self._open))
        self._results.hand_over()
        workers = list(self._workers)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        self._results.hand_over()
        await self._lease.release()
