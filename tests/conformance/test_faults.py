"""A peer that misbehaves, fault by fault: what comes of the calls, on every transport.

The server is `tests.faults.h2_server`, which writes its own frames. Where grpc.aio and the native transport
differ, both are written down: the native one sends again what the server certainly never ran, and takes no
answer that it has not understood in full.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest

from pelton.core.outcome import ACKED, CANCELLED_BY_US, Outcome, Status
from pelton.rpc.status import NO_MESSAGE
from pelton.subscription import DeliveryMode, Target, TransportChoice
from tests.conformance.conftest import Drive
from tests.conformance.driver import Driver
from tests.faults.h2_server import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    INTERNAL_ERROR,
    OK,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    Deed,
    Do,
    H2Server,
    Peer,
)

AIO, NATIVE = TransportChoice.AIO, TransportChoice.NATIVE
#: As `channel.rs` has it.
SENT_AGAIN_MAX = 8
CONNECTIONS_PER_ADDRESS_MAX = 8


@pytest.fixture(params=[DeliveryMode.UNARY, DeliveryMode.HANDLER], ids=lambda mode: mode.value)
def mode(request: pytest.FixtureRequest) -> DeliveryMode:
    assert isinstance(request.param, DeliveryMode)
    return request.param


@pytest.fixture
async def server() -> AsyncIterator[H2Server]:
    """Not started yet."""
    server = H2Server()
    yield server
    await server.stop()


async def ends(driver: Driver, count: int, **how: float) -> list[Outcome]:
    """So many calls at once, to their ends."""
    calls = driver.submit(*(f"call-{number}" for number in range(count)), **how)  # type: ignore[arg-type]
    async with asyncio.timeout(60):
        return [await future for _, future in calls]


def runs(server: H2Server) -> Counter[bytes]:
    """How often each call came."""
    return Counter(request.message for request in server.requests)


@dataclass(frozen=True)
class Fault:
    """What the server does with every request, and what must come of it."""

    name: str
    deed: Deed
    aio: Status | Outcome
    #: None: the same as aio's.
    native: Status | Outcome | None = None
    #: How often the native transport sends it.
    sent: int = 1
    #: False: grpc core's header compression is broken by it, and its next call on the connection hangs.
    aio_goes_on: bool = True


FAULTS = [
    Fault("an answer", OK, ACKED),
    Fault("a status alone", Deed(Do.TRAILERS_ONLY, grpc_status=5, grpc_message="gone"), Status.NOT_FOUND),
    Fault("an OK alone", Deed(Do.TRAILERS_ONLY), NO_MESSAGE),
    Fault("no message", Deed(Do.NO_MESSAGE), NO_MESSAGE),
    Fault("half a message", Deed(Do.HALF_MESSAGE), NO_MESSAGE),
    Fault("a status beyond the seventeen", Deed(grpc_status=99, grpc_message="?"), Status.UNKNOWN),
    Fault("no status", Deed(Do.NO_STATUS), Status.UNKNOWN),
    Fault(
        "a status that is no number",
        Deed(Do.STATUS_NOT_A_NUMBER),
        Status.INTERNAL,
        Status.UNKNOWN,
        aio_goes_on=False,
    ),
    Fault("no trailers", Deed(Do.NO_TRAILERS), Status.UNKNOWN, Status.INTERNAL),
    *(
        Fault(f"a page with HTTP {http}", Deed(Do.HTTP_ERROR, http_status=http), status)
        for http, status in {
            400: Status.INTERNAL,
            401: Status.UNAUTHENTICATED,
            403: Status.PERMISSION_DENIED,
            404: Status.UNIMPLEMENTED,
            429: Status.UNAVAILABLE,
            500: Status.UNKNOWN,
            502: Status.UNAVAILABLE,
            503: Status.UNAVAILABLE,
            504: Status.UNAVAILABLE,
        }.items()
    ),
    *(
        Fault(f"{do.value} {name}", Deed(do, code=code), status)
        for do in (Do.RST_BEFORE_HEADERS, Do.RST_AFTER_HEADERS, Do.RST_AFTER_DATA)
        for name, code, status in (
            ("CANCEL", CANCEL, Status.CANCELLED),
            ("ENHANCE_YOUR_CALM", ENHANCE_YOUR_CALM, Status.RESOURCE_EXHAUSTED),
            ("INTERNAL_ERROR", INTERNAL_ERROR, Status.INTERNAL),
            ("PROTOCOL_ERROR", PROTOCOL_ERROR, Status.INTERNAL),
        )
    ),
    Fault("a reset after the whole answer", Deed(Do.RST_AFTER_TRAILERS), ACKED),
    Fault(
        "refused, always",
        Deed(Do.RST_BEFORE_HEADERS, code=REFUSED_STREAM),
        Status.UNAVAILABLE,
        sent=1 + SENT_AGAIN_MAX,
    ),
    Fault("GOAWAY and nothing", Deed(Do.GOAWAY_ANGRY, code=ENHANCE_YOUR_CALM), Status.UNAVAILABLE),
    Fault("GOAWAY and the answer", Deed(Do.GOAWAY_GRACEFUL), ACKED),
    Fault("the end of the connection", Deed(Do.CLOSE), Status.UNAVAILABLE),
    Fault("a reset of the connection", Deed(Do.RESET), Status.UNAVAILABLE),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_fault(fault: Fault, server: H2Server, drive: Drive, transport: TransportChoice) -> None:
    driver = drive(await server.start())
    server.plan = lambda request: fault.deed
    outcome = await driver.call("it")
    expected = fault.native if transport is NATIVE and fault.native is not None else fault.aio
    if isinstance(expected, Outcome):
        assert outcome == expected
    else:
        assert outcome.status is expected
        assert not outcome.local
        assert not outcome.cancelled
    assert len(server.requests) == (fault.sent if transport is NATIVE else 1)
    if transport is AIO and not fault.aio_goes_on:
        return
    # Once the server behaves, so does everything, without anyone starting anew.
    server.plan = lambda request: OK
    async with asyncio.timeout(20):
        while await driver.call("next") is not ACKED:
            pass


async def test_an_answer_of_another_type(server: H2Server, drive: Drive, transport: TransportChoice) -> None:
    """grpc core looks at the status alone; the native transport believes no OK of what is no gRPC."""
    server.plan = lambda request: Deed(Do.WRONG_TYPE)
    outcome = await drive(await server.start()).call("it")
    if transport is NATIVE:
        assert outcome.status is Status.UNKNOWN
        assert "content-type" in outcome.message


async def test_two_messages_are_no_answer(server: H2Server, drive: Drive, transport: TransportChoice) -> None:
    server.plan = lambda request: Deed(Do.TWO_MESSAGES)
    outcome = await drive(await server.start()).call("it", timeout_ms=1_000.0)
    if transport is NATIVE:
        assert outcome.status is Status.INTERNAL


@pytest.mark.parametrize(
    "deed",
    [Deed(Do.RST_BEFORE_HEADERS, code=REFUSED_STREAM), Deed(Do.GOAWAY_NONE)],
    ids=["refused", "goaway"],
)
async def test_what_never_ran_goes_out_again(
    deed: Deed, server: H2Server, drive: Drive, transport: TransportChoice
) -> None:
    driver = drive(await server.start())
    server.plan = lambda request: deed if request.number == 1 else OK
    outcome = await driver.call("it")
    if transport is NATIVE:
        assert outcome is ACKED
        assert len(server.requests) == 2
    else:
        assert outcome.status is Status.UNAVAILABLE
        assert len(server.requests) == 1


async def test_connections_that_end_well_lose_nothing(
    server: H2Server, drive: Drive, transport: TransportChoice
) -> None:
    """Each connection takes a few requests, then says GOAWAY: every call is run once."""
    server.peer = Peer(requests_max=7, streams_max=3)
    driver = drive(await server.start())
    outcomes = await ends(driver, 200, timeout_ms=60_000.0)
    if transport is NATIVE:
        assert set(outcomes) == {ACKED}
        assert set(runs(server).values()) == {1}
        assert server.connections > 10
    else:
        assert {outcome.status for outcome in outcomes} <= {Status.OK, Status.UNAVAILABLE}


async def test_goaway_in_the_middle_of_calls(server: H2Server, drive: Drive) -> None:
    """The first GOAWAY of a graceful end names no stream yet: what is out goes on."""
    driver = drive(await server.start())
    server.plan = lambda request: Deed(delay_s=0.2)
    calls = driver.submit(*(f"call-{number}" for number in range(50)))
    await server.until(50)
    server.storm(count=3)
    async with asyncio.timeout(20):
        assert {await future for _, future in calls} == {ACKED}
    assert await driver.call("next") is ACKED
    assert server.connections == 2
    assert set(runs(server).values()) == {1}


@pytest.mark.parametrize("streams_max", [1, 10])
async def test_few_streams(
    streams_max: int, server: H2Server, drive: Drive, transport: TransportChoice
) -> None:
    server.peer = Peer(streams_max=streams_max)
    driver = drive(await server.start())
    assert set(await ends(driver, 200, timeout_ms=60_000.0)) == {ACKED}
    assert set(runs(server).values()) == {1}
    assert server.connections <= (CONNECTIONS_PER_ADDRESS_MAX if transport is NATIVE else 1)


async def test_deadline_and_cancel_of_calls_that_wait_for_a_stream(
    server: H2Server, drive: Drive, transport: TransportChoice
) -> None:
    server.peer = Peer(streams_max=1)
    driver = drive(await server.start())
    server.plan = lambda request: Deed(Do.HANG)
    room = CONNECTIONS_PER_ADDRESS_MAX if transport is NATIVE else 1
    out = driver.submit(*(f"out-{number}" for number in range(room)), timeout_ms=60_000.0)
    await server.until(room)
    late, cancelled = driver.submit("late", "cancelled", timeouts_ms={"late": 100.0, "cancelled": 60_000.0})
    async with asyncio.timeout(20):
        assert (await late[1]).status is Status.DEADLINE_EXCEEDED
        driver.cancel(cancelled[0])
        assert await cancelled[1] == CANCELLED_BY_US
    # Its stream given back is the next one's.
    server.plan = lambda request: OK
    ((_, waiting),) = driver.submit("waiting")
    driver.cancel(*(delivery for delivery, _ in out))
    async with asyncio.timeout(20):
        assert await waiting is ACKED
    assert runs(server)[driver.body("late")] == runs(server)[driver.body("cancelled")] == 0


async def test_many_deadlines_at_once_leave_the_connection(server: H2Server, drive: Drive) -> None:
    driver = drive(await server.start())
    assert await driver.call("warm") is ACKED
    server.plan = lambda request: Deed(delay_s=0.4)
    outcomes = await ends(driver, 300, timeout_ms=150.0)
    assert {outcome.status for outcome in outcomes} == {Status.DEADLINE_EXCEEDED}
    # Their answers still come, late, for streams that nobody knows any more.
    server.plan = lambda request: Deed(delay_s=0.5)
    assert await driver.call("next") is ACKED
    assert server.connections == 1


async def test_a_window_of_a_few_bytes(server: H2Server, drive: Drive) -> None:
    server.peer = Peer(window_bytes=16)
    driver = drive(await server.start())
    outcome = await driver.call("it", padding=2_000)
    assert outcome is ACKED
    assert server.requests[0].message == driver.body("it", 2_000)


@pytest.mark.parametrize("transport", [NATIVE], indirect=True, ids=["native"])
async def test_a_frozen_peer_is_found_out(server: H2Server, drive: Drive) -> None:
    """Long before the calls' own deadlines. grpc core takes no keepalive below ten seconds."""
    address = await server.start()
    driver = drive(Target("shop", address, keepalive_time_ms=300, keepalive_timeout_ms=300))
    assert await driver.call("warm") is ACKED
    server.plan = lambda request: Deed(Do.FREEZE)
    outcomes = await ends(driver, 3, timeout_ms=60_000.0)
    assert {outcome.status for outcome in outcomes} == {Status.UNAVAILABLE}
    server.plan = lambda request: OK
    async with asyncio.timeout(20):
        while await driver.call("next", timeout_ms=2_000.0) is not ACKED:
            pass


