"""An HTTP/2 server that speaks gRPC and misbehaves on command: GOAWAY, RST_STREAM, half answers.

No HTTP/2 library would send what it sends, so it writes frames itself; only their bytes (hyperframe) and the
header compression (hpack) are others'. It takes any unary method. For each request a plan, which may be
changed at any time, says which deed is done:

    server = H2Server(lambda request: Deed(Do.RST_AFTER_HEADERS, code=2) if request.number == 1 else OK)
    address = await server.start()      # "127.0.0.1:port", plaintext; `ssl=` for TLS
    ...
    await server.stop()                 # server.requests has all that came, server.connections how many

It is a plain object on the caller's loop, so a transport's conformance suite can use it as it is; the fault
matrix runs it as a process of its own (`misbehaving.py`). What it answers must fit a peer's first window of
64 KiB: it does not wait for more.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum

from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

__all__ = ["CANCEL", "ENHANCE_YOUR_CALM", "INTERNAL_ERROR", "NO_ERROR", "OK", "REFUSED_STREAM"]
__all__ += ["Deed", "Do", "H2Server", "Peer", "Request"]

#: HTTP/2 error codes, as RFC 9113 numbers them.
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR = 0, 1, 2
REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 7, 8, 11

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD_BYTES = 9
#: What a peer may send before it has heard of another window.
_WINDOW_BYTES = 65_535
#: No request of a test has more; a longer one is a mistake of the test.
_BODY_BYTES_MAX = 8 * 1024 * 1024
_LARGEST_STREAM = 2**31 - 1
#: A gRPC message: not compressed, its length, its bytes.
_MESSAGE = struct.Struct(">BI")


class Do(Enum):
    """What is done with one request, once it has come in full."""

    #: 200, one message, `grpc-status`.
    ANSWER = "answer"
    #: `grpc-status` in the first and only headers.
    TRAILERS_ONLY = "trailers_only"
    #: No answer, ever; the connection goes on.
    HANG = "hang"
    #: RST_STREAM instead of an answer. With REFUSED_STREAM the request was not looked at.
    RST_BEFORE_HEADERS = "rst_before_headers"
    #: RST_STREAM after the response's headers.
    RST_AFTER_HEADERS = "rst_after_headers"
    #: RST_STREAM after the whole message, before the status.
    RST_AFTER_DATA = "rst_after_data"
    #: The status, and RST_STREAM(NO_ERROR) after it, as servers do that have not read all: a whole answer.
    RST_AFTER_TRAILERS = "rst_after_trailers"
    #: A message that announces more bytes than follow, then an OK.
    HALF_MESSAGE = "half_message"
    #: Headers and a message; the stream ends without a status.
    NO_TRAILERS = "no_trailers"
    #: Trailers without `grpc-status`.
    NO_STATUS = "no_status"
    #: `grpc-status` that is no number.
    STATUS_NOT_A_NUMBER = "status_not_a_number"
    #: 200 and an OK, but not gRPC's content type.
    WRONG_TYPE = "wrong_type"
    #: A proxy's page instead of gRPC; `http_status` says which.
    HTTP_ERROR = "http_error"
    #: An OK without a message.
    NO_MESSAGE = "no_message"
    #: Two messages and an OK, where one was asked for.
    TWO_MESSAGES = "two_messages"
    #: GOAWAY that says no stream was looked at (last=0), then the end of the connection.
    GOAWAY_NONE = "goaway_none"
    #: GOAWAY up to this stream, its answer, then the end of the connection: a server that restarts well.
    GOAWAY_GRACEFUL = "goaway_graceful"
    #: GOAWAY up to this stream with `code` and words, then the end of the connection without an answer.
    GOAWAY_ANGRY = "goaway_angry"
    #: FIN in place of an answer.
    CLOSE = "close"
    #: A TCP reset in place of an answer.
    RESET = "reset"
    #: From here on nothing of this connection is read or written; it stays open.
    FREEZE = "freeze"


@dataclass(frozen=True, slots=True)
class Deed:
    """One deed, and what it needs."""

    do: Do = Do.ANSWER
    #: The HTTP/2 error code of a GOAWAY or RST_STREAM.
    code: int = NO_ERROR
    grpc_status: int = 0
    grpc_message: str = ""
    http_status: int = 503
    body: bytes = b""
    #: More trailers.
    trailers: tuple[tuple[str, str], ...] = ()
    #: Before the deed.
    delay_s: float = 0.0


OK = Deed()


@dataclass(frozen=True, slots=True)
class Peer:
    """How the server behaves as an HTTP/2 peer, from a connection's first byte on."""

    #: MAX_CONCURRENT_STREAMS; None does not say, which is no limit.
    streams_max: int | None = None
    #: INITIAL_WINDOW_SIZE: how many bytes of a request may be sent before some were read. Every byte read is
    #: given back at once, so 1 makes a request come byte by byte.
    window_bytes: int = _WINDOW_BYTES
    #: False: the connection is taken and nothing is ever said on it, not even SETTINGS.
    greets: bool = True
    #: False: keepalive pings stay without answer.
    answers_pings: bool = True
    #: After so many requests a connection ends gracefully: GOAWAY up to the last one, answers, FIN. 0: never.
    requests_max: int = 0
    #: So old a connection ends gracefully; 0: never.
    age_max_s: float = 0.0


