"""The misbehaving server does what its deeds say, as a gRPC client that others wrote sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from tests.faults.h2_server import (
    ENHANCE_YOUR_CALM,
    INTERNAL_ERROR,
    NO_ERROR,
    OK,
    REFUSED_STREAM,
    Deed,
    Do,
    H2Server,
    Peer,
)

#: Nothing here takes longer than this on an idle computer by a tenth.
TIMEOUT_S = 20.0
#: A call that gets no answer ends by its own deadline.
SHORT_S = 0.5
Call = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
ONE_CONNECTION = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]


@pytest.fixture
async def server() -> AsyncIterator[H2Server]:
    server = H2Server()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def call(server: H2Server) -> AsyncIterator[Call]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=ONE_CONNECTION) as channel:
        yield channel.unary_unary("/any.Service/Method")


async def status(call: Call, body: bytes = b"body", timeout: float = TIMEOUT_S) -> grpc.StatusCode:
    try:
        await call(body, timeout=timeout, metadata=(("pelton-delivery-id", "a/b/0/1"),))
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_it_answers_and_keeps_what_came(server: H2Server, call: Call) -> None:
    server.plan = lambda request: Deed(body=request.message[::-1])
    reply = await call(b"body", timeout=TIMEOUT_S, metadata=(("pelton-delivery-id", "a/b/0/1"),))
    assert reply == b"ydob"
    (request,) = server.requests
    assert (request.number, request.connection, request.path) == (1, 1, "/any.Service/Method")
    assert request.message == b"body"
    assert request.headers["pelton-delivery-id"] == "a/b/0/1"


@pytest.mark.parametrize(
    ("deed", "expected"),
    [
        (Deed(Do.ANSWER), "OK"),
        (Deed(Do.ANSWER, grpc_status=3), "INVALID_ARGUMENT"),
        (Deed(Do.TRAILERS_ONLY, grpc_status=8, grpc_message="no room"), "RESOURCE_EXHAUSTED"),
        (Deed(Do.RST_AFTER_TRAILERS), "OK"),
        (Deed(Do.RST_BEFORE_HEADERS, code=INTERNAL_ERROR), "INTERNAL"),
        (Deed(Do.RST_AFTER_HEADERS, code=INTERNAL_ERROR), "INTERNAL"),
        (Deed(Do.RST_AFTER_DATA, code=ENHANCE_YOUR_CALM), "RESOURCE_EXHAUSTED"),
        (Deed(Do.NO_TRAILERS), "UNKNOWN"),
        (Deed(Do.HTTP_ERROR, http_status=503), "UNAVAILABLE"),
        (Deed(Do.GOAWAY_GRACEFUL), "OK"),
        (Deed(Do.CLOSE), "UNAVAILABLE"),
        (Deed(Do.RESET), "UNAVAILABLE"),
    ],
    ids=lambda value: f"{value.do.value}-{value.code}" if isinstance(value, Deed) else str(value),
)
async def test_what_each_deed_looks_like(server: H2Server, call: Call, deed: Deed, expected: str) -> None:
    server.plan = lambda request: deed
    assert (await status(call)).name == expected
    assert len(server.requests) == 1


@pytest.mark.parametrize("do", [Do.NO_STATUS, Do.STATUS_NOT_A_NUMBER, Do.NO_TRAILERS])
async def test_without_a_status_nothing_is_taken(server: H2Server, call: Call, do: Do) -> None:
    server.plan = lambda request: Deed(do)
    assert await status(call) is not grpc.StatusCode.OK


@pytest.mark.parametrize("do", [Do.HALF_MESSAGE, Do.NO_MESSAGE])
async def test_grpc_core_says_ok_without_a_message(server: H2Server, call: Call, do: Do) -> None:
    """Other clients make INTERNAL of it. Here the reply is None, whatever the annotations say."""
    server.plan = lambda request: Deed(do)
    assert await call(b"body", timeout=TIMEOUT_S) is None


@pytest.mark.parametrize("deed", [Deed(Do.HANG), Deed(Do.FREEZE)], ids=["hang", "freeze"])
async def test_silence_ends_by_the_deadline(server: H2Server, call: Call, deed: Deed) -> None:
    server.plan = lambda request: deed
    assert await status(call, timeout=SHORT_S) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(server.requests) == 1


@pytest.mark.parametrize("deed", [Deed(Do.GOAWAY_NONE), Deed(Do.RST_BEFORE_HEADERS, code=REFUSED_STREAM)])
async def test_what_was_not_looked_at_is_unavailable_or_asked_again(
    server: H2Server, call: Call, deed: Deed
) -> None:
    """grpc asks once more by itself where the server says it has not looked: never OK for the first."""
    server.plan = lambda request: deed if request.number == 1 else OK
    code = await status(call)
    assert code.name in ("OK", "UNAVAILABLE")
    assert len(server.requests) == (2 if code.name == "OK" else 1)


async def test_an_angry_goodbye_cuts_the_call(server: H2Server, call: Call) -> None:
    server.plan = lambda request: Deed(Do.GOAWAY_ANGRY, code=ENHANCE_YOUR_CALM)
    assert (await status(call)).name in ("UNAVAILABLE", "RESOURCE_EXHAUSTED")


async def test_one_stream_at_a_time(server: H2Server, call: Call) -> None:
    server.peer = Peer(streams_max=1)
    # The limit is known once its SETTINGS have come; the first call waits for them.
    assert await status(call) is grpc.StatusCode.OK
    out = most = 0

    async def count(request: object, deed: Deed) -> None:
        nonlocal out, most
        out += 1
        most = max(most, out)
        await asyncio.sleep(0.01)
        out -= 1

    server._on_request = count
    assert [code.name for code in await asyncio.gather(*(status(call) for _ in range(5)))] == ["OK"] * 5
    assert most == 1


async def test_a_window_of_one_byte(server: H2Server, call: Call) -> None:
    server.peer = Peer(window_bytes=1)
    assert await status(call) is grpc.StatusCode.OK
    assert await status(call, b"x" * 100) is grpc.StatusCode.OK
    assert server.requests[-1].message == b"x" * 100


async def test_connections_end_after_so_many_requests(server: H2Server, call: Call) -> None:
    server.peer = Peer(requests_max=2)
    codes = [await status(call) for _ in range(6)]
    assert [code.name for code in codes].count("OK") >= 5
    assert server.connections >= 3


async def test_a_storm_of_goodbyes_leaves_the_answers(server: H2Server, call: Call) -> None:
    async def storm(request: object, deed: Deed) -> None:
        server.storm(count=50)

    server._on_request = storm
    assert await status(call) is grpc.StatusCode.OK


async def test_a_peer_that_never_greets(server: H2Server, call: Call) -> None:
    server.peer = Peer(greets=False)
    assert await status(call, timeout=SHORT_S) in (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAVAILABLE,
    )
    assert server.requests == []


async def test_it_stops_and_starts_on_its_port(server: H2Server, call: Call) -> None:
    port = server.port
    assert await status(call) is grpc.StatusCode.OK
    await server.stop()
    await server.stop()
    assert await server.start() == f"127.0.0.1:{port}"
    assert NO_ERROR == 0
