"""An App behind a real socket, and the calls that Pelton would make to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import grpc.aio
import pytest

from pelton.event import Attributes, Event
from pelton.sdk.app import App
from pelton.sdk.context import Context
from pelton.sdk.serve import Server
from pelton.v1 import event_pb2, handler_pb2, handler_pb2_grpc

#: No test waits longer than this for anything.
PATIENCE_S = 20.0


def event(value: bytes | None = b"{}", *, type: str = "pelton.record", offset: int = 0) -> Event:
    attributes = None if type == "pelton.record" else Attributes(id="1", source="/test", type=type)
    return Event("events", 0, offset, b"key", value, value, (), 0, attributes)


def context(subscription: str = "notify-shop", **more: Any) -> Context:
    return Context(f"{subscription}/events/0/0", subscription, **more)


def delivery(
    value: bytes | None = b"{}",
    *,
    token: int = 0,
    type: str = "pelton.record",
    offset: int = 0,
    subscription: str = "notify-shop",
    parameters: Mapping[str, str] | None = None,
    attempt: int = 1,
) -> handler_pb2.Delivery:
    plain = type == "pelton.record"
    return handler_pb2.Delivery(
        delivery_id=f"notify-shop/events/0/{offset}",
        subscription=subscription,
        event=event_pb2.Event(
            id=f"events/0/{offset}" if plain else "1",
            source="/topics/events" if plain else "/test",
            type=type,
            key=b"key",
            value=value,
            position=event_pb2.Position(topic="events", partition=0, offset=offset),
        ),
        parameters=parameters or {},
        attempt=attempt,
        token=token,
    )


class Target:
    """A served App, as its caller sees it."""

    def __init__(self, server: Server, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.channel = channel
        self.stub: Any = handler_pb2_grpc.EventHandlerStub(channel)

    async def handle(self, message: handler_pb2.Delivery, timeout: float = PATIENCE_S) -> handler_pb2.Reply:
        reply: handler_pb2.Reply = await self.stub.Handle(message, timeout=timeout)
        return reply

    async def refused(self, message: handler_pb2.Delivery, timeout: float = PATIENCE_S) -> tuple[str, str]:
        """The status and details of a call that must fail."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.handle(message, timeout)
        return caught.value.code().name, caught.value.details() or ""

    def stream(self) -> Stream:
        return Stream(self.stub.HandleStream())


class Stream:
    """Pelton's end of a HandleStream."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.acked: list[int] = []
        self.settled: dict[int, handler_pb2.Settlement] = {}
        #: How many settlement messages came.
        self.messages = 0

    async def send(
        self,
        deliveries: Iterable[handler_pb2.Delivery] = (),
        *,
        subscription: str = "",
        parameters: Mapping[str, str] | None = None,
        timeout_ms: int = 20_000,
        cancelled: Iterable[int] = (),
    ) -> None:
        batch = handler_pb2.DeliveryBatch(
            deliveries=deliveries,
            subscription=subscription,
            parameters=parameters or {},
            cancelled=cancelled,
        )
        batch.timeout.FromMilliseconds(timeout_ms)
        await self.call.write(batch)

    async def until(self, enough: Callable[[], object]) -> None:
        """Read settlements until `enough()`."""
        async with asyncio.timeout(PATIENCE_S):
            while not enough():
                message = await self.call.read()
                assert message is not grpc.aio.EOF, "the stream ended early"
                self._take(message)

    async def close(self) -> grpc.StatusCode:
        """Half-close, read to the end, and say how it ended."""
        await self.call.done_writing()
        return await self.ended()

    async def ended(self) -> grpc.StatusCode:
        async with asyncio.timeout(PATIENCE_S):
            while (message := await self.call.read()) is not grpc.aio.EOF:
                self._take(message)
            code: grpc.StatusCode = await self.call.code()
            return code

    def _take(self, message: handler_pb2.SettlementBatch) -> None:
        self.messages += 1
        self.acked += message.acked
        for settlement in message.settlements:
            assert settlement.token not in self.settled, "settled twice"
            self.settled[settlement.token] = settlement

    @property
    def all(self) -> list[int]:
        """Every token that was settled; one that was settled twice stands here twice."""
        return sorted([*self.acked, *self.settled])


@pytest.fixture
async def serving() -> AsyncIterator[Callable[..., Any]]:
    """`await serving(app)` gives its Target; everything is stopped at the end of the test."""
    async with AsyncExitStack() as stack:

        async def serve(app: App, **options: Any) -> Target:
            server = await stack.enter_async_context(Server(app, "127.0.0.1:0", **options))
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
            await stack.enter_async_context(channel)
            return Target(server, channel)

        yield serve


async def eventually(true: Callable[[], object], what: str) -> None:
    """Wait until it is true; a poll, because it is about another thread or another process."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not true():  # noqa: ASYNC110 - nothing here could set an event
                await asyncio.sleep(0.005)
    except TimeoutError:
        pytest.fail(f"never happened: {what}")
