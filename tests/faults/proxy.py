"""A TCP proxy in user space that spoils what passes through it, and can be told otherwise while it runs.

Between Pelton and its target, or between a Kafka client and a broker whose advertised listener is the proxy's
port. It has a thread and a loop of its own, so a test that waits does not hold it up; every method may be
called from any thread, and returns when it is done. Nothing is ever lost or changed in the middle of a
stream, unless `edit` changes it: what a black hole keeps back comes when it ends, as TCP's own repeats would
bring it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

__all__ = ["CLEAR", "Connection", "Proxy", "Way"]

HOST = "127.0.0.1"
#: What one direction of one connection may hold back: chunks of at most this size.
CHUNK_BYTES = 64 * 1024
CHUNKS_MAX = 64
#: What `edit` may add to one direction beside, and is not let go yet: single frames, a few for each call.
ADDED_MAX = 4096
#: Of one order to the proxy's thread; it does nothing that takes long.
ORDER_TIMEOUT_S = 30.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Way:
    """What happens to one direction of every connection."""

    #: Each chunk comes so much later; the jitter is drawn evenly from ± this. Order is kept.
    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    #: 0: as fast as it goes.
    bytes_per_s: float = 0.0
    #: Cut into pieces of this size, so far apart. 0: as they come.
    slice_bytes: int = 0
    slice_gap_ms: float = 0.0
    #: A connection ends, both ways, after so many bytes since it began. 0: never.
    limit_bytes: int = 0
    #: Nothing passes, not even the end of a connection, and nobody is told.
    black_hole: bool = False
    #: Nothing passes, and the connection ends after so long. 0: never.
    timeout_ms: float = 0.0
    #: The end of a connection passes so much later.
    slow_close_ms: float = 0.0

    @property
    def blocked(self) -> bool:
        return self.black_hole or self.timeout_ms > 0


CLEAR = Way()
HELD = Way(black_hole=True)


class Proxy:
    """From a port of its own to `target_port`, both on loopback. Use it as a context."""

    def __init__(self, target_port: int, *, port: int = 0, seed: int = 0) -> None:
        self.target_port = target_port
        self.port = port
        #: Connections that were taken, and bytes that were handed on, since the start.
        self.connections = 0
        self.up_bytes = 0
        self.down_bytes = 0
        #: Given connection, way (up or not) and what came; what it returns goes on instead.
        self.edit: Callable[[Connection, bool, bytes], bytes] | None = None
        self._random = random.Random(seed)
        self._up, self._down = CLEAR, CLEAR
        self._open: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    # -- Orders ----------------------------------------------------------------------------------------------

    def __enter__(self) -> Proxy:
        self._thread.start()
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._order(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ORDER_TIMEOUT_S)
        self._loop.close()

    def listen(self) -> None:
        """Take connections (again), on the same port."""
        self._order(self._listen())

    def refuse(self) -> None:
        """Connections are refused from now on; open ones go on."""
        self._order(self._refuse())

    def spoil(self, *, up: Way = CLEAR, down: Way = CLEAR) -> None:
        """From now on: `up` is what clients send, `down` what they are sent."""

        async def spoil() -> None:
            self._up, self._down = up, down
            for connection in self._open:
                connection.changed.set()

        self._order(spoil())

    def hold(self) -> None:
        """What clients send over the connections that are open now stays on its way; new ones are as ever."""
        self._order(self._hold(held=True))

    def let_go(self) -> None:
        """What was held arrives."""
        self._order(self._hold(held=False))

    def heal(self) -> None:
        """Nothing is spoilt any more, and connections are taken."""
        self.edit = None
        self.let_go()
        self.spoil()
        self.listen()

    def reset(self) -> int:
        """End every open connection by a TCP reset, to both sides; returns how many there were."""

        async def reset() -> int:
            count = len(self._open)
            for connection in list(self._open):
                connection.abort()
            return count

        return self._order(reset())

    def close(self) -> int:
        """End every open connection by a FIN, to both sides; returns how many there were."""

        async def close() -> int:
            count = len(self._open)
            for connection in list(self._open):
                connection.close()
            return count

        return self._order(close())

    def _order(self, doing: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(ORDER_TIMEOUT_S)

    # -- On the proxy's thread -------------------------------------------------------------------------------

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._taken, HOST, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _hold(self, *, held: bool) -> None:
        for connection in self._open:
            connection.held = held
            connection.changed.set()

    async def _end(self) -> None:
        await self._refuse()
        for connection in list(self._open):
            connection.abort()
        await asyncio.gather(*self._tasks)

    async def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            try:
                there = await asyncio.open_connection(HOST, self.target_port)
            except OSError:
                # Nobody listens: to the client that is a connection that ends at once.
                _abort(writer)
                return
            connection = Connection(self, (reader, writer), there)
            self._open.add(connection)
            try:
                await connection.run()
            finally:
                self._open.discard(connection)
        finally:
            self._tasks.discard(task)

    def way_up(self) -> Way:
        return self._up

    def way_down(self) -> Way:
        return self._down

    def delay_s(self, way: Way) -> float:
        jitter_ms = self._random.uniform(-way.jitter_ms, way.jitter_ms) if way.jitter_ms else 0.0
        return max(0.0, way.latency_ms + jitter_ms) / 1_000.0

    def carried(self, up: bool, count: int) -> None:
        if up:
            self.up_bytes += count
        else:
            self.down_bytes += count


_Side = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Connection:
    """One connection: two directions, each a reader that stamps chunks and a writer that lets them go."""

    def __init__(self, proxy: Proxy, here: _Side, there: _Side) -> None:
        #: The ways may have changed.
        self.changed = asyncio.Event()
        #: What its client sends stays on its way.
        self.held = False
        self._proxy = proxy
        self._here, self._there = here, there
        self._over = asyncio.Event()
        #: By way (up or not): what has come and is not let go yet.
        self._chunks: dict[bool, asyncio.Queue[tuple[float, bytes]]] = {
            up: asyncio.Queue(CHUNKS_MAX + ADDED_MAX) for up in (True, False)
        }
        #: What was read waits for room; what was added cannot.
        self._room = {up: asyncio.Event() for up in (True, False)}
        self._last = False

    def add(self, up: bool, data: bytes) -> None:
        """Of `edit`: this goes that way too, after what has come so far."""
        try:
            self._chunks[up].put_nowait((0.0, data))
        except asyncio.QueueFull:
            # Better no connection than one that lacks something.
            self.abort()

    def end_here(self) -> None:
        """Of `edit`, on the way down: what it returns now is the last that the client gets, then a FIN."""
        self._last = True

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        proxy = self._proxy
        tasks = [
            *self._carry(self._here[0], self._there[1], self._way_up, up=True),
            *self._carry(self._there[0], self._here[1], proxy.way_down, up=False),
            loop.create_task(self._time_out()),
        ]
        over = asyncio.ensure_future(self._until_over())
        carrying = asyncio.ensure_future(_all(tasks[:-1]))
        await asyncio.wait([carrying, over], return_when=asyncio.FIRST_COMPLETED)
        for task in [*tasks, over]:
            task.cancel()
        await asyncio.gather(*tasks, over, carrying, return_exceptions=True)
        for _, writer in (self._here, self._there):
            writer.close()

    def _way_up(self) -> Way:
        return HELD if self.held else self._proxy.way_up()

    async def _until_over(self) -> None:
        await self._over.wait()

    def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        way: Callable[[], Way],
        *,
        up: bool,
    ) -> list[asyncio.Task[None]]:
        loop = asyncio.get_running_loop()
        chunks, room = self._chunks[up], self._room[up]

        async def read() -> None:
            due = 0.0
            while True:
                try:
                    data = await reader.read(CHUNK_BYTES)
                except ConnectionError:
                    self.abort()
                    return
                if data and (edit := self._proxy.edit) is not None:
                    data = edit(self, up, data)
                    if not data and (up or not self._last):
                        continue
                now = way()
                delay_s = now.slow_close_ms / 1_000.0 if not data else self._proxy.delay_s(now)
                due = max(due, loop.time() + delay_s)
                while chunks.qsize() >= CHUNKS_MAX:
                    room.clear()
                    await room.wait()
                chunks.put_nowait((due, data))
                if not data:
                    return
                if self._last and not up:
                    chunks.put_nowait((due, b""))
                    return

        async def write() -> None:
            passed = 0
            while True:
                due, data = await chunks.get()
                room.set()
                if (wait_s := due - loop.time()) > 0:
                    await asyncio.sleep(wait_s)
                await self._passable(way)
                if not data:
                    with contextlib.suppress(OSError):
                        writer.write_eof()
                    return
                at = 0
                while at < len(data):
                    now = await self._passable(way)
                    size = now.slice_bytes or len(data)
                    if now.limit_bytes:
                        size = min(size, now.limit_bytes - passed)
                    piece = data[at : at + size] if size > 0 else b""
                    at += len(piece)
                    passed += len(piece)
                    # Before it goes: whoever has got it may ask how much went.
                    self._proxy.carried(up, len(piece))
                    try:
                        writer.write(piece)
                        await writer.drain()
                    except ConnectionError:
                        self.abort()
                        return
                    if now.limit_bytes and passed >= now.limit_bytes:
                        self.close()
                        return
                    wait_s = now.slice_gap_ms / 1_000.0
                    if now.bytes_per_s:
                        wait_s += len(piece) / now.bytes_per_s
                    if wait_s:
                        await asyncio.sleep(wait_s)

        return [loop.create_task(read()), loop.create_task(write())]

    async def _passable(self, way: Callable[[], Way]) -> Way:
        while (now := way()).blocked:
            self.changed.clear()
            await self.changed.wait()
        return now

    async def _time_out(self) -> None:
        proxy = self._proxy
        while True:
            limits = [way.timeout_ms for way in (proxy.way_up(), proxy.way_down()) if way.timeout_ms > 0]
            self.changed.clear()
            if not limits:
                await self._until_changed(None)
            elif not await self._until_changed(min(limits) / 1_000.0):
                self.close()
                return

    async def _until_changed(self, seconds: float | None) -> bool:
        waiting: Awaitable[bool] = self.changed.wait()
        try:
            async with asyncio.timeout(seconds):
                return await waiting
        except TimeoutError:
            return False

    def abort(self) -> None:
        """RST to both sides."""
        for _, writer in (self._here, self._there):
            _abort(writer)
        self._over.set()

    def close(self) -> None:
        """FIN to both sides."""
        self._over.set()


async def _all(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks)


def _abort(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
