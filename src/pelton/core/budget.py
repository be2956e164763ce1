"""The dead-letter budget of a target: what its answers to others allow to be said against one event.

A call that was not answered says something of the target or of the event, and one failure does not tell
which. What the target did with *other* calls since the event's previous failure does: where it took all of
them, the event is at fault; where it left every second one unanswered, an innocent event fails just as
often. So a failure weighs as much as it would surprise of an innocent event, and nothing at all in an outage.
First attempts are the fair sample of that: whatever is called again has failed before.

Beside that, successes earn the right to dead-letter: a target that leaves a whole class of events unanswered
is unwell for them, and they wait. Rule 1: only failures of the unwell kind are judged here. Rule 2: what is
said here is said of the target; what becomes of the event is `retry.py`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["RIGHTS_FIRST", "Budget", "Mark"]

#: A failure weighs a whole attempt where the target leaves unanswered no more than this share of the calls.
#: So eight attempts take an innocent event into dead letters once in 10^16.
INNOCENT_SHARE = 0.01

#: Few answers say little: one more is added to what was seen, and it was so much of a failure.
UNSEEN = 0.1

#: First attempts that make a sample; where there are fewer, all calls are taken.
SAMPLE_MIN = 10

#: Each success earns so much of a dead letter.
EARNED_BY_GOOD = 0.05
#: There before the first success, so that a quiet topic does not keep its first few for ever.
RIGHTS_FIRST = 10.0
#: No longer past of the target counts: an outage must not spend what a good year has earned.
RIGHTS_MAX = 100.0


@dataclass(frozen=True, slots=True)
class Mark:
    """Where the target's account stood at a failure of an event."""

    good: int
    unwell: int
    good_first: int
    unwell_first: int
    outages: int


class Budget:
    """Counts of one target, as far as one process knows them."""

    __slots__ = ("good", "good_first", "outages", "rights", "unwell", "unwell_first")

    def __init__(self) -> None:
        #: Calls that were answered and that were not, in all, and of first attempts.
        self.good = 0
        self.unwell = 0
        self.good_first = 0
        self.unwell_first = 0
        #: Outages that were confirmed: a probe with an event that was never called has failed, too.
        self.outages = 0
        #: Dead letters that may be written after failures of the unwell kind.
        self.rights = RIGHTS_FIRST

    def answered(self, calls: int, first: int) -> None:
        """So many calls were, so many of them first attempts."""
        self.good += calls
        self.good_first += first
        if self.rights < RIGHTS_MAX:
            self.rights = min(RIGHTS_MAX, self.rights + calls * EARNED_BY_GOOD)

    def unanswered(self, *, first: bool) -> None:
        """One call was not."""
        self.unwell += 1
        self.unwell_first += first

    def mark(self, *, in_outage: bool) -> Mark:
        """Now, at a failure. One in an outage that is confirmed already belongs to that outage."""
        return Mark(self.good, self.unwell, self.good_first, self.unwell_first, self.outages - int(in_outage))

    def was_outage(self, since: Mark) -> bool:
        """An outage was confirmed since, or there was one then: the failure was no event's fault."""
        return self.outages != since.outages

    def weight(self, since: Mark) -> float:
        """What share of an attempt a failure burns, by what the target did with others since `since`."""
        good, unwell = self.good_first - since.good_first, self.unwell_first - since.unwell_first
        if good + unwell < SAMPLE_MIN:
            good, unwell = self.good - since.good, self.unwell - since.unwell
        share = (unwell + UNSEEN) / (good + unwell + 1.0)
        return min(1.0, math.log(share) / math.log(INNOCENT_SHARE))

    @property
    def has_right(self) -> bool:
        return self.rights >= 1.0

    def spend(self) -> None:
        assert self.has_right
        self.rights -= 1.0
