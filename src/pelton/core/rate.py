"""So many calls a second: a token bucket, filled by the time that is handed in.

The bucket holds what a tenth of a second may use, so that calls that could not start while nothing was there
do not all start at once. What it has is asked for once a batch, and it names one moment to ask again.
"""

from __future__ import annotations

from typing import Final

__all__ = ["RATE_BURST_MS", "RATE_STEP_MS", "Rate"]

#: The bucket holds what so much time may use, and at least one call: the largest burst.
RATE_BURST_MS: Final = 100.0
#: Whoever waits for a call is woken no sooner than this, and takes what has come together until then.
RATE_STEP_MS: Final = 10.0

#: Sums of small times are not exact; without this a bucket may lack the last digit of a call for ever.
_TOLERANCE: Final = 1e-6


class Rate:
    """At most `per_second` calls a second, and a burst. Times are monotonic milliseconds."""

    __slots__ = ("_burst", "_calls", "_filled_ms", "_per_ms", "per_second", "ready_ms")

    def __init__(self, per_second: float) -> None:
        assert per_second > 0
        self.per_second = per_second
        self._per_ms = per_second / 1_000.0
        self._burst = max(1.0, self._per_ms * RATE_BURST_MS)
        self._calls = self._burst
        self._filled_ms = float("-inf")
        #: When there is a call again, or was, after the last ones that were taken.
        self.ready_ms = float("-inf")

    def fill(self, now_ms: float) -> None:
        """Time has passed."""
        if now_ms > self._filled_ms:
            passed_ms = now_ms - self._filled_ms
            self._calls = min(self._burst, self._calls + passed_ms * self._per_ms)
            self._filled_ms = now_ms

    @property
    def calls(self) -> int:
        """How many may start now."""
        return int(self._calls + _TOLERANCE)

    def take(self, calls: int) -> None:
        self._calls = max(0.0, self._calls - calls)
        self.ready_ms = self._filled_ms + max(0.0, 1.0 - self._calls) / self._per_ms

    @property
    def next_ms(self) -> float:
        """When to ask again: not before there is one call more."""
        lacking = max(0.0, 1.0 - self._calls)
        return self._filled_ms + max(lacking / self._per_ms, RATE_STEP_MS)
