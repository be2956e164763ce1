"""Unary gRPC calls on a thread of their own: what `pelton.rpc.native` is made of. See `__init__.pyi`."""

from pelton_native._native import Channel, Port, Runtime, __version__

__all__ = ["Channel", "Port", "Runtime", "__version__"]