@dataclass(slots=True)
class Request:
    """One request as it came."""

    #: From 1, over all connections.
    number: int
    #: From 1.
    connection: int
    stream: int
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.headers[":path"]

    @property
    def message(self) -> bytes:
        """Without gRPC's five bytes before it."""
        return self.body[_MESSAGE.size :]


Plan = Callable[[Request], Deed]
#: Called before the deed is done; what it waits for is waited for.
OnRequest = Callable[[Request, Deed], Awaitable[None]]


def answers(request: Request) -> Deed:
    """The plan of a server that behaves."""
    return OK


class H2Server:
    """See the module."""

    def __init__(
        self, plan: Plan = answers, peer: Peer | None = None, *, on_request: OnRequest | None = None
    ) -> None:
        self.plan = plan
        #: For connections that come from now on.
        self.peer = peer or Peer()
        self.requests: list[Request] = []
        self.connections = 0
        self.port = 0
        self._on_request = on_request
        self._open: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._arrived = asyncio.Event()

    async def start(self, port: int = 0, *, ssl: ssl.SSLContext | None = None) -> str:
        """An SSL context must offer `h2` by ALPN itself."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", port or self.port, ssl=ssl)
        self.port = self._server.sockets[0].getsockname()[1]
        return f"127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """Connections are cut. Twice is safe, and it may be started again: on the same port."""
        if self._server is None:
            return
        self._server.close()
        open_ones = list(self._open)
        for connection in open_ones:
            connection.abort()
        await asyncio.gather(*(connection.ended.wait() for connection in open_ones))
        await self._server.wait_closed()
        self._server = None

    async def until(self, requests: int, *, seconds: float = 20.0) -> None:
        """Until so many requests have come."""
        async with asyncio.timeout(seconds):
            while len(self.requests) < requests:
                self._arrived.clear()
                await self._arrived.wait()

    def storm(self, last: int = _LARGEST_STREAM, code: int = NO_ERROR, count: int = 1) -> None:
        """GOAWAY, so many times, on every open connection, which otherwise goes on as if nothing had been."""
        for connection in self._open:
            for _ in range(count):
                connection.send(GoAwayFrame(0, last_stream_id=last, error_code=code))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = _Connection(self, self.connections, self.peer, reader, writer)
        self._open.add(connection)
        try:
            await connection.run()
        finally:
            self._open.discard(connection)
            connection.ended.set()

    async def take(self, request: Request) -> Deed:
        """A request has come in full: what is to be done with it."""
        self.requests.append(request)
        self._arrived.set()
        deed = self.plan(request)
        if self._on_request is not None:
            await self._on_request(request, deed)
        if deed.delay_s:
            await asyncio.sleep(deed.delay_s)
        return deed


@dataclass(slots=True)
class _Stream:
    """A request on its way in."""

    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)


class _Connection:
    """One connection: reads frames, puts requests together, does deeds."""

    def __init__(
        self,
        server: H2Server,
        number: int,
        peer: Peer,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.ended = asyncio.Event()
        self._server = server
        self._number = number
        self._peer = peer
        self._reader = reader
        self._writer = writer
        self._decoder, self._encoder = Decoder(), Encoder()
        self._streams: dict[int, _Stream] = {}
        self._head: tuple[int, bytearray, bool] | None = None
        self._requests = 0
        self._last = 0
        self._going = False
        self._frozen = False
        self._cut = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._aging: asyncio.TimerHandle | None = None

    # -- In ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        try:
            if not self._peer.greets:
                await self._ignore()
                return
            self._greet()
            await self._reader.readexactly(len(_PREFACE))
            while not self._frozen:
                head = await self._reader.readexactly(_HEAD_BYTES)
                frame, length = Frame.parse_frame_header(memoryview(head))
                frame.parse_body(memoryview(await self._reader.readexactly(length)))
                self._on_frame(frame)
            await self._cut.wait()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # The client has gone, or we have cut it.
        finally:
            if self._aging is not None:
                self._aging.cancel()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await self._writer.wait_closed()

    async def _ignore(self) -> None:
        while await self._reader.read(65_536):
            pass

    def _greet(self) -> None:
        settings: dict[int, int] = {SettingsFrame.INITIAL_WINDOW_SIZE: self._peer.window_bytes}
        if self._peer.streams_max is not None:
            settings[SettingsFrame.MAX_CONCURRENT_STREAMS] = self._peer.streams_max
        self.send(SettingsFrame(0, settings=settings))
        if self._peer.age_max_s:
            loop = asyncio.get_running_loop()
            self._aging = loop.call_later(self._peer.age_max_s, self._retire)

    def _on_frame(self, frame: Frame) -> None:
        match frame:
            case SettingsFrame():
                if "ACK" not in frame.flags:
                    self.send(SettingsFrame(0, flags=["ACK"]))
            case PingFrame():
                if "ACK" not in frame.flags and self._peer.answers_pings:
                    self.send(PingFrame(0, frame.opaque_data, flags=["ACK"]))
            case HeadersFrame():
                self._head = (frame.stream_id, bytearray(frame.data), "END_STREAM" in frame.flags)
                if "END_HEADERS" in frame.flags:
                    self._headers_end()
            case ContinuationFrame():
                assert self._head is not None, "CONTINUATION without HEADERS"
                self._head[1].extend(frame.data)
                if "END_HEADERS" in frame.flags:
                    self._headers_end()
            case DataFrame():
                self._on_data(frame)
            case RstStreamFrame():
                self._streams.pop(frame.stream_id, None)
            case _:
                pass

    def _headers_end(self) -> None:
        assert self._head is not None
        stream, block, ends = self._head
        self._head = None
        pairs = self._decoder.decode(bytes(block))
        headers = {_text(name): _text(value) for name, value in ((pair[0], pair[1]) for pair in pairs)}
        self._streams[stream] = _Stream(headers)
        if ends:
            self._complete(stream)

    def _on_data(self, frame: DataFrame) -> None:
        size = frame.flow_controlled_length
        ends = "END_STREAM" in frame.flags
        if size:
            self.send(WindowUpdateFrame(0, window_increment=size))
            if not ends and frame.stream_id in self._streams:
                self.send(WindowUpdateFrame(frame.stream_id, window_increment=size))
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            return
        stream.body += frame.data
        assert len(stream.body) <= _BODY_BYTES_MAX
        if ends:
            self._complete(frame.stream_id)

    def _complete(self, number: int) -> None:
        stream = self._streams.pop(number)
        if self._going and number > self._last:
            # Above what the GOAWAY named: its peer believes that it was never looked at.
            return
        self._requests += 1
        self._last = max(self._last, number)
        count = len(self._server.requests) + 1
        request = Request(count, self._number, number, stream.headers, bytes(stream.body))
        task = asyncio.get_running_loop().create_task(self._serve(request), name="h2-request")
        self._tasks.add(task)
        task.add_done_callback(self._served)

    async def _serve(self, request: Request) -> None:
        deed = await self._server.take(request)
        if not self._frozen:
            self._perform(request.stream, deed)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
        if self._peer.requests_max and self._requests >= self._peer.requests_max:
            self._retire()
        elif self._going and not self._tasks:
            self._finish()

    def _retire(self) -> None:
        """Take no more; what has come is answered, then the connection ends."""
        if not self._going:
            self._going = True
            self.send(GoAwayFrame(0, last_stream_id=self._last, error_code=NO_ERROR))
        if not self._tasks:
            self._finish()

    def _finish(self) -> None:
        """Our last word. What the peer has sent meanwhile is read to its end: closed on it, the kernel
        would reset the connection, and the peer would lose the GOAWAY with it."""
        if self._writer.can_write_eof():
            self._writer.write_eof()
        else:
            self._writer.close()

    # -- Out -----------------------------------------------------------------------------------------------

    def send(self, frame: Frame) -> None:
        if not self._frozen and not self._writer.is_closing():
            self._writer.write(frame.serialize())

    def abort(self) -> None:
        """RST at the level of TCP."""
        sock = self._writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
        self._reader.feed_eof()
        self._cut.set()

    def _headers(self, stream: int, *pairs: tuple[str, str], ends: bool = False) -> None:
        flags = ["END_HEADERS", "END_STREAM"] if ends else ["END_HEADERS"]
        block = self._encoder.encode(list(pairs))
        self.send(HeadersFrame(stream, block, flags=flags))

    def _begin(self, stream: int, http_status: int = 200, content_type: str = "application/grpc") -> None:
        self._headers(stream, (":status", str(http_status)), ("content-type", content_type))

    def _data(self, stream: int, data: bytes, *, ends: bool = False) -> None:
        self.send(DataFrame(stream, data, flags=["END_STREAM"] if ends else []))

    def _message(self, stream: int, body: bytes, *, ends: bool = False) -> None:
        self._data(stream, _MESSAGE.pack(0, len(body)) + body, ends=ends)

    def _end(self, stream: int, deed: Deed) -> None:
        status: list[tuple[str, str]] = [("grpc-status", str(deed.grpc_status))]
        if deed.grpc_message:
            status.append(("grpc-message", deed.grpc_message))
        self._headers(stream, *status, *deed.trailers, ends=True)

    def _go_away(self, last: int, code: int, words: bytes = b"") -> None:
        self._going = True
        self.send(GoAwayFrame(0, last_stream_id=last, error_code=code, additional_data=words))

    def _perform(self, stream: int, deed: Deed) -> None:
        reset = RstStreamFrame(stream, error_code=deed.code)
        match deed.do:
            case Do.ANSWER | Do.GOAWAY_GRACEFUL | Do.RST_AFTER_TRAILERS:
                if deed.do is Do.GOAWAY_GRACEFUL:
                    self._go_away(self._last, NO_ERROR)
                self._begin(stream)
                self._message(stream, deed.body)
                self._end(stream, deed)
                if deed.do is Do.RST_AFTER_TRAILERS:
                    self.send(RstStreamFrame(stream, error_code=NO_ERROR))
            case Do.TRAILERS_ONLY:
                pairs = [(":status", "200"), ("content-type", "application/grpc")]
                pairs += [("grpc-status", str(deed.grpc_status)), ("grpc-message", deed.grpc_message)]
                self._headers(stream, *pairs, *deed.trailers, ends=True)
            case Do.HANG:
                pass
            case Do.RST_BEFORE_HEADERS:
                self.send(reset)
            case Do.RST_AFTER_HEADERS:
                self._begin(stream)
                self.send(reset)
            case Do.RST_AFTER_DATA:
                self._begin(stream)
                self._message(stream, deed.body)
                self.send(reset)
            case Do.HALF_MESSAGE:
                self._begin(stream)
                self._data(stream, _MESSAGE.pack(0, 100) + b"half")
                self._end(stream, deed)
            case Do.NO_TRAILERS:
                self._begin(stream)
                self._message(stream, deed.body, ends=True)
            case Do.NO_STATUS:
                self._begin(stream)
                self._message(stream, deed.body)
                self._headers(stream, ("x-nothing", "here"), ends=True)
            case Do.STATUS_NOT_A_NUMBER:
                self._begin(stream)
                self._message(stream, deed.body)
                self._headers(stream, ("grpc-status", "fine"), ends=True)
            case Do.WRONG_TYPE:
                self._begin(stream, content_type="text/html")
                self._message(stream, deed.body)
                self._end(stream, deed)
            case Do.HTTP_ERROR:
                self._begin(stream, deed.http_status, "text/html")
                self._data(stream, b"<html>not now</html>", ends=True)
            case Do.NO_MESSAGE:
                self._begin(stream)
                self._end(stream, deed)
            case Do.TWO_MESSAGES:
                self._begin(stream)
                self._message(stream, deed.body)
                self._message(stream, deed.body)
                self._end(stream, deed)
            case Do.GOAWAY_NONE:
                self._go_away(0, deed.code)
                self._writer.close()
            case Do.GOAWAY_ANGRY:
                self._go_away(self._last, deed.code, b"too_many_pings")
                self._writer.close()
            case Do.CLOSE:
                self._writer.close()
            case Do.RESET:
                self.abort()
            case Do.FREEZE:
                self._frozen = True


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
