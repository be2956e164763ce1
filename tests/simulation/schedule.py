"""What one schedule is made of, drawn from its seed: the subscription, the group, and which faults are on.

Swarm style: a fault is on in some schedules and off in the others, and how often it strikes is drawn too.
A run in which everything fails at once reaches less than one in which three things fail often.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

from pelton.core.outcome import Status
from pelton.subscription import (
    Adapt,
    Intake,
    OnExhausted,
    Ordering,
    RetryPolicy,
    Subscription,
    Target,
    ThenKey,
    Tier,
)

__all__ = ["Action", "Faults", "Outage", "Schedule", "draw"]


@dataclass(frozen=True, slots=True)
class Outage:
    """From when to when something does not work, in seconds, and how."""

    start_s: float
    end_s: float
    how: str = ""

    def covers(self, now_s: float) -> bool:
        return self.start_s <= now_s < self.end_s


@dataclass(frozen=True, slots=True)
class Action:
    """Something that is done to the world at a moment."""

    at_s: float
    #: The name of a method of `World`.
    what: str
    #: Which seat, partition or so; the world takes it modulo what there is.
    which: int
    #: How long, or how much.
    amount: float = 0.0


@dataclass(slots=True)
class Faults:
    """Shares of calls or requests that go wrong, and when things are down. All zero: nothing fails."""

    #: Calls: any status, an answer that never comes, one after the deadline, one told twice, a verdict,
    #: a failure on our own side, the last attempt asked for.
    statuses: float = 0.0
    hangs: float = 0.0
    late: float = 0.0
    twice: float = 0.0
    verdicts: float = 0.0
    local: float = 0.0
    final: float = 0.0
    #: The target's outages: `unavailable`, `hang`, `miswired`, `half`.
    target: list[Outage] = field(default_factory=list)
    #: Dead letters: refused; written, and yet said to be refused.
    letters_refused: float = 0.0
    letters_unsure: float = 0.0
    letters: list[Outage] = field(default_factory=list)
    #: Commits: refused; carried out, and yet said to have failed; their longest way in seconds.
    commits_refused: float = 0.0
    commits_unsure: float = 0.0
    commit_latency_s: float = 0.005
    #: When there is no coordinator: no commits, no reading of what was committed.
    coordinator: list[Outage] = field(default_factory=list)
    #: When partitions have no leader: nothing is read.
    leader: list[Outage] = field(default_factory=list)
    #: Seeks that the client refuses, reads of the committed offset that fail.
    seeks: float = 0.0
    reads: float = 0.0
    #: The moments, counted in what processes ask of their surroundings, at which one dies in the middle.
    crash_points: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Schedule:
    """All that is decided before the first step."""

    seed: int
    subscription: Subscription
    partitions: int
    seats: int
    cooperative: bool
    static: bool
    #: Hops and the offsets that they pass are one transaction.
    atomic: bool
    #: Bytes of the ack map's payload; None leaves the real budget.
    map_budget: int | None
    batch_events_max: int
    events: int
    chaos_s: float
    #: Calls take up to so long when nothing is wrong.
    call_s: float
    faults: Faults
    actions: tuple[Action, ...]
    #: The target fails events of these keys, and what it says; for ever.
    poison: dict[bytes, Status]


_SESSION_S = 6.0
#: The share of schedules in which keys are followed.
_FOLLOWING = 0.2
_APART = 0x0F0110
_TIERS = (Tier(300.0, "retry.sim.300ms"), Tier(1_500.0, "retry.sim.1500ms"))


def _share(random: Random, on: float, most: float) -> float:
    """0, or with the probability `on` something up to `most`, small values as often as large ones."""
    return most * random.random() ** 2 if random.random() < on else 0.0


def _outages(random: Random, on: float, chaos_s: float, longest_s: float, *hows: str) -> list[Outage]:
    outages: list[Outage] = []
    if random.random() >= on:
        return outages
    for _ in range(random.randint(1, 2)):
        start_s = random.uniform(0.0, chaos_s * 0.9)
        end_s = min(chaos_s, start_s + random.uniform(0.2, longest_s))
        outages.append(Outage(start_s, end_s, random.choice(hows) if hows else ""))
    return outages


def _faults(random: Random, chaos_s: float, calm: bool) -> Faults:
    if calm:
        return Faults()
    return Faults(
        statuses=_share(random, 0.5, 0.6),
        hangs=_share(random, 0.25, 0.3),
        late=_share(random, 0.2, 0.3),
        twice=_share(random, 0.3, 0.5),
        verdicts=_share(random, 0.3, 0.5),
        local=_share(random, 0.2, 0.3),
        final=_share(random, 0.2, 0.2),
        target=_outages(random, 0.35, chaos_s, 8.0, "unavailable", "hang", "miswired", "half"),
        letters_refused=_share(random, 0.3, 0.5),
        letters_unsure=_share(random, 0.15, 0.4),
        letters=_outages(random, 0.2, chaos_s, 5.0),
        commits_refused=_share(random, 0.3, 0.6),
        commits_unsure=_share(random, 0.2, 0.5),
        commit_latency_s=random.choice((0.002, 0.01, 0.1, 1.0)),
        coordinator=_outages(random, 0.25, chaos_s, 4.0),
        leader=_outages(random, 0.2, chaos_s, 3.0),
        seeks=_share(random, 0.2, 0.6),
        reads=_share(random, 0.2, 0.7),
        crash_points=frozenset(random.randint(1, 500) for _ in range(random.randint(1, 3)))
        if random.random() < 0.4
        else frozenset(),
    )


def _actions(random: Random, chaos_s: float, calm: bool) -> tuple[Action, ...]:
    kinds = [
        kind
        for kind in (
            "kill",
            "stop",
            "join",
            "freeze",
            "isolate",
            "expel",
            "clock",
            "slow",
            "fence",
            "cut",
            "damage",
        )
        if random.random() < 0.3
    ]
    if calm or not kinds:
        return ()
    actions = []
    for _ in range(random.randint(1, 6)):
        what = random.choice(kinds)
        longest_s = {"freeze": 2.0 * _SESSION_S, "isolate": 2.0 * _SESSION_S, "slow": 5.0}.get(what, 4.0)
        amount = random.uniform(0.05, longest_s)
        actions.append(Action(random.uniform(0.1, chaos_s * 0.95), what, random.randrange(64), amount))
    return tuple(sorted(actions, key=lambda action: action.at_s))


def draw(seed: int) -> Schedule:
    """The schedule of `seed`: the same one every time."""
    random = Random(seed)
    calm = random.random() < 0.03
    chaos_s = random.choice((3.0, 6.0, 12.0))
    timeout_ms = random.choice((200.0, 1_000.0))
    partition_events = random.choice((4, 10, 40))
    retry = RetryPolicy(
        attempts=random.choice((1, 2, 3, 5)),
        backoff_min_ms=random.choice((5.0, 50.0)),
        backoff_max_ms=random.choice((200.0, 2_000.0)),
        give_up_after_ms=random.choice((2_000.0, 3_600_000.0, 3_600_000.0)),
        on_exhausted=OnExhausted.HOLD if random.random() < 0.08 else OnExhausted.DEAD_LETTER,
        tiers=_TIERS[: random.randint(1, 2)] if random.random() < 0.35 else (),
    )
    subscription = Subscription(
        "sim",
        ("a", "b"),
        Target("x", "127.0.0.1:1"),
        "/a.B/C",
        "sim",
        filter="some" if random.random() < 0.7 else None,
        ordering=random.choices((Ordering.KEY, Ordering.PARTITION, Ordering.NONE), (8, 1, 1))[0],
        concurrency=random.choice((1, 2, 4, 16)),
        rate_per_second=random.choice((None, None, None, 20.0, 200.0)),
        adapt=random.choice(tuple(Adapt)),
        timeout_ms=timeout_ms,
        retry=retry,
        idempotent=random.random() < 0.2,
        intake=Intake(
            partition_events_max=partition_events,
            partition_bytes_max=random.choice((200, 1 << 20)),
            subscription_events_max=partition_events * random.choice((1, 3)),
            subscription_bytes_max=random.choice((400, 1 << 20)),
            parked_events_max=random.choice((2, 6, 50)),
            parked_bytes_max=random.choice((100, 1 << 20)),
        ),
        drain_timeout_ms=random.choice((300.0, 2_000.0)),
        dead_letter_topic="dlq.sim",
    )
    poison: dict[bytes, Status] = {}
    if not calm and retry.on_exhausted is OnExhausted.DEAD_LETTER and random.random() < 0.4:
        poison[b"p"] = random.choice((Status.INTERNAL, Status.UNKNOWN, Status.INVALID_ARGUMENT))
    schedule = Schedule(
        seed=seed,
        subscription=subscription,
        partitions=random.randint(1, 4),
        seats=random.choice((1, 2, 2, 3)),
        cooperative=random.random() < 0.6,
        static=random.random() < 0.6,
        atomic=random.random() < 0.4,
        map_budget=random.choice((2, 4, 8)) if random.random() < 0.25 else None,
        batch_events_max=random.choice((2, 5, 20)),
        events=random.choice((10, 30, 60)),
        chaos_s=chaos_s,
        call_s=random.choice((0.002, 0.02, 0.15)),
        faults=_faults(random, chaos_s, calm),
        actions=_actions(random, chaos_s, calm),
        poison=poison,
    )
    # Drawn apart, so that all other schedules are what they would be without it.
    apart = Random(seed ^ _APART)
    return _following(schedule, apart) if apart.random() < _FOLLOWING else schedule


def _following(schedule: Schedule, random: Random) -> Schedule:
    """The same, with keys that are followed."""
    retry, actions = schedule.subscription.retry, list(schedule.actions)
    follow_for_ms = random.choice((300.0, 3_000.0, 86_400_000.0))
    # What waits for room waits for as long as keys are followed, and by clocks that may go back.
    lasts = follow_for_ms > 3_000.0 or any(action.what == "clock" for action in actions)
    retry = replace(
        retry,
        attempts=random.choice((1, 1, 2, 3)),
        on_exhausted=OnExhausted.DEAD_LETTER,
        tiers=_TIERS[: random.choice((0, 1, 2, 2))],
        then_key=ThenKey.FOLLOW,
        follow_for_ms=follow_for_ms,
        follow_keys_max=10_000 if lasts else random.choice((1, 2, 10_000, 10_000)),
    )
    if actions and random.random() < 0.5:
        at_s = random.uniform(0.1, schedule.chaos_s)
        actions.append(Action(at_s, "release", random.randrange(64)))
    subscription = replace(schedule.subscription, retry=retry, ordering=Ordering.KEY)
    return replace(schedule, subscription=subscription, atomic=True, actions=tuple(actions))
