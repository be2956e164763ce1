"""Unary calls through `pelton_native`: the fastest transport, where its wheel is installed.

A batch crosses once into Rust and its results once back, as the pairs that the pump takes: of a call that
ended with a plain OK, no line of this file sees anything. Deadlines, connections and what becomes of a call
on its way are the other side's (`native/src`); what a status means is `status.py`'s, as for every transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from enum import IntEnum

from pelton.core.delivery import Delivery
from pelton.core.outcome import ACKED, CANCELLED_BY_US, Outcome, Status
from pelton.rpc.channels import Channels
from pelton.rpc.results import Results
from pelton.rpc.status import NO_MESSAGE, illegal, outcome_of_ok, outcome_of_status, too_large
from pelton.rpc.transport import Call, OnResults, Result
from pelton.subscription import DeliveryMode, Disposition, Subscription

__all__ = ["NativeTransport"]


class _Kind(IntEnum):
    """How a call ended, beyond its status; the numbers of `Kind` in `native/src/status.rs`."""

    PLAIN = 0
    MISWIRED = 1
    ILLEGAL = 2
    TOO_LARGE = 3
    CANCELLED = 4
    NO_MESSAGE = 5


class NativeTransport:
    """`Transport` for the modes `unary` and `handler`; the mode decides whether replies are read."""

    def __init__(self, subscription: Subscription, channels: Channels, on_results: OnResults) -> None:
        """TargetError if the target's credentials cannot be used, or there is no native transport."""
        assert subscription.mode is not DeliveryMode.STREAM, (
            "a stream subscription has a transport of its own"
        )
        self._loop = asyncio.get_running_loop()
        self._lease = channels.lease_native(subscription.target)
        self._reads_replies = subscription.mode is DeliveryMode.HANDLER
        self._port = channels.native_dial.port(subscription, reads_replies=self._reads_replies)
        self._bytes_max = subscription.target.max_message_bytes
        self._on_results = on_results
        #: Of what is submitted after the close; all others come through the port.
        self._late = Results(on_results)
        #: Set while `close` waits for the last call.
        self._drained: asyncio.Future[None] | None = None
        self._closed = False
        self._loop.add_reader(self._port.fileno(), self._arrived)

    @property
    def in_flight(self) -> int:
        return len(self._port) + len(self._late)

    def submit(self, calls: Sequence[Call]) -> None:
        if self._closed:
            for call in calls:
                self._late.add(call.delivery, CANCELLED_BY_US)
            return
        self._port.submit(self._lease.channel(), calls, self._lease.authorization())

    def _arrived(self) -> None:
        """Results are there: hand them over, all at once."""
        plain, others = self._port.drain(ACKED)
        results: list[Result] = plain
        for delivery, kind, code, message, reply, trailers in others:
            results.append((delivery, self._outcome(kind, code, message, reply, trailers)))
        if results:
            self._on_results(results)
        if self._drained is not None and not len(self._port) and not self._drained.done():
            self._drained.set_result(None)

    def _outcome(
        self, kind: int, code: int, message: str, reply: bytes, trailers: list[tuple[str, str | bytes]]
    ) -> Outcome:
        match kind:
            case _Kind.PLAIN:
                if code == Status.OK:
                    return outcome_of_ok(trailers, reply if self._reads_replies else None)
                return self._lease.explained(outcome_of_status(code, message, trailers))
            case _Kind.MISWIRED:
                return Outcome(Status(code), message, disposition=Disposition.MISWIRED)
            case _Kind.ILLEGAL:
                return illegal(message)
            case _Kind.TOO_LARGE:
                return too_large(int(message), self._bytes_max)
            case _Kind.CANCELLED:
                return CANCELLED_BY_US
            case _Kind.NO_MESSAGE:
                return NO_MESSAGE
            case _:
                raise AssertionError(f"a kind of end that is not known: {kind}")

    def cancel(self, deliveries: Collection[Delivery]) -> None:
        self._port.cancel(deliveries)

    async def close(self, drain_ms: float) -> None:
        if not self._closed:
            self._closed = True
            if len(self._port) and drain_ms > 0:
                self._drained = self._loop.create_future()
                await asyncio.wait([self._drained], timeout=drain_ms / 1_000.0)
            self._port.cancel_all()
            self._arrived()
            self._loop.remove_reader(self._port.fileno())
            self._port.close()
            await self._lease.release()
        self._late.hand_over()
