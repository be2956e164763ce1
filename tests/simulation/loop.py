"""An event loop in which nothing sleeps: when nobody has anything to do, time jumps to the next timer.

Only fakes can run on it: it has no sockets, no threads and no signals. What is due at one moment runs in
the order in which it was asked for, so two runs with the same callbacks are the same run, to the last
step.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from typing import Any, cast

__all__ = ["BusyLoop", "VirtualLoop"]

#: A jump lands a little behind its timer, as a real clock does: one that landed exactly on it would find, a
#: rounding error later, that the timer is not due, and jump to the same moment for ever.
LATE_S = 1e-6
#: More callbacks than any schedule needs: something asks to be called again and again.
CALLBACKS_MAX = 400_000


class BusyLoop(Exception):
    """The same few callbacks chase each other without an end."""


class VirtualLoop:
    """As much of a loop as tasks, events and timers need. `now` is its clock, in seconds."""

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self.now = 0.0
        self._on_error = on_error
        #: When, in which order it was asked for, and what.
        self._due: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._number = 0
        self._stopping = False

    @property
    def as_loop(self) -> asyncio.AbstractEventLoop:
        """It is none by its type: of the fifty methods of one it has those that are used."""
        return cast("asyncio.AbstractEventLoop", self)

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> None:
        self._number += 1
        heapq.heappush(self._due, (when, self._number, callback, args))

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> None:
        self.call_at(self.now + delay, callback, *args)

    def call_soon(self, callback: Callable[..., object], *args: Any, context: object = None) -> None:
        self.call_at(self.now, callback, *args)

    def create_task(self, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.Task(coro, loop=self.as_loop)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self.as_loop)

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self._on_error(context.get("exception") or RuntimeError(context["message"]))

    def stop(self) -> None:
        self._stopping = True

    def run_forever(self) -> None:
        """Until `stop`, or until nothing is due and nothing ever will be."""
        due, callbacks = self._due, 0
        asyncio._set_running_loop(self.as_loop)
        try:
            while due and not self._stopping:
                when, _, callback, args = heapq.heappop(due)
                if when > self.now:
                    self.now = when + LATE_S
                callbacks += 1
                if callbacks > CALLBACKS_MAX:
                    raise BusyLoop(f"{callbacks} callbacks, and still no end")
                try:
                    callback(*args)
                except Exception as error:
                    self._on_error(error)
        finally:
            asyncio._set_running_loop(None)
