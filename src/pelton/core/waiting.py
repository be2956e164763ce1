"""The deliveries of one partition that wait, by when they are due.

What they wait for, a backoff or the time that a retry tier gives them, is `engine.py`'s.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from pelton.core.delivery import Delivery

__all__ = ["Waiting"]


class Waiting:
    """A heap of those that wait; of those due at once the first to come is the first to go."""

    __slots__ = ("_heap", "_sequence")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Delivery]] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Delivery]:
        return iter([delivery for _, _, delivery in self._heap])

    def add(self, delivery: Delivery, due_ms: float) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (due_ms, self._sequence, delivery))

    def due(self, now_ms: float) -> Iterator[Delivery]:
        """Take out those whose time has come."""
        while self._heap and self._heap[0][0] <= now_ms:
            yield heapq.heappop(self._heap)[2]

    @property
    def next_ms(self) -> float:
        """When the next one is due; infinity where none waits."""
        return self._heap[0][0] if self._heap else float("inf")

    def clear(self) -> None:
        self._heap.clear()
