"""How often a consumer that the broker has fenced is made anew under its own name: no client and no clock.

A static member can be fenced although nobody else bears its name: a coordinator that is killed or frozen may
have given the name anew, to this very process, in an answer that never arrived; whatever comes under the old
membership is then refused, for good. From here that looks exactly as another process with the same name does,
and so does the broker's view of it. What tells the two apart is time: nobody takes the name from a process
that is alone, so it is fenced once and then left in peace, while two that share a name fence each other again
and again, in turn. The one that was fenced first is the first to have used up what is allowed here, and ends.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["REBUILDS_MAX", "REBUILD_WINDOW_S", "Rebuilds"]

#: Two that share a name take it from each other within a heartbeat and a join, a second or two.
REBUILDS_MAX: Final = 5
#: Well beyond what two need to use them up; faults of a coordinator are not so many in so short a time.
REBUILD_WINDOW_S: Final = 300.0
#: Before the second one, doubled for each that follows; the first one is made at once.
REBUILD_WAIT_FIRST_S: Final = 0.5


class Rebuilds:
    """Those of one consumer."""

    def __init__(self) -> None:
        self._at: deque[float] = deque(maxlen=REBUILDS_MAX)

    def wait_s(self, now: float) -> float | None:
        """Fenced at `now`: how long to wait before it is made anew; None says that it must not be."""
        while self._at and now - self._at[0] >= REBUILD_WINDOW_S:
            self._at.popleft()
        count = len(self._at)
        if count == REBUILDS_MAX:
            return None
        self._at.append(now)
        return REBUILD_WAIT_FIRST_S * 2 ** (count - 1) if count else 0.0

    @property
    def count(self) -> int:
        """Within the window."""
        return len(self._at)
