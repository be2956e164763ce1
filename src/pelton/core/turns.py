"""Whose turn it is: the deliveries of one partition that may be called, in the order of their calls.

Only lane heads and events without a lane stand here. How many calls may start is handed in; what starting
means for a delivery is `engine.py`'s.

A turn is *fresh* or *costly*. Fresh ones come in the order they came in: every key one call, then the next
one. Costly are retries, and the next events of a key whose last call failed or took far longer than usual:
they come by the time that their key has used, and share a part of the calls (`limits.py`), so that keys that
fail or hang cannot take the calls of the others.

An event that the ack map has no room for holds up those behind it, but never the lowest open one, which
always has room (`ledger.py`): it overtakes. So there is no deadlock, only a stall.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from itertools import islice

from pelton.core.delivery import Delivery, State
from pelton.core.lane import Lane
from pelton.core.ledger import Ledger
from pelton.core.tiers import Arrival

__all__ = ["Turns"]


class Turns:
    """The QUEUED deliveries of one partition whose turn may come."""

    __slots__ = ("_costly", "_first", "_fresh", "_sequence", "_used_ms", "add", "costly_out", "stalled")

    def __init__(self) -> None:
        self._first: deque[Delivery] = deque()
        self._fresh: deque[Delivery] = deque()
        #: By the time its key has used, and then by the order they came in.
        self._costly: list[tuple[float, int, Delivery]] = []
        self._sequence = 0
        #: What the last costly one had used: who comes new begins there, or he would overtake all the others.
        self._used_ms = 0.0
        #: A fresh one, behind all others. The queue's own method: it is called for every event.
        self.add = self._fresh.append
        #: Whose costly calls are out.
        self.costly_out: set[Delivery] = set()
        #: The last `take` ended because the ack map had no room.
        self.stalled = False

    def __bool__(self) -> bool:
        return bool(self._fresh or self._first or self._costly)

    def __iter__(self) -> Iterator[Delivery]:
        yield from self._first
        yield from self._fresh
        for _, _, delivery in self._costly:
            yield delivery

    @property
    def costly(self) -> bool:
        """Somebody waits whose calls are."""
        return bool(self._costly)

    @property
    def fresh(self) -> bool:
        """Somebody waits whose calls are not counted as costly."""
        return bool(self._fresh or self._first)

    def add_costly(self, delivery: Delivery, used_ms: float) -> None:
        """One whose key has just used `used_ms` for nothing, or for a call that was slow."""
        lane = delivery.lane
        until_ms = self._used_ms
        if lane is not None:
            until_ms = max(until_ms, lane.used_ms)
        until_ms += used_ms
        if lane is not None:
            lane.used_ms = until_ms
        self._sequence += 1
        heapq.heappush(self._costly, (until_ms, self._sequence, delivery))

    def add_again(self, delivery: Delivery) -> None:
        """One that has failed before; here, or where it was moved from, which is no time of ours."""
        called = delivery.started_ms >= 0.0
        self.add_costly(delivery, delivery.last_failed_ms - delivery.started_ms if called else 0.0)

    def add_next(self, lane: Lane, used_ms: float, *, well: bool) -> None:
        """The lane's head, which has just moved up: the one before it has used `used_ms` if that was slow.

        A lane that was costly stays so until one of its calls is `well`, and not slow.
        """
        if well:
            lane.costly = used_ms > 0.0
        if lane.costly:
            self.add_costly(lane.head, used_ms)
        else:
            self.add(lane.head)

    def add_first(self, delivery: Delivery) -> None:
        """Its turn comes before all others."""
        self._first.appendleft(delivery)

    @property
    def untried(self) -> Delivery | None:
        """An event to probe with: one that may be called and never was. What has failed may be at fault."""
        return next((each for each in self if each.attempt == 0 and not each.has_preset), None)

    def overtake(self, delivery: Delivery) -> None:
        """One that stands here comes first."""
        if delivery in self._first:
            self._first.remove(delivery)
        elif delivery in self._fresh:
            self._fresh.remove(delivery)
        else:
            self._costly = [entry for entry in self._costly if entry[2] is not delivery]
            heapq.heapify(self._costly)
        self._first.appendleft(delivery)

    def take(
        self, room: int, share: int, idle_share: int, ledger: Ledger, lowest: Delivery | None
    ) -> list[Delivery]:
        """At most `room` deliveries to call, and between them those whose end is known without a call.

        At most `share` of them are costly, and `idle_share` where nobody fresh is left. Each has its
        reservation in the ledger. `lowest` is the lowest open one.
        """
        taken: list[Delivery] = []
        self.stalled = False
        if self._first:
            room -= self._take(self._first, room, taken, ledger, lowest)
        costly = 0
        if self._costly:
            costly = self._take_costly(min(room, share), taken, ledger, lowest)
            room -= costly
        if self._fresh:
            room -= self._take(self._fresh, room, taken, ledger, lowest)
        if self._costly and not self._fresh:
            self._take_costly(min(room, idle_share - costly), taken, ledger, lowest)
        return taken

    def _take(
        self,
        queue: deque[Delivery],
        room: int,
        taken: list[Delivery],
        ledger: Ledger,
        lowest: Delivery | None,
    ) -> int:
        calls = 0
        while queue and calls < room:
            count = min(room - calls, len(queue))
            # Nearly always there is room for all of them, and nobody need be asked for one by one.
            if ledger.has_room(count):
                ledger.reserve_all([delivery.offset for delivery in islice(queue, count)])
            else:
                if not ledger.reserve(queue[0].offset):
                    return calls + self._take_lowest(taken, ledger, lowest)
                count = 1
            for _ in range(count):
                delivery = queue.popleft()
                taken.append(delivery)
                if not delivery.has_preset:
                    calls += 1
        return calls

    def _take_costly(self, room: int, taken: list[Delivery], ledger: Ledger, lowest: Delivery | None) -> int:
        calls = 0
        while self._costly and calls < room:
            used_ms, _, delivery = self._costly[0]
            if not ledger.reserve(delivery.offset):
                return calls + self._take_lowest(taken, ledger, lowest)
            heapq.heappop(self._costly)
            self._used_ms = used_ms
            taken.append(delivery)
            if not delivery.has_preset:
                self.costly_out.add(delivery)
                calls += 1
        return calls

    def _take_lowest(self, taken: list[Delivery], ledger: Ledger, lowest: Delivery | None) -> int:
        """The ack map has no room; if only its turn is missing, the lowest one overtakes."""
        self.stalled = True
        # (In a list: compiled, `in` asks no class that can only be walked through.)
        if lowest is None or lowest.state is not State.QUEUED or lowest in taken or lowest not in list(self):
            return 0
        self.overtake(lowest)
        self._first.popleft()
        reserved = ledger.reserve(lowest.offset)
        assert reserved, "the lowest open offset always has room"
        taken.append(lowest)
        return 0 if lowest.has_preset else 1

    def take_arrived(self) -> list[Delivery]:
        """Those that were moved here and have not been asked yet when they are due."""
        fresh = self._fresh
        arrived = [each for each in fresh if each.has_preset and isinstance(each.preset, Arrival)]
        if arrived:
            gone = set(arrived)
            left = [each for each in fresh if each not in gone]
            fresh.clear()
            fresh.extend(left)
        return arrived

    def clear(self) -> None:
        for kept in (self._first, self._fresh, self._costly):
            kept.clear()
