"""An App over a real socket: outcomes by status and reply, health, reflection, TLS, stopping."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from pelton.errors import HandlerError
from pelton.event import Event
from pelton.sdk.app import App
from pelton.sdk.context import Context
from pelton.sdk.replies import DeadLetter, Drop, Retry
from pelton.sdk.serve import Server, Tls
from pelton.v1 import handler_pb2
from tests.sdk.conftest import PATIENCE_S, Target, delivery, eventually

Serving = Callable[..., Any]


async def test_the_whole_delivery_reaches_the_handler(serving: Serving) -> None:
    app, seen = App("shop"), []

    @app.handler
    async def handle(event: Event, context: Context) -> None:
        seen.append((event, context))

    target: Target = await serving(app)
    message = delivery(b"hello", offset=0, parameters={"priority": "high"}, attempt=2)
    message.fence = 7
    message.last_failure.code, message.last_failure.message = 14, "gone"
    message.first_attempted.FromMilliseconds(1_000)
    message.replay_id = "again"
    call = target.stub.Handle(
        message, timeout=PATIENCE_S, metadata=(("traceparent", "00-aa-bb-01"), ("tracestate", "k=v"))
    )
    reply = await call
    assert reply == handler_pb2.Reply()
    [(event, context)] = seen
    assert (event.position, event.key, event.value) == (("events", 0, 0), b"key", b"hello")
    assert event.attributes is None
    assert context.delivery_id == "notify-shop/events/0/0"
    assert (context.subscription, context.attempt, context.fence) == ("notify-shop", 2, 7)
    assert dict(context.parameters) == {"priority": "high"}
    assert context.last_failure == (14, "gone")
    assert context.first_attempted is not None
    assert context.first_attempted.timestamp() == 1.0
    assert context.replay_id == "again"
    assert context.trace == ("00-aa-bb-01", "k=v")
    assert context.remaining is not None
    assert 0 < context.remaining <= PATIENCE_S + 1  # on the wire it is rounded up


async def test_verdicts_are_replies_and_failures_are_statuses(serving: Serving) -> None:
    app = App("shop")
    retry = Retry(after=2.5, reason="busy")

    @app.handler(type="raises.retry")
    def raises(event: Event) -> None:
        raise retry

    @app.handler(type="returns.drop")
    async def returns(event: Event) -> Drop:
        return Drop("old")

    @app.handler(type="returns.dead")
    def dead(event: Event) -> DeadLetter:
        return DeadLetter("x" * 5_000)

    @app.handler(type="fails")
    async def fails(event: Event) -> None:
        raise KeyError("\ud800" + "y" * 5_000)

    @app.handler(type="wants.json")
    async def wants(event: dict[str, Any]) -> None:
        pytest.fail("called with what is no JSON object")

    target: Target = await serving(app)
    for _ in range(2):
        reply = await target.handle(delivery(type="raises.retry"))
        assert (reply.retry.after.ToMilliseconds(), reply.retry.reason) == (2_500, "busy")
    assert retry.__traceback__ is None, "a constant that is raised must not grow"
    assert (await target.handle(delivery(type="returns.drop"))).drop.reason == "old"
    assert (await target.handle(delivery(type="returns.dead"))).dead_letter.reason == "x" * 1_024
    code, details = await target.refused(delivery(type="fails"))
    assert code == "UNKNOWN"
    assert details.startswith("KeyError: ")
    assert len(details) == len("KeyError: ") + 256
    code, details = await target.refused(delivery(b"[1]", type="wants.json"))
    assert code == "INVALID_ARGUMENT"
    assert "must be an object, not an array" in details
    reply = await target.handle(delivery(type="nobody.knows"))
    assert "no handler in shop for type 'nobody.knows'" in reply.dead_letter.reason
    empty = handler_pb2.Delivery(delivery_id="a/b/0/0")
    assert await target.refused(empty) == ("INVALID_ARGUMENT", "the delivery carries no event")


async def test_a_call_past_its_deadline_cancels_the_handler(serving: Serving) -> None:
    app, ended = App("shop"), asyncio.Event()

    @app.handler
    async def hang(event: Event) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    target: Target = await serving(app)
    code, _ = await target.refused(delivery(), timeout=0.05)
    assert code == "DEADLINE_EXCEEDED"
    async with asyncio.timeout(PATIENCE_S):
        await ended.wait()


async def test_no_more_handlers_run_than_concurrency_says(serving: Serving) -> None:
    app, running, most, go = App("shop", concurrency=3), 0, 0, asyncio.Event()

    @app.handler
    async def handle(event: Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1

    target: Target = await serving(app)
    calls = [asyncio.ensure_future(target.handle(delivery(offset=n))) for n in range(5)]
    stream = target.stream()
    await stream.send(delivery(token=n) for n in range(5))
    await eventually(lambda: running == 3, "three handlers run")
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*calls)
    assert await stream.close() == grpc.StatusCode.OK
    assert stream.all == [0, 1, 2, 3, 4]
    assert most == 3


async def test_health_says_serving_then_not(serving: Serving) -> None:
    app, go, started = App("shop"), asyncio.Event(), asyncio.Event()

    @app.handler
    async def handle(event: Event) -> None:
        started.set()
        await go.wait()

    target: Target = await serving(app)
    health: Any = health_pb2_grpc.HealthStub(target.channel)
    for name in ("", "pelton.v1.EventHandler"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    watch = health.Watch(health_pb2.HealthCheckRequest(service="pelton.v1.EventHandler"))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    call = asyncio.ensure_future(target.handle(delivery()))
    await started.wait()
    stop = asyncio.ensure_future(target.server.stop())
    async with asyncio.timeout(PATIENCE_S):
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        code, _ = await target.refused(delivery(offset=1))
        assert code == "UNAVAILABLE"
        assert not stop.done(), "a call is out"
        go.set()
        assert await call == handler_pb2.Reply()
        await stop
        await target.server.stop()  # twice is safe


async def test_a_drain_has_a_bound_and_can_be_cut(serving: Serving) -> None:
    for drain_timeout, cut in ((0.05, False), (600.0, True)):
        app, started = App("shop"), asyncio.Event()

        @app.handler
        async def hang(event: Event, started: asyncio.Event = started) -> None:
            started.set()
            await asyncio.Event().wait()

        target: Target = await serving(app, drain_timeout=drain_timeout)
        call = asyncio.ensure_future(target.refused(delivery()))
        stream = target.stream()
        await stream.send([delivery(token=1)])
        await started.wait()
        async with asyncio.timeout(PATIENCE_S):
            stop = asyncio.ensure_future(target.server.stop())
            if cut:
                target.server.cut()
            await stop
            code, _ = await call
        assert code in ("UNAVAILABLE", "CANCELLED")


async def test_both_names_of_reflection_describe_the_service(serving: Serving) -> None:
    app = App("shop")
    app.handler(lambda_handler)
    target: Target = await serving(app)
    for version in ("v1", "v1alpha"):
        call: Any = target.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        services = {service.name for service in (await call.read()).list_services_response.service}
        assert {"pelton.v1.EventHandler", "grpc.health.v1.Health"} <= services
        for service in services:  # what is listed is described
            await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=service))
            answer = await call.read()
            [file] = answer.file_descriptor_response.file_descriptor_proto[:1]
            assert descriptor_pb2.FileDescriptorProto.FromString(file).service
        await call.done_writing()
        assert await call.code() == grpc.StatusCode.OK


async def lambda_handler(event: Event) -> None:
    """Takes everything."""


def test_what_cannot_be_served_says_why() -> None:
    async def nothing() -> None:
        with pytest.raises(HandlerError, match=r"shop: nothing to serve; register a function"):
            Server(App("shop"), "127.0.0.1:0")

    asyncio.run(nothing())


async def test_a_taken_port_is_an_error(serving: Serving) -> None:
    app = App("shop")
    app.handler(lambda_handler)
    target: Target = await serving(app)
    with pytest.raises(HandlerError, match="is the port taken"):
        await Server(app, f"127.0.0.1:{target.server.port}").start()
    with pytest.raises(HandlerError, match=r"nowhere\.pem cannot be read"):
        await Server(app, "127.0.0.1:0", tls=Tls("nowhere.pem", "nowhere.key")).start()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def make_certificates(folder: Path) -> Path:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def name(common: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])

    ca_key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)

    def certify(common: str, key: ec.EllipticCurvePrivateKey, is_ca: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(common))
            .issuer_name(name("test ca"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        )
        return builder.sign(ca_key, hashes.SHA256())

    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(certify("test ca", ca_key, True).public_bytes(pem))
    for party in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        (folder / f"{party}.pem").write_bytes(certify(party, key, False).public_bytes(pem))
        (folder / f"{party}.key").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
    return folder


async def test_mutual_tls(certificates: Path) -> None:
    app = App("shop")
    app.handler(lambda_handler)
    tls = Tls(certificates / "server.pem", certificates / "server.key", certificates / "ca.pem")
    ca, key, chain = ((certificates / name).read_bytes() for name in ("ca.pem", "client.key", "client.pem"))
    async with Server(app, "localhost:0", tls=tls) as server:
        known = grpc.ssl_channel_credentials(ca, key, chain)
        async with grpc.aio.secure_channel(f"localhost:{server.port}", known) as channel:
            assert await Target(server, channel).handle(delivery()) == handler_pb2.Reply()
        unknown = grpc.ssl_channel_credentials(ca)
        async with grpc.aio.secure_channel(f"localhost:{server.port}", unknown) as channel:
            assert (await Target(server, channel).refused(delivery()))[0] == "UNAVAILABLE"


async def test_sync_handlers_that_never_return_do_not_hold_the_stop(serving: Serving) -> None:
    app, release, started = App("shop"), threading.Event(), threading.Event()

    @app.handler
    def hang(event: Event) -> None:
        started.set()
        release.wait()

    target: Target = await serving(app, drain_timeout=0.05)
    call = asyncio.ensure_future(target.refused(delivery()))
    await eventually(started.is_set, "the handler runs")
    try:
        async with asyncio.timeout(PATIENCE_S):
            await target.server.stop()
            await call
    finally:
        release.set()


SERVICE = """
import sys, time
from pelton import App, Event

