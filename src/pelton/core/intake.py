"""What one partition's open events weigh, and whether it may take in more.

Queued, calling and producing deliveries count against the partition's and the subscription's intake limits.
Waiting and parked ones count apart, so that a key that fails cannot fill the intake of the others: neither
between its attempts nor while its dead letter is written. All of them count against the process's bound,
which says how much memory they may take.

A key that begins to wait takes what was queued behind it along. So a partition may have more parked than its
parked limit, but never more open in all than that and the partition's limit together.
"""

from __future__ import annotations

from pelton.core.delivery import Delivery, State
from pelton.core.limits import Bound, Limits
from pelton.subscription import Intake as Declared

__all__ = ["Intake"]


class Intake:
    """The accounts of one partition. Every open delivery that is in memory stands in one of the two."""

    __slots__ = ("_limits", "active", "parked")

    def __init__(self, declared: Declared, limits: Limits) -> None:
        self._limits = limits
        self.active = Bound(declared.partition_events_max, declared.partition_bytes_max)
        #: Waiting, or parked behind one that waits or is on its way to a topic of ours.
        self.parked = Bound(declared.parked_events_max, declared.parked_bytes_max)

    def admit(self, events: int, size_bytes: int) -> None:
        self.active.take(events, size_bytes)
        self._limits.take(events, size_bytes)

    def leave(self, events: int, size_bytes: int) -> None:
        self.active.give(events, size_bytes)
        self._limits.give(events, size_bytes)

    def admit_parked(self, events: int, size_bytes: int) -> None:
        self.parked.take(events, size_bytes)
        self._limits.take_parked(events, size_bytes)

    def park(self, delivery: Delivery) -> None:
        self.leave(1, delivery.size_bytes)
        self.admit_parked(1, delivery.size_bytes)

    def take(self, delivery: Delivery) -> None:
        """It is in memory again; whether it may be called or is parked, it says itself."""
        if delivery.state is State.PARKED:
            self.admit_parked(1, delivery.size_bytes)
        else:
            self.admit(1, delivery.size_bytes)

    def forget(self, delivery: Delivery) -> None:
        """A parked one leaves memory; its offset is kept elsewhere."""
        self.parked.give(1, delivery.size_bytes)
        self._limits.give_parked(1, delivery.size_bytes)

    def unpark(self, delivery: Delivery) -> None:
        self.forget(delivery)
        self.admit(1, delivery.size_bytes)

    def clear(self) -> None:
        """Everything has left at once."""
        self._limits.give(self.active.events, self.active.bytes)
        self._limits.give_parked(self.parked.events, self.parked.bytes)
        for bound in (self.active, self.parked):
            bound.give(bound.events, bound.bytes)

    @property
    def crowded(self) -> bool:
        """No more should be taken in, or brought back into memory, that may be called."""
        return self.active.full or self._limits.full

    @property
    def half_free(self) -> bool:
        """There is room for more that may be called; how much waits, `parked` says."""
        return self.active.half_free and self._limits.half_free
