"""Keys that are followed: an event of theirs left memory, and those behind it go after it, not past it.

A *place* is a partition that is read: the source's, or a retry tier's. Where an event of a key leaves a place
for the next tier or for the dead letters, the key is followed there: its later events in that place are not
called, they leave after it, in order, each to the same next place and no further. So what is ahead of an
event is always ahead of it in the log, too, and no two processes have to agree on more than one number.

That number is `through`: the offset, at the origin, of the last event of the key that left the place. Whoever
brings an event of the key to its end in a tier says so (an ENDED note), in one transaction with the offset
that it passes there. A place calls the key again when what has ended reaches `through`; a later one that
leaves raises it, so an answer that crosses it on the way frees nothing. A key whose events ended as dead
letters goes on being followed there, for as long as the subscription says or until an operator releases it.

Rule 1: a key is followed from the decision on, not only when that is written. Rule 2: it is written with what
left (`notes`), and read back, to the end, before anything is called in a place (`start`). Rule 3: following a
key for too long only costs time; forgetting one too early costs its order. What is doubtful is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from pelton.core.actions import Hop
from pelton.core.delivery import Delivery, State
from pelton.core.outcome import Outcome, Status
from pelton.event import Event
from pelton.subscription import Tier

if TYPE_CHECKING:
    from pelton.subscription import RetryPolicy

__all__ = ["AGAIN_MS", "Followed", "Kind", "Note"]

#: How soon an event is looked at again that may not leave yet: there is no room for its key, or the event
#: cannot be called, and those ahead of it are not settled.
AGAIN_MS: Final = 1_000.0
#: Notes that nobody needs any more are struck with the next transaction, so many with one: more than it adds.
STRUCK_MAX: Final = 2_000

#: The topic in which the key's events were published, and the key: two topics may have the same one.
_Name = tuple[str, bytes]


class Kind(Enum):
    """What a note says."""

    #: Events of the key have left a place; it is that place's own.
    LEFT = "left"
    #: Events of the key have come to their end in a tier.
    ENDED = "ended"
    #: An operator lets the key go on behind its dead letters.
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Note:
    """What is remembered of a key; of each kind, and for each place, the last one counts."""

    kind: Kind
    #: Where the key's events were published.
    topic: str
    key: bytes
    #: LEFT: the topic that they have left.
    place: str = ""
    #: Up to this offset at the origin.
    through: int = -1
    #: When the one that the others follow was dead-lettered, and by when it was released: by the wall clock,
    #: in milliseconds. -1: it was not.
    at_ms: int = -1
    #: The delivery id of the one that the others follow.
    leader: str = ""
    #: There is nothing to remember any more.
    struck: bool = False


@dataclass(slots=True)
class _Key:
    through: int
    leader: str
    #: When its leader was dead-lettered; -1 while it goes through the tiers.
    dead_ms: int = -1
    #: Dead letters of until then were released.
    released_ms: int = -1


class Followed:
    """The followed keys of one place. The engine asks; `told` is what others have written."""

    __slots__ = (
        "_at_source",
        "_ended",
        "_for_ms",
        "_forgotten",
        "_has_tiers",
        "_keys",
        "_keys_max",
        "_place",
        "_purged_ms",
        "_released",
        "_striking",
        "_tier",
        "_wall_ms_of",
        "ready",
        "refused",
    )

    def __init__(
        self, place: str, policy: RetryPolicy, tier: Tier | None, wall_ms_of: Callable[[float], float]
    ) -> None:
        """`place` is the topic of the partition, `tier` the retry tier whose topic that is."""
        #: All that was remembered has been read.
        self.ready = False
        #: An event could not leave, because there was no room for its key.
        self.refused = False
        self._place = place
        self._tier = tier
        self._has_tiers = bool(policy.tiers)
        self._keys_max = policy.follow_keys_max
        self._for_ms = policy.follow_for_ms
        self._wall_ms_of = wall_ms_of
        self._keys: dict[_Name, _Key] = {}
        #: Until `ready`: what was said of keys whose own note may still come.
        self._ended: dict[_Name, Note] = {}
        self._released: dict[_Name, Note] = {}
        #: Until `ready`: the keys that are followed where they were published.
        self._at_source: set[_Name] = set()
        #: Notes that nobody needs any more, to be struck; and those that a transaction is striking.
        self._forgotten: dict[tuple[Kind, _Name], None] = {}
        self._striking: list[tuple[Kind, _Name]] = []
        self._purged_ms = float("-inf")

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def full(self) -> bool:
        """There is no room for another key; some may be followed no longer, and nobody has looked."""
        return len(self._keys) >= self._keys_max

    # -- What the engine asks ------------------------------------------------------------------------------

    def after(self, delivery: Delivery, next_tier: Tier | None, now_ms: float) -> Hop | None:
        """How an event that would be called goes after those ahead of it; None: its key is not followed."""
        name = self._name(delivery.event)
        key = None if name is None else self._get(name, now_ms)
        if key is None:
            return None
        key.through = max(key.through, delivery.event.offset)
        outcome = Outcome(Status.FAILED_PRECONDITION, f"follows {key.leader}", local=True)
        return Hop(delivery, outcome, None if key.dead_ms >= 0 else next_tier, follows=True)

    def leave(self, delivery: Delivery, tier: Tier | None, now_ms: float) -> bool:
        """An event leaves for `tier`, None for the dead letters, and its key follows it. False: not yet."""
        name = self._name(delivery.event)
        if name is None:
            return True
        key = self._get(name, now_ms)
        if key is None and self._is_full(now_ms):
            self.refused = True
            return False
        if key is not None and key.dead_ms < 0:
            # It cannot be called, and would be dead before those ahead of it had their turn.
            return False
        # One that fails by itself behind others that are dead letters is followed as well, from now on.
        dead_ms = round(self._wall_ms_of(now_ms)) if tier is None else -1
        through = max(delivery.event.offset, -1 if key is None else key.through)
        self._keys[name] = _Key(through, delivery.delivery_id, dead_ms)
        return True

    def tells(self, delivery: Delivery) -> bool:
        """Whether it must be written that this one has come to its end here. While others of its key stand
        behind it, the last of them does that."""
        if self._tier is None or self._name(delivery.event) is None:
            return False
        lane = delivery.lane
        return lane is None or lane.last is delivery or lane.last.event.topic != delivery.event.topic

    def notes(self, hops: Iterable[Hop]) -> list[Note]:
        """What is to be written in one transaction with these, as it is known now."""
        notes: list[Note] = []
        for hop in hops:
            event = hop.delivery.event
            name = self._name(event)
            if name is None:
                continue
            key = self._keys.get(name)
            dead_ms = -1 if key is None else key.dead_ms
            if hop.told is None and key is not None:
                # (One that was released meanwhile goes, and its key does not follow it.)
                notes.append(Note(Kind.LEFT, *name, self._place, key.through, dead_ms, key.leader))
            if self._tier is not None and hop.end is not State.MOVED:
                dead = hop.end is State.DEAD_LETTERED
                leader = "" if key is None else key.leader
                notes.append(
                    Note(
                        Kind.ENDED,
                        *name,
                        through=event.offset,
                        at_ms=dead_ms if dead else -1,
                        leader=leader if dead else "",
                    )
                )
        # A key that is followed again needs its notes.
        free = [each for each in self._forgotten if each[1] not in self._keys]
        self._striking = free[:STRUCK_MAX]
        notes += [
            Note(kind, *name, self._place if kind is Kind.LEFT else "", struck=True)
            for kind, name in self._striking
        ]
        return notes

    def written(self) -> None:
        """The transaction of the last `notes` was committed."""
        for each in self._striking:
            self._forgotten.pop(each, None)
        self._striking = []

    # -- What others have written --------------------------------------------------------------------------

    def told(self, note: Note, now_ms: float) -> bool:
        """What was read, in its order; more than once does no harm. True: the target has taken what the key
        waited for."""
        name = (note.topic, note.key)
        if self._tier is None and note.topic != self._place:
            return False
        if note.kind is Kind.LEFT:
            # What this engine has decided since it knows better than what it reads of it.
            if not self.ready:
                self._remember(name, note, now_ms)
            return False
        if not self.ready:
            said = self._ended if note.kind is Kind.ENDED else self._released
            if note.struck:
                said.pop(name, None)
            else:
                said[name] = note
            return False
        if note.struck:
            return False
        return (
            self._release(name, note, now_ms) if note.kind is Kind.RELEASED else self._end(name, note, now_ms)
        )

    def _remember(self, name: _Name, note: Note, now_ms: float) -> None:
        if note.place == note.topic:
            if note.struck:
                self._at_source.discard(name)
            else:
                self._at_source.add(name)
        if note.place == self._place:
            if note.struck:
                self._keys.pop(name, None)
            else:
                self._keys[name] = _Key(note.through, note.leader, self._not_ahead(note.at_ms, now_ms))

    def start(self, now_ms: float) -> None:
        """Everything that was remembered has been told."""
        self.ready = True
        # What has left a tier had left the source before. There the key is called again, so all of it has
        # ended; the note that said so may be struck already.
        for name in self._keys.keys() - self._at_source:
            self._forget(name)
        self._at_source.clear()
        released, self._released = self._released, {}
        ended, self._ended = self._ended, {}
        for name, note in released.items():
            self._release(name, note, now_ms)
        for name, note in ended.items():
            self._end(name, note, now_ms)

    def _end(self, name: _Name, note: Note, now_ms: float) -> bool:
        """Up to `note.through` all have ended, and the last of them as it says."""
        key = self._keys.get(name)
        if key is None:
            self._forget(name)
            return False
        if note.through < key.through:
            return False
        if note.at_ms < 0:
            self._forget(name)
            return True
        key.dead_ms = self._not_ahead(note.at_ms, now_ms)
        key.leader = note.leader or key.leader
        if note.at_ms <= key.released_ms:
            self._forget(name)
        return False

    def _release(self, name: _Name, note: Note, now_ms: float) -> bool:
        key = self._keys.get(name)
        if key is None:
            self._forget(name)
        else:
            key.released_ms = max(key.released_ms, note.at_ms)
            if 0 <= key.dead_ms <= note.at_ms:
                self._forget(name)
        return False

    # -- Inside --------------------------------------------------------------------------------------------

    def _name(self, event: Event) -> _Name | None:
        """None for an event that nothing follows: it has no key, or somebody else has put it into a tier."""
        if event.key is None or (self._tier is not None and event.topic == self._place):
            return None
        return event.topic, event.key

    def _get(self, name: _Name, now_ms: float) -> _Key | None:
        key = self._keys.get(name)
        if key is not None and self._is_over(key, self._wall_ms_of(now_ms)):
            self._forget(name)
            return None
        return key

    def _is_over(self, key: _Key, wall_ms: float) -> bool:
        """It has been followed into the dead letters for as long as the subscription says."""
        return key.dead_ms >= 0 and key.dead_ms + self._for_ms <= wall_ms

    def _is_full(self, now_ms: float) -> bool:
        if not self.full:
            return False
        if now_ms >= self._purged_ms + AGAIN_MS:
            self._purged_ms = now_ms
            wall_ms = self._wall_ms_of(now_ms)
            for name in [name for name, key in self._keys.items() if self._is_over(key, wall_ms)]:
                self._forget(name)
        return self.full

    def _forget(self, name: _Name) -> None:
        had = self._keys.pop(name, None)
        if had is not None:
            self._forgotten[Kind.LEFT, name] = None
        if self._tier is None:
            # What ended in the tiers is of no use to them either: all of it has.
            if self._has_tiers:
                self._forgotten[Kind.ENDED, name] = None
            if had is None or had.released_ms >= 0:
                self._forgotten[Kind.RELEASED, name] = None

    def _not_ahead(self, at_ms: int, now_ms: float) -> int:
        """A clock that was ahead must not make it longer."""
        return min(at_ms, round(self._wall_ms_of(now_ms)))
