"""Answers that are bombs, on real sockets: refused by their size, and never inflated beyond it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from pelton.core.outcome import ACKED, Status
from pelton.rpc.leases import REPLY_BYTES_MAX
from pelton.subscription import DeliveryMode, Disposition, Target
from tests.conformance.driver import Driver

Serve = Callable[[grpc.Compression], int]


class _Answers(grpc.GenericRpcHandler):
    """To whatever it is asked: as many zeros as its request says, in some place, or none."""

    def service(self, _call: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, request: bytes, _context: Any) -> bytes:
        return bytes(16 * REPLY_BYTES_MAX) if b"bomb" in request else b""


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves on a port of its own, with its answers compressed as asked."""
    servers: list[Any] = []

    def start(compression: grpc.Compression) -> int:
        options = [("grpc.so_reuseport", 0), ("grpc.max_send_message_length", -1)]
        server = grpc.server(ThreadPoolExecutor(2), options=options, compression=compression)
        server.add_generic_rpc_handlers((_Answers(),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return port

    yield start
    for server in servers:
        server.stop(0).wait()


@pytest.mark.parametrize("mode", [DeliveryMode.UNARY, DeliveryMode.HANDLER], ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    ("compression", "says"),
    [
        (grpc.Compression.NoCompression, "Received message larger than max"),
        # 64 KB on the wire.
        (grpc.Compression.Gzip, "Decompressed message larger than max"),
    ],
    ids=["plain", "gzip"],
)
async def test_an_answer_above_the_limit_sets_its_event_aside(
    mode: DeliveryMode, compression: grpc.Compression, says: str, serve: Serve
) -> None:
    """Trying again would only repeat the work."""
    driver = Driver(mode, Target("shop", f"127.0.0.1:{serve(compression)}"))
    try:
        outcome = await driver.call("bomb")
        assert outcome.status is Status.RESOURCE_EXHAUSTED
        assert outcome.disposition is Disposition.DEAD_LETTER
        assert says in outcome.message
        assert await driver.call("it") is ACKED
    finally:
        await driver.close()
