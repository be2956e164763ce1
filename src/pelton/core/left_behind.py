"""Calls that go on although their assignment is gone: each keeps its slot and its lane until it has ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pelton.core.breaker import Breaker
from pelton.core.delivery import Delivery
from pelton.core.limits import Slots
from pelton.core.outcome import Outcome

__all__ = ["BlockedKeys", "LeftBehind"]


class LeftBehind:
    """The calls that a closed engine has left."""

    __slots__ = ("_deliveries",)

    def __init__(self) -> None:
        self._deliveries: set[Delivery] = set()

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self._deliveries)

    def take(self, calling: Iterable[Delivery], breaker: Breaker) -> None:
        """The calls of these go on without their engine, and keep slots and lanes until they have ended."""
        for delivery in calling:
            self._deliveries.add(delivery)
            # Nobody will hear its answer; if it was the probe, the breaker would wait for it for ever.
            breaker.abandoned(delivery, delivery.started_ms)

    def ended(
        self, results: Iterable[tuple[Delivery, Outcome]], slots: Slots, costly: set[Delivery]
    ) -> list[bytes]:
        """These are over, and settle nothing. Returns the lanes that they blocked."""
        # One that is told twice is over once.
        over = dict.fromkeys([delivery for delivery, _ in results if delivery in self._deliveries])
        self._deliveries.difference_update(over)
        slots.give(len(over), len(costly.intersection(over)))
        costly.difference_update(over)
        return [delivery.lane.key for delivery in over if delivery.lane is not None]


class BlockedKeys:
    """The lanes in which calls of earlier assignments are still out, and how many in each."""

    __slots__ = ("calls",)

    def __init__(self, calls: Mapping[bytes, int]) -> None:
        #: To be read only: whether a key is in it is asked for every lane.
        self.calls = dict(calls)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.calls)

    def ended(self, key: bytes) -> bool:
        """One of them has ended. Whether it was the last; no, too, where none was out from the beginning."""
        left = self.calls.pop(key, 0) - 1
        if left > 0:
            self.calls[key] = left
        return left == 0
