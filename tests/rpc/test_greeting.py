"""Where a look at a port goes, and that it ends; what it finds is tested in the conformance suite."""

from __future__ import annotations

import gc
import socket
import struct
import threading
import warnings

import pytest

from pelton.rpc.greeting import _endpoint, misfit
from pelton.subscription import Target

#: Enough to meet a reset between connecting and the first byte of TLS: one in some hundred was.
RESETS = 2_000


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("dns:///shop.example:50051", ("shop.example", 50051)),
        ("dns:shop:1", ("shop", 1)),
        ("ipv6:[::1]:7", ("::1", 7)),
        ("ipv4:127.0.0.1:1,127.0.0.2:1", None),
        ("dns://resolver/shop:1", None),
        ("unix:/tmp/socket", None),
        ("shop", None),
    ],
)
def test_where_a_look_goes(address: str, endpoint: tuple[str, int] | None) -> None:
    assert _endpoint(address) == endpoint


async def test_whoever_resets_at_once_leaves_nothing_open() -> None:
    """A reset between two steps of ours is met now and then: hence so many."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=RESETS)
    target = Target(name="shop", address=f"127.0.0.1:{listener.getsockname()[1]}")

    def reset_all() -> None:
        for _ in range(RESETS):
            connection, _address = listener.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

    resetter = threading.Thread(target=reset_all)
    resetter.start()
    with listener, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        for _ in range(RESETS):
            assert await misfit(target) == ""
        gc.collect()
    resetter.join()
    assert not seen
