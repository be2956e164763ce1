"""Reflection, from real servers: those that speak the protocol, and one that misuses it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2

from pelton.errors import TargetError
from pelton.rpc import reflection as reflection_module
from pelton.rpc.channels import Channels, Lease
from pelton.rpc.reflection import TargetSilent, fetch
from pelton.subscription import Target
from pelton.v1 import handler_pb2

V1 = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
V1ALPHA = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
HANDLE = "/pelton.v1.EventHandler/Handle"

Answer = Callable[[reflection_pb2.ServerReflectionRequest], bytes | None]


class Scripted(grpc.GenericRpcHandler):
    """Answers on one of the two paths as it is told."""

    def __init__(self, path: str, answer: Answer) -> None:
        self._path = path
        self._answer = answer
        self.asked: list[str] = []

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        if call.method != self._path:
            return None
        return grpc.stream_stream_rpc_method_handler(self._talk)

    async def _talk(self, requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        async for request in requests:
            asked = reflection_pb2.ServerReflectionRequest.FromString(request)
            self.asked.append(asked.file_containing_symbol or asked.file_by_filename)
            answer = self._answer(asked)
            if answer is None:
                return
            yield answer


@pytest.fixture
async def server() -> AsyncIterator[grpc.aio.Server]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    yield server
    await server.stop(0)


@pytest.fixture
async def lease(server: grpc.aio.Server) -> AsyncIterator[Lease]:
    channels = Channels()
    port = server.add_insecure_port("127.0.0.1:0")
    lease = channels.lease(Target("shop", f"127.0.0.1:{port}"))
    yield lease
    await lease.release()
    await channels.close()


def files(*serialised: bytes) -> bytes:
    response = reflection_pb2.FileDescriptorResponse(file_descriptor_proto=serialised)
    return reflection_pb2.ServerReflectionResponse(file_descriptor_response=response).SerializeToString()


def refusal(code: int) -> bytes:
    response = reflection_pb2.ErrorResponse(error_code=code, error_message="no")
    return reflection_pb2.ServerReflectionResponse(error_response=response).SerializeToString()


def file(name: str, *imports: str) -> bytes:
    return FileDescriptorProto(name=name, dependency=imports).SerializeToString()


async def test_a_server_that_has_only_the_older_protocol(server: grpc.aio.Server, lease: Lease) -> None:
    reflection.enable_server_reflection(["pelton.v1.EventHandler", reflection.SERVICE_NAME], server)
    await server.start()
    found = {file.name for file in await fetch(lease, HANDLE)}
    assert handler_pb2.DESCRIPTOR.name in found
    assert found >= {
        "pelton/v1/event.proto",
        "google/protobuf/duration.proto",
        "google/protobuf/timestamp.proto",
    }


async def test_imports_are_asked_for_once_each(server: grpc.aio.Server, lease: Lease) -> None:
    known = {
        "a.B": file("a.proto", "b.proto", "c.proto", "google/protobuf/any.proto"),
        "b.proto": file("b.proto", "c.proto"),
        # A circle is the pool's to refuse; here it must only come to an end.
        "c.proto": file("c.proto", "b.proto"),
    }

    def answer(request: reflection_pb2.ServerReflectionRequest) -> bytes:
        name = request.file_containing_symbol or request.file_by_filename
        return files(known[name]) if name in known else refusal(5)

    scripted = Scripted(V1, answer)
    server.add_generic_rpc_handlers((scripted,))
    await server.start()
    assert sorted(file.name for file in await fetch(lease, "/a.B/C")) == ["a.proto", "b.proto", "c.proto"]
    assert scripted.asked == ["a.B", "b.proto", "c.proto", "google/protobuf/any.proto"]


async def test_service_that_is_not_there(server: grpc.aio.Server, lease: Lease) -> None:
    reflection.enable_server_reflection([reflection.SERVICE_NAME], server)
    await server.start()
    with pytest.raises(TargetError, match=r"does not know service no\.Such") as refused:
        await fetch(lease, "/no.Such/Method")
    assert not isinstance(refused.value, TargetSilent)


async def test_no_reflection(server: grpc.aio.Server, lease: Lease) -> None:
    await server.start()
    with pytest.raises(TargetError, match="descriptor set") as refused:
        await fetch(lease, HANDLE)
    assert not isinstance(refused.value, TargetSilent)


@pytest.mark.parametrize(
    ("answer", "silent"),
    [(b"\xff\xff", False), (files(b"\xff\xff"), False), (refusal(13), False), (b"", False), (None, True)],
    ids=["nonsense", "nonsense for a file", "refused", "empty", "hung up"],
)
async def test_answers_that_are_none(
    answer: bytes | None, silent: bool, server: grpc.aio.Server, lease: Lease
) -> None:
    server.add_generic_rpc_handlers((Scripted(V1, lambda _: answer),))
    await server.start()
    with pytest.raises(TargetError, match="target shop") as refused:
        await fetch(lease, HANDLE)
    assert isinstance(refused.value, TargetSilent) == silent


async def test_a_server_that_never_stops_importing(
    server: grpc.aio.Server, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflection_module, "FILES_MAX", 20)

    def answer(request: reflection_pb2.ServerReflectionRequest) -> bytes:
        name = request.file_by_filename or "x"
        return files(file(name, name + "x"))

    server.add_generic_rpc_handlers((Scripted(V1, answer),))
    await server.start()
    with pytest.raises(TargetError, match="larger than Pelton takes"):
        await fetch(lease, HANDLE)


async def test_too_many_bytes(server: grpc.aio.Server, lease: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflection_module, "FILES_BYTES_MAX", 1_000)
    server.add_generic_rpc_handlers((Scripted(V1, lambda _: files(file("x" * 2_000))),))
    await server.start()
    with pytest.raises(TargetError, match="larger than Pelton takes"):
        await fetch(lease, HANDLE)


async def test_a_server_that_does_not_answer(
    server: grpc.aio.Server, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflection_module, "TIMEOUT_S", 0.2)
    with pytest.raises(TargetSilent):
        await fetch(lease, HANDLE)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        channels = Channels()
        other = channels.lease(Target("deaf", f"127.0.0.1:{deaf.getsockname()[1]}"))
        async with asyncio.timeout(10):
            with pytest.raises(TargetSilent, match="no answer"):
                await fetch(other, HANDLE)
        await other.release()
        await channels.close()
