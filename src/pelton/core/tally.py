"""What was counted: every event that was consumed stands in exactly one of these numbers.

The conservation law, which holds whenever nobody is in the middle of a batch:

    consumed = acked + dropped + filtered + dead-lettered + moved + lost + already settled + released + open

`open` is not kept here: it is counted from the ledgers, so that the law can fail.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pelton.core.delivery import ENDS, State
from pelton.core.outcome import Status

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """Counts of one subscription since the process started; they outlive the engines that count."""

    consumed: int = 0
    acked: int = 0
    dropped: int = 0
    filtered: int = 0
    dead_lettered: int = 0
    moved: int = 0
    #: Gone from the log while it was parked by its offset alone.
    lost: int = 0
    #: By the ack map that was read back on assignment.
    already_settled: int = 0
    #: Left open at a revoke, a loss or a stop, for the partition's next owner.
    released: int = 0

    #: Attempts started, and how those that ended did.
    attempts: int = 0
    outcomes: dict[Status, int] = field(default_factory=dict)
    #: Attempts that will be made again after a wait.
    retries: int = 0
    #: Outcomes refused because the assignment they belong to is gone, or their attempt has ended.
    late_outcomes: int = 0
    #: Dead letters and moves that the broker did not take; each is tried again.
    dead_letters_failed: int = 0
    #: Maps read back that were no maps of ours, or spoke of more than the log holds.
    maps_refused: int = 0
    #: Milliseconds in which calls were held back because the ack map had no room.
    ledger_stalled_ms: float = 0.0

    def answered(self, status: Status, count: int = 1) -> None:
        """So many attempts have ended with this status."""
        self.outcomes[status] = self.outcomes.get(status, 0) + count

    def settle(self, end: State) -> None:
        """One delivery has come to `end`."""
        assert end in ENDS
        setattr(self, end.value, getattr(self, end.value) + 1)

    @property
    def settled(self) -> int:
        return self.acked + self.dropped + self.filtered + self.dead_lettered + self.moved + self.lost

    def holds(self, open_events: int) -> bool:
        """Whether the conservation law holds with so many events open."""
        return self.consumed == self.settled + self.already_settled + self.released + open_events
