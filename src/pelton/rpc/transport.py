"""The transport: batches of calls in, batches of outcomes out.

The one Protocol that every way of making calls implements, and the suite in `tests/conformance` holds
them all to it. Nothing here decides what an outcome means.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from pelton.core.delivery import Delivery
from pelton.core.outcome import Outcome

__all__ = ["Call", "Metadata", "OnResults", "Result", "Transport"]

#: Metadata entries of a call: lower-case names; bytes under a ``-bin`` name, printable ASCII otherwise.
Metadata = tuple[tuple[str, str | bytes], ...]

#: One attempt's end.
Result = tuple[Delivery, Outcome]
OnResults = Callable[[list[Result]], None]


class Call:
    """One attempt to be made: what to send, to be ended within `timeout_ms` of its submission.

    `body` is the serialised request. In stream mode it is the serialised `pelton.v1.Delivery` without its
    token; the transport adds the token. The call bears `common` and its own `metadata`. What many calls have
    in common is the same tuple for all of them, so that a transport may keep what it has made of it.
    """

    __slots__ = ("body", "common", "delivery", "metadata", "timeout_ms")

    def __init__(
        self, delivery: Delivery, body: bytes, metadata: Metadata, timeout_ms: float, common: Metadata = ()
    ) -> None:
        self.delivery = delivery
        self.body = body
        self.metadata = metadata
        self.timeout_ms = timeout_ms
        self.common = common


class Transport(Protocol):
    """Makes calls to one subscription's method.

    Every call submitted ends in exactly one result, whatever happens: an answer, a local deadline, a
    lost connection, a cancel or the close. Results are handed to the `on_results` given at construction,
    on the event loop, never from inside `submit`, `cancel` or `close` themselves, and several at a time
    where several are ready. The transport never retries. It holds no more calls than were submitted: the
    engine's concurrency is its bound.
    """

    @property
    def in_flight(self) -> int:
        """Calls submitted and not yet ended."""
        ...

    def submit(self, calls: Sequence[Call]) -> None:
        """Start the calls, in this order. Loop thread only; does not block."""
        ...

    def cancel(self, deliveries: Collection[Delivery]) -> None:
        """End the calls of these deliveries now, as `CANCELLED_BY_US`; what has no call out is ignored."""
        ...

    async def close(self, drain_ms: float) -> None:
        """Wait up to `drain_ms` for the calls that are out, cancel the rest, hand all over, disconnect.

        May be called twice; returns when nothing of the transport runs any more.
        """
        ...
