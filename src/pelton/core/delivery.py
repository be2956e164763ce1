"""One delivery: the whole effort to hand one event to one target, and the states it goes through.

Rule 1: everything that changes a delivery's state goes through `Delivery.to`, and the table below is all
it may do. Rule 2: this file does not know why a state changes; `engine.py` does.

The diagram in ARCHITECTURE.md is drawn from `TRANSITIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING

from pelton.core.outcome import Outcome
from pelton.event import Event

if TYPE_CHECKING:
    from pelton.core.engine import Engine
    from pelton.core.lane import Lane

__all__ = ["ENDS", "OPEN", "TRANSITIONS", "Delivery", "State"]


class State(Enum):
    """Where a delivery stands. Five are open, five are the ends, and one is no longer ours."""

    #: Where it may go from here: `TRANSITIONS`, as a tuple, which is quicker to ask than a set of enums.
    successors: tuple[State, ...]

    #: May be called next, when a call is free and its lane's turn comes.
    QUEUED = "queued"
    #: A call is out.
    CALLING = "calling"
    #: Between attempts, until its backoff ends.
    WAITING = "waiting"
    #: Behind a key that waits.
    PARKED = "parked"
    #: Its dead letter is on the way to the broker, not yet acknowledged.
    PRODUCING = "producing"

    #: The target took it.
    ACKED = "acked"
    #: Settled on purpose without effect: by the target's verdict or an explicit rule.
    DROPPED = "dropped"
    #: The subscription's filter does not want it.
    FILTERED = "filtered"
    #: Set aside in the dead-letter topic, and the broker has acknowledged it.
    DEAD_LETTERED = "dead_lettered"
    #: Moved to a retry tier, and the broker has acknowledged it.
    MOVED = "moved"

    #: The partition went away first: whoever owns it next delivers the event again.
    RELEASED = "released"


OPEN = frozenset({State.QUEUED, State.CALLING, State.WAITING, State.PARKED, State.PRODUCING})
ENDS = frozenset({State.ACKED, State.DROPPED, State.FILTERED, State.DEAD_LETTERED, State.MOVED})

TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.CALLING, State.PARKED, State.PRODUCING, State.FILTERED, State.RELEASED}),
    State.CALLING: frozenset(
        {State.ACKED, State.DROPPED, State.WAITING, State.QUEUED, State.PRODUCING, State.RELEASED}
    ),
    State.WAITING: frozenset({State.QUEUED, State.RELEASED}),
    State.PARKED: frozenset({State.QUEUED, State.RELEASED}),
    State.PRODUCING: frozenset({State.DEAD_LETTERED, State.RELEASED}),
    **{end: frozenset() for end in ENDS},
    State.RELEASED: frozenset(),
}
for _state, _successors in TRANSITIONS.items():
    _state.successors = tuple(_successors)


class Delivery:
    """One event on its way to one target. Made by the engine, one per event; small on purpose.

    `engine` is also the fence: an outcome that comes for a delivery whose engine has been closed belongs to
    an assignment that is gone, and is refused.
    """

    __slots__ = (
        "attempt",
        "burned",
        "engine",
        "event",
        "first_attempted_ms",
        "has_preset",
        "lane",
        "last_failed_ms",
        "last_failure",
        "open_before_ms",
        "preset",
        "size_bytes",
        "started_ms",
        "state",
        "unburned",
    )

    def __init__(
        self, event: Event, engine: Engine, lane: Lane | None, size_bytes: int, state: State
    ) -> None:
        self.event = event
        self.engine = engine
        #: None where nothing must stay in order.
        self.lane = lane
        self.size_bytes = size_bytes
        self.state = state
        #: Attempts made, the one that is out included; the first one is 1.
        self.attempt = 0
        #: Attempts that count against the policy; an outage burns none.
        self.burned = 0
        #: Failures at an unwell target that are not burned yet: they are if the next one comes although
        #: the target was well in between.
        self.unburned = 0
        #: Monotonic milliseconds; -1 before the first attempt.
        self.first_attempted_ms = -1.0
        #: When the attempt that is out was started.
        self.started_ms = -1.0
        self.last_failed_ms = -1.0
        self.last_failure: Outcome | None = None
        #: The breaker's open time when the first attempt started: it does not make the event older.
        self.open_before_ms = 0.0
        #: Its end is known without a call: None for filtered, else what is wrong with the event.
        self.has_preset = False
        self.preset: Outcome | None = None

    @property
    def delivery_id(self) -> str:
        """`<subscription>/<topic>/<partition>/<offset>`: stable over attempts, restarts and owners."""
        return f"{self.engine.id_prefix}{self.event.offset}"

    def to(self, state: State) -> None:
        """Go to `state`; a transition that is not in the table is a bug of ours."""
        assert state in self.state.successors, f"{self.delivery_id}: {self.state.name} -> {state.name}"
        self.state = state

    def failed(self, outcome: Outcome, now_ms: float) -> None:
        """Its attempt did not settle it."""
        self.last_failure = outcome
        self.last_failed_ms = now_ms

    def __repr__(self) -> str:
        return f"<Delivery {self.delivery_id} {self.state.value} attempt={self.attempt} burned={self.burned}>"
