"""An engine and a target in virtual time: the target says of each call how long it takes and how it ends.

Calls end in the order of their time. The log never runs dry while `feed` has keys; time jumps from one thing
that happens to the next.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable

from pelton.core.delivery import Delivery
from pelton.core.outcome import ACKED, Outcome, Status
from tests.core.rig import Rig, event

__all__ = ["Shop"]

#: When a call starts, its event's key, and how many calls are out with it -> how long it takes, how it ends.
Target = Callable[[float, bytes, int], tuple[float, Status]]


class Shop:
    """`rig`'s engine calls `target`; `keys` gives the key of each event in turn."""

    def __init__(self, rig: Rig, target: Target, keys: Callable[[int], bytes], events: int) -> None:
        self.rig = rig
        self.target = target
        self.keys = keys
        self.events = events
        self.fed = 0
        self.dead: list[bytes] = []
        self.ended: Counter[str] = Counter()
        #: Outcomes to come.
        self._coming: list[tuple[float, int, Delivery, Outcome]] = []
        self._sequence = 0
        #: For each call that ended: key, when it started, how long it took, how many were out.
        self.on_ended: Callable[[bytes, float, float], None] = lambda key, started_ms, took_ms: None

    def run(self, until_ms: float) -> None:
        """Until then, or until everything is settled."""
        rig = self.rig
        self._feed()
        while rig.now_ms < until_ms and (rig.engine.open_events or self.fed < self.events):
            due_ms = rig.engine.next_deadline()
            if self._coming:
                due_ms = min(due_ms, self._coming[0][0])
            assert due_ms < float("inf"), "it waits for nothing"
            rig.now_ms = max(rig.now_ms, due_ms)
            told = []
            while self._coming and self._coming[0][0] <= rig.now_ms:
                _, _, delivery, outcome = heapq.heappop(self._coming)
                del rig.out[delivery.event.offset]
                self.ended[outcome.status.name] += 1
                key = delivery.event.key
                assert key is not None
                self.on_ended(key, delivery.started_ms, rig.now_ms - delivery.started_ms)
                if outcome is ACKED and rig.limits.slots.adaptive is not None:
                    rig.limits.slots.adaptive.samples.append(rig.now_ms - delivery.started_ms)
                told.append((delivery, outcome))
            if told:
                rig.engine.on_outcomes(told, rig.now_ms)
            rig.engine.on_tick(rig.now_ms)
            self._act()
            self._feed()

    def _feed(self) -> None:
        while self.fed < self.events and not self.rig.engine.paused:
            batch = [event(at, self.keys(at)) for at in range(self.fed, min(self.events, self.fed + 100))]
            self.fed += len(batch)
            self.rig.engine.on_events(batch, self.rig.now_ms)
            self._act()

    def _act(self) -> None:
        rig = self.rig
        rig.limits.slots.turn(rig.now_ms, rig.breaker.budget.unwell)
        rig.limits.slots.fresh_wanted = rig.engine.has_fresh
        actions = rig.act()
        for at, delivery in enumerate(actions.calls):
            key = delivery.event.key
            assert key is not None
            took_ms, status = self.target(rig.now_ms, key, len(rig.out) - len(actions.calls) + at + 1)
            outcome = ACKED if status is Status.OK else Outcome(status)
            self._sequence += 1
            heapq.heappush(self._coming, (rig.now_ms + took_ms, self._sequence, delivery, outcome))
        for offset in list(rig.letters):
            self.dead.append(self.rig.delivery(offset).event.key or b"")
            rig.produced(offset)


def drawn(seed: int) -> Callable[[], float]:
    return random.Random(seed).random
