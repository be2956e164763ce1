"""What may be set aside, and where it may go: by what the auditor has seen of its attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pelton.subscription import OnExhausted, Tier
from tests.simulation.books import UNCALLABLE, Book, Try
from tests.simulation.violation import Violation, check

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["Asides"]


class Asides:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._subscription = world.schedule.subscription

    def moves(self, attempted: Try, tier: Tier, *, tried_again: bool) -> None:
        """It goes to the tier behind the one in which it stands, and nothing that is wrong goes anywhere."""
        tiers, event = self._subscription.retry.tiers, attempted.event
        here = [each.topic for each in tiers].index(event.topic) if event.moved is not None else -1
        check(tiers.index(tier) == here + 1, "moved to a tier that is not the next", event.position)
        fit = attempted.moving or tried_again or not attempted.condemned
        check(fit, "moved although it is wrong", event.position)
        check(event.value not in UNCALLABLE, "moved although it cannot be called", event.position)

    def _age_ms(self, attempted: Try) -> float:
        """Since its first attempt, wherever that was; time with the breaker open included."""
        now_s, moved = self._world.now_s, attempted.event.moved
        if moved is not None:
            before_ms = max(0.0, attempted.read_wall_ms - moved.first_attempted_ms)
            return before_ms + (now_s - attempted.read_s) * 1000.0 + 1.0
        return (now_s - attempted.first_s) * 1000.0 if attempted.first_s >= 0 else -1.0

    def deserved(self, book: Book, attempted: Try, *, moving: bool) -> None:
        event, policy = attempted.event, self._subscription.retry
        if attempted.condemned or event.value in UNCALLABLE:
            return
        sometimes = self._world.sometimes
        key = event.key
        allowed = moving or policy.on_exhausted is OnExhausted.DEAD_LETTER
        if allowed and attempted.burned_most >= policy.attempts:
            sometimes("exhausted")
        elif allowed and event.moved is not None and attempted.burned_most >= 1:
            sometimes("exhausted_in_tier")
        elif allowed and key in book.suspects and attempted.burned_most >= 1:
            sometimes("suspect_key_set_aside")
        elif allowed and self._age_ms(attempted) >= policy.give_up_after_ms:
            sometimes("gave_up_by_age")
        else:
            raise Violation(f"set aside although it has burned {attempted.burned_most}: {event.position}")
        # It may be asked for again, when the broker has refused it, and its key be cleared by then.
        attempted.condemned = True
        if key is not None:
            book.suspects.add(key)
