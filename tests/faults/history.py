"""What the four witnesses of a fault run have written down, and what was done to the run.

The publisher (P), the log itself (L), the bridge's own account of what it owned (B) and the handler (H) each
keep a journal that the others cannot touch. Values only: who reads them is `journals.py`, who judges them
`checker.py`. Times end in `_ns` where they are CLOCK_MONOTONIC, one clock for all processes of a computer,
and in `_s` where they are the wall's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["NEVER_NS", "Blast", "Call", "Fault", "History", "Kept", "Letter", "Owned", "Place", "Sample"]
__all__ += ["Sent", "Stored"]

#: The end of a call that never ended.
NEVER_NS = 1 << 62

#: Partition and offset in the source topic.
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sent:
    """P: one event that the publisher was asked to write."""

    number: int
    #: Where the broker says it is; None: nobody knows whether it is there.
    place: Place | None


@dataclass(frozen=True, slots=True)
class Stored:
    """L: one record of the source topic."""

    place: Place
    number: int
    key: bytes | None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp_ms: int = 0


@dataclass(frozen=True, slots=True)
class Letter:
    """L: one dead letter, its own `pelton-*` headers taken off."""

    origin: Place
    key: bytes | None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp_ms: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """L: what the group's committed offset of one partition was, some time between asking and hearing."""

    asked_ns: int
    told_ns: int
    partition: int
    committed: int


class Kept(Enum):
    """B: what a bridge says of a partition."""

    #: From here on its calls may start.
    ASSIGNED = "assigned"
    #: It is to be given up, after what is out.
    REVOKED = "revoked"
    #: It is somebody else's already.
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Owned:
    """B: one line about partitions, by one life of a bridge."""

    at_s: float
    instance: str
    kept: Kept
    partitions: frozenset[int]
    #: LOST: what was with the target then, and goes on.
    out: frozenset[Place] = frozenset()


@dataclass(frozen=True, slots=True)
class Call:
    """H: one call. Its status is what the handler decided, written before the answer left."""

    place: Place
    attempt: int
    start_ns: int
    #: NEVER_NS: it was cut, or the handler died.
    end_ns: int
    status: str
    #: Which life of which bridge has called.
    instance: str
    start_s: float = 0.0
    #: The group's generation that it was made in, where the run has its calls say it; 0 otherwise.
    fence: int = 0

    @property
    def taken(self) -> bool:
        return self.status == "OK"


class Blast(Enum):
    """What a fault may make come again."""

    #: A bridge died, or lost its partitions: what was out, and what was settled and not committed.
    CRASH = "crash"
    #: Answers were cut on their way: what was out while it lasted.
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that was done. Calls that were out or settled between the two may come again."""

    blast: Blast
    from_ns: int
    until_ns: int
    what: str = ""
    #: Only calls by this one; empty: by anybody.
    instance: str = ""


@dataclass(slots=True)
class History:
    """All of it, of one subscription (`name`) on one topic."""

    name: str = ""
    topic: str = ""
    sent: Sequence[Sent] = ()
    stored: Sequence[Stored] = ()
    letters: Sequence[Letter] = ()
    samples: Sequence[Sample] = ()
    owned: Sequence[Owned] = ()
    calls: Sequence[Call] = ()
    faults: list[Fault] = field(default_factory=list)
