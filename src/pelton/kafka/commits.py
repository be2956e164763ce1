"""Which offsets are to be committed: the latest per partition, and one request at a time.

No client and no clock of its own. At low load every event would be a commit; while one is on its way the
next ones gather, so that their rate is bounded by the broker's answers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from pelton.core.actions import Commit
from pelton.event import Partition

__all__ = ["Commits"]

#: After a commit that failed; doubled each time. A rebalance, the usual reason, takes about as long.
RETRY_WAIT_FIRST_S: Final = 0.25
#: A coordinator that is gone for minutes is asked no less often than this.
RETRY_WAIT_MAX_S: Final = 5.0


class Commits:
    """What is wanted and what is on its way. Bounded by the number of partitions held."""

    def __init__(self) -> None:
        self._wanted: dict[Partition, Commit] = {}
        self._in_flight: dict[Partition, Commit] = {}
        #: A request is on its way; even if nothing of what it carries is ours any more.
        self._awaited = False
        self._retry_at = 0.0
        self._retry_wait_s = 0.0

    def want(self, partition: Partition, commit: Commit) -> None:
        """Commit this; it supersedes what was wanted before."""
        self._wanted[partition] = commit

    def take(self, now: float) -> dict[Partition, Commit]:
        """What is to be sent now: nothing while a request is on its way or a failed one rests."""
        if self._awaited or not self._wanted or now < self._retry_at:
            return {}
        self._awaited = True
        self._in_flight, self._wanted = self._wanted, {}
        return dict(self._in_flight)

    def answered(self, failed: Collection[Partition], now: float) -> Collection[Partition]:
        """The answer to what `take` gave; returns the partitions that it still concerns."""
        sent, self._in_flight = self._in_flight, {}
        self._awaited = False
        self.settle(sent, failed, now)
        return sent.keys()

    def take_all(self) -> dict[Partition, Commit]:
        """Everything not known to be committed, the request on its way included: for a last word.

        Committing the same again does no harm, and the earlier request's answer may come too late. The
        answer to this one goes to `settle`.
        """
        everything = {**self._in_flight, **self._wanted}
        self._in_flight, self._wanted = {}, {}
        return everything

    def under_way(self, partition: Partition) -> bool:
        """Something of this partition is wanted or on its way, or failed and is tried again."""
        return partition in self._wanted or partition in self._in_flight

    def settle(self, sent: Mapping[Partition, Commit], failed: Collection[Partition], now: float) -> None:
        """What failed of `sent` is wanted again, unless something newer is."""
        for partition in failed:
            if partition in sent:
                self._wanted.setdefault(partition, sent[partition])
        if failed:
            self._retry_wait_s = min(RETRY_WAIT_MAX_S, max(RETRY_WAIT_FIRST_S, 2 * self._retry_wait_s))
            self._retry_at = now + self._retry_wait_s
        else:
            self._retry_at = self._retry_wait_s = 0.0

    def drop(self, partitions: Collection[Partition]) -> None:
        """These are not ours any more: nothing about them is sent again."""
        for partition in partitions:
            self._wanted.pop(partition, None)
            self._in_flight.pop(partition, None)
