"""One delivery: the whole effort to hand one event to one target, and the states it goes through.

Rule 1: everything that changes a delivery's state goes through `Delivery.to`, and the table below is all
it may do; the two steps of every event's way, to CALLING and to ACKED, ask only for the state before it.
Rule 2: this file does not know why a state changes; `engine.py` does.

The diagram in ARCHITECTURE.md is drawn from `TRANSITIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING

from pelton.core.budget import Mark
from pelton.core.outcome import Outcome
from pelton.core.tiers import Arrival
from pelton.event import Event
from pelton.subscription import position_id

if TYPE_CHECKING:
    from pelton.core.engine import Engine
    from pelton.core.lane import Lane

__all__ = ["ENDS", "OPEN", "TRANSITIONS", "Delivery", "Preset", "State"]

#: What is known of an event before any call: None says filtered, an outcome says what is wrong with it, an
#: arrival says that it was moved here and when it is due.
Preset = Outcome | Arrival | None


class State(Enum):
    """Where a delivery stands. Six are open, six are the ends, and one is no longer ours."""

    #: Where it may go from here: `TRANSITIONS`, as a tuple, which is quicker to ask than a set of enums.
    successors: tuple[State, ...]

    #: May be called next, when a call is free and its lane's turn comes.
    QUEUED = "queued"
    #: A call is out.
    CALLING = "calling"
    #: Between attempts, until its backoff ends or, in a retry tier, until it is due.
    WAITING = "waiting"
    #: Behind a key that waits, or whose hop is not acknowledged yet.
    PARKED = "parked"
    #: Parked, and its event forgotten but for the offset: it is read again when its turn comes near.
    SHELVED = "shelved"
    #: On the way to a topic of our own, the dead letters' or a retry tier's, not yet acknowledged; or what
    #: its key is told of its end.
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

    #: Gone from the log before it could be read again: there is nothing to deliver. Loud and counted.
    LOST = "lost"

    #: The partition went away first: whoever owns it next delivers the event again.
    RELEASED = "released"


OPEN = frozenset({State.QUEUED, State.CALLING, State.WAITING, State.PARKED, State.SHELVED, State.PRODUCING})
ENDS = frozenset({State.ACKED, State.DROPPED, State.FILTERED, State.DEAD_LETTERED, State.MOVED, State.LOST})

TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset(
        {
            State.CALLING,
            State.WAITING,
            State.PARKED,
            State.PRODUCING,
            State.FILTERED,
            State.LOST,
            State.RELEASED,
        }
    ),
    State.CALLING: frozenset(
        {State.ACKED, State.DROPPED, State.WAITING, State.QUEUED, State.PRODUCING, State.RELEASED}
    ),
    State.WAITING: frozenset({State.QUEUED, State.RELEASED}),
    State.PARKED: frozenset({State.QUEUED, State.SHELVED, State.RELEASED}),
    # (Those that are released have no delivery to say so: the ledger counts them.)
    State.SHELVED: frozenset({State.QUEUED, State.PARKED, State.RELEASED}),
    # (What the target took or dropped is written only where its key is followed.)
    State.PRODUCING: frozenset(
        {State.DEAD_LETTERED, State.MOVED, State.ACKED, State.DROPPED, State.RELEASED}
    ),
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
        "doubtful",
        "engine",
        "event",
        "first_attempted_ms",
        "follower",
        "has_preset",
        "lane",
        "last_failed_ms",
        "last_failure",
        "mark",
        "offset",
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
        #: Where it stands in the engine's partition; in a retry tier the event's own offset is its origin's.
        self.offset = event.offset
        self.engine = engine
        #: None where nothing must stay in order.
        self.lane = lane
        #: The one behind it in its lane.
        self.follower: Delivery | None = None
        self.size_bytes = size_bytes
        self.state = state
        #: Attempts made, the one that is out included; the first one is 1.
        self.attempt = 0
        #: Attempts that count against the policy; an outage burns none.
        self.burned = 0.0
        #: Failures at an unwell target that are not burned yet: they are if the next one comes although
        #: the target was well in between.
        self.unburned = 0
        #: What was burned for the last failure; given back if that turns out to have been an outage's.
        self.doubtful = 0.0
        #: How the target's account stood at the last failure.
        self.mark: Mark | None = None
        #: Monotonic milliseconds; means nothing before the first attempt. Before zero where it was made in
        #: another process's time.
        self.first_attempted_ms = -1.0
        #: When the attempt that is out was started.
        self.started_ms = -1.0
        self.last_failed_ms = -1.0
        self.last_failure: Outcome | None = None
        #: The breaker's open time when the first attempt started: it does not make the event older.
        self.open_before_ms = 0.0
        #: What comes next is known without a call.
        self.has_preset = False
        self.preset: Preset = None

    @property
    def delivery_id(self) -> str:
        """`<subscription>/<topic>/<partition>/<offset>`: stable over attempts, restarts and owners."""
        event = self.event
        if event.moved is not None:
            return position_id(self.engine.subscription.name, event.position)
        return f"{self.engine.id_prefix}{event.offset}"

    def know(self, preset: Preset) -> None:
        """What comes next, before any call. One that was moved here goes on where it stood."""
        self.preset, self.has_preset = preset, True
        if isinstance(preset, Arrival):
            self.event = preset.event
            self.attempt = preset.attempts
            self.first_attempted_ms = preset.first_attempted_ms
            self.open_before_ms = self.engine.breaker.open_ms(preset.now_ms)
            self.last_failure = preset.failure if preset.attempts else None

    def to(self, state: State) -> None:
        """Go to `state`; a transition that is not in the table is a bug of ours."""
        assert state in self.state.successors, f"{self.delivery_id}: {self.state.name} -> {state.name}"
        self.state = state

    def start(self, now_ms: float, open_ms: float) -> None:
        """Its next attempt goes out; the breaker has been open for so long in all."""
        assert self.state is State.QUEUED, f"{self.delivery_id}: {self.state.name} -> CALLING"
        self.state = State.CALLING
        self.started_ms = now_ms
        self.attempt += 1
        if self.attempt == 1:
            self.first_attempted_ms = now_ms
            self.open_before_ms = open_ms

    def failed(self, outcome: Outcome, now_ms: float) -> None:
        """Its attempt did not settle it."""
        self.last_failure = outcome
        self.last_failed_ms = now_ms

    def __repr__(self) -> str:
        return (
            f"<Delivery {self.delivery_id} {self.state.value} attempt={self.attempt} burned={self.burned:g}>"
        )
