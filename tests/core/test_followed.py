"""Followed keys by themselves: who goes after whom, what is written of it, and when a key is free again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pelton.core.actions import Hop
from pelton.core.delivery import Delivery, State
from pelton.core.followed import STRUCK_MAX, Followed, Kind, Note
from pelton.core.lane import Lane
from pelton.core.outcome import ACKED, Outcome, Status
from pelton.event import Event, Moved, Position
from pelton.subscription import RetryPolicy, ThenKey, Tier
from tests.core.rig import Rig, event

FIRST, LAST = Tier(1_000.0, "retry.notify.1s"), Tier(2_000.0, "retry.notify.2s")
FOR_MS = 60_000.0
WALL_MS = 1_700_000_000_000
NO = Outcome(Status.UNKNOWN, "no")
ENGINE = Rig().engine


def followed(
    tier: Tier | None = None, *, tiers: tuple[Tier, ...] = (FIRST, LAST), keys_max: int = 10
) -> Followed:
    """Of the source, or of a tier's partition; nothing is remembered of it."""
    made = unread(tier, tiers=tiers, keys_max=keys_max)
    made.start(0.0)
    return made


def unread(
    tier: Tier | None = None, *, tiers: tuple[Tier, ...] = (FIRST, LAST), keys_max: int = 10
) -> Followed:
    policy = RetryPolicy(tiers=tiers, then_key=ThenKey.FOLLOW, follow_for_ms=FOR_MS, follow_keys_max=keys_max)
    return Followed("events" if tier is None else tier.topic, policy, tier, lambda now_ms: WALL_MS + now_ms)


def delivery(offset: int, key: bytes | None = b"a", *, made: Event | None = None) -> Delivery:
    arrived = event(offset, key) if made is None else made
    return Delivery(arrived, ENGINE, None, 1, State.CALLING)


def in_tier(offset: int, key: bytes | None = b"a") -> Delivery:
    """An event that was read from a tier; its event stands at its origin."""
    moved = Moved(Position("events", 0, offset), 1, WALL_MS, WALL_MS, "UNKNOWN", "no")
    return delivery(offset, made=replace(event(offset, key), moved=moved))


def ended(through: int, key: bytes = b"a", *, dead_ms: float | None = None) -> Note:
    at_ms = -1 if dead_ms is None else WALL_MS + round(dead_ms)
    return Note(Kind.ENDED, "events", key, through=through, at_ms=at_ms)


def released(at_ms: float, key: bytes = b"a") -> Note:
    return Note(Kind.RELEASED, "events", key, at_ms=WALL_MS + round(at_ms))


def test_later_events_of_the_key_go_to_the_same_place_and_say_after_whom() -> None:
    keys = followed()
    assert keys.after(delivery(0), FIRST, 0.0) is None
    assert keys.leave(delivery(0), FIRST, 0.0)
    hop = keys.after(delivery(1), FIRST, 0.0)
    assert hop is not None
    assert (hop.tier, hop.follows, hop.end) == (FIRST, True, State.MOVED)
    assert hop.outcome.message == "follows notify/events/0/0"
    assert hop.outcome.local, "it says nothing of the target"
    assert keys.after(delivery(2, b"b"), FIRST, 0.0) is None
    assert keys.after(delivery(3, None), FIRST, 0.0) is None


def test_an_event_without_a_key_is_followed_by_none() -> None:
    keys = followed()
    assert keys.leave(delivery(0, None), FIRST, 0.0)
    assert len(keys) == 0
    assert keys.notes([Hop(delivery(0, None), NO, FIRST)]) == []


def test_the_key_is_free_when_all_that_left_has_ended_and_not_before() -> None:
    keys = followed()
    keys.leave(delivery(3), FIRST, 0.0)
    keys.after(delivery(7), FIRST, 0.0)
    assert not keys.told(ended(3), 0.0)
    assert not keys.told(ended(6), 0.0)
    assert not keys.told(ended(9, b"b"), 0.0)
    assert len(keys) == 1
    # One more leaves while the answer is on its way.
    assert keys.after(delivery(8), FIRST, 0.0) is not None
    assert not keys.told(ended(7), 0.0)
    assert keys.told(ended(8), 0.0), "the target has taken it"
    assert keys.after(delivery(9), FIRST, 0.0) is None


def test_what_leaves_is_remembered_with_how_far() -> None:
    keys = followed()
    keys.leave(delivery(3), FIRST, 5.0)
    (note,) = keys.notes([Hop(delivery(3), NO, FIRST)])
    assert note == Note(Kind.LEFT, "events", b"a", "events", 3, -1, "notify/events/0/3")
    hop = keys.after(delivery(4), FIRST, 5.0)
    assert hop is not None
    (note,) = keys.notes([hop])
    assert (note.through, note.leader) == (4, "notify/events/0/3")


