"""The App: which function handles which events, and what its end means.

No gRPC here: `serve.py` hosts an App, and a test may call `App.handle` directly.

A handler's end is one of three: None acks, a `Verdict` (returned or raised) says what else to do, a
`Failure` is a gRPC code with a message. Nothing but None acks: a handler that returns anything else is at
fault, because `return False` was surely not meant as "done".
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from pelton.errors import HandlerError
from pelton.event import Event
from pelton.sdk.context import Context, Failure
from pelton.sdk.decode import Undecodable
from pelton.sdk.handler import Handler, Namespace, handler_of
from pelton.sdk.replies import DeadLetter, Verdict
from pelton.sdk.threads import Threads

if TYPE_CHECKING:
    from pelton.sdk.serve import Tls

__all__ = ["Answer", "App"]

#: What a handler may return.
Reply = Verdict | None
HandlerFunction = TypeVar("HandlerFunction", bound=Callable[..., Reply | Awaitable[Reply]])

#: How an attempt ended; None acks.
Answer = Verdict | Failure | None

#: Of an exception's text; what is longer belongs in the handler's own log.
ERROR_CHARS_MAX: Final = 256

_UNKNOWN: Final = 2
_INVALID_ARGUMENT: Final = 3

_log = logging.getLogger("pelton.sdk")


class App:
    """The handlers of one service.

    `concurrency`: handlers that run at once, over all calls and streams. `threads`: sync handlers that run at
    once; each needs a thread of its own.
    """

    def __init__(self, name: str, *, concurrency: int = 1_000, threads: int = 32) -> None:
        if concurrency < 1 or threads < 1:
            raise HandlerError(f"App({name!r}): concurrency and threads must be at least 1")
        self.name = name
        self.concurrency = concurrency
        self._thread_count = threads
        self._threads: Threads | None = None
        #: By (event type, subscription); None stands for any.
        self._handlers: dict[tuple[str | None, str | None], Handler] = {}

    @overload
    def handler(self, function: HandlerFunction, /) -> HandlerFunction: ...

    @overload
    def handler(
        self, /, *, type: str | None = None, subscription: str | None = None
    ) -> Callable[[HandlerFunction], HandlerFunction]: ...

    def handler(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        type: str | None = None,
        subscription: str | None = None,
    ) -> Callable[..., Any]:
        """Register a function for events of this type, of this subscription, of both, or for all others.

        The most exact one is called: type and subscription, then type, then subscription, then neither.
        """
        # Where the decorator stands: annotations may name classes that are local to that function.
        here = inspect.currentframe()
        namespace = here.f_back.f_locals if here is not None and here.f_back is not None else {}

        def register(function: HandlerFunction) -> HandlerFunction:
            self._register(function, (type, subscription), namespace)
            return function

        return register if function is None else register(function)

    def _register(
        self, function: Callable[..., object], selector: tuple[str | None, str | None], namespace: Namespace
    ) -> None:
        handler = handler_of(function, namespace)
        taken = self._handlers.get(selector)
        if taken is not None:
            type_, subscription = selector
            told = [f"type={type_!r}"] * (type_ is not None)
            told += [f"subscription={subscription!r}"] * (subscription is not None)
            raise HandlerError(
                f"{handler.name}: {taken.name} already handles {' and '.join(told) or 'every event'};"
                " give one of them another type or subscription"
            )
        self._handlers[selector] = handler

    @property
    def has_handlers(self) -> bool:
        return bool(self._handlers)

    def _handler_for(self, event: Event, subscription: str) -> Handler | None:
        handlers, type_ = self._handlers, event.type
        return (
            handlers.get((type_, subscription))
            or handlers.get((type_, None))
            or handlers.get((None, subscription))
            or handlers.get((None, None))
        )

    async def handle(self, event: Event, context: Context) -> Answer:
        """Hand one event to its handler. Never raises but when it is cancelled itself."""
        handler = self._handler_for(event, context.subscription)
        if handler is None:
            return DeadLetter(f"no handler in {self.name} for type {event.type!r}")
        try:
            argument = handler.decode(event)
        except Undecodable as error:
            return Failure(_INVALID_ARGUMENT, f"{handler.name}: {error}")
        except Exception as error:
            # A dataclass's or a model's own code; it will say the same of this event each time.
            self._log(handler, context, error)
            return Failure(_INVALID_ARGUMENT, _describe(error))
        try:
            if handler.is_async:
                reply = await handler.call(argument, context)
            else:
                reply = await self._pool().run(lambda: handler.call(argument, context))
        except Verdict as verdict:
            return verdict.with_traceback(None)  # it may be a constant: each raise would add to its traceback
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Not us: something the handler awaited was cancelled. Unanswered, the event would hang.
            return self._failed(handler, context, error)
        except Exception as error:
            return self._failed(handler, context, error)
        if reply is None or isinstance(reply, Verdict):
            return reply
        wrong = TypeError(
            f"{handler.name} returned {type(reply).__name__}, not None, Retry, Drop or DeadLetter"
        )
        return self._failed(handler, context, wrong)

    def _failed(self, handler: Handler, context: Context, error: BaseException) -> Failure:
        self._log(handler, context, error)
        return Failure(_UNKNOWN, _describe(error))

    def _log(self, handler: Handler, context: Context, error: BaseException) -> None:
        attempt = {
            "handler": handler.name,
            "delivery_id": context.delivery_id,
            "subscription": context.subscription,
            "attempt": context.attempt,
        }
        _log.error(
            "%(handler)s failed on %(delivery_id)s, attempt %(attempt)d",
            attempt,
            exc_info=error,
            extra=attempt,
        )

    def _pool(self) -> Threads:
        if self._threads is None:
            self._threads = Threads(self._thread_count)
        return self._threads

    def close(self) -> int:
        """Let the threads go; says how many sync handlers still run. The App can be used again."""
        threads, self._threads = self._threads, None
        if threads is None:
            return 0
        threads.close()
        return threads.busy

    async def serve(
        self,
        address: str,
        *,
        tls: Tls | None = None,
        max_message_bytes: int = 4 * 1024 * 1024,
        drain_timeout: float = 15.0,
    ) -> None:
        """Serve the handlers over gRPC until SIGTERM, SIGINT or a cancel; then drain and return.

        `drain_timeout`: seconds that running handlers have to finish.
        """
        from pelton.sdk.serve import Server, serve_until_stopped

        server = Server(
            self, address, tls=tls, max_message_bytes=max_message_bytes, drain_timeout=drain_timeout
        )
        await serve_until_stopped(server)

    def run(
        self,
        address: str,
        *,
        tls: Tls | None = None,
        max_message_bytes: int = 4 * 1024 * 1024,
        drain_timeout: float = 15.0,
    ) -> None:
        """`serve`, with an event loop of its own: the last line of a service that does nothing else."""
        from pelton.sdk.serve import run

        run(self.serve(address, tls=tls, max_message_bytes=max_message_bytes, drain_timeout=drain_timeout))


def _describe(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = "(its text cannot be made)"
    return f"{type(error).__qualname__}: {text[:ERROR_CHARS_MAX]}"
