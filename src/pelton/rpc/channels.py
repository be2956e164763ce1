"""The process's connections to targets: those of grpc.aio, which are always there, and the native ones.

Nothing here makes calls, and nothing here retries: what a connection loses is the caller's to try again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import grpc.aio

from pelton.rpc.leases import (
    ANSWER_METADATA_BYTES_MAX,
    CONNECT_TIMEOUT_MS,
    RECONNECT_MAX_MS,
    RECONNECT_MIN_MS,
    REPLY_BYTES_MAX,
    Leased,
    Leases,
)
from pelton.rpc.native_dial import NativeDial, NativeLease
from pelton.rpc.security import Certificates
from pelton.subscription import Target

__all__ = ["Channels", "Lease"]

_SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})

Lease = Leased[grpc.aio.Channel]


class Channels:
    """The process's connections, by address and credentials. One per process; made on the event loop."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._aio = Leases(_AioDial(), clock)
        self.native_dial = NativeDial()
        self._native = Leases(self.native_dial, clock)

    def lease(self, target: Target) -> Lease:
        """A share of the grpc.aio connection to `target`; TargetError if its credentials cannot be used."""
        return self._aio.lease(target)

    def lease_native(self, target: Target) -> NativeLease:
        """The same of the native connection; TargetError also if there is no native transport."""
        return self._native.lease(target)

    async def close(self) -> None:
        """Close what is still open, its calls included. Transports are closed first; may be called twice."""
        await self._aio.close()
        await self._native.close()
        self.native_dial.close()


class _AioDial:
    """Channels of grpc.aio."""

    def make(self, target: Target, certificates: Certificates | None) -> grpc.aio.Channel:
        options: list[tuple[str, str | int]] = [
            # Retries are the engine's, and counted. A service config from DNS could bring them back.
            ("grpc.enable_retries", 0),
            ("grpc.service_config_disable_resolution", 1),
            ("grpc.service_config", _SERVICE_CONFIG),
            ("grpc.keepalive_time_ms", target.keepalive_time_ms),
            ("grpc.keepalive_timeout_ms", target.keepalive_timeout_ms),
            # Pings without calls are what servers answer with ENHANCE_YOUR_CALM.
            ("grpc.keepalive_permit_without_calls", 0),
            # The transports hold each request against the target's own limit before the call.
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", REPLY_BYTES_MAX),
            ("grpc.max_metadata_size", ANSWER_METADATA_BYTES_MAX),
            ("grpc.absolute_max_metadata_size", ANSWER_METADATA_BYTES_MAX),
            ("grpc.initial_reconnect_backoff_ms", RECONNECT_MIN_MS),
            ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
            ("grpc.max_reconnect_backoff_ms", RECONNECT_MAX_MS),
            # Without this, channels of one process to one peer end up on one connection.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if certificates is None:
            return grpc.aio.insecure_channel(target.address, options=options)
        if target.tls is not None and target.tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", target.tls.server_name))
        return grpc.aio.secure_channel(target.address, certificates.credentials(), options=options)

    async def hang_up(self, channel: grpc.aio.Channel, grace_s: float) -> None:
        await channel.close(grace_s or None)
