"""The native transport beyond the suite that all transports are held to: choice, bounds, fork, the end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pelton.core.outcome import ACKED, CANCELLED_BY_US, Outcome
from pelton.errors import TargetError
from pelton.rpc import choose
from pelton.rpc.channels import Channels
from pelton.rpc.choose import choose_transport, make_transport
from pelton.rpc.native_dial import native_missing
from pelton.rpc.transport import Call, Result
from pelton.subscription import DeliveryMode, Target, Tls, TransportChoice
from tests.conformance.driver import make_delivery, make_subscription
from tests.faults.h2_server import OK, REFUSED_STREAM, Deed, Do, H2Server

AUTO, AIO, NATIVE = TransportChoice.AUTO, TransportChoice.AIO, TransportChoice.NATIVE
UNARY, STREAM = DeliveryMode.UNARY, DeliveryMode.STREAM
SHOP = Target("shop", "127.0.0.1:1")


@pytest.fixture
def installed() -> None:
    if native_missing():
        pytest.skip("missing tool: cargo, for pelton_native")


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where the wheel is missing."""
    monkeypatch.setitem(sys.modules, "pelton_native", None)
    native_missing.cache_clear()
    yield
    monkeypatch.undo()
    native_missing.cache_clear()


@pytest.mark.usefixtures("installed")
def test_auto_takes_it_where_it_is() -> None:
    assert choose_transport(make_subscription(UNARY, SHOP, AUTO)) == (NATIVE, "")
    assert choose_transport(make_subscription(UNARY, SHOP, AIO)) == (AIO, "")
    choice, why = choose_transport(make_subscription(STREAM, SHOP, AUTO))
    assert (choice, why) == (AIO, "streams go through grpc.aio")


@pytest.mark.usefixtures("installed")
def test_a_name_server_of_its_own_is_left_to_grpc() -> None:
    target = Target("shop", "dns://127.0.0.1/shop:1")
    choice, why = choose_transport(make_subscription(UNARY, target, AUTO))
    assert choice is AIO
    assert "name server" in why
    with pytest.raises(TargetError, match="name server"):
        choose_transport(make_subscription(UNARY, target, NATIVE))


@pytest.mark.usefixtures("not_installed")
def test_without_the_wheel() -> None:
    choice, why = choose_transport(make_subscription(UNARY, SHOP, AUTO))
    assert choice is AIO
    assert "make native" in why
    with pytest.raises(TargetError, match="make native"):
        choose_transport(make_subscription(UNARY, SHOP, NATIVE))
    with pytest.raises(TargetError, match="no native transport"):
        Channels().lease_native(SHOP)


@pytest.mark.usefixtures("installed")
async def test_certificates_that_cannot_be_used(tmp_path_factory: pytest.TempPathFactory) -> None:
    ca = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.write_text("nonsense")
    channels = Channels()
    target = replace(SHOP, tls=Tls(ca=str(ca)))
    with pytest.raises(TargetError, match="holds no PEM certificate"):
        await choose.check_transport(make_subscription(UNARY, target, NATIVE), channels)
    await channels.close()


@pytest.mark.usefixtures("installed")
async def test_a_delivery_has_one_call_out_at_a_time() -> None:
    results: list[Result] = []
    channels = Channels()
    transport = make_transport(make_subscription(UNARY, SHOP, NATIVE), channels, results.extend)
    call = Call(make_delivery(0), b"", (), 10_000.0)
    with pytest.raises(RuntimeError, match="while its last attempt is out"):
        transport.submit([call, call])
    await transport.close(0.0)
    assert [outcome for _, outcome in results] == [CANCELLED_BY_US]
    await transport.close(0.0)
    transport.submit([call])
    assert transport.in_flight == 1
    await transport.close(0.0)
    assert len(results) == 2
    await channels.close()
    await channels.close()


@pytest.mark.usefixtures("installed")
async def test_what_it_counts() -> None:
    server = H2Server(
        lambda request: Deed(Do.RST_BEFORE_HEADERS, code=REFUSED_STREAM) if request.number == 1 else OK
    )
    ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    channels = Channels()
    target = Target("shop", await server.start())
    transport = make_transport(
        make_subscription(UNARY, target, NATIVE), channels, lambda results: ended.set_result(results[0][1])
    )
    transport.submit([Call(make_delivery(0), b"", (), 10_000.0)])
    async with asyncio.timeout(20):
        assert await ended is ACKED
    lease = channels.lease_native(target)
    counts = dict(lease.channel().statistics())
    await lease.release()
    await transport.close(0.0)
    await channels.close()
    await server.stop()
    assert counts == {
        "connections": 1,
        "connected": 1,
        "connect_failures": 0,
        "waiting": 0,
        "sent": 2,
        "sent_again": 1,
        "keepalive_failures": 0,
    }


FORKED = """
import os, pelton_native
runtime = pelton_native.Runtime()
port = runtime.port("/a.B/C", reads_replies=False, request_bytes_max=1)
if os.fork() == 0:
    for refused in (port.cancel_all, port.close, runtime.close):
        try:
            refused()
            print("went on")
        except RuntimeError as error:
            print(error)
    os._exit(0)
os.wait()
runtime.close()
print("closed")
"""


@pytest.mark.usefixtures("installed")
def test_no_fork_after_it_was_made() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-u", "-c", FORKED],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert [("before a fork" in line) for line in lines] == [True, True, True, False], (
        done.stdout + done.stderr
    )
    assert lines[-1] == "closed"
