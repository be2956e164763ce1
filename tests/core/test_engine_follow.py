"""The engine and followed keys: nothing starts too early, nobody overtakes, an end in a tier is told."""

from __future__ import annotations

from dataclasses import replace

from pelton.core.delivery import State
from pelton.core.followed import AGAIN_MS, Followed, Kind, Note
from pelton.core.outcome import Outcome, Status
from pelton.core.tiers import arrivals
from pelton.event import Event, Moved, Partition, Position
from pelton.subscription import Disposition, RetryPolicy, ThenKey, Tier
from tests.core.rig import PARTITION, Rig, event

FIRST, LAST = Tier(60_000.0, "retry.notify.1m"), Tier(600_000.0, "retry.notify.10m")
TIERS = (FIRST, LAST)
WALL_MS = 1_700_000_000_000
WRONG = Outcome(Status.INVALID_ARGUMENT, "no event", disposition=Disposition.DEAD_LETTER, local=True)


class FollowRig(Rig):
    """A partition in which keys are followed; what is remembered of it is told unless `unread`."""

    def __init__(
        self,
        tier: Tier | None = None,
        *,
        tiers: tuple[Tier, ...] = TIERS,
        keys_max: int = 10,
        unread: bool = False,
    ) -> None:
        policy = RetryPolicy(attempts=1, tiers=tiers, then_key=ThenKey.FOLLOW, follow_keys_max=keys_max)
        place = PARTITION if tier is None else Partition(tier.topic, 0)
        super().__init__(
            partition=place,
            attempts=1,
            tiers=tiers,
            then_key=ThenKey.FOLLOW,
            follow_keys_max=keys_max,
            followed=Followed(place.topic, policy, tier, lambda now_ms: WALL_MS + now_ms),
        )
        self.tier = tier
        if not unread:
            self.tell(all_told=True)

    def tell(self, *notes: Note, all_told: bool = False) -> None:
        self.engine.on_notes(notes, self.now_ms, all_told=all_told)
        self.act()

    def come(self, *events: Event) -> None:
        assert self.tier is not None
        self.arrive(*events, intended=arrivals(events, self.tier, self.now_ms, WALL_MS + self.now_ms))


def ended(through: int, key: bytes = b"a") -> Note:
    return Note(Kind.ENDED, "events", key, through=through)


def moved(offset: int, key: bytes | None = b"a", *, attempts: int = 1, due_ms: float = 0.0) -> Event:
    """In a tier at `offset`; at its origin a hundred higher."""
    origin = Position("events", 0, 100 + offset)
    what = Moved(origin, attempts, WALL_MS - 1_000, WALL_MS + round(due_ms), "UNKNOWN", "no")
    return replace(event(offset, key), topic=FIRST.topic, moved=what)


def test_nothing_starts_before_all_that_is_remembered_was_told() -> None:
    rig = FollowRig(unread=True)
    rig.feed("ab")
    assert not rig.started
    assert not rig.engine.hungry
    rig.tell(Note(Kind.LEFT, "events", b"a", "events", 0, leader="x"))
    assert not rig.started
    rig.tell(all_told=True)
    assert rig.started == [1]
    assert (rig.letters[0].tier, rig.letters[0].follows) == (FIRST, True)
    rig.assert_accounts()


def test_those_behind_one_that_was_moved_go_after_it_one_by_one() -> None:
    rig = FollowRig()
    rig.feed("aaba")
    rig.answer(0, "UNKNOWN")
    assert list(rig.letters) == [0]
    rig.answer(2)
    for offset, behind in ((0, 1), (1, 3)):
        rig.produced(offset)
        assert list(rig.letters) == [behind]
        assert rig.letters[behind].tier is FIRST
    rig.produced(3)
    assert rig.started == [0, 2]
    assert (rig.tally.moved, rig.tally.acked) == (3, 1)
    rig.assert_accounts()
    # All have ended there: the key is called again, and is no suspect.
    assert rig.engine.suspect_keys == 1
    rig.tell(ended(3))
    assert rig.engine.suspect_keys == 0
    rig.feed("a")
    assert rig.started == [0, 2, 4]


