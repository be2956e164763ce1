"""A service of any team's, in the test's own process: unary methods of its own types, and server reflection.

It keeps what it was sent, by offset. It knows nothing of Pelton but that it is a handler, too.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection

from pelton.v1 import handler_pb2
from tests.request.making import parsed, shop_file

__all__ = ["Metadata", "Shop"]

Metadata = tuple[tuple[str, str | bytes], ...]


class Shop(grpc.GenericRpcHandler):
    """A service that has never heard of Pelton, with server reflection; and a handler that has."""

    def __init__(self, port: int = 0) -> None:
        self.requests: dict[str, tuple[Any, Metadata]] = {}
        self.deliveries: dict[int, handler_pb2.Delivery] = {}
        self._server: Any = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        pool = DescriptorPool()
        for known in (timestamp_pb2, duration_pb2, wrappers_pb2, struct_pb2):
            pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
        pool.AddSerializedFile(shop_file().SerializeToString())
        reflection.enable_server_reflection(["shop.v1.EventService"], self._server, pool)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    def service(self, call: Any) -> Any:
        match call.method:
            case "/shop.v1.EventService/HandleEvent":
                return grpc.unary_unary_rpc_method_handler(self._handle_event)
            case "/pelton.v1.EventHandler/Handle":
                return grpc.unary_unary_rpc_method_handler(self._handle, handler_pb2.Delivery.FromString)
        return None

    def _handle_event(self, request: bytes, context: Any) -> bytes:
        metadata = context.invocation_metadata()
        offset = dict(metadata)["pelton-offset"]
        self.requests[offset] = parsed(request), tuple((entry.key, entry.value) for entry in metadata)
        return b""

    def _handle(self, delivery: handler_pb2.Delivery, context: Any) -> bytes:
        self.deliveries[delivery.event.position.offset] = delivery
        return b""
