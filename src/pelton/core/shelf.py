"""Events parked by their offset alone: their bodies are forgotten, and read again when their key is free.

What stands behind a waiting key would fill any memory sooner or later. Kafka has it anyway, so what does not
fit is put here: the offset, in the lane's tail, and nothing else. The order of a lane is its head, its
followers, its tail; what comes while there is a tail joins it. Reading again is asked for in batches, one at
a time for the partition, when a lane has little left in memory; `kafka/rereading.py` reads.

Which events are shelved and what becomes of those that come back is `engine.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from pelton.core.delivery import Delivery, Preset, State
from pelton.core.intake import Intake
from pelton.core.lane import Lane
from pelton.core.outcome import Outcome, Status
from pelton.core.turns import Turns
from pelton.event import Event, Partition

if TYPE_CHECKING:
    from pelton.core.engine import Engine

__all__ = ["GONE", "READ_AGAIN_MS", "SHELVED_MAX", "Shelf"]

#: Offsets on one partition's shelf; beyond them its intake pauses. With the ledger's own account of each it
#: is some 15 MB.
SHELVED_MAX: Final = 100_000
#: In one request: what a busy key gets done in a moment, and little enough to hold beside all limits.
READ_EVENTS_MAX: Final = 500
#: Of one lane, so that several move on together.
LANE_EVENTS_MAX: Final = 250
#: Of one whose last call failed, and only when it has nothing left: more than it gets done in a second.
COSTLY_EVENTS_MAX: Final = 20
#: A lane with fewer followers in memory asks for the next ones, so that it need not stop for them.
FOLLOWERS_MIN: Final = 50

#: Reading again should not take longer: the reader gives a request up after 10 s, and is asked again.
READ_AGAIN_MS: Final = 20_000.0

#: What stands for an event that the log does not have any more.
GONE: Final = Outcome(Status.DATA_LOSS, "gone from the log while it was parked", local=True)


def gone(partition: Partition, offset: int, key: bytes) -> Event:
    """All that is known of it."""
    return Event(*partition, offset, key, None, None, (), -1)


class Shelf:
    """The shelved offsets of one partition."""

    __slots__ = ("_intake", "_lanes", "_open", "_turns", "_wanting", "asked", "count")

    def __init__(self, open_: dict[int, Delivery], intake: Intake, turns: Turns) -> None:
        """The engine's own: what is forgotten leaves them, and what comes back joins them."""
        self._open = open_
        self._intake = intake
        self._turns = turns
        self.count = 0
        #: What is being read, ascending; empty while nothing is.
        self.asked: tuple[int, ...] = ()
        self._lanes: dict[int, Lane] = {}
        #: Lanes whose turn to be read has come, in its order.
        self._wanting: dict[Lane, None] = {}

    def __bool__(self) -> bool:
        """Something is to be read."""
        return bool(self._wanting) and not self.asked

    def put(self, lane: Lane, delivery: Delivery) -> None:
        """It has just come, and stands behind everything else of its lane by its offset alone."""
        lane.shelve(delivery.offset)
        self.count += 1
        del self._open[delivery.offset]

    def forget(self, lanes: Iterable[Lane | None]) -> None:
        """Shelve all followers in these lanes, in front of their lane's tail."""
        for follower in [each for lane in lanes if lane is not None for each in lane.forget()]:
            follower.to(State.SHELVED)
            self.count += 1
            self._intake.forget(follower)
            del self._open[follower.offset]

    def want(self, lane: Lane) -> None:
        """This lane moves: have its next events read if it has few left."""
        if len(lane) <= FOLLOWERS_MIN:
            self._wanting[lane] = None

    def ask(self, *, lowest: int) -> tuple[int, ...]:
        """What to read now. Where memory is crowded, only what the whole partition may stand and wait for."""
        if not self:
            return ()
        lanes = list(self._wanting)
        crowded = self._intake.crowded
        if crowded:
            lanes = [lane for lane in lanes if lane.tail and lane.tail[0] == lowest]
        parked_room = self._intake.parked.room_to_half
        for lane in lanes:
            if len(self._lanes) == READ_EVENTS_MAX:
                break
            room = 1 if crowded else min(LANE_EVENTS_MAX, READ_EVENTS_MAX - len(self._lanes))
            if lane.costly:
                # It will most likely fail again, and what is read be parked, or forgotten where that is full.
                room = min(room, COSTLY_EVENTS_MAX, max(parked_room, 1)) if lane.hollow else 0
                parked_room -= room
            if room > 0:
                del self._wanting[lane]
                self._lanes.update(dict.fromkeys(islice(lane.tail or (), room), lane))
        self.asked = tuple(sorted(self._lanes))
        return self.asked

    def back(
        self,
        engine: Engine,
        asked: Sequence[int],
        events: Sequence[Event],
        through: int,
        intended: Mapping[int, Preset],
    ) -> int:
        """What was read again goes back into its lane, ascending. Returns how many the log has no more.

        The answer is complete up to `through`, and what lies behind it is asked for again. An answer to
        another question, of an assignment before this one, says nothing.
        """
        if asked != self.asked or not asked:
            return 0
        lost = 0
        found = {event.offset: event for event in events}
        lanes, self._lanes, self.asked = self._lanes, {}, ()
        for offset in asked:
            lane = lanes[offset]
            if offset <= through and lane.tail and lane.tail[0] == offset:
                lane.tail.popleft()
                self.count -= 1
                event = found.get(offset) or gone(engine.partition, offset, lane.key)
                delivery = Delivery(event, engine, lane, event.size_bytes, State.SHELVED)
                if offset not in found:
                    delivery.know(GONE)
                    lost += 1
                elif offset in intended:
                    delivery.know(intended[offset])
                self._open[offset] = delivery
                if lane.come_back(delivery):
                    self._turns.add_next(lane, 0.0, well=False)
                delivery.to(State.PARKED if lane.blocked else State.QUEUED)
                self._intake.take(delivery)
            # Else followers were shelved in front of it meanwhile, and it comes after them.
        for lane in lanes.values():
            if lane.tail and not lane.blocked:
                self.want(lane)
        return lost

    @property
    def full(self) -> bool:
        return self.count >= SHELVED_MAX

    @property
    def half_free(self) -> bool:
        return self.count * 2 <= SHELVED_MAX

    def clear(self) -> None:
        self.count = 0
        self.asked = ()
        self._lanes.clear()
        self._wanting.clear()
