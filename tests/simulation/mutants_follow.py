"""Planted bugs about keys that are followed; see `mutants.py`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import PropertyMock, patch

from confluent_kafka import IsolationLevel

from pelton.core.actions import Hop
from pelton.core.delivery import Delivery
from pelton.core.followed import Followed, Kind, Note
from pelton.kafka import following
from pelton.subscription import Tier
from tests.simulation.hunting import Patch, mutant

__all__ = ["an_end_is_not_told", "strikes_what_is_needed"]


@mutant("calls a key again when anything of it has ended, whatever left after that")
def released_too_early() -> Patch:
    original = Followed._end

    def end(self: Followed, name: tuple[str, bytes], note: Note, now_ms: float) -> bool:
        return original(self, name, replace(note, through=1 << 40), now_ms)

    return patch.object(Followed, "_end", end)


@mutant("calls the events behind one that left")
def nobody_follows() -> Patch:
    def after(self: Followed, delivery: Delivery, next_tier: Tier | None, now_ms: float) -> Hop | None:
        return None

    return patch.object(Followed, "after", after)


@mutant("writes what left, and not that its key is followed")
def leaves_without_a_note() -> Patch:
    original = Followed.notes

    def notes(self: Followed, hops: Iterable[Hop]) -> list[Note]:
        return [note for note in original(self, hops) if note.kind is not Kind.LEFT]

    return patch.object(Followed, "notes", notes)


@mutant("starts a partition before what is followed has been read")
def starts_before_all_is_read() -> Patch:
    return patch.object(following._Reading, "until", PropertyMock(return_value=0))


@mutant("tells those behind a dead letter that it ended, not how", first=380)
def a_death_is_not_told() -> Patch:
    original = Followed.notes

    def notes(self: Followed, hops: Iterable[Hop]) -> list[Note]:
        return [replace(note, at_ms=-1) if note.kind is Kind.ENDED else note for note in original(self, hops)]

    return patch.object(Followed, "notes", notes)


@mutant("does not tell a key that its last event was taken in a tier")
def an_end_is_not_told() -> Patch:
    return patch.object(Followed, "tells", lambda *_: False)


@mutant("strikes the notes of keys that are followed again", first=125)
def strikes_what_is_needed() -> Patch:
    original = Followed.notes

    def notes(self: Followed, hops: Iterable[Hop]) -> list[Note]:
        struck = [
            Note(kind, *name, self._place if kind is Kind.LEFT else "", struck=True)
            for kind, name in self._forgotten
        ]
        return [*original(self, hops), *struck]

    return patch.object(Followed, "notes", notes)


@mutant("reads what is followed only up to a transaction that is being ended", first=140)
def reads_what_is_marked() -> Patch:
    committed = SimpleNamespace(READ_UNCOMMITTED=IsolationLevel.READ_COMMITTED)
    return patch.object(following, "IsolationLevel", committed)
