"""Answers that are none: what a server, or whoever stands before it, sends instead is never an ack."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pelton.core.outcome import ACKED, STATUS_TABLE, Status, disposition_of
from pelton.rpc.status import NO_MESSAGE
from pelton.subscription import DeliveryMode, Disposition
from tests.conformance.conftest import Drive
from tests.faults.h2_server import CANCEL, INTERNAL_ERROR, NO_ERROR, Deed, Do, H2Server


@pytest.fixture
async def server() -> AsyncIterator[H2Server]:
    server = H2Server()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(params=[DeliveryMode.UNARY, DeliveryMode.HANDLER], ids=lambda mode: mode.value)
def mode(request: pytest.FixtureRequest) -> DeliveryMode:
    assert isinstance(request.param, DeliveryMode)
    return request.param


async def test_a_whole_answer_is_an_ack(server: H2Server, drive: Drive) -> None:
    assert await drive(f"127.0.0.1:{server.port}").call("any") is ACKED


@pytest.mark.parametrize("do", [Do.NO_MESSAGE, Do.HALF_MESSAGE], ids=lambda do: do.value)
async def test_an_ok_without_a_whole_message_is_none(server: H2Server, drive: Drive, do: Do) -> None:
    server.plan = lambda request: Deed(do)
    assert await drive(f"127.0.0.1:{server.port}").call("any") == NO_MESSAGE


@pytest.mark.parametrize(
    "do",
    [
        *(Do.RST_BEFORE_HEADERS, Do.RST_AFTER_HEADERS, Do.RST_AFTER_DATA, Do.NO_TRAILERS, Do.NO_STATUS),
        *(Do.STATUS_NOT_A_NUMBER, Do.HTTP_ERROR, Do.GOAWAY_NONE, Do.GOAWAY_ANGRY, Do.CLOSE, Do.RESET),
    ],
    ids=lambda do: do.value,
)
async def test_what_breaks_off_is_none(server: H2Server, drive: Drive, do: Do) -> None:
    server.plan = lambda request: Deed(do, code=2)
    outcome = await drive(f"127.0.0.1:{server.port}").call("any", timeout_ms=5_000.0)
    assert outcome.status is not Status.OK
    assert not outcome.local


@pytest.mark.parametrize("code", [NO_ERROR, INTERNAL_ERROR, CANCEL], ids=["none", "internal", "cancel"])
@pytest.mark.parametrize(
    "do", [Do.RST_BEFORE_HEADERS, Do.RST_AFTER_HEADERS, Do.RST_AFTER_DATA], ids=lambda do: do.value
)
async def test_a_stream_that_was_reset_speaks_of_the_way_and_not_of_the_event(
    server: H2Server, drive: Drive, do: Do, code: int
) -> None:
    """Proxies reset what they cannot go on with; to gRPC two of these words are INTERNAL."""
    server.plan = lambda request: Deed(do, code=code)
    outcome = await drive(f"127.0.0.1:{server.port}").call("any", timeout_ms=5_000.0)
    assert disposition_of(outcome, STATUS_TABLE) is Disposition.UNWELL


async def test_what_the_target_itself_says_is_said_of_the_event(server: H2Server, drive: Drive) -> None:
    server.plan = lambda request: Deed(Do.TRAILERS_ONLY, grpc_status=13, grpc_message="it reset the call: no")
    outcome = await drive(f"127.0.0.1:{server.port}").call("any", timeout_ms=5_000.0)
    assert disposition_of(outcome, STATUS_TABLE) is Disposition.RETRY
