"""Results on their way back: gathered while the loop turns, handed over once a turn.

Nothing here knows how a call is made. Every transport ends its calls through one `Results`, so that the
contract's "never from inside submit, cancel or close" and "several at a time" hold in one place.
"""

from __future__ import annotations

import asyncio

from pelton.core.delivery import Delivery
from pelton.core.outcome import Outcome
from pelton.rpc.transport import OnResults, Result

__all__ = ["Results"]


class Results:
    """Gathers results and hands them to `on_results` in one `call_soon` per turn of the loop.

    Bounded by the calls that were submitted: each adds one result.
    """

    __slots__ = ("_loop", "_on_results", "_waiting")

    def __init__(self, on_results: OnResults) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_results = on_results
        self._waiting: list[Result] = []

    def __len__(self) -> int:
        """Results not handed over yet."""
        return len(self._waiting)

    def add(self, delivery: Delivery, outcome: Outcome) -> None:
        waiting = self._waiting
        if not waiting:
            self._loop.call_soon(self.hand_over)
        waiting.append((delivery, outcome))

    def extend(self, results: list[Result]) -> None:
        """The same of several."""
        if not self._waiting:
            self._loop.call_soon(self.hand_over)
        self._waiting += results

    def hand_over(self) -> None:
        """Hand over what has gathered; called by the loop, and once more at the end of a close."""
        if self._waiting:
            results, self._waiting = self._waiting, []
            self._on_results(results)
