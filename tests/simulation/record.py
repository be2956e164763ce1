"""What really happened, whoever did it: what was published, what came to an end, what was written and where.

The auditor's memory of the world as a whole. It outlives every process, and no process is believed here:
an event is settled when the target took it and its process was told, or when its record is in the dead-
letter topic.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from pelton.core.actions import Commit
from pelton.event import Event, Partition, Position
from pelton.subscription import Ordering
from tests.simulation.books import lane_of
from tests.simulation.broker import Log

__all__ = ["Record"]


class Record:
    """See the module."""

    def __init__(self, logs: Mapping[Partition, Log], ordering: Ordering) -> None:
        self._logs = logs
        self._ordering = ordering
        #: Every offset that was published, in order, and which of them are settled, by whomever.
        self._offsets: dict[Partition, list[int]] = {partition: [] for partition in logs}
        self._settled: dict[Partition, set[int]] = {partition: set() for partition in logs}
        #: How each came to its first end, and how often it was written to the dead letters.
        self.ends: dict[Position, str] = {}
        self.written: dict[Position, int] = {}
        #: Where what was moved to a retry tier was published, by where it stands there.
        self._origins: dict[Position, Position] = {}
        #: Where each of those stands now; and the origins that have come to an end for good, and ever.
        self._stands: dict[Position, Position] = {}
        self._ended: set[Position] = set()
        self._ever_ended: set[Position] = set()
        #: The offsets of each lane, and how many of them from the first on are known to be settled.
        self._lanes: dict[tuple[Partition, bytes], list[int]] = {}
        self._lanes_settled: dict[tuple[Partition, bytes], int] = {}

    def published(self, event: Event) -> None:
        partition = Partition(event.topic, event.partition)
        self._offsets[partition].append(event.offset)
        if event.moved is not None:
            self._origins[event.position] = event.moved.origin
            self._stands[event.moved.origin] = event.position
            # One that was taken by somebody who could not say so may leave all the same.
            self._ended.discard(event.moved.origin)
        lane = lane_of(event, self._ordering)
        if lane is not None:
            self._lanes.setdefault((partition, lane), []).append(event.offset)
        if event.value == b"unwanted":
            self.settle(partition, event.offset, "filtered")

    def between(self, partition: Partition, start: int, end: int) -> list[int]:
        """What was published from `start` up to `end`."""
        offsets = self._offsets[partition]
        return offsets[bisect_left(offsets, start) : bisect_left(offsets, end)]

    def claimed(self, partition: Partition, start: int, end: int, mapped: set[int]) -> list[int]:
        """What a commit of `end` with this map says is settled, from `start` on."""
        published = self._offsets[partition]
        above = published[bisect_left(published, end) :] if mapped else ()
        return self.between(partition, start, end) + [offset for offset in above if offset in mapped]

    def origin(self, position: Position) -> Position:
        """Where an event was published that stands here, maybe in a retry tier."""
        return self._origins.get(position, position)

    def is_cut(self, partition: Partition, offset: int) -> bool:
        """Retention has taken it."""
        return offset < self._logs[partition].start

    def is_settled(self, partition: Partition, offset: int) -> bool:
        return offset in self._settled[partition]

    def lane(self, partition: Partition, lane: bytes) -> list[int]:
        return self._lanes[partition, lane]

    def has_ended(self, origin: Position) -> bool:
        """Wherever it went: it was taken, dropped or set aside, or retention has it."""
        return origin in self._ended or self._is_gone(origin)

    def has_ever_ended(self, origin: Position) -> bool:
        return origin in self._ever_ended or self._is_gone(origin)

    def _is_gone(self, origin: Position) -> bool:
        stands = self._stands.get(origin, origin)
        return self.is_cut(Partition(stands.topic, stands.partition), stands.offset)

    def settle(self, partition: Partition, offset: int, end: str) -> None:
        if end != "moved":
            origin = self.origin(Position(*partition, offset))
            self._ended.add(origin)
            self._ever_ended.add(origin)
        if offset not in self._settled[partition]:
            self._settled[partition].add(offset)
            self.ends[Position(*partition, offset)] = end

    def write(self, position: Position, end: str) -> int:
        """Its hop was written, heard or not; returns how often by now."""
        count = self.written[position] = self.written.get(position, 0) + 1
        self.settle(Partition(position.topic, position.partition), position.offset, end)
        return count

    def first_open(self, partition: Partition, lane: bytes) -> int | None:
        """The first event of a lane that nobody has settled; None where there is none."""
        offsets, settled = self._lanes[partition, lane], self._settled[partition]
        at = self._lanes_settled.get((partition, lane), 0)
        while at < len(offsets) and (offsets[at] in settled or self.is_cut(partition, offsets[at])):
            at += 1
        self._lanes_settled[partition, lane] = at
        return offsets[at] if at < len(offsets) else None

    def unsettled(self, committed: Mapping[Partition, Commit]) -> list[str]:
        """What is open, and what is settled and not committed."""
        left = []
        for partition, offsets in self._offsets.items():
            log, commit = self._logs[partition], committed.get(partition)
            settled = self._settled[partition]
            still_open = [
                each for each in offsets if each not in settled and not self.is_cut(partition, each)
            ]
            if still_open:
                left.append(f"{partition}: open {still_open[:8]}")
            elif log.events and (commit is None or commit.offset <= log.events[-1].offset):
                left.append(f"{partition}: committed {commit and commit.offset} of {log.end}")
        return left
