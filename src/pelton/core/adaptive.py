"""How many calls a target can use at once: found by trying, between a minimum and what the user allows.

A target with room answers as fast as it ever does; one that is asked for more than it can do at once makes
calls wait, and those that wait are (1 - best / now) of those that are out. Few: the limit grows, if it was
what held calls back. Many: it shrinks. So it settles just above the knee. Times are medians: a few keys that
are slow or hang do not count. Calls that a target leaves unanswered halve the limit.

It starts at the minimum and doubles until calls wait for the first time: begun above the knee, it would take
the target's queue for its usual pace, and keep it. After each step the calls that were out before it are let
pass: what they took says nothing of the new limit, and steps taken before the first one shows run past it.

What it was at best is measured again now and then with half the limit, so that a target that has become
slower for good is not held to its past. A target that takes 100 ms whatever is asked of it keeps the maximum.
"""

from __future__ import annotations

from typing import Final

__all__ = ["LIMIT_MIN", "Adaptive"]

#: It never shrinks below this (or the maximum, if that is lower): enough to see the target recover.
LIMIT_MIN: Final = 4

#: It is decided once in so long, over at least so many calls, of which the first so many are looked at.
WINDOW_MS: Final = 100.0
SAMPLES_MIN: Final = 10
SAMPLES_MAX: Final = 1_000

#: Grow below this share of calls that wait; shrink above that one.
WAITING_LOW: Final = 0.1
WAITING_HIGH: Final = 0.2
#: Halve at this share of calls that were not answered.
UNWELL_SHARE: Final = 0.1
#: A step, as a share of the limit.
STEP: Final = 0.1
#: What it is at best is measured again this often.
BEST_EVERY_MS: Final = 30_000.0


class Adaptive:
    """The limit of one target's calls. Times are monotonic milliseconds."""

    __slots__ = (
        "_best_due_ms",
        "_best_ms",
        "_climbing",
        "_measuring",
        "_out",
        "_settled_ms",
        "_unwell",
        "_window_ends_ms",
        "acts",
        "busy",
        "found",
        "limit_max",
        "samples",
    )

    def __init__(self, limit_max: int, *, acts: bool) -> None:
        self.limit_max = limit_max
        #: Else it only observes: it finds a limit, and nobody keeps to it.
        self.acts = acts
        #: The limit that it finds right.
        self.found = min(LIMIT_MIN, limit_max)
        #: How long the calls took that were acked in this window; whoever feeds the outcomes fills it.
        self.samples: list[float] = []
        #: Calls were held back by the limit in this window.
        self.busy = False
        self._best_ms = float("inf")
        self._best_due_ms = float("inf")
        #: Calls have never waited yet: a step doubles.
        self._climbing = True
        #: The most calls that were out in this window, where nobody keeps to what is found.
        self._out = 0
        #: This window measures what the target is at best.
        self._measuring = False
        #: From then on most of what ends was called under the limit that there is now.
        self._settled_ms = float("-inf")
        self._unwell = 0
        self._window_ends_ms = float("-inf")

    @property
    def limit(self) -> int:
        """What to keep to now."""
        if not self.acts:
            return self.limit_max
        return self._half if self._measuring else self.found

    @property
    def _half(self) -> int:
        return max(self._least, self.found // 2)

    @property
    def _least(self) -> int:
        return min(LIMIT_MIN, self.limit_max)

    def turn(self, now_ms: float, taken: int, unwell: int) -> None:
        """Time has passed; `taken` calls are out, and so many in all were not answered until now."""
        samples = self.samples
        if not self.acts:
            self._out = max(self._out, taken)
            if taken >= self.found:
                # Nobody keeps to it, so it holds back whoever is beyond it.
                self.busy = True
        if now_ms < self._settled_ms:
            samples.clear()
            return
        if now_ms < self._window_ends_ms:
            return
        failed = unwell - self._unwell
        if len(samples) + failed < SAMPLES_MIN:
            return
        self._unwell = unwell
        limit = self.limit
        took_ms = self._decide(now_ms, failed)
        if limit != self.limit:
            self._settled_ms = now_ms + took_ms
        self._window_ends_ms = max(now_ms, self._settled_ms) + WINDOW_MS
        samples.clear()
        self.busy = False
        self._out = 0

    def _decide(self, now_ms: float, failed: int) -> float:
        """Returns how long a call took, if that is known."""
        samples = self.samples
        if failed > UNWELL_SHARE * (len(samples) + failed):
            self._climbing = False
            self.found = self._half
            return 0.0
        took_ms = sorted(samples[:SAMPLES_MAX])[min(len(samples), SAMPLES_MAX) // 2]
        if self._measuring:
            self._measuring = False
            if not self.acts and self._out > self._half:
                return took_ms
            self._best_ms = took_ms
            self._best_due_ms = now_ms + BEST_EVERY_MS
            return took_ms
        if took_ms < self._best_ms:
            self._best_ms = took_ms
            self._best_due_ms = now_ms + BEST_EVERY_MS
        waiting = 1.0 - self._best_ms / took_ms if took_ms > 0 else 0.0
        if waiting >= WAITING_LOW:
            self._step_down(waiting)
        elif self.busy:
            step = self.found if self._climbing else self._step
            self.found = min(self.limit_max, self.found + step)
        if now_ms >= self._best_due_ms and (self.acts or self._out <= self._half):
            # Nobody makes it less where it only observes: then it waits for a window that has so little.
            self._measuring = True
        return took_ms

    def _step_down(self, waiting: float) -> None:
        """So great a part of the calls that are out waits."""
        climbed = self._climbing
        self._climbing = False
        if waiting > WAITING_HIGH:
            at_work = int((self.found if self.acts else self._out) * (1.0 - waiting))
            self.found = max(self._least, at_work if climbed else max(at_work, self.found - self._step))

    @property
    def _step(self) -> int:
        return max(1, int(self.found * STEP))
