"""The share that is asked for is cut of real calls that share connections; all others are as ever."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.faults.cuts import Cuts, How
from tests.faults.proxy import Proxy

CALLS = 600
AT_ONCE = 40
METHOD = "/any.Service/Method"
TIMEOUT_S = 20.0


class Served(grpc.GenericRpcHandler):
    """Answers every call with its own request; knows how often each was there."""

    def __init__(self) -> None:
        self.seen: Counter[bytes] = Counter()
        self._unary: Any = grpc.unary_unary_rpc_method_handler(self._call)
        self._stream: Any = grpc.stream_stream_rpc_method_handler(self._echo)

    def service(self, handler_call_details: Any) -> Any:
        return self._stream if handler_call_details.method.endswith("HandleStream") else self._unary

    async def _call(self, request: bytes, context: Any) -> bytes:
        self.seen[request] += 1
        await asyncio.sleep(0.002)
        context.set_trailing_metadata((("which", request.decode()), ("same", "always")))
        return request

    async def _echo(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            self.seen[request] += 1
            yield request


async def calls(cuts: Cuts, share: float, count: int = CALLS) -> tuple[Counter[str], Served]:
    """How so many calls ended, `AT_ONCE` at a time."""
    served, ends = Served(), Counter[str]()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((served,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    numbers = iter(range(count))
    with Proxy(port) as proxy:
        proxy.edit = cuts
        cuts.share = share
        options = [("grpc.enable_retries", 0), ("grpc.initial_reconnect_backoff_ms", 50)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{proxy.port}", options=options) as channel:
            method: Any = channel.unary_unary(METHOD)

            async def some() -> None:
                for number in numbers:
                    said = b"%d" % number
                    try:
                        call = method(said, timeout=TIMEOUT_S, wait_for_ready=True)
                        assert await call == said
                        assert dict(await call.trailing_metadata()) == {
                            "which": said.decode(),
                            "same": "always",
                        }
                        ends["OK"] += 1
                    except grpc.aio.AioRpcError as error:
                        ends[error.code().name] += 1

            await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    await server.stop(0)
    return ends, served


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.7])
async def test_single_calls_are_cut_and_those_beside_them_are_not(share: float) -> None:
    cuts = Cuts(seed=1)
    ends, served = await calls(cuts, share)
    assert cuts.calls == CALLS
    assert cuts.cut == pytest.approx(share * CALLS, abs=0.1 * CALLS)
    assert ends["OK"] == CALLS - cuts.cut, ends
    assert set(ends) <= {"OK", "INTERNAL", "CANCELLED"}
    # What was cut before the server had it was never there, what was cut after its work was there once.
    assert served.seen.total() == len(served.seen) == CALLS - cuts.before
    assert not share or min(cuts.before, cuts.after) > 0.3 * cuts.cut


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
async def test_connections_end_so_that_the_share_of_their_calls_is_out(share: float) -> None:
    cuts = Cuts(How.CONNECTIONS)
    ends, served = await calls(cuts, share)
    # One that is written to a connection when it is over already came to nobody.
    assert 0.8 * CALLS < cuts.calls <= CALLS
    # More than that where the client is slow to see the end, and makes calls on what is over.
    assert cuts.cut == pytest.approx(share * CALLS, abs=0.2 * CALLS)
    assert ends["OK"] == cuts.calls - cuts.cut, ends
    assert len(served.seen) > ends["OK"], "none of them was cut after it had come"


async def test_a_stream_is_cut_at_its_answers() -> None:
    cuts, served = Cuts(How.BATCHES, seed=1), Served()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((served,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ended = heard = 0
    with Proxy(port) as proxy:
        proxy.edit = cuts
        cuts.share = 0.3
        async with grpc.aio.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
            stream: Any = channel.stream_stream("/pelton.v1.EventHandler/HandleStream")
            while ended < 20:
                call = stream(timeout=TIMEOUT_S)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    while True:
                        await call.write(b"x")
                        assert await call.read() == b"x"
                        heard += 1
                assert (await call.code()).name in ("INTERNAL", "CANCELLED")
                ended += 1
    await server.stop(0)
    assert (cuts.after, cuts.calls) == (ended, ended + heard)
    assert served.seen.total() == cuts.calls
