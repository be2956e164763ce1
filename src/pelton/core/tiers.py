"""Retry tiers: topics of our own in which events wait for another attempt, each tier longer than the last.

An event that was moved keeps two places apart. Its *position* is where it stands in the tier: ledger, lanes
and commits go by it (`Delivery.offset`). Its *origin* is where it was published: `Delivery.event` stands
there, and so does everything that a target sees. Attempts go on counting over all tiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pelton.core.outcome import Outcome, Status
from pelton.event import Event, Moved
from pelton.subscription import Disposition, Intake, Tier

__all__ = ["TIER_BYTES_MAX", "TIER_EVENTS_MAX", "Arrival", "arrivals", "intake_of", "next_tier", "tier_of"]

#: Events of one tier's partition that wait in memory for their time. They are due one after the other, so
#: more of them would be of no use before these have been called.
TIER_EVENTS_MAX = 200
TIER_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event that was read from a tier: as it stood when it was moved there, in our time."""

    #: At its origin.
    event: Event
    attempts: int
    #: Monotonic milliseconds, like all times of the core; the first may be before zero.
    first_attempted_ms: float
    now_ms: float
    due_ms: float
    #: How the last attempt ended.
    failure: Outcome


def tier_of(tiers: Sequence[Tier], topic: str) -> Tier | None:
    """The tier whose topic it is; None for a source topic."""
    return next((tier for tier in tiers if tier.topic == topic), None)


def next_tier(tiers: Sequence[Tier], here: Tier | None) -> Tier | None:
    """Where an event goes that is exhausted in `here`; None says that there is no tier left."""
    at = 0 if here is None else tiers.index(here) + 1
    return tiers[at] if at < len(tiers) else None


def intake_of(declared: Intake, tier: Tier | None) -> Intake:
    """The bounds of a partition's intake; in a tier's, less may wait."""
    if tier is None:
        return declared
    return replace(
        declared,
        parked_events_max=min(declared.parked_events_max, TIER_EVENTS_MAX),
        parked_bytes_max=min(declared.parked_bytes_max, TIER_BYTES_MAX),
    )


def arrivals(
    events: Sequence[Event], tier: Tier, now_ms: float, wall_ms: float
) -> dict[int, Outcome | Arrival]:
    """What is known of events that were read from `tier`, by offset; the wall clock says `wall_ms` now."""
    return {event.offset: _arrival(event, tier, now_ms, wall_ms) for event in events}


def _arrival(event: Event, tier: Tier, now_ms: float, wall_ms: float) -> Outcome | Arrival:
    moved = event.moved
    if event.flaw is not None or moved is None:
        # Somebody else has written to our topic: it has no origin to go on from.
        why = event.flaw or "not moved here by Pelton"
        return Outcome(Status.INVALID_ARGUMENT, why, disposition=Disposition.DEAD_LETTER, local=True)
    return Arrival(
        event.at_origin(),
        moved.attempts,
        first_attempted_ms=now_ms - max(0.0, wall_ms - moved.first_attempted_ms),
        now_ms=now_ms,
        due_ms=now_ms + _due_in_ms(moved, tier, wall_ms),
        failure=Outcome(Status[moved.status], moved.reason),
    )


def _due_in_ms(moved: Moved, tier: Tier, wall_ms: float) -> float:
    """How long the event has still to wait, never longer than its tier's delay.

    The due time is by the wall clock of whoever moved it. If that clock was ahead, or ours is behind, the
    delay bounds what is waited too long; the other way round it is called early, once a tier.
    """
    return min(max(0.0, moved.due_ms - wall_ms), tier.delay_ms)
