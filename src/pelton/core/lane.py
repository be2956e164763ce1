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
    """One key's FIFO, a chain: each delivery names the one that follows it. Lanes are many and short, and
    the smallest queue weighs more than all that is in them."""

    __slots__ = (
        "_followers",
        "_parked",
        "blocked",
        "costly",
        "head",
        "hollow",
        "key",
        "last",
        "tail",
        "used_ms",
    )
    # Asked for by mypyc, for `clear`.
    __deletable__ = ("head", "last")

    def __init__(self, key: bytes, head: Delivery) -> None:
        self.key = key
        self.head = head
        #: The one in memory behind which none stands.
        self.last = head
        self._followers = 0
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
        return 1 + self._followers

    def __iter__(self) -> Iterator[Delivery]:
        yield self.head
        yield from self._chain()

    def _chain(self) -> list[Delivery]:
        followers = []
        follower = self.head.follower
        while follower is not None:
            followers.append(follower)
            follower = follower.follower
        return followers

    def append(self, delivery: Delivery) -> None:
        self.last.follower = delivery
        self.last = delivery
        self._followers += 1
        if self.blocked:
            # Those before it are parked too: `block` has seen to it.
            self._parked += 1

    def block(self) -> list[Delivery]:
        """The head has failed. Returns the followers that this parks; each is parked at most once."""
        self.blocked = True
        if self._parked == self._followers:
            return []
        newly = self._chain()[self._parked :]
        self._parked = self._followers
        return newly

    def advance(self) -> Delivery | None:
        """The head is settled: the next one takes its place. None says that the lane is empty, or hollow."""
        self.blocked = False
        head = self.head.follower
        if head is None:
            self.hollow = bool(self.tail)
            return None
        # What is settled keeps nobody.
        self.head.follower = None
        self.head = head
        self._followers -= 1
        if self._parked:
            self._parked -= 1
        return head

    def shelve(self, offset: int) -> None:
        """One more, behind all others, by its offset alone."""
        if self.tail is None:
            self.tail = deque()
        self.tail.append(offset)

    def forget(self) -> list[Delivery]:
        """All followers, who go to the front of the tail."""
        followers = self._unchain()
        if followers:
            if self.tail is None:
                self.tail = deque()
            self.tail.extendleft(follower.offset for follower in reversed(followers))
        return followers

    def _unchain(self) -> list[Delivery]:
        """The head stands alone. One by one: a long chain that went at once would go link within link."""
        followers = self._chain()
        self.head.follower = None
        for follower in followers:
            follower.follower = None
        self.last = self.head
        self._followers = self._parked = 0
        return followers

    def come_back(self, delivery: Delivery) -> bool:
        """The first one of the tail is here again. True if it is the head now."""
        if not self.hollow:
            self.append(delivery)
            return False
        self.head = self.last = delivery
        self.hollow = False
        return True

    def clear(self) -> None:
        """Nobody is kept in memory by it any more. Of a delivery that is still out it tells the key."""
        self._unchain()
        del self.head, self.last
        self.tail = None
