"""Retry tiers as values: which comes next, when an event is due, and what is believed of one that arrives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pelton.core.outcome import Outcome, Status
from pelton.core.tiers import (
    TIER_BYTES_MAX,
    TIER_EVENTS_MAX,
    Arrival,
    arrivals,
    intake_of,
    next_tier,
    tier_of,
)
from pelton.event import Event, Moved, Position
from pelton.subscription import Disposition, Intake, Tier

ONE, TWO = Tier(60_000.0, "retry.s.1m"), Tier(600_000.0, "retry.s.10m")
TIERS = (ONE, TWO)
#: The wall clock at the monotonic time 5 000 of these tests.
WALL_MS = 1_700_000_000_000
MOVED = Moved(Position("events", 3, 77), 8, WALL_MS - 90_000, WALL_MS + 20_000, "ABORTED", "busy")


def read(moved: Moved | None = MOVED, *, offset: int = 4, flaw: str | None = None) -> Event:
    return Event("retry.s.1m", 3, offset, b"k", b"v", b"v", (), 5, flaw=flaw, moved=moved)


def arrived(
    moved: Moved | None = MOVED, *, now_ms: float = 5_000.0, flaw: str | None = None
) -> Arrival | Outcome:
    (found,) = arrivals([read(moved, flaw=flaw)], ONE, now_ms, WALL_MS).values()
    return found


def test_which_tier_a_topic_is() -> None:
    assert tier_of(TIERS, "retry.s.10m") is TWO
    assert tier_of(TIERS, "events") is None
    assert tier_of((), "retry.s.10m") is None


def test_the_tiers_come_one_after_the_other() -> None:
    assert next_tier(TIERS, None) is ONE
    assert next_tier(TIERS, ONE) is TWO
    assert next_tier(TIERS, TWO) is None
    assert next_tier((), None) is None


def test_less_may_wait_in_a_tier_and_never_more_than_was_declared() -> None:
    declared = Intake()
    assert intake_of(declared, None) is declared
    assert intake_of(declared, ONE) == replace(
        declared, parked_events_max=TIER_EVENTS_MAX, parked_bytes_max=TIER_BYTES_MAX
    )
    small = Intake(parked_events_max=7, parked_bytes_max=70)
    assert intake_of(small, ONE) == small


def test_an_event_arrives_as_it_left() -> None:
    arrival = arrived()
    assert isinstance(arrival, Arrival)
    assert arrival.event.position == MOVED.origin
    assert arrival.event.id == "events/3/77"
    assert (arrival.event.key, arrival.event.value, arrival.event.published_ms) == (b"k", b"v", 5)
    assert (arrival.attempts, arrival.failure) == (8, Outcome(Status.ABORTED, "busy"))
    assert (arrival.now_ms, arrival.due_ms) == (5_000, 25_000)
    # Long before this computer was started.
    assert arrival.first_attempted_ms == -85_000


@pytest.mark.parametrize(
    ("due_in_ms", "waits_ms"),
    [
        (20_000, 20_000),
        (0, 0),
        (-1, 0),
        # The process was down, or the other's clock was behind: it is due at once.
        (-(10**12), 0),
        # The other's clock was ahead, or ours has been put back: its tier's delay, and no more.
        (60_000, 60_000),
        (60_001, 60_000),
        (10**12, 60_000),
    ],
)
def test_whatever_the_clocks_say_it_waits_no_longer_than_its_tier(due_in_ms: int, waits_ms: float) -> None:
    arrival = arrived(replace(MOVED, due_ms=WALL_MS + due_in_ms))
    assert isinstance(arrival, Arrival)
    assert arrival.due_ms == 5_000 + waits_ms


def test_a_first_attempt_in_the_future_is_one_of_now() -> None:
    arrival = arrived(replace(MOVED, first_attempted_ms=WALL_MS + 10**9))
    assert isinstance(arrival, Arrival)
    assert arrival.first_attempted_ms == 5_000


@pytest.mark.parametrize(
    ("moved", "flaw", "why"),
    [(None, "no origin", "no origin"), (None, None, "not moved here"), (MOVED, "bad", "bad")],
)
def test_what_others_have_written_there_is_set_aside(moved: Moved | None, flaw: str | None, why: str) -> None:
    outcome = arrived(moved, flaw=flaw)
    assert isinstance(outcome, Outcome)
    assert outcome.message.startswith(why)
    assert (outcome.disposition, outcome.local) == (Disposition.DEAD_LETTER, True)


def test_each_is_known_by_its_offset_in_the_tier() -> None:
    assert list(arrivals([read(offset=4), read(offset=9)], ONE, 0.0, WALL_MS)) == [4, 9]
