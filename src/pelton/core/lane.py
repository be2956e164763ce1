"""A lane: the events of one key in one partition, first come first called.

The head is the only one that may be called; the others follow it. A lane exists while anything in it is
open. Which lane an event belongs to, and when a head is called, is `engine.py`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from pelton.core.delivery import Delivery

__all__ = ["Lane"]


class Lane:
    """One key's FIFO. Most lanes hold a single event, so followers get a queue only when they come."""

    __slots__ = ("_followers", "_parked", "blocked", "head", "key")

    def __init__(self, key: bytes, head: Delivery) -> None:
        self.key = key
        self.head = head
        self._followers: deque[Delivery] | None = None
        #: How many of the followers, from the front, are parked.
        self._parked = 0
        #: The head has failed or may not start: who follows it is parked, outside the intake limits.
        self.blocked = False

    def __len__(self) -> int:
        return 1 + (len(self._followers) if self._followers else 0)

    def __iter__(self) -> Iterator[Delivery]:
        yield self.head
        yield from self._followers or ()

    def append(self, delivery: Delivery) -> None:
        if self._followers is None:
            self._followers = deque()
        self._followers.append(delivery)
        if self.blocked:
            # Those before it are parked too: `block` has seen to it.
            self._parked += 1

    def block(self) -> list[Delivery]:
        """The head waits. Returns the followers that this parks; each is parked at most once."""
        self.blocked = True
        if self._followers is None:
            return []
        newly = [self._followers[at] for at in range(self._parked, len(self._followers))]
        self._parked = len(self._followers)
        return newly

    def advance(self) -> Delivery | None:
        """The head is settled: the next one takes its place. None says that the lane is empty."""
        self.blocked = False
        if not self._followers:
            return None
        self.head = self._followers.popleft()
        if self._parked:
            self._parked -= 1
        return self.head
