"""Drives one transport the way the pump does, in any mode, and keeps what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from pelton.core.delivery import Delivery, State
from pelton.core.outcome import Outcome
from pelton.event import Event
from pelton.rpc.channels import Channels
from pelton.rpc.choose import make_transport
from pelton.rpc.metadata import CallMetadata
from pelton.rpc.transport import Call, Metadata, Result
from pelton.subscription import DeliveryMode, Parameter, Subscription, Target, TransportChoice
from pelton.v1 import event_pb2, handler_pb2
from tests.conformance.target import HANDLE, HANDLE_STREAM, UNARY
from tests.core.rig import Rig

__all__ = ["Driver", "make_delivery", "make_subscription"]

_METHODS = {DeliveryMode.UNARY: UNARY, DeliveryMode.HANDLER: HANDLE, DeliveryMode.STREAM: HANDLE_STREAM}
_ENGINE = Rig(name="notify-shop").engine


def make_subscription(
    mode: DeliveryMode, target: Target, transport: TransportChoice = TransportChoice.AIO
) -> Subscription:
    return Subscription(
        name="notify-shop",
        topics=("events",),
        target=target,
        method=_METHODS[mode],
        group="pelton.notify-shop",
        mode=mode,
        transport=transport,
        parameters=(Parameter("priority", constant="high"),),
    )


def make_delivery(offset: int, value: bytes = b"") -> Delivery:
    event = Event("events", 0, offset, b"key", value, value, (), 0)
    delivery = Delivery(event, _ENGINE, None, len(value), State.CALLING)
    delivery.attempt = 1
    return delivery


class Driver:
    """One transport on one target."""

    def __init__(
        self,
        mode: DeliveryMode,
        target: Target,
        channels: Channels | None = None,
        transport: TransportChoice = TransportChoice.AIO,
    ) -> None:
        self.mode = mode
        self.channels = channels or Channels()
        subscription = make_subscription(mode, target, transport)
        self.transport = make_transport(subscription, self.channels, self._on_results)
        self.results: list[Result] = []
        self.batches: list[list[Result]] = []
        self._metadata = CallMetadata(subscription)
        self._waiting: dict[Delivery, asyncio.Future[Outcome]] = {}
        self._offset = 0
        self._inside = False
        #: Done once, inside the next hand-over: the pump answers results with calls.
        self.then: Callable[[], None] | None = None

    def _on_results(self, results: list[Result]) -> None:
        assert not self._inside, "results came from inside submit or cancel"
        assert results, "an empty hand-over"
        self.batches.append(results)
        for delivery, outcome in results:
            self.results.append((delivery, outcome))
            # KeyError here is a second result for one call.
            self._waiting.pop(delivery).set_result(outcome)
        then, self.then = self.then, None
        if then is not None:
            then()

    def body(self, name: str, padding: int = 0) -> bytes:
        if self.mode is DeliveryMode.UNARY:
            return b"name:" + name.encode() + bytes(padding)
        value = name.encode() + bytes(padding)
        return handler_pb2.Delivery(event=event_pb2.Event(value=value)).SerializeToString()

    def submit(
        self,
        *names: str,
        timeout_ms: float = 10_000.0,
        metadata: Metadata | None = None,
        padding: int = 0,
        timeouts_ms: Mapping[str, float] = {},  # never changed
    ) -> list[tuple[Delivery, asyncio.Future[Outcome]]]:
        """Submit one call for each name; what the target does with it is its script."""
        calls: list[Call] = []
        submitted: list[tuple[Delivery, asyncio.Future[Outcome]]] = []
        for name in names:
            delivery = make_delivery(self._offset, name.encode())
            self._offset += 1
            common, own = self._metadata.of(delivery, {}) if metadata is None else ((), metadata)
            limit_ms = timeouts_ms.get(name, timeout_ms)
            calls.append(Call(delivery, self.body(name, padding), own, limit_ms, common))
            future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            self._waiting[delivery] = future
            submitted.append((delivery, future))
        self._inside = True
        self.transport.submit(calls)
        self._inside = False
        return submitted

    def submit_again(
        self, delivery: Delivery, name: str, *, timeout_ms: float = 10_000.0
    ) -> asyncio.Future[Outcome]:
        """The next attempt of a delivery."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[delivery] = future
        common, own = self._metadata.of(delivery, {})
        self.transport.submit([Call(delivery, self.body(name), own, timeout_ms, common)])
        return future

    async def call(
        self, name: str, *, timeout_ms: float = 10_000.0, metadata: Metadata | None = None, padding: int = 0
    ) -> Outcome:
        """One call, to its end."""
        ((_, future),) = self.submit(name, timeout_ms=timeout_ms, metadata=metadata, padding=padding)
        async with asyncio.timeout(20):
            return await future

    def cancel(self, *deliveries: Delivery) -> None:
        self._inside = True
        self.transport.cancel(deliveries)
        self._inside = False

    async def close(self, drain_ms: float = 0.0) -> None:
        await self.transport.close(drain_ms)
        assert self.transport.in_flight == 0
        assert not self._waiting, "calls that never got a result"
        await self.channels.close()
