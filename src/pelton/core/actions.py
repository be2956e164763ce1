"""All the core may ask for, in one batch.

The order of duties is written at each field: what must be durable before it, and what only after it. The
pump performs a batch top to bottom and feeds every result back into the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from pelton.core.delivery import Delivery, State
from pelton.core.outcome import Outcome
from pelton.subscription import Tier

__all__ = ["Actions", "Commit", "Flow", "Hop"]


class Flow(Enum):
    """Whether the partition's intake goes on."""

    PAUSE = "pause"
    #: Resume and seek to the next offset always go together; the Kafka edge sees to it.
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class Hop:
    """Write this event to one of our own topics: a retry tier's, or that of the dead letters.

    The acknowledgement of all replicas comes back as a result, and only that settles the delivery: BEFORE it
    nothing may pass the offset. Where keys are followed, what is remembered of the key goes with it.
    """

    delivery: Delivery
    #: The outcome that ended it here.
    outcome: Outcome
    #: Where it is tried again; None says that it is a dead letter.
    tier: Tier | None = None
    #: It goes after those ahead of it, uncalled: it is due at once.
    follows: bool = False
    #: It goes nowhere. The target has taken or dropped it, and its key is told of that.
    told: State | None = None

    @property
    def end(self) -> State:
        """What the delivery has come to when the broker has it."""
        if self.told is not None:
            return self.told
        return State.DEAD_LETTERED if self.tier is None else State.MOVED


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
    hops: list[Hop] = field(default_factory=list)
    #: Read these offsets of the partition again, ascending: their events were parked and forgotten. The
    #: answer, however long it takes, is `Engine.on_read_again`; meanwhile no more are asked for.
    read_again: tuple[int, ...] = ()
    commit: Commit | None = None
    flow: Flow | None = None

    def __bool__(self) -> bool:
        return bool(self.calls or self.hops or self.read_again or self.commit or self.flow)
