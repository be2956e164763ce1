"""What the auditor writes down: of each process, each time a partition is its, and each event in it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pelton.core.breaker import Health
from pelton.core.delivery import Delivery
from pelton.event import Event, Partition, Position
from pelton.subscription import Ordering

__all__ = ["UNCALLABLE", "Account", "Book", "CallOut", "Lane", "Try", "lane_of", "place_of", "same"]

#: Never called: what is wrong with it is known before.
UNCALLABLE = {b"flawed", b"undecidable", b"unwanted"}

#: What must stay in order within a partition; None for nothing.
Lane = bytes | None


def lane_of(event: Event, ordering: Ordering) -> Lane:
    if ordering is Ordering.KEY:
        return event.key
    return b"the partition" if ordering is Ordering.PARTITION else None


@dataclass(slots=True, eq=False)
class Try:
    """One event that is open in one book."""

    event: Event
    lane: Lane
    read_s: float = 0.0
    read_wall_ms: float = 0.0
    out: bool = False
    writing: bool = False
    #: What it may have burned at most, and what it has at least.
    burned_most: int = 0
    burned_least: int = 0
    unburned: int = 0
    first_s: float = -1.0
    failed_s: float = -1.0
    #: An outcome that sets it aside whatever came before.
    condemned: bool = False
    #: What is on the way moves it to the next retry tier.
    moving: bool = False
    #: How it has ended for the target, while its key has not been told.
    taken: str = ""


@dataclass(slots=True, eq=False)
class Book:
    """A partition in a process's hands, from assigned to gone."""

    partition: Partition
    generation: int
    #: Where it began, and the settled offsets above that it was told of.
    start: int
    carried: set[int]
    #: One past the last event that it was given.
    next_offset: int
    open: dict[int, Try] = field(default_factory=dict)
    #: Open offsets of each lane, ascending.
    lanes: dict[bytes, list[int]] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)
    letters: set[int] = field(default_factory=set)
    suspects: set[bytes] = field(default_factory=set)
    #: Up to here retention has taken what it was not given, and it was told so.
    excused: int = -1
    asked: int = -1
    #: When something was settled that no commit was asked for yet.
    unasked_s: float = float("inf")
    draining_s: float = float("inf")
    gone: bool = False
    #: The offset that a transaction carries, -1 while there is none; and when the last one ended.
    in_transaction: int = -1
    held_until_s: float = 0.0

    @property
    def draining(self) -> bool:
        return self.draining_s < float("inf")

    def knows(self, offset: int) -> bool:
        """It was told at its start that this one is settled."""
        return offset < self.start or offset in self.carried


@dataclass(slots=True, eq=False)
class CallOut:
    """A call whose end the process has not been told."""

    delivery: Delivery
    book: Book
    started_s: float
    submitted: bool = False
    over: bool = False


@dataclass(slots=True, eq=False)
class Account:
    """One process's."""

    books: dict[Partition, Book] = field(default_factory=dict)
    calls: dict[Delivery, CallOut] = field(default_factory=dict)
    letters: dict[Delivery, Book] = field(default_factory=dict)
    #: Calls out in each lane, of whichever assignment.
    lanes_out: dict[tuple[Partition, bytes], int] = field(default_factory=dict)
    consumed: int = 0
    already: int = 0
    filtered: int = 0
    acked: int = 0
    dropped: int = 0
    dead_lettered: int = 0
    moved: int = 0
    attempts: int = 0
    late: int = 0
    newest_good_start_s: float = -1.0
    #: What was noticed of it last, and is not judged.
    health: Health = Health.WELL
    stalled_ms: float = 0.0


def place_of(delivery: Delivery) -> Position:
    """Where it stands: in a retry tier that is not where its event was published."""
    return Position(*delivery.engine.partition, delivery.offset)


def same(delivered: Event, read: Event) -> bool:
    """Whether it is what was read, maybe from a retry tier: there the rest of it is its source's."""
    return delivered is read or (read.moved is not None and delivered == read.at_origin())
