"""`shop.v1.EventService` as a team has it that never heard of Pelton: reflection, and one unary method."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection

__all__ = ["serving"]

SERVICE = "shop.v1.EventService"


def described() -> DescriptorPool:
    """As `examples/go/proto/shop/v1/event_service.proto` has it."""
    file = FileDescriptorProto(name="shop/v1/event_service.proto", package="shop.v1", syntax="proto3")
    request = file.message_type.add(name="EventRequest")
    for number, name in enumerate(("message", "priority"), start=1):
        request.field.add(
            name=name, number=number, type="TYPE_STRING", label="LABEL_OPTIONAL", json_name=name
        )
    file.message_type.add(name="EventResponse")
    file.service.add(name="EventService").method.add(
        name="HandleEvent", input_type=".shop.v1.EventRequest", output_type=".shop.v1.EventResponse"
    )
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


@contextmanager
def serving(port: int) -> Iterator[None]:
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    reflection.enable_server_reflection((SERVICE, reflection.SERVICE_NAME), server, pool=described())
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()
