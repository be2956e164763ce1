"""When a partition's next commit is asked for: soon after something was settled, or at once.

A transaction carries a commit of its own. While it is put together or under way none is asked for beside it:
of a plain commit and a transactional one the later wins, also where it says less.
"""

from __future__ import annotations

from pelton.core.actions import Commit

__all__ = ["COMMIT_DELAY_MS", "CommitDue"]

#: The longest that a settled offset waits for its commit to be asked for. With the consumer's own wait for
#: the commit before it and the way to the broker, a busy computer stays under the 200 ms that bound what
#: repeats after a hard kill.
COMMIT_DELAY_MS = 50.0

_NEVER = float("inf")


class CommitDue:
    """The moment of the next commit, and what was asked for last."""

    __slots__ = ("_at_once", "at_ms", "held", "last")

    def __init__(self) -> None:
        #: Monotonic milliseconds; infinity while nothing is to be committed, or it may not be.
        self.at_ms = _NEVER
        self._at_once = False
        #: A transaction carries the next commit.
        self.held = False
        #: What was asked for last.
        self.last: Commit | None = None

    def settled(self, now_ms: float, *, more: bool) -> None:
        """Something was settled; `more` is still open, so that more may soon be."""
        if self.held:
            return
        if self.at_ms == _NEVER:
            self.at_ms = now_ms + COMMIT_DELAY_MS
        # Nothing is open: nothing will join this commit, so it need not wait.
        self._at_once = not more

    def now(self, now_ms: float) -> bool:
        """Its moment has come."""
        return self._at_once or now_ms >= self.at_ms

    def asked(self, commit: Commit) -> None:
        """This was asked for."""
        self.at_ms = _NEVER
        self._at_once = False
        self.last = commit

    def hold(self) -> None:
        """From now on a transaction carries it."""
        assert not self.held, "one transaction at a time"
        self.held = True
        self.at_ms = _NEVER
        self._at_once = False

    def let_go(self, now_ms: float) -> None:
        """The transaction has ended, either way. What was settled beside it is committed soon: where one
        transaction follows the other, the next one carries it."""
        self.held = False
        self.at_ms = now_ms + COMMIT_DELAY_MS
