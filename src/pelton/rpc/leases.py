"""Connections shared by the subscriptions that use the same address with the same credentials.

Whatever makes the calls: a *dial* says how a channel is made and hung up; here is who shares it, when its
certificates are read again, and when it goes. Nothing here makes calls, and nothing here retries.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from pelton.core.breaker import PROBE_FIRST_MS
from pelton.core.outcome import Outcome, Status
from pelton.errors import TargetError
from pelton.rpc.greeting import LOOK_EVERY_S, misfit
from pelton.rpc.security import CHECK_INTERVAL_S, Bearer, Certificates, check_target
from pelton.rpc.transport import Metadata
from pelton.subscription import Disposition, Secret, Target, Tls

__all__ = ["Dial", "Leased", "Leases"]

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

#: What two targets must have in common to share a connection.
_Key = tuple[str, Tls | None, Secret | None, int, int]

C = TypeVar("C")


class Dial(Protocol[C]):
    """How the channels of one kind are made and hung up."""

    def make(self, target: Target, certificates: Certificates | None) -> C:
        """A channel that connects lazily; TargetError if the certificates cannot be used."""
        ...

    async def hang_up(self, channel: C, grace_s: float) -> None:
        """No more calls; those that are out may go on for `grace_s`."""
        ...


class Leased(Generic[C]):
    """One user's share of a connection. `channel` may be another one each time it is asked for."""

    def __init__(
        self,
        target: Target,
        connection: _Connection[C],
        give_back: Callable[[_Connection[C]], Awaitable[None]],
    ) -> None:
        self.target = target
        self._connection: _Connection[C] | None = connection
        self._give_back = give_back

    def channel(self) -> C:
        """The channel to make calls on now; a new one after the certificates' files have changed."""
        assert self._connection is not None, "a lease is not used after its release"
        return self._connection.current()

    def authorization(self) -> Metadata:
        """The entries that a call must bear for this target's credentials; empty without any."""
        assert self._connection is not None, "a lease is not used after its release"
        bearer = self._connection.bearer
        return () if bearer is None else bearer.metadata()

    def explained(self, outcome: Outcome) -> Outcome:
        """A call's failure; miswired and not unwell where it is known why no call can succeed.

        The first failures are looked into and come back as they are.
        """
        if (
            self._connection is None
            or outcome.status is not Status.UNAVAILABLE
            or outcome.disposition is not None
            or outcome.verdict is not None
            or outcome.cancelled
        ):
            return outcome
        why = self._connection.misfit()
        if not why:
            return outcome
        return replace(outcome, message=f"{why} ({outcome.message})", disposition=Disposition.MISWIRED)

    async def release(self) -> None:
        """Give the share back; the last one closes the connection. May be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._give_back(connection)


class Leases(Generic[C]):
    """The connections of one kind, by address and credentials."""

    def __init__(self, dial: Dial[C], clock: Callable[[], float]) -> None:
        self._dial = dial
        self._clock = clock
        #: Bounded by the targets of the configuration.
        self._connections: dict[_Key, _Connection[C]] = {}

    def lease(self, target: Target) -> Leased[C]:
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
            connection = self._connections[key] = _Connection(key, target, self._dial, self._clock)
        connection.leases += 1
        return Leased(target, connection, self._release)

    async def _release(self, connection: _Connection[C]) -> None:
        connection.leases -= 1
        if connection.leases == 0:
            del self._connections[connection.key]
            await connection.close()

    async def close(self) -> None:
        """Close what is still open, its calls included. Transports are closed first; may be called twice."""
        connections = list(self._connections.values())
        for connection in connections:
            await connection.close()


class _Connection(Generic[C]):
    """One channel at a time to one address with one set of credentials, and the outdated ones that drain."""

    def __init__(self, key: _Key, target: Target, dial: Dial[C], clock: Callable[[], float]) -> None:
        self.key = key
        self.leases = 0
        self.bearer = None if target.bearer is None else Bearer(target.bearer, target.name, clock=clock)
        self._target = target
        self._dial = dial
        self._clock = clock
        self._certificates = None if target.tls is None else Certificates(target.tls, target.name)
        self._checked_s = clock()
        self._draining: set[asyncio.Task[None]] = set()
        #: What the last look at the port has found, the look that is under way, and when the next may be.
        self._misfit = ""
        self._look: asyncio.Task[None] | None = None
        self._look_due_s = float("-inf")
        self._channel = dial.make(target, self._certificates)

    def current(self) -> C:
        if self._certificates is not None:
            now = self._clock()
            if now - self._checked_s >= CHECK_INTERVAL_S:
                self._checked_s = now
                if self._certificates.changed():
                    self._replace()
        return self._channel

    def misfit(self) -> str:
        """Why no connection can come about, as far as is known; has a look taken where that is not fresh."""
        now = self._clock()
        if self._look is None and now >= self._look_due_s:
            self._look_due_s = now + LOOK_EVERY_S
            self._look = asyncio.get_running_loop().create_task(self._find_misfit(), name="look-at-port")
        return self._misfit

    async def _find_misfit(self) -> None:
        try:
            self._misfit = await misfit(self._target)
        finally:
            self._look = None

    def _replace(self) -> None:
        """A new channel for new certificates; the old one ends when its calls have.

        Files caught in the middle of a rotation do not fit together; the old channel stays until they do.
        """
        try:
            channel = self._dial.make(self._target, self._certificates)
        except TargetError as error:
            log.warning("certificates changed but cannot be used; the old ones stay in use: %s", error)
            return
        old, self._channel = self._channel, channel
        task = asyncio.get_running_loop().create_task(
            self._dial.hang_up(old, REPLACED_DRAIN_S), name="drain-replaced-channel"
        )
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)
        log.info("certificates of target %s changed: connecting anew", self._target.name)

    async def close(self) -> None:
        going = [*self._draining, *([self._look] if self._look is not None else [])]
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)
        await self._dial.hang_up(self._channel, 0.0)
