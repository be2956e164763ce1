"""HandleStream over a real socket: batches down, settlements up, and the four ends of an attempt."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from pelton.event import Event
from pelton.sdk import stream as stream_module
from pelton.sdk.app import App
from pelton.sdk.context import Context
from pelton.sdk.replies import DeadLetter, Drop, Retry, Verdict
from pelton.v1 import handler_pb2
from tests.sdk.conftest import PATIENCE_S, Target, delivery, eventually

Serving = Callable[..., Any]


async def test_every_delivery_is_settled_once_and_acks_are_packed(serving: Serving) -> None:
    app = App("shop")

    @app.handler
    async def handle(event: Event) -> Verdict | None:
        match event.offset % 10:
            case 1:
                return Retry(after=1, reason="later")
            case 2:
                raise Drop("old")
            case 3:
                raise DeadLetter("bad")
            case 4:
                raise OSError("disk")
        return None

    target: Target = await serving(app)
    stream = target.stream()
    for start in range(0, 2_000, 500):
        await stream.send(delivery(token=n, offset=n) for n in range(start, start + 500))
    assert await stream.close() == grpc.StatusCode.OK
    assert stream.all == list(range(2_000))
    assert len(stream.acked) == 1_200
    assert stream.settled[1].reply.retry.after.ToMilliseconds() == 1_000
    assert stream.settled[12].reply.drop.reason == "old"
    assert stream.settled[23].reply.dead_letter.reason == "bad"
    assert (stream.settled[4].code, stream.settled[4].message) == (2, "OSError: disk")
    assert stream.messages <= 200, "settlements must go in batches"


async def test_what_is_said_once_for_the_batch_reaches_each_delivery(serving: Serving) -> None:
    app, seen = App("shop"), []

    @app.handler(subscription="notify-shop")
    async def handle(event: Event, context: Context) -> None:
        seen.append(context)

    target: Target = await serving(app)
    stream = target.stream()
    first = delivery(token=1, subscription="")
    second = delivery(token=2, subscription="", offset=1, parameters={"priority": "low", "own": "1"})
    second.event.attributes["traceparent"] = "00-cc-dd-01"
    await stream.send(
        [first, second],
        subscription="notify-shop",
        parameters={"priority": "high", "all": "x"},
        timeout_ms=9_000,
    )
    assert await stream.close() == grpc.StatusCode.OK
    assert stream.acked == [1, 2]
    assert [context.subscription for context in seen] == ["notify-shop"] * 2
    assert dict(seen[0].parameters) == {"priority": "high", "all": "x"}
    assert dict(seen[1].parameters) == {"priority": "low", "all": "x", "own": "1"}
    assert seen[1].trace.traceparent == "00-cc-dd-01"
    assert seen[0].remaining is not None
    assert 0 < seen[0].remaining <= 9.0


async def test_settlements_do_not_wait_for_their_batch(serving: Serving) -> None:
    app, go = App("shop"), asyncio.Event()

    @app.handler
    async def handle(event: Event) -> None:
        if event.offset == 0:
            await go.wait()

    target: Target = await serving(app)
    stream = target.stream()
    await stream.send([delivery(token=1, offset=0), delivery(token=2, offset=1)])
    await stream.until(lambda: stream.acked)
    assert stream.acked == [2]
    go.set()
    assert await stream.close() == grpc.StatusCode.OK
    assert stream.acked == [2, 1]


@pytest.mark.parametrize("sync", [False, True])
async def test_cancelled_tokens_end_their_handler_and_are_settled_as_cancelled(
    serving: Serving, sync: bool
) -> None:
    app, release = App("shop"), threading.Event()
    started: list[int] = []
    cancelled: list[int] = []

    if sync:

        @app.handler
        def block(event: Event) -> None:
            started.append(event.offset)
            release.wait(PATIENCE_S)
    else:

        @app.handler
        async def wait(event: Event) -> None:
            started.append(event.offset)
            try:
                await eventually(release.is_set, "released")
            except asyncio.CancelledError:
                cancelled.append(event.offset)
                raise

    target: Target = await serving(app)
    stream = target.stream()
    await stream.send([delivery(token=7, offset=7), delivery(token=8, offset=8)])
    await eventually(lambda: len(started) == 2, "both run")
    await stream.send(cancelled=[7, 99])
    if not sync:
        await eventually(lambda: cancelled, "the handler is cancelled")
    await stream.send([delivery(token=9, offset=9)])
    await eventually(lambda: len(started) == 3, "the one after it runs, so the cancel has been read")
    release.set()
    assert await stream.close() == grpc.StatusCode.OK
    assert sorted(stream.acked) == [8, 9]
    assert {token: settlement.code for token, settlement in stream.settled.items()} == {7: 1}
    assert cancelled == ([] if sync else [7])


async def test_the_timeout_of_a_batch_is_enforced(serving: Serving) -> None:
    app, cancelled = App("shop", concurrency=1), []

    @app.handler
    async def hang(event: Event) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(event.offset)
            raise

    target: Target = await serving(app)
    stream = target.stream()
    await stream.send([delivery(token=1, offset=1), delivery(token=2, offset=2)], timeout_ms=100)
    await stream.until(lambda: len(stream.settled) == 2)
    assert {settlement.code for settlement in stream.settled.values()} == {4}
    assert stream.settled[1].message == "the handler has not finished within 0.1 s"
    assert stream.settled[2].message == "no handler was free within 0.1 s"
    assert cancelled == [1]
    assert await stream.close() == grpc.StatusCode.OK
    assert stream.all == [1, 2]


async def test_a_handler_that_ends_after_its_timeout_is_silent(serving: Serving) -> None:
    app = App("shop")

    @app.handler
    async def stubborn(event: Event) -> Drop:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return Drop("too late")
        raise AssertionError

    target: Target = await serving(app)
    stream = target.stream()
    await stream.send([delivery(token=1)], timeout_ms=50)
    assert await stream.close() == grpc.StatusCode.OK
    assert stream.all == [1]
    assert stream.settled[1].code == 4


async def test_a_cancel_from_within_is_a_failure_and_not_silence(serving: Serving) -> None:
    """Something that the handler awaits was cancelled, not the handler: unanswered, the event would hang."""
    app = App("shop")

    @app.handler
    async def handle(event: Event) -> None:
        inner = asyncio.ensure_future(asyncio.sleep(60))
        inner.cancel()
        await inner

    target: Target = await serving(app)
    stream = target.stream()
    await stream.send([delivery(token=1)])
    await stream.until(lambda: stream.settled)
    assert (stream.settled[1].code, stream.settled[1].message) == (2, "CancelledError: ")
    assert await stream.close() == grpc.StatusCode.OK


async def test_a_delivery_without_event_is_refused(serving: Serving) -> None:
    app = App("shop")

    @app.handler
    async def handle(event: Event) -> None:
        pytest.fail("called")

    target: Target = await serving(app)
    stream = target.stream()
    await stream.send([handler_pb2.Delivery(delivery_id="a/b/0/0", token=3)])
    assert await stream.close() == grpc.StatusCode.OK
    assert stream.settled[3].code == 3


async def test_stop_finishes_what_runs_and_leaves_the_rest_unsettled(serving: Serving) -> None:
    app, go, started = App("shop", concurrency=2), asyncio.Event(), []

    @app.handler
    async def handle(event: Event) -> None:
        started.append(event.offset)
        await go.wait()

    target: Target = await serving(app)
    stream = target.stream()
    await stream.send(delivery(token=n, offset=n) for n in range(5))
    await eventually(lambda: len(started) == 2, "two run")
    stop = asyncio.ensure_future(target.server.stop())
    await eventually(lambda: target.server._stopping.is_set(), "it stops")
    go.set()
    assert await stream.ended() == grpc.StatusCode.OK
    await stop
    assert stream.all == [0, 1]
    assert started == [0, 1]


async def test_a_broken_stream_cancels_its_handlers(serving: Serving) -> None:
    app, started, cancelled = App("shop"), [], []

    @app.handler
    async def hang(event: Event) -> None:
        started.append(event.offset)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(event.offset)
            raise

    target: Target = await serving(app)
    stream = target.stream()
    await stream.send(delivery(token=n, offset=n) for n in range(3))
    await eventually(lambda: len(started) == 3, "all run")
    stream.call.cancel()
    await eventually(lambda: sorted(cancelled) == [0, 1, 2], "all are cancelled")
    assert await target.server._calls.none_open.wait()


async def test_a_peer_that_never_listens_is_not_read_without_end(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "OPEN_MAX", 10)
    app, go, started = App("shop"), asyncio.Event(), []

    @app.handler
    async def handle(event: Event) -> None:
        started.append(event.offset)
        await go.wait()

    target: Target = await serving(app)
    stream = target.stream()
    for start in range(0, 30, 5):
        await stream.send(delivery(token=n, offset=n) for n in range(start, start + 5))
    await eventually(lambda: len(started) >= 10, "what there is room for runs")
    assert len(started) == 10
    go.set()
    assert await stream.close() == grpc.StatusCode.OK
    assert stream.all == list(range(30))
