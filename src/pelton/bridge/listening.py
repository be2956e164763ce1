"""The two ports of a server: where they are, and what is said when one cannot be had."""

from __future__ import annotations

from pelton.bridge import logs
from pelton.bridge.health import HttpServer
from pelton.config.settings import Server
from pelton.errors import ConfigError, PeltonError, Problem
from pelton.rpc.health import HealthServer

__all__ = ["listen"]


async def listen(server: Server, http: HttpServer, *, source: str) -> HealthServer:
    """Listen on both; ConfigError, naming the option, where an address is taken."""
    health = HealthServer(f"{server.grpc_host}:{server.grpc_port}")
    try:
        http_port = await http.start()
    except OSError as error:
        raise _taken("server.http", f"{server.http_host}:{server.http_port}", error, source) from error
    try:
        grpc_port = await health.start()
    except OSError as error:
        await http.stop()
        raise _taken("server.grpc", f"{server.grpc_host}:{server.grpc_port}", error, source) from error
    logs.logger().info(
        "listening", http=f"{server.http_host}:{http_port}", grpc_health=f"{server.grpc_host}:{grpc_port}"
    )
    return health


def _taken(path: str, address: str, error: OSError, source: str) -> PeltonError:
    problem = Problem(
        path, f"cannot listen on {address}: {error.strerror or error}.", "Free it, or choose another."
    )
    return ConfigError([problem], source=source)
