"""The server's own gRPC port: the standard health protocol, for orchestrators that ask that way.

`""` is the whole process, a subscription's name is that subscription. The answers are somebody else's.
"""

from __future__ import annotations

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

__all__ = ["HealthServer"]

#: How long calls in progress have to finish when the server stops.
_CLOSE_SECONDS = 1.0


class HealthServer:
    """Serves `grpc.health.v1.Health` in plaintext; bind it to loopback, or behind something that is not."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._servicer = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._serving: dict[str, bool] = {}

    async def start(self) -> int:
        """Listen; returns the port. Raises OSError where the address cannot be had."""
        # One address, one owner: by default gRPC would share the port with whoever else asks for it.
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        try:
            port = server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise OSError(f"{self._address} cannot be bound: {error}") from error
        await server.start()
        self._server = server
        return port

    async def set(self, name: str, *, serving: bool) -> None:
        """Say whether `name` is ready; watchers hear of a change at once."""
        if self._serving.get(name) is serving:
            return
        self._serving[name] = serving
        response = health_pb2.HealthCheckResponse
        await self._servicer.set(name, response.SERVING if serving else response.NOT_SERVING)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(_CLOSE_SECONDS)
