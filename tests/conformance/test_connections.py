"""Ways to the target that fail, and credentials: what comes of each, in every mode, on real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from pelton.core.outcome import ACKED, Outcome, Status
from pelton.errors import TargetError
from pelton.rpc import leases, security
from pelton.rpc.channels import Channels
from pelton.subscription import DeliveryMode, Disposition, Secret, Target, Tls, TransportChoice
from tests.conformance.authority import Authority
from tests.conformance.driver import Driver
from tests.conformance.target import ScriptedTarget

Drive = Callable[..., Driver]


@dataclass(frozen=True)
class Way:
    """How the two sides are set up, and what must come of a call."""

    name: str
    #: Names in the server's certificate; None serves plaintext.
    serves: tuple[str, ...] | None
    expected: Outcome
    #: Part of the outcome's message, in the words of grpc.aio's TLS and of the native transport's.
    says: tuple[str, str] = ("", "")
    #: Part of a later outcome's message, which is then miswired.
    then: str = ""
    server_days: int = 1
    wants_client: bool = False
    calls_with_tls: bool = True
    trusts_stranger: bool = False
    #: "ours", "stranger's" or none.
    client: str = ""
    server_name: str | None = None


UNWELL = Outcome(Status.UNAVAILABLE)
MISWIRED = Outcome(Status.UNAVAILABLE, disposition=Disposition.MISWIRED)

WAYS = [
    Way("plaintext", None, ACKED, calls_with_tls=False),
    Way("tls", ("127.0.0.1",), ACKED),
    Way("tls by another name", ("shop.example",), ACKED, server_name="shop.example"),
    Way("mtls", ("127.0.0.1",), ACKED, wants_client=True, client="ours"),
    Way(
        "untrusted",
        ("127.0.0.1",),
        MISWIRED,
        ("CERTIFICATE_VERIFY_FAILED", "UnknownIssuer"),
        trusts_stranger=True,
    ),
    Way("expired", ("127.0.0.1",), MISWIRED, ("expired", "expired"), server_days=-1),
    Way("wrong name", ("shop.example",), MISWIRED, ("Hostname Verification", "not valid for name")),
    Way(
        "wrong override",
        ("127.0.0.1",),
        MISWIRED,
        ("Hostname Verification", "not valid for name"),
        server_name="shop.example",
    ),
    Way("tls to plaintext", None, MISWIRED, ("WRONG_VERSION_NUMBER", "corrupt message")),
    # With these the server hangs up without a word, as one that restarts would: the first call tells no more.
    Way(
        "plaintext to tls",
        ("127.0.0.1",),
        UNWELL,
        ("Socket closed", "closed before HTTP/2"),
        then="the port speaks TLS",
        calls_with_tls=False,
    ),
    Way(
        "mtls without a certificate",
        ("127.0.0.1",),
        UNWELL,
        then="asks for a client certificate and hangs up: give the target `tls.cert`",
        wants_client=True,
    ),
    Way(
        "mtls with a stranger's",
        ("127.0.0.1",),
        UNWELL,
        then="asks for a client certificate and hangs up: it does not take the one",
        wants_client=True,
        client="stranger's",
    ),
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
async def test_way(
    way: Way,
    target: ScriptedTarget,
    drive: Drive,
    transport: TransportChoice,
    authority: Authority,
    stranger: Authority,
) -> None:
    credentials = None
    if way.serves is not None:
        pair = authority.issue(*way.serves, days=way.server_days)
        roots = authority.roots() if way.wants_client else None
        credentials = grpc.ssl_server_credentials([pair.contents()], roots, way.wants_client)
    address = await target.start(credentials)
    tls = None
    if way.calls_with_tls:
        issuer = {"ours": authority, "stranger's": stranger}.get(way.client)
        client = issuer.issue() if issuer is not None else None
        tls = Tls(
            ca=stranger.ca if way.trusts_stranger else authority.ca,
            cert=client.cert if client is not None else None,
            key=client.key if client is not None else None,
            server_name=way.server_name,
        )
    driver = drive(Target("shop", address, tls=tls))
    outcome = await driver.call("it")
    assert outcome.status is way.expected.status
    assert outcome.disposition is way.expected.disposition
    assert way.says[transport is TransportChoice.NATIVE] in outcome.message
    assert not outcome.cancelled
    # The second call meets a channel that knows; it must say the same, or what was found out meanwhile.
    again = await driver.call("it")
    if way.then:
        async with asyncio.timeout(20):
            while again.disposition is None:
                again = await driver.call("it")
        assert (again.status, again.disposition) == (Status.UNAVAILABLE, Disposition.MISWIRED)
        assert way.then in again.message
    else:
        assert (again.status, again.disposition) == (outcome.status, outcome.disposition)
    assert len(target.seen) == (2 if way.expected is ACKED else 0)


async def test_refused(drive: Drive) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        outcome = await drive(f"127.0.0.1:{free.getsockname()[1]}").call("it")
    assert (outcome.status, outcome.disposition, outcome.cancelled) == (Status.UNAVAILABLE, None, False)
    assert "refused" in outcome.message


@pytest.mark.parametrize("tls", [None, Tls()], ids=["plaintext", "tls"])
async def test_a_server_that_only_hangs_up_is_unwell(tls: Tls | None, drive: Drive) -> None:
    """It may be about to restart: nothing certain can be said of it."""
    seen: list[int] = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(1)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        driver = drive(Target("shop", f"127.0.0.1:{port}", tls=tls))
        while len(seen) < 4:
            outcome = await driver.call("it")
            assert (outcome.status, outcome.disposition) == (Status.UNAVAILABLE, None)


async def test_unresolvable(drive: Drive) -> None:
    driver = drive(Target("shop", "dns:///no-such-host.invalid:1", plaintext=True))
    outcome = await driver.call("it")
    assert (outcome.status, outcome.disposition, outcome.cancelled) == (Status.UNAVAILABLE, None, False)
    assert "no-such-host.invalid" in outcome.message


@pytest.mark.parametrize("mode", [DeliveryMode.UNARY, DeliveryMode.HANDLER])
async def test_addresses_take_turns(target: ScriptedTarget, drive: Drive) -> None:
    other = ScriptedTarget()
    addresses = [await target.start(), await other.start()]
    try:
        driver = drive("ipv4:" + ",".join(addresses))
        async with asyncio.timeout(20):
            # The second connection may stand a moment after the first.
            while not (target.seen and other.seen):
                assert await driver.call("it") is ACKED
        before = len(target.seen), len(other.seen)
        for _ in range(10):
            assert await driver.call("it") is ACKED
        assert (len(target.seen) - before[0], len(other.seen) - before[1]) == (5, 5)
    finally:
        await other.stop()


async def test_method_that_is_not_there(drive: Drive) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        outcome = await drive(f"127.0.0.1:{port}").call("it")
    finally:
        await server.stop(0)
    assert outcome.status is Status.UNIMPLEMENTED
    assert outcome.disposition is None


@pytest.fixture
def looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at before every call instead of once a second."""
    monkeypatch.setattr(security, "CHECK_INTERVAL_S", 0.0)
    monkeypatch.setattr(leases, "CHECK_INTERVAL_S", 0.0)


