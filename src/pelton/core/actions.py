"""All the core may ask for, in one batch.

The order of duties is written at each field: what must be durable before it, and what only after it. The
pump performs a batch top to bottom and feeds every result back into the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from pelton.core.delivery import Delivery
from pelton.core.outcome import Outcome

__all__ = ["Actions", "Commit", "DeadLetter", "Flow"]


class Flow(Enum):
    """Whether the partition's intake goes on."""

    PAUSE = "pause"
    #: Resume and seek to the next offset always go together; the Kafka edge sees to it.
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Write this event to the dead-letter topic.

    The acknowledgement of all replicas comes back as a result, and only that settles the delivery: BEFORE it
    nothing may pass the offset.
    """

    delivery: Delivery
    #: The outcome that ended it.
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Commit:
    """Commit `offset` with `metadata` for the engine's partition.

    Everything below `offset` has been settled, and what settled them is durable, BEFORE this was asked
    for. Nothing waits for it: what it covers repeats if it is lost. A later one supersedes it.
    """

    offset: int
    metadata: str


@dataclass(slots=True)
class Actions:
    """What one engine asks for now. Empty fields ask for nothing."""

    #: Start one attempt of each, in this order. The engine has already moved them to CALLING.
    calls: list[Delivery] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    commit: Commit | None = None
    flow: Flow | None = None

    def __bool__(self) -> bool:
        return bool(self.calls or self.dead_letters or self.commit or self.flow)
