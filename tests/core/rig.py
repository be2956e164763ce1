"""An engine with everything it needs, driven by hand: what tests of the engine share.

It performs what the engine asks for as a pump would, but remembers instead of sending: `out` has the calls
that are out, `letters` the dead letters that are on the way. Time stands still until it is moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from pelton.core.actions import Actions, Commit, Flow, Hop
from pelton.core.breaker import Breaker
from pelton.core.delivery import Delivery, Preset, State
from pelton.core.engine import Engine
from pelton.core.followed import Followed
from pelton.core.limits import Bound, Limits, Slots
from pelton.core.outcome import ACKED, Outcome, Status
from pelton.core.tally import Tally
from pelton.event import Event, Partition
from pelton.subscription import RetryPolicy, Subscription, Target

__all__ = ["PARTITION", "SUBSCRIPTION", "Rig", "event", "limits_of", "outcome"]

PARTITION = Partition("events", 0)
SUBSCRIPTION = Subscription(
    name="notify",
    topics=("events",),
    target=Target("shop", "127.0.0.1:50051"),
    method="/shop.v1.EventService/HandleEvent",
    group="pelton.notify",
    dead_letter_topic="dlq.notify",
)


def event(
    offset: int, key: bytes | str | None = None, *, value: bytes | None = b"x", flaw: str | None = None
) -> Event:
    if isinstance(key, str):
        key = key.encode()
    topic, partition = PARTITION
    return Event(topic, partition, offset, key, value, value, (), 1_700_000_000_000 + offset, flaw=flaw)


def outcome(status: Status | str, **more: Any) -> Outcome:
    status = Status[status] if isinstance(status, str) else status
    return ACKED if status is Status.OK and not more else Outcome(status, f"told {status.name}", **more)


def limits_of(
    subscription: Subscription, *, process_events: int = 50_000, process_bytes: int = 64 << 20
) -> Limits:
    intake = subscription.intake
    return Limits(
        Bound(process_events, process_bytes),
        Bound(intake.subscription_events_max, intake.subscription_bytes_max),
        Slots(subscription.concurrency),
    )


class Rig:
    """One partition's engine. Other keyword arguments change the subscription or its retry policy."""

    def __init__(
        self,
        *,
        committed: int = 0,
        metadata: str | None = None,
        log_end: int = -1,
        limits: Limits | None = None,
        breaker: Breaker | None = None,
        tally: Tally | None = None,
        jitter: Callable[[], float] = lambda: 1.0,
        blocked_keys: Mapping[bytes, int] | None = None,
        now_ms: float = 0.0,
        partition: Partition = PARTITION,
        followed: Followed | None = None,
        generation: int = 1,
        **changes: Any,
    ) -> None:
        of_retry = {
            name: changes.pop(name) for name in list(changes) if name in RetryPolicy.__dataclass_fields__
        }
        subscription = replace(SUBSCRIPTION, **changes)
        subscription = replace(subscription, retry=replace(subscription.retry, **of_retry))
        self.now_ms = now_ms
        self.limits = limits or limits_of(subscription)
        self.breaker = breaker or Breaker()
        self.tally = tally or Tally()
        self.engine = Engine(
            subscription,
            partition,
            generation=generation,
            committed=committed,
            metadata=metadata,
            log_end=log_end,
            limits=self.limits,
            breaker=self.breaker,
            tally=self.tally,
            jitter=jitter,
            now_ms=now_ms,
            blocked_keys=blocked_keys,
            followed=followed,
        )
        self.out: dict[int, Delivery] = {}
        self.letters: dict[int, Hop] = {}
        self.commits: list[Commit] = []
        self.flows: list[Flow] = []
        #: What is to be read again, one request after the other.
        self.asked: list[tuple[int, ...]] = []
        #: Offsets in the order in which their attempts started.
        self.started: list[int] = []

    # -- In ----------------------------------------------------------------------------------------------

    def arrive(self, *events: Event, intended: Mapping[int, Preset] | None = None) -> Actions:
        self.engine.on_events(events, self.now_ms, intended or {})
        return self.act()

    def feed(self, keys: Iterable[bytes | str | None], *, first: int | None = None) -> Actions:
        """Events with these keys, from `first` or from where the last ones ended."""
        start = self.engine._ledger.next_offset if first is None else first
        return self.arrive(*(event(start + at, key) for at, key in enumerate(keys)))

    def answer(self, offset: int, status: Status | str | Outcome = ACKED, **more: Any) -> Actions:
        told = status if isinstance(status, Outcome) else outcome(status, **more)
        return self.answers((offset, told))

    def answers(self, *told: tuple[int, Outcome]) -> Actions:
        self.engine.on_outcomes([(self.out.pop(offset), what) for offset, what in told], self.now_ms)
        return self.act()

    def produced(self, offset: int, error: str | None = None) -> Actions:
        letter = self.letters.pop(offset)
        self.engine.on_produced([(letter.delivery, error)], self.now_ms)
        return self.act()

    def read_again(self, *events: Event, through: int | None = None) -> Actions:
        """The answer to the last request: these events, and no others up to `through`."""
        asked = self.asked[-1]
        through = asked[-1] if through is None else through
        self.engine.on_read_again(asked, events, through, self.now_ms)
        return self.act()

    def wait(self, ms: float) -> Actions:
        """Time passes at once; a tick at its end."""
        self.now_ms += ms
        self.engine.on_tick(self.now_ms)
        actions = self.act()
        assert self.engine.next_deadline() > self.now_ms, "it asks for a tick that has passed: a busy loop"
        return actions

    def wait_for_deadline(self) -> Actions:
        deadline_ms = self.engine.next_deadline()
        assert deadline_ms < float("inf"), "it waits for nothing"
        return self.wait(max(0.0, deadline_ms - self.now_ms))

    # -- Out ---------------------------------------------------------------------------------------------

    def act(self, calls_max: int = 1_000_000) -> Actions:
        actions = self.engine.take_actions(self.now_ms, calls_max)
        for delivery in actions.calls:
            offset = delivery.event.offset
            assert offset not in self.out
            self.out[offset] = delivery
            self.started.append(offset)
        for letter in actions.hops:
            self.letters[letter.delivery.event.offset] = letter
        if actions.commit is not None:
            self.commits.append(actions.commit)
        if actions.read_again:
            self.asked.append(actions.read_again)
        if actions.flow is not None:
            self.flows.append(actions.flow)
        return actions

    # -- What it looks like ------------------------------------------------------------------------------

    def state(self, offset: int) -> State:
        return self.delivery(offset).state

    def delivery(self, offset: int) -> Delivery:
        return self.engine._open[offset]

    def assert_accounts(self) -> None:
        """What the engine counts is what is there."""
        engine = self.engine
        states = [delivery.state for delivery in engine.deliveries()]
        assert len(states) + engine.shelved == engine.open_events
        assert engine.queued == states.count(State.QUEUED)
        assert engine.calling == states.count(State.CALLING) == len(engine.in_flight())
        assert engine.waiting == states.count(State.WAITING)
        assert engine.parked == states.count(State.PARKED)
        assert engine.producing == states.count(State.PRODUCING)
        assert self.tally.holds(engine.open_events)
