"""What a server says of its own methods: the file descriptors of a service, by gRPC server reflection.

Nothing here interprets them: the pool they go into, and what may be wrong with a field, is `pelton.request`.
What comes from the server is bounded in time, size and number before it is kept.
"""

from __future__ import annotations

import asyncio
from collections import deque

import grpc.aio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection_pb2

from pelton.errors import TargetError
from pelton.rpc.channels import Lease
from pelton.rpc.transport import Metadata

__all__ = ["TargetSilent", "fetch"]

#: v1 and v1alpha differ in the package's name only; older servers know just the second.
_PATHS = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
#: Of the whole exchange. Asked at start, and a server that is slower is not ready either.
TIMEOUT_S = 10.0
#: A service with all its imports has tens of files; the largest public APIs have a few hundred.
FILES_MAX = 2_000
FILES_BYTES_MAX = 32 << 20

#: The server answers, and its answer will not change by waiting.
_FINAL = frozenset(
    {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}
)

#: Asks one question. The method streams both ways, but one question a call is what it allows, too, and it
#: leaves no write that could meet an end of the stream and hide it (see `status.py`).
_Ask = grpc.aio.UnaryStreamMultiCallable[bytes, bytes]


class TargetSilent(TargetError):
    """The target does not answer now; asking again later may help. A plain `TargetError` here is final."""


async def fetch(lease: Lease, method: str) -> list[FileDescriptorProto]:
    """The files that describe `/package.Service/Method`, imports and all, in no particular order.

    `TargetSilent` if the server does not answer; `TargetError` if it does, but offers no reflection, does
    not know the service, or answers nonsense.
    """
    service = method.lstrip("/").partition("/")[0]
    where = f"target {lease.target.name} at {lease.target.address}"
    try:
        async with asyncio.timeout(TIMEOUT_S):
            for path in _PATHS:
                ask: _Ask = lease.channel().unary_stream(path)
                try:
                    return await _fetch(ask, lease.authorization(), service, where)
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                        continue
                    kind = TargetError if error.code() in _FINAL else TargetSilent
                    raise kind(f"{where}: reflection of {service} failed: {_said(error)}.") from error
    except TimeoutError as error:
        raise TargetSilent(f"{where}: no answer to reflection within {TIMEOUT_S:.0f} s.") from error
    raise TargetError(
        f"{where} offers no server reflection. Switch it on there, or give the subscription a descriptor set "
        "or .proto files."
    )


def _said(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name} {error.details() or ''}".strip()


async def _fetch(ask: _Ask, metadata: Metadata, service: str, where: str) -> list[FileDescriptorProto]:
    """Ask for the service's file, then for each import that has not come along by itself."""
    files: dict[str, FileDescriptorProto] = {}
    total_bytes = 0
    asked: set[str] = set()
    wanted: deque[str] = deque()
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)
    what = f"service {service}"
    while True:
        for serialised in await _answer(ask, metadata, request, what, where):
            total_bytes += len(serialised)
            if total_bytes > FILES_BYTES_MAX or len(files) >= FILES_MAX:
                raise TargetError(f"{where}: its descriptors of {service} are larger than Pelton takes.")
            try:
                file = FileDescriptorProto.FromString(serialised)
            except DecodeError as error:
                raise TargetError(f"{where}: reflection gave no file descriptor for {what}.") from error
            files[file.name] = file
            wanted.extend(file.dependency)
        while wanted and (wanted[0] in files or wanted[0] in asked):
            wanted.popleft()
        if not wanted:
            return list(files.values())
        name = wanted.popleft()
        # Each name is asked for once, so a server cannot keep us asking.
        asked.add(name)
        request = reflection_pb2.ServerReflectionRequest(file_by_filename=name)
        what = f"file {name}"


async def _answer(
    ask: _Ask, metadata: Metadata, request: reflection_pb2.ServerReflectionRequest, what: str, where: str
) -> list[bytes]:
    call = ask(request.SerializeToString(), metadata=metadata, timeout=TIMEOUT_S)
    try:
        answer = await call.read()
    finally:
        call.cancel()
    if not isinstance(answer, bytes):
        raise TargetSilent(f"{where}: the server ended reflection before it answered for {what}.")
    try:
        response = reflection_pb2.ServerReflectionResponse.FromString(answer)
    except DecodeError as error:
        raise TargetError(f"{where}: what answers reflection there does not speak its protocol.") from error
    if response.HasField("file_descriptor_response"):
        return list(response.file_descriptor_response.file_descriptor_proto)
    refused = response.error_response
    if refused.error_code == grpc.StatusCode.NOT_FOUND.value[0]:
        if request.file_by_filename:
            # Some servers leave out Google's own files, which are here anyway; the pool misses any other.
            return []
        raise TargetError(f"{where} does not know {what}. Check the method's name and the target's address.")
    raise TargetError(
        f"{where}: reflection of {what} was refused: {refused.error_message or refused.error_code}."
    )
