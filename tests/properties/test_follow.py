"""Followed keys across kills, handovers and late news: nobody is called past an event that is open.

Each seed is one schedule of `follow_world.py`, which judges every call. The planted bugs show that it is
awake.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from pelton.core.actions import Hop
from pelton.core.delivery import Delivery
from pelton.core.followed import Followed, Kind, Note
from pelton.subscription import Tier
from tests.properties.follow_world import TIERS, Broken, FollowWorld, Owner
from tests.properties.profile import DEEP
from tests.simulation.mutants_follow import an_end_is_not_told, strikes_what_is_needed

SCHEDULES = 2_000 if DEEP else 100
#: Many times what any planted bug has needed.
HUNTED_MAX = 1_000

Patch = AbstractContextManager[Any]


def world_of(seed: int) -> FollowWorld:
    tiers: tuple[Tier, ...] = () if seed % 3 == 2 else TIERS
    return FollowWorld(seed, tiers=tiers, keys_max=1 if seed % 7 == 6 else 10_000)


def test_no_event_is_called_while_an_earlier_one_of_its_key_is_open(note: Callable[[str], None]) -> None:
    calls = followed = died = 0
    for seed in range(SCHEDULES):
        world = world_of(seed)
        try:
            world.run()
        except Broken as broken:
            raise AssertionError(f"seed {seed}: {broken}") from broken
        calls += len(world.called)
        followed += world.seen["followed"]
        died += world.seen["died"]
    assert min(calls, followed, died) > SCHEDULES, "little has happened"
    note(f"follow: {SCHEDULES} schedules, {calls} calls, {followed} events followed, {died} processes died")


# -- Planted bugs --------------------------------------------------------------------------------------------


def released_too_early() -> Patch:
    """A key goes on when anything of it has ended."""
    original = Followed._end

    def end(self: Followed, name: tuple[str, bytes], note: Note, now_ms: float) -> bool:
        return original(self, name, replace(note, through=1 << 40), now_ms)

    return patch.object(Followed, "_end", end)


def followers_do_not_count() -> Patch:
    """A key goes on when the first one that left has ended, and not those that followed it."""
    original = Followed.after

    def after(self: Followed, delivery: Delivery, next_tier: Tier | None, now_ms: float) -> Hop | None:
        name = self._name(delivery.event)
        key = None if name is None else self._get(name, now_ms)
        through = 0 if key is None else key.through
        hop = original(self, delivery, next_tier, now_ms)
        if key is not None:
            key.through = through
        return hop

    return patch.object(Followed, "after", after)


def _without(gone: Callable[[Note], bool]) -> Patch:
    original = Followed.notes

    def notes(self: Followed, hops: Sequence[Hop]) -> list[Note]:
        return [note for note in original(self, hops) if not gone(note)]

    return patch.object(Followed, "notes", notes)


def not_in_the_transaction() -> Patch:
    """What left is written, and that its key is followed is not."""
    return _without(lambda note: note.kind is Kind.LEFT)


def a_death_is_not_told() -> Patch:
    """Those below a tier are told that it ended, not how."""
    original = Followed.notes

    def notes(self: Followed, hops: Sequence[Hop]) -> list[Note]:
        return [replace(note, at_ms=-1) if note.kind is Kind.ENDED else note for note in original(self, hops)]

    return patch.object(Followed, "notes", notes)


def starts_before_all_is_read() -> Patch:
    """A partition that comes goes on from what it will be told later."""

    def read_all(self: FollowWorld, owner: Owner) -> None:
        owner.engine.on_notes([], self.now_ms, all_told=True)

    return patch.object(FollowWorld, "read_all", read_all)


def dies_before_its_turn() -> Patch:
    """What cannot be called is set aside past those ahead of it."""
    original = Followed.leave

    def leave(self: Followed, delivery: Delivery, tier: Tier | None, now_ms: float) -> bool:
        name = self._name(delivery.event)
        key = None if name is None else self._get(name, now_ms)
        return (key is not None and key.dead_ms < 0) or original(self, delivery, tier, now_ms)

    return patch.object(Followed, "leave", leave)


PLANTED = (
    released_too_early,
    followers_do_not_count,
    not_in_the_transaction,
    a_death_is_not_told,
    an_end_is_not_told,
    strikes_what_is_needed,
    starts_before_all_is_read,
    dies_before_its_turn,
)


@pytest.mark.interpreted
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_caught(plant: Callable[[], Patch], note: Callable[[str], None]) -> None:
    with plant():
        for seed in range(HUNTED_MAX):
            try:
                world_of(seed).run()
            except Broken as caught:
                note(f"{plant.__name__}: caught after {seed + 1} schedules, by {str(caught)[:70]}")
                return
    pytest.fail(f"{plant.__name__} survives {HUNTED_MAX} schedules: {plant.__doc__}")
