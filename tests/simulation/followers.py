"""The auditor's own model of followed keys: who may be called behind one that left, and who may go after it.

From what it says in the documentation, and from what was published, written and answered; what an engine
believes to be followed is never asked. A process whose partition another one has had since cannot know what
became of its events there, so less is asked of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pelton.core.actions import Hop
from pelton.core.delivery import Delivery
from pelton.core.followed import Kind, Note
from pelton.event import Partition, Position
from pelton.subscription import ThenKey
from tests.simulation.books import Account, Book, Try
from tests.simulation.violation import check

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["Followers"]

#: A moment as the core notes it and as it is seen here.
ROUNDED_S = 0.002


class Followers:
    """See the module."""

    def __init__(self, world: World) -> None:
        policy = world.schedule.subscription.retry
        self._world = world
        self._record = world.record
        self._on = policy.then_key is ThenKey.FOLLOW
        self._for_s = policy.follow_for_ms / 1000.0
        #: What has no room to leave waits, and is tried again for as long as it takes.
        self.may_wait_for_room = self._on and policy.follow_keys_max < 100
        #: By place and key: the origins of those that left it.
        self._left: dict[tuple[Partition, str, bytes], set[int]] = {}
        #: When it was decided that it is a dead letter, of each whose key is followed there.
        self._deciding: dict[Delivery, float] = {}
        self._died_s: dict[Position, float] = {}
        self._released_s: dict[tuple[str, bytes], float] = {}
        self._latest: dict[Partition, Book] = {}
        #: From these offsets on nobody may follow any more: all before them has ended.
        self.over_from: dict[Partition, int] = {}

    def began(self, book: Book) -> None:
        self._latest[book.partition] = book

    def released(self, topic: str, key: bytes) -> None:
        """An operator has let it go."""
        self._released_s[topic, key] = self._world.now_s

    def _knows(self, book: Book) -> bool:
        """Whether it is the last to have begun on its partition, and has read all that was written."""
        return self._latest[book.partition] is book and not self._world.damaged

    # -- Calls ---------------------------------------------------------------------------------------------

    def called(self, book: Book, attempted: Try) -> None:
        key = attempted.event.key
        if not self._on or key is None:
            return
        record = self._record
        origin = record.origin(attempted.event.position)
        source = Partition(origin.topic, origin.partition)
        knows = self._knows(book)
        for offset in record.lane(source, key):
            if offset >= origin.offset:
                break
            earlier = Position(*source, offset)
            ended = record.has_ended(earlier) if knows else record.has_ever_ended(earlier)
            check(ended, "called before an earlier one of its key has ended", origin, earlier)
            died_s = self._died_s.get(earlier)
            if died_s is not None and knows and not self._world.clocks_jumped:
                over = self._world.now_s >= died_s + self._for_s - ROUNDED_S
                over = over or self._released_s.get((source.topic, key), -1.0) >= died_s - ROUNDED_S
                check(over, "called although it follows a dead letter", origin, earlier)

    def tells(self, book: Book, attempted: Try) -> bool:
        """What was taken in a tier ends only when its key has been told: by the last of the key that stands
        there."""
        event, moved = attempted.event, attempted.event.moved
        if not self._on or moved is None or event.key is None:
            return False
        last = book.open[book.lanes[event.key][-1]].event
        return last is event or last.moved is None or last.moved.origin.topic != moved.origin.topic

    # -- Hops ----------------------------------------------------------------------------------------------

    def hop_asked(self, book: Book, hop: Hop, attempted: Try) -> None:
        event = hop.delivery.event
        if hop.told is not None:
            check(attempted.taken == hop.told.value, "told to be taken, and it is not", event.position)
            return
        check(not attempted.taken, "set aside although it was taken", event.position)
        if not self._on or event.key is None:
            check(not hop.follows, "follows, and nothing is followed", event.position)
            return
        left = self._left.setdefault((book.partition, event.topic, event.key), set())
        if hop.follows:
            behind = any(offset < event.offset for offset in left)
            # One that was frozen may read what its successor has set aside since, and decide by that about
            # earlier ones; it is put out, and nothing comes of it.
            check(behind or not self._knows(book), "follows nobody", event.position)
            source = Partition(event.topic, event.partition)
            over = event.offset >= self.over_from.get(source, 1 << 62)
            check(not over, "its key is followed for ever", event.position)
        elif hop.tier is None:
            self._deciding.setdefault(hop.delivery, self._world.now_s)
        left.add(event.offset)

    def hop_written(self, hop: Hop) -> None:
        if hop.follows:
            self._world.sometimes("followed_to_a_tier" if hop.tier else "followed_to_the_dead_letters")
        decided_s = self._deciding.get(hop.delivery)
        if decided_s is not None:
            self._died_s[hop.delivery.event.position] = decided_s

    def passed(self, account: Account, notes: Iterable[Note]) -> list[tuple[Partition, int, str]]:
        """Those that were taken in a tier, and whose keys are told so in a transaction with these notes."""
        told = {(note.topic, note.key, note.through) for note in notes if note.kind is Kind.ENDED}
        found = []
        for delivery, book in account.letters.items():
            event, attempted = delivery.event, book.open.get(delivery.offset)
            if (
                attempted is not None
                and attempted.taken
                and not book.gone
                and (event.topic, event.key, event.offset) in told
            ):
                found.append((book.partition, delivery.offset, attempted.taken))
        return found