@pytest.mark.usefixtures("looks_always")
async def test_bearer_is_sent_and_read_again(
    target: ScriptedTarget, drive: Drive, mode: DeliveryMode, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    driver = drive(Target("shop", await target.start(), bearer=Secret("file", str(token))))
    assert await driver.call("one") is ACKED
    token.write_text("the second")
    assert await driver.call("two") is ACKED
    sent = [seen.metadata["authorization"] for seen in target.seen]
    assert sent == ["Bearer first", "Bearer the second"]
    if mode is DeliveryMode.STREAM:
        # A stream bears what it was opened with: the new token asked for a new stream.
        assert target.streams == 2
        token.write_text("the second\n")
        assert await driver.call("three") is ACKED
        assert target.streams == 2, "the same token in another file changes nothing"


@pytest.mark.usefixtures("looks_always")
async def test_certificates_are_read_again(
    target: ScriptedTarget, drive: Drive, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    pair = authority.issue("127.0.0.1")
    address = await target.start(grpc.ssl_server_credentials([pair.contents()]))
    ca = tmp_path / "ca.pem"
    ca.write_bytes(stranger.roots())
    driver = drive(Target("shop", address, tls=Tls(ca=str(ca))))
    outcome = await driver.call("one")
    assert outcome.disposition is Disposition.MISWIRED
    # In the middle of a rotation: what cannot be used changes nothing.
    ca.write_bytes(b"")
    assert (await driver.call("two")).disposition is Disposition.MISWIRED
    ca.write_bytes(authority.roots())
    assert await driver.call("three") is ACKED


async def test_connections_are_shared_by_credentials(tmp_path: Path) -> None:
    channels = Channels()
    (tmp_path / "token").write_text("t")
    plain = Target("a", "127.0.0.1:1")
    same = Target("b", "127.0.0.1:1", max_message_bytes=1)
    other = Target("c", "127.0.0.1:1", bearer=Secret("file", str(tmp_path / "token")))
    leases = [channels.lease(target) for target in (plain, same, other)]
    first, second, third = (lease.channel() for lease in leases)
    assert first is second
    assert first is not third
    await leases[0].release()
    await leases[0].release()
    assert leases[1].channel() is first, "one release too many would have closed it"
    for lease in leases:
        await lease.release()
    fresh = channels.lease(plain)
    assert fresh.channel() is not first
    await fresh.release()
    await channels.close()


@pytest.mark.parametrize("bearer", [None, Secret("env", "HOME")])
def test_plaintext_must_be_asked_for(bearer: Secret | None) -> None:
    target = Target("shop", "dns:///shop.example:50051", bearer=bearer)
    with pytest.raises(TargetError, match="plaintext: true") as refused:
        security.check_target(target)
    assert ("bearer token" in str(refused.value)) == (bearer is not None)
    security.check_target(Target("shop", target.address, bearer=bearer, plaintext=True))