def test_a_dead_letter_is_followed_for_as_long_as_is_said() -> None:
    keys = followed(tiers=())
    assert keys.leave(delivery(0), None, 10.0)
    (note,) = keys.notes([Hop(delivery(0), NO)])
    assert note.at_ms == WALL_MS + 10
    hop = keys.after(delivery(1), None, FOR_MS + 9.0)
    assert hop is not None
    assert (hop.tier, hop.end) == (None, State.DEAD_LETTERED)
    assert keys.after(delivery(2), None, FOR_MS + 10.0) is None
    assert len(keys) == 0
    # It does not come back with what others wrote before.
    assert not keys.told(ended(1), FOR_MS + 11.0)


def test_one_that_fails_behind_dead_letters_is_followed_from_then_on() -> None:
    keys = followed(tiers=())
    keys.leave(delivery(0), None, 0.0)
    assert keys.leave(delivery(1), None, FOR_MS - 1.0)
    hop = keys.after(delivery(2), None, FOR_MS + 1.0)
    assert hop is not None
    assert hop.outcome.message == "follows notify/events/0/1"


def test_a_key_that_died_in_a_tier_is_followed_into_the_dead_letters_from_where_it_left() -> None:
    keys = followed()
    keys.leave(delivery(0), FIRST, 0.0)
    keys.after(delivery(1), FIRST, 0.0)
    # The first is dead; the one behind it is on its way there yet, through the tier.
    assert not keys.told(ended(0, dead_ms=1_000), 1_000.0)
    hop = keys.after(delivery(2), FIRST, 1_000.0)
    assert hop is not None
    assert hop.tier is FIRST
    assert not keys.told(ended(2, dead_ms=1_000), 2_000.0), "the target has not taken it"
    hop = keys.after(delivery(3), FIRST, 2_000.0)
    assert hop is not None
    assert hop.tier is None
    assert keys.after(delivery(4), FIRST, 1_000.0 + FOR_MS) is None


def test_an_operator_releases_what_died_until_then() -> None:
    keys = followed(tiers=())
    keys.leave(delivery(0), None, 1_000.0)
    keys.told(released(999), 1_500.0)
    assert keys.after(delivery(1), None, 1_500.0) is not None
    keys.told(released(1_600, b"b"), 1_600.0)
    assert keys.after(delivery(1), None, 1_600.0) is not None
    keys.told(released(1_600), 1_600.0)
    assert keys.after(delivery(2), None, 1_700.0) is None


def test_what_is_in_the_tiers_cannot_be_released_but_its_death_can() -> None:
    keys = followed()
    keys.leave(delivery(0), FIRST, 0.0)
    keys.told(released(500), 500.0)
    assert keys.after(delivery(1), FIRST, 500.0) is not None
    keys.told(ended(1, dead_ms=400), 600.0)
    assert keys.after(delivery(2), FIRST, 600.0) is None


def test_a_clock_that_was_ahead_makes_it_no_longer() -> None:
    keys = unread(tiers=())
    keys.told(Note(Kind.LEFT, "events", b"a", "events", 0, WALL_MS + 10**9, "x"), 0.0)
    keys.start(0.0)
    assert keys.after(delivery(1), None, FOR_MS - 1.0) is not None
    assert keys.after(delivery(2), None, FOR_MS) is None


def test_at_the_bound_nobody_leaves_who_is_not_followed_already() -> None:
    keys = followed(tiers=(), keys_max=2)
    assert keys.leave(delivery(0, b"a"), None, 0.0)
    assert keys.leave(delivery(1, b"b"), None, 30_000.0)
    assert not keys.leave(delivery(2, b"c"), None, 40_000.0)
    assert keys.refused
    assert keys.after(delivery(3, b"b"), None, 40_000.0) is not None
    # What is over makes room.
    assert keys.leave(delivery(2, b"c"), None, FOR_MS + 1_000.0)
    assert keys.after(delivery(4, b"b"), None, FOR_MS + 1_000.0) is not None


def test_what_cannot_be_called_waits_until_those_ahead_of_it_have_ended() -> None:
    keys = followed()
    keys.leave(delivery(0), FIRST, 0.0)
    assert not keys.leave(delivery(1), None, 0.0)
    keys.told(ended(0), 0.0)
    assert keys.leave(delivery(1), None, 0.0)


# -- In a tier -----------------------------------------------------------------------------------------------


def test_the_last_of_a_key_in_a_tier_tells_of_its_end() -> None:
    keys, lane = followed(FIRST), Lane(b"a", in_tier(4))
    head = lane.head
    head.lane = lane
    assert keys.tells(head)
    lane.append(in_tier(5))
    assert not keys.tells(head), "the one behind it will"
    lane.append(delivery(6, made=replace(event(6, b"a"), topic="others")))
    assert keys.tells(head), "a topic beside it has keys of its own"
    assert not keys.tells(in_tier(4, None))
    assert not keys.tells(delivery(4, made=replace(event(4, b"a"), topic=FIRST.topic))), "not moved by us"
    assert not followed().tells(delivery(4)), "nobody waits for what ends where it was published"
    (note,) = keys.notes([Hop(head, ACKED, told=State.ACKED)])
    assert note == Note(Kind.ENDED, "events", b"a", through=4)