app = App("shop")

@app.handler
def handle(event: Event) -> None:
    print("started", flush=True)
    if event.value == b"hang":
        time.sleep(600)
    print("finished", flush=True)

app.run(f"127.0.0.1:{sys.argv[1]}", drain_timeout=float(sys.argv[2]))
"""


@pytest.mark.parametrize("value", [b"quick", b"hang"])
async def test_a_process_drains_on_sigterm_and_ends(value: bytes, tmp_path: Path) -> None:
    """Also when a sync handler never returns: then within its bound."""
    port = _free_port()
    script = tmp_path / "service.py"
    script.write_text(SERVICE)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        str(port),
        "0.2",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub: Any = Target(None, channel).stub  # type: ignore[arg-type]
                call = stub.Handle(delivery(value), timeout=PATIENCE_S, wait_for_ready=True)
                assert await process.stdout.readline() == b"started\n"
                if value == b"quick":
                    await call
                process.send_signal(signal.SIGTERM)
                code = await process.wait()
                if value == b"hang":
                    with pytest.raises(grpc.aio.AioRpcError):
                        await call
            log = (await process.stderr.read()).decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert code == 0, log
    assert "serves pelton.v1.EventHandler" in log
    assert "Traceback" not in log
    assert ("1 sync handlers still run" in log) == (value == b"hang")


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
