"""What a handler says about an event when "done" is not the answer: Retry, Drop, DeadLetter.

One class each, usable in both ways: `return Retry(after=2)` where the handler itself decides, and
`raise Retry(after=2)` from deep inside it. So they are exceptions, but values too: immutable in use,
compared by what they say, safe to keep in a constant.

They are not in the tree of `PeltonError`: that one is what Pelton tells its users, this is what users tell
Pelton, and `except PeltonError` around a publish inside a handler must not swallow the handler's verdict.
They are `Exception`s (not `BaseException`s), so an `except Exception` around the `raise` catches them as it
would any other.

How a verdict goes over the wire is `wire.py`; what becomes of the event is the bridge's to decide.
"""

from __future__ import annotations

from datetime import timedelta

__all__ = ["RETRY_AFTER_MAX_S", "DeadLetter", "Drop", "Retry", "Verdict"]

#: A year. Longer waits are a slip of units; and far above it lies what a protobuf Duration can hold.
RETRY_AFTER_MAX_S = 366 * 86_400


class Verdict(Exception):
    """What all three have in common: a reason, for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def _said(self) -> tuple[object, ...]:
        return (self.reason,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Verdict) and type(other) is type(self) and other._said() == self._said()

    def __hash__(self) -> int:
        return hash((type(self), self._said()))


class Retry(Verdict):
    """Try this event again later; it counts as an attempt.

    `after`: seconds (or a `timedelta`) that Pelton waits at least before the next attempt; None leaves the
    wait to the subscription's backoff.
    """

    def __init__(self, after: float | timedelta | None = None, reason: str = "") -> None:
        super().__init__(reason)
        seconds = after.total_seconds() if isinstance(after, timedelta) else after
        if seconds is not None and not 0 <= seconds <= RETRY_AFTER_MAX_S:  # false for NaN, too
            raise ValueError(f"Retry(after={after!r}): the wait must be 0 to {RETRY_AFTER_MAX_S} seconds")
        #: Seconds, or None.
        self.after = None if seconds is None else float(seconds)

    def _said(self) -> tuple[object, ...]:
        return (self.after, self.reason)

    def __reduce__(self) -> tuple[type[Retry], tuple[float | None, str]]:
        return Retry, (self.after, self.reason)  # else a copy would take the reason for the wait

    def __repr__(self) -> str:
        return f"Retry(after={self.after!r}, reason={self.reason!r})"


class Drop(Verdict):
    """Settle this event without effect, on purpose. It is counted, never silent."""


class DeadLetter(Verdict):
    """This event will never succeed: set it aside in the dead-letter topic, with this reason, at once."""
