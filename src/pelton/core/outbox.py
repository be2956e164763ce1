"""Hops of one partition on their way to the broker: to be written, out, or refused and waiting.

While any is refused the engine starts nothing more: a topic of ours that cannot be written is mended by
somebody, and until then every further failure would only join the queue.
"""

from __future__ import annotations

from collections.abc import Iterator

from pelton.core.actions import Hop
from pelton.core.delivery import Delivery

__all__ = ["RETRY_FIRST_MS", "RETRY_MAX_MS", "Outbox"]

#: How long to wait before what the broker did not take is written again, doubling.
RETRY_FIRST_MS = 500.0
RETRY_MAX_MS = 30_000.0


class Outbox:
    """Holds each hop until the broker has acknowledged it. Bounded by the engine's open events."""

    __slots__ = ("_again", "_out", "_wait_ms", "again_ms", "refused", "to_write")

    def __init__(self) -> None:
        #: Not handed out yet.
        self.to_write: list[Hop] = []
        self._out: dict[Delivery, Hop] = {}
        #: Refused by the broker, to be written again at `again_ms`.
        self._again: list[Hop] = []
        #: Whose hops the broker has refused, from then until it takes them.
        self.refused: set[Delivery] = set()
        self.again_ms = float("inf")
        self._wait_ms = RETRY_FIRST_MS

    def __len__(self) -> int:
        return len(self.to_write) + len(self._out) + len(self._again)

    def __iter__(self) -> Iterator[Delivery]:
        yield from (hop.delivery for hop in self.to_write)
        yield from self._out
        yield from (hop.delivery for hop in self._again)

    @property
    def in_hand(self) -> bool:
        """Nothing is with the broker, nor about to be."""
        return not self._out and not self.to_write

    @property
    def resting(self) -> bool:
        """Something waits to be written again."""
        return bool(self._again)

    def add(self, hop: Hop) -> None:
        self.to_write.append(hop)

    def take(self) -> list[Hop]:
        """What is to be written now; each comes back through `acknowledged` or `not_taken`."""
        taken, self.to_write = self.to_write, []
        for hop in taken:
            self._out[hop.delivery] = hop
        return taken

    def acknowledged(self, delivery: Delivery) -> Hop:
        self.refused.discard(delivery)
        self._wait_ms = RETRY_FIRST_MS
        return self._out.pop(delivery)

    def not_taken(self, delivery: Delivery, now_ms: float) -> None:
        self._again.append(self._out.pop(delivery))
        self.refused.add(delivery)
        if self.again_ms == float("inf"):
            self.again_ms = now_ms + self._wait_ms
            self._wait_ms = min(self._wait_ms * 2, RETRY_MAX_MS)

    def on_tick(self, now_ms: float) -> bool:
        """Whether the time to write again what was refused has come."""
        if now_ms < self.again_ms:
            return False
        self.again_ms = float("inf")
        self.to_write += self._again
        self._again.clear()
        return True

    def clear(self) -> None:
        for kept in (self.to_write, self._out, self._again, self.refused):
            kept.clear()
        self.again_ms = float("inf")
