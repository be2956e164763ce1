"""What one partition's open events weigh, and whether it may take in more.

Queued, calling and producing deliveries count against the intake limits: the partition's own, and those it
shares. Waiting and parked ones count apart, so that a key that fails cannot fill the intake of the others.
"""

from __future__ import annotations

from pelton.core.delivery import Delivery
from pelton.core.limits import Bound, Limits
from pelton.subscription import Intake as Declared

__all__ = ["Intake"]


class Intake:
    """The accounts of one partition. Every open delivery stands in one of the two."""

    __slots__ = ("_limits", "active", "parked")

    def __init__(self, declared: Declared, limits: Limits) -> None:
        self._limits = limits
        self.active = Bound(declared.partition_events_max, declared.partition_bytes_max)
        #: Waiting, or parked behind one that waits.
        self.parked = Bound(declared.parked_events_max, declared.parked_bytes_max)

    def admit(self, events: int, size_bytes: int) -> None:
        self.active.take(events, size_bytes)
        self._limits.take(events, size_bytes)

    def leave(self, events: int, size_bytes: int) -> None:
        self.active.give(events, size_bytes)
        self._limits.give(events, size_bytes)

    def park(self, delivery: Delivery) -> None:
        self.leave(1, delivery.size_bytes)
        self.parked.take(1, delivery.size_bytes)

    def unpark(self, delivery: Delivery) -> None:
        self.parked.give(1, delivery.size_bytes)
        self.admit(1, delivery.size_bytes)

    def clear(self) -> None:
        """Everything has left at once."""
        self._limits.give(self.active.events, self.active.bytes)
        for bound in (self.active, self.parked):
            bound.give(bound.events, bound.bytes)

    @property
    def full(self) -> bool:
        return self.active.full or self.parked.full or self._limits.full

    @property
    def half_free(self) -> bool:
        return self.active.half_free and self.parked.half_free and self._limits.half_free
