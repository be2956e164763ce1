"""Bounds on what is open, in events and bytes, and on the calls that are out.

A bound is shared by whoever it is handed to: the process's by all subscriptions, the subscription's by its
partitions. Intake stops when a bound is reached and goes on when half of it is free again; in between,
nothing changes, so that pausing and resuming do not chase each other.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Bound", "Limits", "Slots"]

#: So much of its equal share of the process's bound a subscription may hold even while the others have filled
#: it, or a few targets that are down would stop the subscriptions of all others. So the bound may be overrun
#: by this much of itself.
RESERVED: Final = 0.5


class Bound:
    """So many events and so many bytes, whichever is reached first.

    It may be overrun by what was fetched before the pause took effect: by one batch.
    """

    __slots__ = ("bytes", "bytes_max", "events", "events_max")

    def __init__(self, events_max: int, bytes_max: int) -> None:
        self.events_max = events_max
        self.bytes_max = bytes_max
        self.events = 0
        self.bytes = 0

    def take(self, events: int, size_bytes: int) -> None:
        self.events += events
        self.bytes += size_bytes

    def give(self, events: int, size_bytes: int) -> None:
        self.events -= events
        self.bytes -= size_bytes
        assert self.events >= 0
        assert self.bytes >= 0

    @property
    def full(self) -> bool:
        return self.events >= self.events_max or self.bytes >= self.bytes_max

    @property
    def half_free(self) -> bool:
        return self.events * 2 <= self.events_max and self.bytes * 2 <= self.bytes_max


class Slots:
    """Calls that may be out at once."""

    __slots__ = ("_taken", "slots_max")

    def __init__(self, slots_max: int) -> None:
        assert slots_max >= 1
        self.slots_max = slots_max
        self._taken = 0

    @property
    def taken(self) -> int:
        return self._taken

    @property
    def free(self) -> int:
        return self.slots_max - self._taken

    def take(self, count: int = 1) -> None:
        self._taken += count
        assert self._taken <= self.slots_max

    def give(self, count: int = 1) -> None:
        self._taken -= count
        assert self._taken >= 0


class Limits:
    """The bounds that an engine shares with others: its process's, its subscription's, and the calls'.

    `sharers` is how many subscriptions share the process's.
    """

    __slots__ = ("_reserved_bytes", "_reserved_events", "process", "slots", "subscription")

    def __init__(self, process: Bound, subscription: Bound, slots: Slots, *, sharers: int = 1) -> None:
        self.process = process
        self.subscription = subscription
        self.slots = slots
        # Alone there is nobody to reserve anything from.
        reserved = RESERVED / sharers if sharers > 1 else 0.0
        self._reserved_events = process.events_max * reserved
        self._reserved_bytes = process.bytes_max * reserved

    def take(self, events: int, size_bytes: int) -> None:
        self.process.take(events, size_bytes)
        self.subscription.take(events, size_bytes)

    def give(self, events: int, size_bytes: int) -> None:
        self.process.give(events, size_bytes)
        self.subscription.give(events, size_bytes)

    @property
    def full(self) -> bool:
        return self.subscription.full or (self.process.full and not self._within_reserve(1))

    @property
    def half_free(self) -> bool:
        return self.subscription.half_free and (self.process.half_free or self._within_reserve(2))

    def _within_reserve(self, times: int) -> bool:
        """So many times what it holds would still be in its reserve."""
        held = self.subscription
        return held.events * times < self._reserved_events and held.bytes * times < self._reserved_bytes
