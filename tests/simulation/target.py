"""The target and the way to it: calls are answered, late, twice, wrongly or never, and cut at their deadline.

`FakeTransport` keeps the contract of `pelton.rpc.transport`: every call ends in one result, handed over in
batches and never from inside `submit` or `cancel`. The one lie it tells is a second result of a call that
has ended.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from pelton.core.delivery import Delivery
from pelton.core.outcome import ACKED, CANCELLED_BY_US, Outcome, Status, Verdict
from pelton.event import Event, Position
from pelton.rpc.transport import Call, OnResults, Result
from pelton.subscription import Disposition

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

__all__ = ["FakeTransport", "Target"]

_FAILING = tuple(status for status in Status if status is not Status.OK)
#: The transport's own word for a call whose deadline has passed.
_TIMED_OUT = Outcome(Status.DEADLINE_EXCEEDED, "deadline")


class Target:
    """One server, whoever calls it. It keeps a journal of what it took."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.took: dict[Position, int] = {}

    def take(self, event: Event) -> None:
        self.took[event.position] = self.took.get(event.position, 0) + 1

    def answer(self, event: Event) -> tuple[float, Outcome | None]:
        """After how many seconds, and what; None never answers."""
        world = self._world
        faults, random, schedule = world.faults, world.random, world.schedule
        delay_s = schedule.call_s * random.random()
        for outage in faults.target:
            if outage.covers(world.now_s):
                world.sometimes(f"target_{outage.how}")
                if outage.how == "hang":
                    return delay_s, None
                if outage.how == "miswired":
                    return delay_s, Outcome(Status.UNIMPLEMENTED, "no such method")
                if outage.how == "unavailable" or random.random() < 0.5:
                    return delay_s, Outcome(Status.UNAVAILABLE, "down")
        poison = schedule.poison.get(event.key or b"")
        if poison is not None:
            return delay_s, Outcome(poison, "poison")
        if world.strikes(faults.hangs):
            return delay_s, None
        if world.strikes(faults.late):
            return schedule.subscription.timeout_ms / 1000.0 * (0.9 + 0.4 * random.random()), ACKED
        if world.strikes(faults.statuses):
            # Not an answer that ends it for good every time: then nothing would be left to order.
            return delay_s, Outcome(random.choice(_FAILING), "chance")
        if world.strikes(faults.local):
            return delay_s, _local(random.random())
        if world.strikes(faults.final):
            return delay_s, Outcome(Status.UNAVAILABLE, "last attempt", final=True)
        if world.strikes(faults.verdicts):
            verdict = random.choice(tuple(Verdict))
            after_ms = random.choice((None, 30.0, 1_000.0)) if verdict is Verdict.RETRY else None
            return delay_s, Outcome(Status.OK, "verdict", verdict=verdict, retry_after_ms=after_ms)
        return delay_s, ACKED


def _local(chance: float) -> Outcome:
    """What the transport says before anything is sent."""
    if chance < 0.5:
        return Outcome(Status.INTERNAL, "illegal metadata", local=True)
    return Outcome(Status.RESOURCE_EXHAUSTED, "too large", disposition=Disposition.DEAD_LETTER, local=True)


class FakeTransport:
    """One process's."""

    def __init__(self, world: World, process: Process, on_results: OnResults) -> None:
        self._world = world
        self._process = process
        self._on_results = on_results
        self._out: dict[Delivery, int] = {}
        self._number = 0
        self._ready: list[Result] = []
        #: Which of `_ready` are lies, by their place.
        self._lies: set[int] = set()

    @property
    def in_flight(self) -> int:
        return len(self._out)

    def submit(self, calls: Sequence[Call]) -> None:
        world, process = self._world, self._process
        process.point()
        for call in calls:
            delivery, event = call.delivery, call.delivery.event
            world.auditor.submitted(process, delivery)
            if world.tracing:
                world.trace(process, "call", f"{delivery.delivery_id} attempt {delivery.attempt}")
            self._number += 1
            self._out[delivery] = self._number
            delay_s, outcome = world.target.answer(event)
            timeout_s = call.timeout_ms / 1000.0
            if outcome is ACKED or (outcome is not None and outcome.verdict is Verdict.ACK):
                # Taken is taken, whether the answer is heard or not.
                world.loop.call_later(delay_s, world.target.take, event)
            if outcome is None or delay_s > timeout_s:
                delay_s, outcome = timeout_s, _TIMED_OUT
            world.loop.call_later(delay_s, self._end, delivery, self._number, outcome)
        process.point()

    def cancel(self, deliveries: Collection[Delivery]) -> None:
        self._process.point()
        cut = [delivery for delivery in deliveries if self._out.pop(delivery, None) is not None]
        self._world.auditor.over(self._process, cut)
        for delivery in cut:
            self._tell(delivery, CANCELLED_BY_US)

    async def close(self, drain_ms: float) -> None:
        assert not self._out

    def _end(self, delivery: Delivery, number: int, outcome: Outcome) -> None:
        if self._out.get(delivery) != number:
            return
        del self._out[delivery]
        self._world.auditor.over(self._process, (delivery,))
        self._tell(delivery, outcome)
        if self._world.strikes(self._world.faults.twice):
            self._world.loop.call_later(self._world.random.random() * 0.05, self._lie, delivery)

    def _lie(self, delivery: Delivery) -> None:
        """A second result of a call that has ended."""
        self._world.sometimes("answered_twice")
        self._lies.add(len(self._ready))
        self._tell(delivery, ACKED)

    def _tell(self, delivery: Delivery, outcome: Outcome) -> None:
        if not self._ready:
            self._world.loop.call_soon(self._process.post, self._flush)
        self._ready.append((delivery, outcome))

    def _flush(self) -> None:
        # A second result is told behind the first, and not at all once the delivery is called again: which of
        # the two is meant, no transport could say.
        lies = [self._ready[at] for at in sorted(self._lies) if self._ready[at][0] not in self._out]
        results = [result for at, result in enumerate(self._ready) if at not in self._lies] + lies
        self._ready = []
        self._lies.clear()
        if self._world.tracing:
            for delivery, outcome in results:
                self._world.trace(self._process, "result", f"{delivery.delivery_id} {_said(outcome)}")
        self._world.auditor.answered(self._process, results)
        self._on_results(results)


def _said(outcome: Outcome) -> str:
    verdict = f" verdict {outcome.verdict.value}" if outcome.verdict else ""
    flags = [flag for flag in ("local", "final", "cancelled") if getattr(outcome, flag)]
    return " ".join((outcome.status.name + verdict, *flags))
