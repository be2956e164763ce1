"""Where sync handlers run: a bounded number of threads.

Not a `ThreadPoolExecutor`, for two reasons. Nothing may queue up behind threads that hang (its queue has no
bound): here a call waits on the event loop, where it can be cancelled, until a thread is free. And a handler
that never returns must not keep the process from ending after its drain: these are daemon threads, and what
they were doing is attempted again, since nobody settled it.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

__all__ = ["Threads"]

#: What a call came to: its result, or what it raised.
_End = tuple[Any, BaseException | None]
_Job = tuple[contextvars.Context, Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[_End]"]


class Threads:
    """Runs calls off the event loop, at most `size` at once. Threads are started when they are needed.

    Belongs to one event loop, the one of its first call.
    """

    def __init__(self, size: int) -> None:
        self._free = asyncio.Semaphore(size)
        #: Never longer than the number of free threads: a permit is taken before a job is put here, and given
        #: back only when its thread is done with it.
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._started = 0
        self._busy = 0

    @property
    def busy(self) -> int:
        """Calls that run now, those included that nobody waits for any more."""
        return self._busy

    async def run(self, call: Callable[[], Any]) -> Any:
        """Run `call` in a thread, with this task's context variables.

        A cancel ends the waiting at once; the call itself cannot be stopped and holds its thread to its end.
        """
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_End] = loop.create_future()
        if self._busy == self._started:
            self._started += 1
            threading.Thread(target=self._work, name=f"pelton-handler-{self._started}", daemon=True).start()
        self._busy += 1
        self._jobs.put((contextvars.copy_context(), call, loop, done))
        result, error = await done
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """Let idle threads end, and busy ones when they are done. Waits for nothing."""
        for _ in range(self._started):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            context, call, loop, done = job
            end: _End
            try:
                end = (context.run(call), None)
            except BaseException as error:  # a thread has nobody else to tell
                end = (None, error)
            try:
                loop.call_soon_threadsafe(self._finish, done, end)
            except RuntimeError:  # the loop is closed: nobody waits
                return
            del job, context, call, done, end  # or an idle thread keeps the last event alive

    def _finish(self, done: asyncio.Future[_End], end: _End) -> None:
        self._busy -= 1
        self._free.release()
        if not done.done():
            done.set_result(end)
