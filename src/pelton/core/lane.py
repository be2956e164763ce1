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

    __slots__ = (
        "_parked",
        "blocked",
        "costly",
        "followers",
        "head",
        "hollow",
        "key",
        "tail",
        "used_ms",
    )
    # Asked for by mypyc, for `clear`.
    __deletable__ = ("head",)

    def __init__(self, key: bytes, head: Delivery) -> None:
        self.key = key
        self.head = head
        self.followers: deque[Delivery] | None = None
        #: How many of the followers, from the front, are parked.
        self._parked = 0
        #: The head has failed or may not start: who follows it is parked, outside the intake limits.
        self.blocked = False
        #: Its last call failed, or took far longer than usual; and the time it has used so (`turns.py`).
        self.costly = False
        self.used_ms = 0.0
        #: Offsets behind the followers, whose events are read again when it comes to them (`shelf.py`).
        self.tail: deque[int] | None = None
        #: The head is settled, and who takes its place is in the tail.
        self.hollow = False

    def __len__(self) -> int:
        return 1 + (len(self.followers) if self.followers else 0)

    def __iter__(self) -> Iterator[Delivery]:
        yield self.head
        yield from self.followers or ()

    @property
    def last(self) -> Delivery:
        """The one in memory behind which none stands."""
        return self.followers[-1] if self.followers else self.head

    def append(self, delivery: Delivery) -> None:
        if self.followers is None:
            self.followers = deque()
        self.followers.append(delivery)
        if self.blocked:
            # Those before it are parked too: `block` has seen to it.
            self._parked += 1

    def block(self) -> list[Delivery]:
        """The head waits. Returns the followers that this parks; each is parked at most once."""
        self.blocked = True
        if self.followers is None:
            return []
        newly = [self.followers[at] for at in range(self._parked, len(self.followers))]
        self._parked = len(self.followers)
        return newly

    def advance(self) -> Delivery | None:
        """The head is settled: the next one takes its place. None says that the lane is empty, or hollow."""
        self.blocked = False
        if not self.followers:
            self.hollow = bool(self.tail)
            return None
        self.head = self.followers.popleft()
        if self._parked:
            self._parked -= 1
        return self.head

    def shelve(self, offset: int) -> None:
        """One more, behind all others, by its offset alone."""
        if self.tail is None:
            self.tail = deque()
        self.tail.append(offset)

    def forget(self) -> list[Delivery]:
        """All followers, who go to the front of the tail."""
        followers = list(self.followers or ())
        if followers:
            if self.tail is None:
                self.tail = deque()
            self.tail.extendleft(follower.offset for follower in reversed(followers))
            self.followers = None
            self._parked = 0
        return followers

    def come_back(self, delivery: Delivery) -> bool:
        """The first one of the tail is here again. True if it is the head now."""
        if not self.hollow:
            self.append(delivery)
            return False
        self.head, self.hollow = delivery, False
        return True

    def clear(self) -> None:
        """Nobody is kept in memory by it any more. Of a delivery that is still out it tells the key."""
        del self.head
        self.followers = self.tail = None
