"""The lanes of one partition: who joins which, who is parked in it, and whose turn comes next.

A lane is made with its first event and gone with its last. One in which a call of an earlier assignment is
still out is blocked from the beginning. When a lane's turn is, is `turns.py`'s; what ends an event is
`engine.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pelton.core.delivery import Delivery, State
from pelton.core.intake import Intake
from pelton.core.lane import Lane
from pelton.core.left_behind import BlockedKeys
from pelton.core.shelf import Shelf
from pelton.core.turns import Turns

__all__ = ["Lanes"]


class Lanes:
    """All lanes by their key. The engine's own parts are handed in: who moves here moves there, too."""

    __slots__ = ("_blocked_keys", "_intake", "_lanes", "_shelf", "_turns")

    def __init__(
        self, turns: Turns, intake: Intake, shelf: Shelf, blocked_keys: Mapping[bytes, int] | None
    ) -> None:
        self._turns = turns
        self._intake = intake
        self._shelf = shelf
        self._blocked_keys = BlockedKeys(blocked_keys or {})
        self._lanes: dict[bytes, Lane] = {}

    def join(self, key: bytes, delivery: Delivery) -> bool:
        """It stands behind all others of its lane from now on. False if only its offset does."""
        lane = self._lanes.get(key)
        if lane is None:
            delivery.lane = lane = self._lanes[key] = Lane(key, delivery)
            if key in self._blocked_keys.calls:
                lane.block()
            else:
                self._turns.add(delivery)
            return True
        if lane.tail:
            self._shelf.put(lane, delivery.offset)
            return False
        delivery.lane = lane
        lane.append(delivery)
        if lane.blocked:
            delivery.to(State.PARKED)
        return True

    def advance(self, lane: Lane, ended: Delivery, slow_before_ms: float, now_ms: float) -> None:
        """The lane's head has ended; the next one takes its place. A call that was started before
        `slow_before_ms` was slow."""
        head = lane.advance()
        if lane.tail:
            self._shelf.want(lane)
        elif head is None:
            del self._lanes[lane.key]
        if head is None:
            return
        if head.state is State.PARKED:
            head.to(State.QUEUED)
            self._intake.unpark(head)
        if ended.started_ms >= slow_before_ms and not lane.costly:
            self._turns.add(head)
        else:
            slow = ended.attempt > 0 and ended.started_ms < slow_before_ms
            used_ms = now_ms - ended.started_ms if slow else 0.0
            self._turns.add_next(lane, used_ms, well=ended.state is State.ACKED)

    def block(self, lane: Lane) -> None:
        """The head waits: whoever follows it is parked."""
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

    def left_blocked(self) -> Iterator[Lane | None]:
        """Those that calls of earlier assignments block; None for one that is not there."""
        return (self._lanes.get(key) for key in self._blocked_keys)

    def clear(self) -> None:
        for lane in self._lanes.values():
            lane.clear()
        self._lanes.clear()
