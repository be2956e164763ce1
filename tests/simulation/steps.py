"""When a thread of a process takes its next step: one moment at a time, the earliest that was asked for.

What it does then is its owner's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

__all__ = ["Steps"]


class Steps:
    """The steps of one thread."""

    def __init__(self, world: World, process: Process, step: Callable[[], None]) -> None:
        self._world = world
        self._process = process
        self._step = step
        self._at_s = float("inf")

    def within(self, wait_s: float) -> None:
        """There is something to do: it comes to it after so long at the latest."""
        self.at(self._world.now_s + self._world.random.random() * wait_s)

    def at(self, at_s: float) -> None:
        if at_s < self._at_s:
            self._at_s = at_s
            self._world.loop.call_at(at_s, self._due, at_s)

    def _due(self, at_s: float) -> None:
        if at_s == self._at_s:
            self._at_s = float("inf")
            self._process.on_thread(self._step)
