"""Whose calls are next: the partitions of one subscription that want some, and how many each is given.

They stand in one line. Nobody that came later overtakes one, and who has had its share goes behind the
others. Who stands here is not asked again before there is a call for it, however many there are. Nothing here
starts a call, and what a partition does with its share is its engine's.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from pelton.core.breaker import Breaker
from pelton.core.engine import Engine
from pelton.core.limits import Slots

__all__ = ["Shares"]

#: Where all who want calls would get less than so many each, fewer are served, down to `SERVED_MIN`, and the
#: others next: asking a partition for one or two costs as much as for all of these.
SHARE = 16
SERVED_MIN = 2


class Shares:
    """The line. Every engine that would start calls stands in it, but for one that was given more than it
    could start: it comes again when it has something to say."""

    __slots__ = ("_breaker", "_held_back", "_line", "_slots")

    def __init__(self, slots: Slots, breaker: Breaker) -> None:
        self._slots = slots
        self._breaker = breaker
        self._line: dict[Engine, None] = {}
        #: Those with costly deliveries only, while such have all the calls that they may.
        self._held_back: dict[Engine, None] = {}

    @property
    def more(self) -> bool:
        """There are calls for somebody who stands in line."""
        return bool(self._line) and self._breaker.closed and self._slots.free > 0

    @property
    def again_ms(self) -> float:
        """When there may be some for who stands in line without any call ending."""
        return self._slots.again_ms if self._line else float("inf")

    def ask(self, engines: Collection[Engine]) -> None:
        """These may want calls now."""
        if self._held_back and self._slots.costly_idle_share:
            self._line.update(self._held_back)
            self._held_back.clear()
        for engine in engines:
            if engine.hungry:
                self._line[engine] = None

    def take(self) -> tuple[dict[Engine, None], int]:
        """Who is given calls now, in this order, and at most how many each; `again` says what came of it."""
        line, slots = self._line, self._slots
        slots.fresh_wanted = any(engine.has_fresh for engine in line)
        free = slots.free
        if not line or not free:
            return {}, 0
        if not self._breaker.closed:
            # Only one of them may probe: one with an event that was never called, and each in its turn.
            by_turn = sorted(line, key=lambda engine: (engine.untried is None, engine.probed_ms))
            return dict.fromkeys(by_turn), free
        if slots.fresh_wanted:
            served = dict.fromkeys(islice(line, min(free, max(SERVED_MIN, -(-free // SHARE)))))
            # Rounded up, or a round more would be for the rest: who finds none left keeps its place.
            share = -(-free // len(served))
        else:
            # Costly calls are few: each should have some.
            served = dict.fromkeys(line)
            share = max(1, free // len(served))
        return served, share

    def again(self, engine: Engine, *, share: int, started: int) -> None:
        """It has had its turn: of the `share` that it was given it has started so many."""
        hungry = engine.hungry and not (started < share and self._slots.free)
        if started or not hungry:
            self._line.pop(engine, None)
        if hungry:
            self._line[engine] = None
        elif engine.held_back:
            self._held_back[engine] = None

    def leave(self, engine: Engine) -> None:
        self._line.pop(engine, None)
        self._held_back.pop(engine, None)