async def test_a_slow_peer_that_answers_pings_is_waited_for(server: H2Server, drive: Drive) -> None:
    address = await server.start()
    driver = drive(Target("shop", address, keepalive_time_ms=200, keepalive_timeout_ms=200))
    server.plan = lambda request: Deed(delay_s=1.5)
    assert await driver.call("it") is ACKED


async def test_a_peer_that_never_greets(server: H2Server, drive: Drive) -> None:
    server.peer = Peer(greets=False)
    outcome = await drive(await server.start()).call("it", timeout_ms=200.0)
    assert outcome.status is Status.DEADLINE_EXCEEDED


async def test_by_name(server: H2Server, drive: Drive) -> None:
    await server.start()
    assert await drive(f"dns:///localhost:{server.port}").call("it") is ACKED
    assert server.requests[0].headers[":authority"] == f"localhost:{server.port}"


async def test_what_a_request_bears(server: H2Server, drive: Drive, mode: DeliveryMode) -> None:
    driver = drive(await server.start())
    await driver.call("it", timeout_ms=5_000.0)
    (request,) = server.requests
    expected = {
        ":method": "POST",
        ":scheme": "http",
        "te": "trailers",
        "content-type": "application/grpc",
        "pelton-delivery-id": "notify-shop/events/0/0",
    }
    assert {name: request.headers.get(name) for name in expected} == expected
    assert request.headers["pelton-key-bin"].rstrip("=") == "a2V5"
    assert request.headers["grpc-timeout"][-1] in "munSMH"
    assert request.message == driver.body("it")


async def test_thousands_at_once_end_once_each(server: H2Server, drive: Drive) -> None:
    driver = drive(await server.start())
    outcomes = await ends(driver, 1_000, timeout_ms=60_000.0)
    assert set(outcomes) == {ACKED}
    assert set(runs(server).values()) == {1}
    assert len(driver.batches) < 1_000, "several at a time"


@pytest.fixture
async def gzipping() -> AsyncIterator[str]:
    """A server that compresses what it answers: as many zeros as the request has bytes after its name."""

    async def call(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return bytes(len(request) * 1_000)

    class Handler(grpc.GenericRpcHandler):
        def service(self, call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
            return grpc.unary_unary_rpc_method_handler(call)

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)], compression=grpc.Compression.Gzip)
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


@pytest.mark.parametrize("mode", [DeliveryMode.UNARY])
async def test_compressed_answers(gzipping: str, drive: Drive) -> None:
    driver = drive(gzipping)
    assert await driver.call("it") is ACKED
    # Eight megabytes of nothing, in eight kilobytes.
    outcome = await driver.call("it", padding=8_000)
    assert outcome.status is Status.RESOURCE_EXHAUSTED
    assert await driver.call("it") is ACKED