def test_what_dies_in_a_tier_is_followed_there_and_told_below() -> None:
    keys = followed(LAST)
    keys.leave(in_tier(4), None, 7.0)
    left, end = keys.notes([Hop(in_tier(4), NO)])
    assert (left.kind, left.place, left.at_ms) == (Kind.LEFT, LAST.topic, WALL_MS + 7)
    assert (end.kind, end.through, end.at_ms, end.leader) == (
        Kind.ENDED,
        4,
        WALL_MS + 7,
        "notify/events/0/4",
    )


def test_what_goes_on_to_the_next_tier_has_not_ended() -> None:
    keys = followed(FIRST)
    keys.leave(in_tier(4), LAST, 0.0)
    (note,) = keys.notes([Hop(in_tier(4), NO, LAST)])
    assert (note.kind, note.place) == (Kind.LEFT, FIRST.topic)


# -- Remembered ----------------------------------------------------------------------------------------------


def left(through: int, place: str = "events", *, struck: bool = False) -> Note:
    return Note(Kind.LEFT, "events", b"a", place, -1 if struck else through, leader="x", struck=struck)


@pytest.mark.parametrize(
    ("notes", "is_followed"),
    [
        ([left(4)], True),
        ([left(4), left(5), ended(4)], True),
        ([ended(4), left(4)], False),
        ([left(4), ended(4)], False),
        ([left(4), left(4, struck=True)], False),
        ([left(4, struck=True), left(5)], True),
        ([left(4, FIRST.topic)], False),
        ([left(4), ended(4, dead_ms=-10)], True),
        ([left(4), ended(4, dead_ms=-10), released(-5)], False),
        ([released(-5), left(4), ended(4, dead_ms=-10)], False),
        ([released(-15), left(4), ended(4, dead_ms=-10)], True),
        ([left(4), ended(4, dead_ms=-FOR_MS)], False),
        ([left(4), replace(ended(4), topic="others")], True),
    ],
)
def test_what_is_read_back(notes: list[Note], is_followed: bool) -> None:
    keys = unread()
    for note in notes:
        keys.told(note, 0.0)
    assert not keys.ready
    keys.start(0.0)
    assert keys.ready
    assert (keys.after(delivery(9), FIRST, 0.0) is not None) is is_followed


def test_a_tier_forgets_a_key_that_is_called_again_where_it_was_published() -> None:
    keys = unread(FIRST)
    for note in (left(4), left(4, FIRST.topic), left(4, struck=True)):
        keys.told(note, 0.0)
    keys.start(0.0)
    assert keys.after(in_tier(5), LAST, 0.0) is None
    keys = unread(FIRST)
    for note in (left(4), left(4, FIRST.topic)):
        keys.told(note, 0.0)
    keys.start(0.0)
    assert keys.after(in_tier(5), LAST, 0.0) is not None


def test_its_own_notes_that_come_round_change_nothing() -> None:
    keys = followed()
    keys.leave(delivery(4), FIRST, 0.0)
    keys.told(left(2), 0.0)
    keys.told(left(2, struck=True), 0.0)
    assert not keys.told(ended(3), 0.0)
    assert keys.after(delivery(5), FIRST, 0.0) is not None


def test_what_nobody_needs_is_struck_once_it_is_written() -> None:
    keys = followed()
    keys.leave(delivery(0), FIRST, 0.0)
    keys.told(ended(0), 0.0)
    keys.leave(delivery(1, b"b"), FIRST, 0.0)
    hop = Hop(delivery(1, b"b"), NO, FIRST)
    struck = [note for note in keys.notes([hop]) if note.struck]
    assert [(note.kind, note.key, note.place) for note in struck] == [
        (Kind.LEFT, b"a", "events"),
        (Kind.ENDED, b"a", ""),
    ]
    assert [note for note in keys.notes([hop]) if note.struck] == struck, "the transaction has failed"
    keys.written()
    assert [note for note in keys.notes([hop]) if note.struck] == []


def test_a_key_that_is_followed_again_keeps_its_notes() -> None:
    keys = followed()
    keys.leave(delivery(0), FIRST, 0.0)
    keys.told(ended(0), 0.0)
    keys.leave(delivery(1), FIRST, 0.0)
    assert [note.struck for note in keys.notes([Hop(delivery(1), NO, FIRST)])] == [False]


def test_so_many_are_struck_with_one_transaction() -> None:
    keys = unread()
    for number in range(STRUCK_MAX + 5):
        keys.told(ended(0, b"%d" % number), 0.0)
    keys.start(0.0)
    keys.leave(delivery(1), FIRST, 0.0)
    hops = [Hop(delivery(1), NO, FIRST)]
    counts = []
    for _ in range(3):
        counts.append(sum(note.struck for note in keys.notes(hops)))
        keys.written()
    assert counts[0] == STRUCK_MAX
    assert counts[-1] < STRUCK_MAX
