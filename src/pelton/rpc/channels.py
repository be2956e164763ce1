"""Connections to targets, shared by the subscriptions that use the same address with the same credentials.

Nothing here makes calls, and nothing here retries: what a connection loses is the caller's to try again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable

import grpc.aio

from pelton.core.breaker import PROBE_FIRST_MS
from pelton.errors import TargetError
from pelton.rpc.security import CHECK_INTERVAL_S, Bearer, Certificates, check_target
from pelton.rpc.transport import Metadata
from pelton.subscription import Secret, Target, Tls

__all__ = ["Channels", "Lease"]

log = logging.getLogger(__name__)

#: The largest reply that is read: replies carry a verdict, not data, so gRPC's own default is plenty.
REPLY_BYTES_MAX = 4 << 20
#: The most metadata of an answer that is read, a status's message among it. Many a server puts a stack trace
#: there; above gRPC's own 8 KiB the status would come as RESOURCE_EXHAUSTED, as if the target were unwell.
ANSWER_METADATA_BYTES_MAX = 64 << 10
#: A lost connection is tried again after the first of these, then ever later up to the second. A probe that
#: comes while the channel rests fails without anyone having tried, and the next one is seconds away: gRPC's
#: own 120 s would outlast many, and 5 s made a target that was back wait for 7 s. So it rests no longer than
#: the breaker does before its first probe.
RECONNECT_MIN_MS = 100
RECONNECT_MAX_MS = int(PROBE_FIRST_MS)
#: One attempt to connect; gRPC's own 20 s is longer than a call waits.
CONNECT_TIMEOUT_MS = 5_000
#: How long calls on a connection with outdated certificates may go on; above every sane `timeout`.
REPLACED_DRAIN_S = 60.0

_SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})

#: What two targets must have in common to share a connection.
_Key = tuple[str, Tls | None, Secret | None, int, int]


class Lease:
    """One user's share of a connection. `channel` may be another one each time it is asked for."""

    def __init__(
        self, target: Target, connection: _Connection, give_back: Callable[[_Connection], Awaitable[None]]
    ) -> None:
        self.target = target
        self._connection: _Connection | None = connection
        self._give_back = give_back

    def channel(self) -> grpc.aio.Channel:
        """The channel to make calls on now; a new one after the certificates' files have changed."""
        assert self._connection is not None, "a lease is not used after its release"
        return self._connection.current()

    def authorization(self) -> Metadata:
        """The entries that a call must bear for this target's credentials; empty without any."""
        assert self._connection is not None, "a lease is not used after its release"
        bearer = self._connection.bearer
        return () if bearer is None else bearer.metadata()

    async def release(self) -> None:
        """Give the share back; the last one closes the connection. May be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._give_back(connection)


class Channels:
    """The process's connections, by address and credentials. One per process; made on the event loop."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: Bounded by the targets of the configuration.
        self._connections: dict[_Key, _Connection] = {}

    def lease(self, target: Target) -> Lease:
        """A share of the connection to `target`; TargetError if its credentials cannot be used.

        Connects lazily: a target that is down, or whose name does not resolve, says so at the first call.
        """
        check_target(target)
        key = (
            target.address,
            target.tls,
            target.bearer,
            target.keepalive_time_ms,
            target.keepalive_timeout_ms,
        )
        connection = self._connections.get(key)
        if connection is None:
            connection = self._connections[key] = _Connection(key, target, self._clock)
        connection.leases += 1
        return Lease(target, connection, self._release)

    async def _release(self, connection: _Connection) -> None:
        connection.leases -= 1
        if connection.leases == 0:
            del self._connections[connection.key]
            await connection.close()

    async def close(self) -> None:
        """Close what is still open, its calls included. Transports are closed first; may be called twice."""
        connections = list(self._connections.values())
        for connection in connections:
            await connection.close()


class _Connection:
    """One channel at a time to one address with one set of credentials, and the outdated ones that drain."""

    def __init__(self, key: _Key, target: Target, clock: Callable[[], float]) -> None:
        self.key = key
        self.leases = 0
        self.bearer = None if target.bearer is None else Bearer(target.bearer, target.name, clock=clock)
        self._target = target
        self._clock = clock
        self._certificates = None if target.tls is None else Certificates(target.tls, target.name)
        self._checked_s = clock()
        self._draining: set[asyncio.Task[None]] = set()
        self._channel = self._make()

    def current(self) -> grpc.aio.Channel:
        if self._certificates is not None:
            now = self._clock()
            if now - self._checked_s >= CHECK_INTERVAL_S:
                self._checked_s = now
                if self._certificates.changed():
                    self._replace()
        return self._channel

    def _replace(self) -> None:
        """A new channel for new certificates; the old one ends when its calls have.

        Files caught in the middle of a rotation do not fit together; the old channel stays until they do.
        """
        try:
            channel = self._make()
        except TargetError as error:
            log.warning("certificates changed but cannot be used; the old ones stay in use: %s", error)
            return
        old, self._channel = self._channel, channel
        task = asyncio.get_running_loop().create_task(
            old.close(REPLACED_DRAIN_S), name="drain-replaced-channel"
        )
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)
        log.info("certificates of target %s changed: connecting anew", self._target.name)

    def _make(self) -> grpc.aio.Channel:
        target = self._target
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
        if self._certificates is None:
            return grpc.aio.insecure_channel(target.address, options=options)
        if target.tls is not None and target.tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", target.tls.server_name))
        return grpc.aio.secure_channel(target.address, self._certificates.credentials(), options=options)

    async def close(self) -> None:
        for task in list(self._draining):
            task.cancel()
        await asyncio.gather(*self._draining, return_exceptions=True)
        await self._channel.close()
