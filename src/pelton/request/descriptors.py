"""What a target's method takes and gives: descriptors in a pool of their own, found by the method's path.

A pool of its own per source, because a user's package may well be called as ours, or as another target's.
Descriptors come from a file, from `.proto` sources, or are handed in by whoever asked the server; nothing
here connects. Every mistake is a `TargetError` with its mend.
"""

from __future__ import annotations

import difflib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import (
    any_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import Descriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError

from pelton.errors import TargetError
from pelton.subscription import Descriptors

__all__ = [
    "MethodTypes",
    "TypePool",
    "load",
    "method_types",
    "pool_of_files",
    "pool_of_protos",
    "pool_of_set",
]

#: A set of descriptors larger than this is a wrong file.
DESCRIPTOR_SET_BYTES_MAX = 64 << 20

#: Compiling some `.proto` files takes well under a second; a compiler that hangs must not hang the start.
COMPILE_TIMEOUT_S = 60.0

_MEND_SET = (
    "Or name a descriptor `set`, made by `protoc --include_imports --descriptor_set_out=api.binpb <files>`."
)

#: What a set made without its imports may leave out.
_WELL_KNOWN = {
    module.DESCRIPTOR.name: module.DESCRIPTOR
    for module in (
        any_pb2,
        duration_pb2,
        empty_pb2,
        field_mask_pb2,
        struct_pb2,
        timestamp_pb2,
        wrappers_pb2,
    )
}


@dataclass(frozen=True, slots=True)
class TypePool:
    """The descriptors of one source."""

    #: Where they come from, for messages.
    source: str
    pool: descriptor_pool.DescriptorPool
    #: Full names of the services, sorted.
    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MethodTypes:
    """What a unary method takes and gives."""

    method: str
    input: Descriptor
    output: Descriptor


def load(descriptors: Descriptors) -> TypePool | None:
    """The pool that the declaration names; None if the server itself is to be asked."""
    if descriptors.descriptor_set is not None:
        return pool_of_set(descriptors.descriptor_set)
    if descriptors.proto_files:
        return pool_of_protos(descriptors.proto_files, descriptors.proto_paths)
    return None


def pool_of_set(path: str) -> TypePool:
    """From a file that holds a serialised `FileDescriptorSet` (a buf image is one)."""
    try:
        size = Path(path).stat().st_size
        if size > DESCRIPTOR_SET_BYTES_MAX:
            raise TargetError(f"{path}: {size} bytes are too many for a descriptor set. {_MEND_SET}")
        content = Path(path).read_bytes()
    except OSError as error:
        raise TargetError(f"{path}: the descriptor set cannot be read: {error.strerror}.") from error
    return pool_of_files(_parse(content, path).file, source=path)


def pool_of_files(files: Iterable[FileDescriptorProto], *, source: str) -> TypePool:
    """From file descriptors in any order, such as a server's reflection gives."""
    by_name: dict[str, FileDescriptorProto] = {file.name: file for file in files}
    pool = descriptor_pool.DescriptorPool()
    services: list[str] = []
    #: Dependencies first; a file is pushed again below what it needs.
    stack = list(reversed(by_name.values()))
    added: set[str] = set()
    opened: set[str] = set()
    while stack:
        file = stack[-1]
        missing = [name for name in file.dependency if name not in added]
        if file.name in added:
            stack.pop()
        elif missing and file.name not in opened:
            opened.add(file.name)
            stack.extend(_dependency(name, file.name, by_name, source) for name in missing)
        else:
            # With something still missing here, two files import one another; the pool says so.
            _add(pool, file, source)
            added.add(stack.pop().name)
            prefix = f"{file.package}." if file.package else ""
            services.extend(f"{prefix}{service.name}" for service in file.service)
    return TypePool(source, pool, tuple(sorted(services)))


def pool_of_protos(files: Sequence[str], paths: Sequence[str] = ()) -> TypePool:
    """From `.proto` files, by the compiler that is at hand: grpcio-tools, protoc or buf.

    `paths` are the directories that imports start from; without any, the directory of each file.
    """
    roots = list(dict.fromkeys(paths or [str(Path(file).parent) for file in files]))
    for file in files:
        if not Path(file).is_file():
            raise TargetError(f"{file}: no such .proto file.")
    source = ", ".join(files)
    with tempfile.TemporaryDirectory(prefix="pelton-proto-") as directory:
        out = str(Path(directory) / "api.binpb")
        command = _compiler(files, roots, out)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TargetError(
                f"{source}: {command[0]} cannot be run or does not end: {error}. {_MEND_SET}"
            ) from error
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()[:2000]
            raise TargetError(f"{source}: the .proto files do not compile:\n{said}")
        return pool_of_files(_parse(Path(out).read_bytes(), source).file, source=source)


def method_types(types: TypePool, method: str) -> MethodTypes:
    """The types of `/package.Service/Method`, which must be unary."""
    service_name, slash, method_name = method.removeprefix("/").partition("/")
    if not method.startswith("/") or not slash or not service_name or not method_name or "/" in method_name:
        raise TargetError(f"{method}: not the path of a method. Write /package.Service/Method.")
    if service_name not in types.services:
        raise TargetError(
            f"{method}: no service {service_name} in {types.source}. {_near_services(service_name, types)}"
        )
    service: ServiceDescriptor = types.pool.FindServiceByName(service_name)
    found = service.methods_by_name.get(method_name)
    if found is None:
        names = ", ".join(sorted(service.methods_by_name)) or "none"
        raise TargetError(f"{method}: {service_name} has no method {method_name}. Its methods: {names}.")
    if found.client_streaming or found.server_streaming:
        raise TargetError(
            f"{method}: the method is streaming, and an event is one unary call. "
            "Name a unary method, or use `delivery: stream` with pelton.v1.EventHandler."
        )
    return MethodTypes(method, found.input_type, found.output_type)


def _near_services(name: str, types: TypePool) -> str:
    if not types.services:
        return "There is no service at all in it."
    by_last = {service.rpartition(".")[2].lower(): service for service in types.services}
    near = [
        *difflib.get_close_matches(name, types.services, n=3, cutoff=0.6),
        *(by_last[last] for last in difflib.get_close_matches(name.rpartition(".")[2].lower(), by_last, n=3)),
    ]
    if near:
        return f"Did you mean {' or '.join(dict.fromkeys(near))}?"
    few = ", ".join(types.services[:10])
    return f"It has {few}{', …' if len(types.services) > 10 else ''}."


def _parse(content: bytes, source: str) -> FileDescriptorSet:
    try:
        parsed = FileDescriptorSet.FromString(content)
    except DecodeError:
        raise TargetError(f"{source}: this is no descriptor set. {_MEND_SET}") from None
    if not parsed.file or not all(file.name for file in parsed.file):
        raise TargetError(f"{source}: there are no descriptors in it. {_MEND_SET}")
    return parsed


def _dependency(
    name: str, importer: str, by_name: dict[str, FileDescriptorProto], source: str
) -> FileDescriptorProto:
    file = by_name.get(name)
    if file is not None:
        return file
    known = _WELL_KNOWN.get(name)
    if known is None:
        raise TargetError(
            f"{source}: {importer} imports {name}, which is not in it. Make it with --include_imports."
        )
    file = FileDescriptorProto()
    known.CopyToProto(file)
    return file


def _add(pool: descriptor_pool.DescriptorPool, file: FileDescriptorProto, source: str) -> None:
    try:
        pool.AddSerializedFile(file.SerializeToString())
    except (TypeError, ValueError) as error:
        raise TargetError(f"{source}: {file.name} is not valid: {error}. {_MEND_SET}") from None


def _compiler(files: Sequence[str], roots: Sequence[str], out: str) -> list[str]:
    """The command that writes the set of these files to `out`."""
    arguments = [
        *(f"--proto_path={root}" for root in roots),
        "--include_imports",
        f"--descriptor_set_out={out}",
    ]
    tools = importlib.util.find_spec("grpc_tools")
    if tools is not None:
        include = [
            f"--proto_path={Path(place) / '_proto'}" for place in tools.submodule_search_locations or ()
        ]
        return [sys.executable, "-m", "grpc_tools.protoc", *arguments, *include, *files]
    protoc = shutil.which("protoc")
    if protoc is not None:
        return [protoc, *arguments, *files]
    buf = shutil.which("buf")
    if buf is not None and len(roots) == 1:
        only = [part for file in files for part in ("--path", file)]
        return [buf, "build", roots[0], *only, "--as-file-descriptor-set", "--output", out]
    several = " (buf is there, and takes one proto path only)" if buf is not None else ""
    raise TargetError(
        f"{', '.join(files)}: nothing that compiles .proto files is installed{several}. "
        f"Install grpcio-tools, or protoc. {_MEND_SET}"
    )
