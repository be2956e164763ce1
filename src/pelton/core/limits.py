"""Bounds on what is open, in events and bytes, and on the calls that are out.

A bound is shared by whoever it is handed to: the process's by all subscriptions, the subscription's by its
partitions. Intake stops when a bound is reached and goes on when half of it is free again; in between,
nothing changes, so that pausing and resuming do not chase each other.
"""

from __future__ import annotations

from typing import Final

from pelton.core.adaptive import Adaptive
from pelton.core.rate import Rate
from pelton.subscription import Adapt, Subscription

__all__ = ["CALLED_TIMES", "Bound", "Limits", "Slots", "slots_of"]

#: So much of its equal share of the process's bound a subscription may hold even while the others have filled
#: it, or a few targets that are down would stop the subscriptions of all others. So the bound may be overrun
#: by this much of itself.
RESERVED: Final = 0.5

#: What may be called counts so often in the process's bytes: itself, and the request that is made of it,
#: which is there until its call has ended.
CALLED_TIMES: Final = 2

#: Retries, and keys whose calls take far longer than usual, get this part of the calls while others want
#: them. Lower, and a target that has come back waits for what it has missed; higher, and keys that hang are
#: in the way of all others.
COSTLY_SHARE: Final = 0.3
#: The part of the calls that they may use while nobody else wants any: the rest stays free for who comes.
COSTLY_IDLE_SHARE: Final = 0.7

#: A call is slow from so many times the usual, and not below the least: what the network makes of it.
SLOW_TIMES: Final = 8.0
SLOW_MIN_MS: Final = 100.0
#: How far what is usual moves with each batch.
USUAL_STEP: Final = 0.1


class Bound:
    """So many events and so many bytes, whichever is reached first.

    It may be overrun by what was fetched before the pause took effect: by the three batches
    (`kafka/prefetch.py`) that may be on the way then.
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

    @property
    def room_to_half(self) -> int:
        """So many events more, and it is half full; none where its bytes are already."""
        return max(0, self.events_max // 2 - self.events) if self.bytes * 2 < self.bytes_max else 0


class Slots:
    """Calls that may be out at once, how many of them may be costly (`turns.py`), and what is usual for one.

    While anybody fresh wants a call, costly ones get `COSTLY_SHARE` of all; where nobody does, they may use
    what is idle, but for what is kept so that a fresh one that comes finds a call.
    """

    __slots__ = ("_taken", "_usual_ms", "adaptive", "costly", "fresh_wanted", "rate", "slots_max")

    def __init__(self, slots_max: int, rate: Rate | None = None, adaptive: Adaptive | None = None) -> None:
        assert slots_max >= 1
        self.slots_max = slots_max
        self.rate = rate
        self.adaptive = adaptive
        self._taken = 0
        #: Calls out that are costly.
        self.costly = 0
        #: Some partition has a fresh delivery that wants a call; whoever shares the calls out says so.
        self.fresh_wanted = False
        self._usual_ms = 0.0

    @property
    def taken(self) -> int:
        return self._taken

    @property
    def limit(self) -> int:
        """How many may be out now; where it has just shrunk, more of them still are."""
        return self.slots_max if self.adaptive is None else self.adaptive.limit

    @property
    def free(self) -> int:
        """How many calls may start now."""
        free = max(0, self.limit - self._taken)
        return free if self.rate is None else min(free, self.rate.calls)

    def turn(self, now_ms: float, unwell: int) -> None:
        """Time has passed, and so many calls in all were not answered until now."""
        if self.rate is not None:
            self.rate.fill(now_ms)
        if self.adaptive is not None:
            self.adaptive.turn(now_ms, self._taken, unwell)

    @property
    def again_ms(self) -> float:
        """When there may be more without any call ending: only where the rate is what holds them back."""
        if self.rate is None or self.rate.calls or self._taken >= self.limit:
            return float("inf")
        return self.rate.next_ms

    @property
    def rate_due_ms(self) -> float:
        """Nobody needs to have started a call before this: the rate had none."""
        return float("-inf") if self.rate is None else self.rate.ready_ms

    def take(self, count: int = 1, costly: int = 0) -> None:
        self._taken += count
        self.costly += costly
        if self.rate is not None:
            self.rate.take(count)
        if self.adaptive is not None and self._taken >= self.adaptive.limit:
            self.adaptive.busy = True
        assert self._taken <= self.slots_max

    def give(self, count: int = 1, costly: int = 0) -> None:
        self._taken -= count
        self.costly -= costly
        assert self._taken >= 0
        assert self.costly >= 0

    @property
    def costly_share(self) -> int:
        """How many costly calls more may start while fresh ones want calls."""
        return max(0, max(1, int(self.limit * COSTLY_SHARE)) - self.costly)

    @property
    def costly_idle_share(self) -> int:
        """How many where none does."""
        if self.fresh_wanted:
            return self.costly_share
        return max(0, max(1, int(self.limit * COSTLY_IDLE_SHARE)) - self.costly)

    def took(self, shortest_ms: float) -> None:
        """Calls were acked together; the quickest of them took so long.

        One slow call among many says nothing: what is usual rises no faster than it doubles, and in steps.
        """
        if not self._usual_ms:
            self._usual_ms = shortest_ms
        self._usual_ms += USUAL_STEP * (min(shortest_ms, 2.0 * self._usual_ms) - self._usual_ms)

    @property
    def slow_ms(self) -> float:
        """A call that took longer was slow."""
        return max(SLOW_MIN_MS, SLOW_TIMES * self._usual_ms)


def slots_of(subscription: Subscription) -> Slots:
    """What a subscription declares of its calls."""
    per_second, adapt = subscription.rate_per_second, subscription.adapt
    return Slots(
        subscription.concurrency,
        None if per_second is None else Rate(per_second),
        None if adapt is Adapt.OFF else Adaptive(subscription.concurrency, acts=adapt is Adapt.ON),
    )


class Limits:
    """The bounds that an engine shares with others: its process's, its subscription's, and the calls'.

    `sharers` is how many subscriptions share the process's.
    """

    __slots__ = ("_held", "process", "slots", "subscription")

    def __init__(self, process: Bound, subscription: Bound, slots: Slots, *, sharers: int = 1) -> None:
        #: All that is open, whatever it waits for, and the requests of what may be called.
        self.process = process
        #: What may be called or is out.
        self.subscription = subscription
        self.slots = slots
        # Alone there is nobody to reserve anything from.
        reserved = RESERVED / sharers if sharers > 1 else 0.0
        #: All that is open of this subscription; it may go on while it holds less than its reserve.
        self._held = Bound(int(process.events_max * reserved), int(process.bytes_max * reserved))

    def take(self, events: int, size_bytes: int) -> None:
        self.subscription.take(events, size_bytes)
        self.take_parked(events, CALLED_TIMES * size_bytes)

    def give(self, events: int, size_bytes: int) -> None:
        self.subscription.give(events, size_bytes)
        self.give_parked(events, CALLED_TIMES * size_bytes)

    def take_parked(self, events: int, size_bytes: int) -> None:
        self.process.take(events, size_bytes)
        self._held.take(events, size_bytes)

    def give_parked(self, events: int, size_bytes: int) -> None:
        self.process.give(events, size_bytes)
        self._held.give(events, size_bytes)

    @property
    def full(self) -> bool:
        return self.subscription.full or (self.process.full and self._held.full)

    @property
    def half_free(self) -> bool:
        return self.subscription.half_free and (self.process.half_free or self._held.half_free)
