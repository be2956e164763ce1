"""The followed keys of a subscription in this process: who waits for what is remembered, and who is told.

A partition that comes starts nothing before everything that is remembered of it has been read. From then on
its engine knows best what it does itself, and is told what others write.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from pelton.bridge.logs import PumpLog
from pelton.core.engine import Engine
from pelton.core.followed import Followed, Note
from pelton.core.tiers import tier_of
from pelton.event import Partition
from pelton.subscription import Subscription

__all__ = ["Following", "Reader"]


class Reader(Protocol):
    """Reads what is remembered; `pelton.kafka.following` and the fakes implement it."""

    def read(self, number: int, ticket: int) -> None: ...
    def drop(self, number: int) -> None: ...


class Following:
    """Loop thread only."""

    def __init__(
        self, subscription: Subscription, reader: Reader, wall_ms_of: Callable[[float], float], log: PumpLog
    ) -> None:
        self._policy = subscription.retry
        self._reader = reader
        self._wall_ms_of = wall_ms_of
        self._log = log
        self._ticket = 0
        #: Whose reading is not complete, and its ticket.
        self._waiting: dict[Engine, int] = {}
        #: Those of which it was said that there is no room for more keys.
        self._full: set[Engine] = set()

    def followed(self, partition: Partition) -> Followed:
        """For a partition that comes."""
        tier = tier_of(self._policy.tiers, partition.topic)
        return Followed(partition.topic, self._policy, tier, self._wall_ms_of)

    def came(self, engines: Collection[Engine]) -> None:
        """These start when everything has been read."""
        for number in sorted({engine.partition.partition for engine in engines}):
            self._ticket += 1
            self._waiting.update(
                (engine, self._ticket) for engine in engines if engine.partition.partition == number
            )
            self._reader.read(number, self._ticket)

    def went(self, engine: Engine, left: Collection[Engine]) -> None:
        """It is closed; `left` are all that are not."""
        self._waiting.pop(engine, None)
        self._full.discard(engine)
        number = engine.partition.partition
        if all(other.partition.partition != number for other in left):
            self._reader.drop(number)

    def tell(
        self, engines: Collection[Engine], number: int, notes: Sequence[Note], reached: int, now_ms: float
    ) -> list[Engine]:
        """What was read of the partitions of this number. Returns the engines that it concerns."""
        concerned = [engine for engine in engines if engine.partition.partition == number]
        for engine in concerned:
            all_told = 0 < self._waiting.get(engine, 0) <= reached
            engine.on_notes(notes, now_ms, all_told=all_told)
            if all_told:
                del self._waiting[engine]
        return concerned

    def look(self, engines: Collection[Engine]) -> None:
        """Say which partitions wait since there is no room for another key."""
        for engine in engines:
            followed = engine.followed
            assert followed is not None
            if not followed.full:
                self._full.discard(engine)
                followed.refused = False
            elif followed.refused and engine not in self._full:
                self._full.add(engine)
                self._log.follow_full(engine.partition, len(followed))
