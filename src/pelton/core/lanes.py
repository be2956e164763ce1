"""The lanes of one partition: who joins which, who is parked in it, and whose turn comes next.

A lane is made with its first event and gone with its last. One in which a call of an earlier assignment is
still out is blocked from the beginning. When a lane's turn is, is `turns.py`'s; what ends an event is
`engine.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pelton.core.delivery import Delivery, State
from pelton.core.intake import Intake
from pelton.core.lane import Lane
from pelton.core.left_behind import BlockedKeys
from pelton.core.shelf import Shelf
from pelton.core.turns import Turns
from pelton.subscription import Ordering

__all__ = ["Lanes"]

_PARTITION_LANE = b""


class Lanes:
    """All lanes by their key. The engine's own parts are handed in: who moves here moves there, too."""

    __slots__ = ("_blocked_keys", "_by_key", "_intake", "_lanes", "_shared", "_shelf", "_turns")

    def __init__(
        self,
        ordering: Ordering,
        turns: Turns,
        intake: Intake,
        shelf: Shelf,
        blocked_keys: Mapping[bytes, int] | None,
    ) -> None:
        self._by_key = ordering is Ordering.KEY
        #: The lane of all where it is not by key.
        self._shared = _PARTITION_LANE if ordering is Ordering.PARTITION else None
        self._turns = turns
        self._intake = intake
        self._shelf = shelf
        self._blocked_keys = BlockedKeys(blocked_keys or {})
        self._lanes: dict[bytes, Lane] = {}

    def join(self, came: Iterable[Delivery]) -> None:
        """They are new, and each stands behind all others of its lane from now on; one without a lane has
        its turn by itself."""
        lanes, blocked, add = self._lanes, self._blocked_keys.calls, self._turns.add
        by_key, shared = self._by_key, self._shared
        events = size_bytes = 0
        for delivery in came:
            key = delivery.event.key if by_key else shared
            if key is None:
                add(delivery)
            elif (lane := lanes.get(key)) is None:
                delivery.lane = lane = lanes[key] = Lane(key, delivery)
                if blocked and key in blocked:
                    lane.block()
                else:
                    add(delivery)
            elif lane.tail:
                self._shelf.put(lane, delivery)
                continue
            else:
                delivery.lane = lane
                lane.append(delivery)
                if lane.blocked:
                    delivery.to(State.PARKED)
                    self._intake.admit_parked(1, delivery.size_bytes)
                    continue
            events += 1
            size_bytes += delivery.size_bytes
        self._intake.admit(events, size_bytes)

    def advance(self, ended: Iterable[Delivery], slow_before_ms: float, now_ms: float) -> None:
        """These have ended; the next one of its lane takes the place of each. A call that was started before
        `slow_before_ms` was slow."""
        turns, add = self._turns, self._turns.add
        for delivery in ended:
            if (lane := delivery.lane) is None:
                continue
            # The lane may still name it as its head: they would keep each other until the collector comes.
            delivery.lane = None
            if lane.last is delivery and not lane.tail:
                del self._lanes[lane.key]
                continue
            head = lane.advance()
            if lane.tail:
                self._shelf.want(lane)
            if head is None:
                # How much is read of what follows depends on it.
                if delivery.state is State.ACKED and delivery.started_ms >= slow_before_ms:
                    lane.costly = False
                continue
            if head.state is State.PARKED:
                head.to(State.QUEUED)
                self._intake.unpark(head)
            if delivery.started_ms >= slow_before_ms and not lane.costly:
                add(head)
            else:
                slow = delivery.attempt > 0 and delivery.started_ms < slow_before_ms
                used_ms = now_ms - delivery.started_ms if slow else 0.0
                turns.add_next(lane, used_ms, well=delivery.state is State.ACKED)

    def block(self, lane: Lane) -> None:
        """The head waits, or is on its way to a topic of ours: whoever follows it is parked."""
        lane.costly = True
        for follower in lane.block():
            follower.to(State.PARKED)
            self._intake.park(follower)

    def unblock(self, key: bytes) -> None:
        """A call of an earlier assignment in this lane has ended."""
        lane = self._lanes.get(key) if self._blocked_keys.ended(key) else None
        if lane is not None:
            assert lane.blocked, "a lane of a blocked key has never had its head called"
            lane.blocked = False
            self._turns.add(lane.head)

    def left_blocked(self) -> list[Lane | None]:
        """Those that calls of earlier assignments block; None for one that is not there."""
        return [self._lanes.get(key) for key in self._blocked_keys]

    def clear(self) -> None:
        for lane in self._lanes.values():
            lane.clear()
        self._lanes.clear()
