"""Registration, selection, and what a handler's end means; no server, no socket."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pelton.errors import HandlerError
from pelton.event import Event
from pelton.sdk.app import App
from pelton.sdk.context import Context, Failure
from pelton.sdk.decode import Json
from pelton.sdk.replies import DeadLetter, Drop, Retry
from tests.sdk.conftest import context, event, eventually

if TYPE_CHECKING:
    from decimal import Decimal


async def test_the_most_exact_handler_is_called() -> None:
    app, called = App("shop"), []

    def register(name: str, **selector: str) -> None:
        async def handle(event: Event) -> None:
            called.append(name)

        app.handler(**selector)(handle)

    register("both", type="order", subscription="a")
    register("type", type="order")
    register("subscription", subscription="a")
    register("neither")
    for type_, subscription in (("order", "a"), ("order", "b"), ("x", "a"), ("x", "b")):
        assert await app.handle(event(type=type_), context(subscription)) is None
    register("type of c", type="paid")
    register("subscription c", subscription="c")
    assert await app.handle(event(type="paid"), context("c")) is None
    assert called == ["both", "type", "subscription", "neither", "type of c"]


async def test_nobody_for_an_event_is_a_dead_letter() -> None:
    app = App("shop")

    @app.handler(type="order")
    async def handle(event: Event) -> None:
        pytest.fail("called")

    assert await app.handle(event(), context()) == DeadLetter("no handler in shop for type 'pelton.record'")


@pytest.mark.parametrize("selector", [{}, {"type": "order"}, {"type": "order", "subscription": "a"}])
def test_two_for_one_selector_are_refused(selector: dict[str, str]) -> None:
    app = App("shop")

    async def first(event: Event) -> None: ...
    async def second(event: Event) -> None: ...

    app.handler(**selector)(first)
    with pytest.raises(HandlerError, match=r"second: .*first already handles .*another type or subscription"):
        app.handler(**selector)(second)


async def test_functions_are_registered_as_they_are() -> None:
    app = App("shop")

    class Service:
        def __init__(self) -> None:
            self.seen: list[object] = []

        async def method(self, order: dict[str, Any], /, *, unused: int = 0) -> None:
            raise AssertionError

        async def bound(self, about: Context, order: Json, extra: int = 3) -> None:
            self.seen.append((about.attempt, order, extra))

        def __call__(self, order: str) -> None:
            self.seen.append(order)

    service = Service()
    assert app.handler(service.bound) == service.bound
    app.handler(type="text")(service)
    app.handler(type="partial")(functools.partial(service.bound, extra=4))
    await app.handle(event(b"[1]"), context(attempt=2))
    await app.handle(event(b"[1]", type="text"), context())
    await app.handle(event(b"[2]", type="partial"), context())
    assert service.seen == [(2, [1], 3), "[1]", (1, [2], 4)]
    with pytest.raises(HandlerError, match="'order' is passed by name; remove the /"):
        app.handler(type="x")(service.method)


async def test_annotations_may_name_local_classes() -> None:
    app, seen = App("shop"), []

    @dataclass
    class Local:
        id: int

    @app.handler
    async def bare(order: Local) -> None:
        seen.append(order)

    @app.handler(type="order")
    async def called(order: Local) -> None:
        seen.append(order)

    await app.handle(event(b'{"id": 1}'), context())
    await app.handle(event(b'{"id": 2}', type="order"), context())
    assert seen == [Local(1), Local(2)]


def nothing() -> None: ...
def untyped(event): ...  # type: ignore[no-untyped-def]
def two(event: Event, other: Event) -> None: ...
def only_context(context: Context) -> None: ...
def two_contexts(event: Event, one: Context, two: Context) -> None: ...
def maybe_context(event: Event, context: Context | None) -> None: ...
def unreadable(event: Decimal) -> None: ...
def unknown(event: complex) -> None: ...
def anything(event: Any) -> None: ...
def generator(event: Event) -> Iterator[int]:
    yield 1


async def async_generator(event: Event) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (nothing, "takes one parameter for the event, and may take a Context; found none"),
        (untyped, "parameter 'event' has no annotation; annotate it with Event, bytes"),
        (two, "found 'event', 'other'"),
        (only_context, "found none"),
        (two_contexts, "two parameters are annotated with Context; remove one"),
        (maybe_context, "annotate 'context' with Context alone"),
        (unreadable, "name 'Decimal' is not defined.*import it outside `if TYPE_CHECKING`"),
        (unknown, "parameter 'event': complex cannot be made from JSON; annotate it with"),
        (anything, "does not say how to decode an event; annotate it with"),
        (generator, "cannot be a generator; return instead of yield"),
        (async_generator, "cannot be a generator"),
    ],
)
def test_what_cannot_be_a_handler_is_told_where_and_why(function: Callable[..., Any], why: str) -> None:
    app = App("shop")
    with pytest.raises(HandlerError, match=rf"test_app\.{function.__name__}: .*{why}"):
        app.handler(function)
    assert not app.has_handlers


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize(
    ("end", "answer"),
    [
        (None, None),
        (Retry(after=1), Retry(after=1)),
        (DeadLetter("bad"), DeadLetter("bad")),
        (ValueError("no"), Failure(2, "ValueError: no")),
        (ValueError("x" * 999), Failure(2, "ValueError: " + "x" * 256)),
        (StopIteration(), Failure(2, "RuntimeError: coroutine raised StopIteration")),
        (False, Failure(2, "TypeError: {name} returned bool, not None, Retry, Drop or DeadLetter")),
        (Retry, Failure(2, "TypeError: {name} returned type, not None, Retry, Drop or DeadLetter")),
    ],
)
async def test_what_an_end_means(sync: bool, end: Any, answer: Any) -> None:
    app = App("shop")

    def handle(event: Event) -> Any:
        if isinstance(end, Exception) and not isinstance(end, Retry):
            raise end
        return end

    async def handle_async(event: Event) -> Any:
        return handle(event)

    function = handle if sync else handle_async
    app.handler(function)
    if isinstance(answer, Failure):
        name = f"{function.__module__}.{function.__qualname__}"
        answer = answer._replace(message=answer.message.format(name=name))
    assert await app.handle(event(), context()) == answer
    assert app.close() == 0


async def test_an_exception_whose_text_cannot_be_made_is_still_a_failure() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    app = App("shop")

    @app.handler
    async def handle(event: Event) -> None:
        raise Broken

    answer = await app.handle(event(), context())
    assert isinstance(answer, Failure)
    assert answer.message.endswith("Broken: (its text cannot be made)")


async def test_a_failure_is_logged_with_what_it_failed_on(caplog: pytest.LogCaptureFixture) -> None:
    app = App("shop")

    @app.handler
    async def handle(event: Event) -> None:
        raise ValueError("no")

    await app.handle(event(), context(attempt=3))
    [record] = caplog.records
    assert record.getMessage().endswith("handle failed on notify-shop/events/0/0, attempt 3")
    assert record.exc_info is not None
    assert vars(record)["delivery_id"] == "notify-shop/events/0/0"


async def test_an_undecodable_event_never_reaches_the_handler() -> None:
    app = App("shop")

    @app.handler
    async def handle(order: dict[str, Any]) -> Drop:
        return Drop("called")

    answer = await app.handle(event(b"["), context())
    assert isinstance(answer, Failure)
    assert answer.code == 3
    assert "handle: the event's value is not JSON" in answer.message


async def test_sync_handlers_run_in_a_bounded_number_of_threads_with_their_context() -> None:
    app, go = App("shop", threads=2), threading.Event()
    request: contextvars.ContextVar[int] = contextvars.ContextVar("request")
    seen: list[tuple[int, int]] = []

    @app.handler
    def handle(event: Event) -> None:
        seen.append((request.get(), threading.get_ident()))
        assert go.wait(20)

    async def call(number: int) -> None:
        request.set(number)
        assert await app.handle(event(), context()) is None

    calls = [asyncio.ensure_future(call(number)) for number in range(6)]
    await eventually(lambda: len(seen) == 2, "two run")
    calls[5].cancel()  # one that waits for a thread
    calls[0].cancel()  # one that runs: its thread is not free before it ends
    await asyncio.wait({calls[0], calls[5]})
    assert len(seen) == 2
    go.set()
    await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(number for number, _ in seen) == [0, 1, 2, 3, 4]
    threads = {ident for _, ident in seen}
    assert len(threads) == 2
    assert threading.get_ident() not in threads
    await eventually(lambda: app.close() == 0, "all threads are done")


async def test_a_cancel_is_passed_on() -> None:
    app, started = App("shop"), asyncio.Event()

    @app.handler
    async def handle(event: Event) -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(app.handle(event(), context()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_limits_must_be_limits() -> None:
    for wrong in ({"threads": 0}, {"concurrency": 0}):
        with pytest.raises(HandlerError, match="must be at least 1"):
            App("shop", **wrong)