def test_those_behind_a_dead_letter_are_dead_letters() -> None:
    rig = FollowRig(tiers=())
    rig.feed("aab")
    rig.answer(0, "UNKNOWN")
    rig.produced(0)
    hop = rig.letters[1]
    assert hop.end is State.DEAD_LETTERED
    assert hop.outcome.message == "follows notify/events/0/0"
    rig.produced(1)
    assert rig.started == [0, 2]
    assert rig.tally.dead_lettered == 2
    rig.assert_accounts()


def test_an_event_whose_key_cannot_be_followed_waits_and_so_does_its_key() -> None:
    rig = FollowRig(tiers=(), keys_max=1)
    rig.feed("abbc")
    rig.answer(0, "UNKNOWN")
    rig.produced(0)
    rig.answer(1, "UNKNOWN")
    assert (rig.state(1), rig.state(2)) == (State.WAITING, State.PARKED)
    rig.answer(3)
    rig.wait(AGAIN_MS)
    assert rig.started == [0, 1, 3, 1]
    rig.answer(1)
    assert rig.started == [0, 1, 3, 1, 2]
    rig.assert_accounts()


def test_what_cannot_be_called_waits_behind_what_was_moved() -> None:
    rig = FollowRig()
    rig.feed("a")
    rig.answer(0, "UNKNOWN")
    rig.produced(0)
    rig.arrive(event(1, "a"), intended={1: WRONG})
    assert rig.state(1) is State.WAITING
    rig.tell(ended(0))
    rig.wait(AGAIN_MS)
    assert rig.letters[1].outcome is WRONG
    rig.produced(1)
    rig.assert_accounts()


def test_an_end_in_a_tier_settles_when_it_was_written() -> None:
    rig = FollowRig(FIRST)
    rig.come(moved(0))
    assert rig.out[100].attempt == 2
    rig.answer(100)
    assert rig.letters[100].told is State.ACKED
    assert (rig.tally.acked, rig.engine.committed) == (0, 0)
    rig.produced(100)
    assert (rig.tally.acked, rig.engine.committed) == (1, 1)
    rig.assert_accounts()
    rig.come(moved(1))
    rig.answer(101, Outcome(Status.OK, "", disposition=Disposition.DROP))
    assert rig.letters[101].told is State.DROPPED
    rig.produced(101)
    assert rig.tally.dropped == 1


def test_only_the_last_of_a_key_has_to_be_written() -> None:
    rig = FollowRig(FIRST)
    rig.come(moved(0), moved(1), moved(2, None))
    rig.answer(100)
    assert not rig.letters
    assert rig.tally.acked == 1
    rig.answer(101)
    assert rig.letters[101].told is State.ACKED
    rig.answer(102)
    assert rig.tally.acked == 2, "nobody follows an event without a key"


def test_one_that_followed_has_its_attempts_where_it_is_called_first() -> None:
    rig = FollowRig(FIRST)
    rig.come(moved(0, attempts=0))
    delivery = rig.out[100]
    assert (delivery.attempt, delivery.last_failure) == (1, None)
    assert delivery.first_attempted_ms == rig.now_ms


def test_those_behind_in_a_tier_go_up_after_it() -> None:
    rig = FollowRig(FIRST)
    rig.come(moved(0), moved(1, attempts=0, due_ms=-5), moved(2, b"b"))
    rig.answer(100, "UNKNOWN")
    assert rig.letters[100].tier is LAST
    rig.produced(100)
    assert (rig.letters[101].tier, rig.letters[101].follows) == (LAST, True)
    rig.produced(101)
    assert rig.started == [100, 102]
    rig.assert_accounts()
