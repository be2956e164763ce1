"""Two processes, a source, two tiers and their broker, as far as followed keys are concerned: real engines,
each step drawn from one seed.

The broker knows transactions: what left, what is remembered and what is passed are there together or not at
all. A process may die between the broker's end of one and being told of it. What is remembered reaches a
process late, in its order; a partition that comes is told all of it first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from random import Random

from pelton.core import ackmap
from pelton.core.actions import Commit, Hop
from pelton.core.breaker import Breaker
from pelton.core.delivery import Delivery, Preset
from pelton.core.engine import Engine
from pelton.core.followed import Followed, Kind, Note
from pelton.core.limits import Bound, Limits, Slots
from pelton.core.outcome import ACKED, Outcome, Status, Verdict
from pelton.core.tally import Tally
from pelton.core.tiers import arrivals, tier_of
from pelton.event import Event, Moved, Partition, Position
from pelton.subscription import Disposition, RetryPolicy, Subscription, Target, ThenKey, Tier

__all__ = ["TIERS", "Broken", "FollowWorld", "Owner"]

SOURCE = "events"
DELAYS_MS = (50.0, 200.0)
TIERS = tuple(Tier(delay_ms, f"retry.s.{delay_ms:g}ms") for delay_ms in DELAYS_MS)
#: What the wall clock says when the engines' begins.
WALL_MS = 1_700_000_000_000
FOLLOW_FOR_MS = 400.0
PROCESSES = 2
EVENTS = 30
KEYS = (b"a", b"b", None)
STEPS = 600
#: After the faults: many times what any seed has needed.
SETTLES_STEPS = 6_000


WRONG = Outcome(Status.INVALID_ARGUMENT, "no event", disposition=Disposition.DEAD_LETTER, local=True)


class Broken(AssertionError):
    """A promise was."""


@dataclass
class Owner:
    """One partition in one process."""

    engine: Engine
    fed: int
    #: Notes of the log that it has been told.
    told: int = 0


@dataclass
class Process:
    """What dies with it."""

    number: int
    owned: dict[Partition, Owner] = field(default_factory=dict)
    calls: list[Delivery] = field(default_factory=list)
    hops: list[Hop] = field(default_factory=list)


class FollowWorld:
    """See the module. `run` raises `Broken`."""

    def __init__(self, seed: int, *, tiers: tuple[Tier, ...] = TIERS, keys_max: int = 10_000) -> None:
        self.random = Random(seed)
        self.tiers = tiers
        self.subscription = Subscription(
            "s",
            (SOURCE,),
            Target("x", "127.0.0.1:1"),
            "/a.B/C",
            "g",
            dead_letter_topic="dlq.s",
            retry=RetryPolicy(
                attempts=2,
                backoff_min_ms=5.0,
                backoff_max_ms=20.0,
                tiers=tiers,
                then_key=ThenKey.FOLLOW,
                follow_for_ms=FOLLOW_FOR_MS,
                follow_keys_max=keys_max,
            ),
        )
        self.partitions = [Partition(topic, 0) for topic in self.subscription.read_topics]
        self.now_ms = 0.0
        self.logs: dict[Partition, list[Event]] = {partition: [] for partition in self.partitions}
        self.letters: list[Hop] = []
        self.notes: list[Note] = []
        self.commits = {partition: Commit(0, "") for partition in self.partitions}
        #: By offset at the origin: how often it fails, and what ends it then.
        self.plans: dict[int, tuple[int, Outcome]] = {}
        self.failures: dict[int, int] = defaultdict(int)
        self.taken: set[int] = set()
        self.called: list[int] = []
        self.released: dict[bytes, float] = {}
        #: When it was decided that they leave, and when those died that are dead letters now.
        self.decided_ms: dict[Delivery, float] = {}
        self.died_ms: dict[int, float] = {}
        self.seen: dict[str, int] = defaultdict(int)
        self.processes = [Process(number) for number in range(PROCESSES)]
        self.breaker = Breaker()
        #: Offsets of events that cannot be called.
        self.wrong: set[int] = set()
        for offset in range(EVENTS):
            self.publish(self.random.choice(KEYS))
            if self.random.random() < 0.02:
                self.wrong.add(offset)
            draw = self.random.random()
            end = ACKED
            if draw < 0.03:
                end = Outcome(Status.INVALID_ARGUMENT, "never")
            elif draw < 0.1:
                end = Outcome(Status.OK, "no", verdict=Verdict.DROP)
            self.plans[offset] = (self.random.choice((0, 0, 0, 0, 0, 0, 0, 1, 2, 2, 3)), end)

    # -- The run -----------------------------------------------------------------------------------------

    def run(self) -> None:
        steps = [
            (self.feed, 6),
            (self.answer, 8),
            (self.transact, 6),
            (self.tell, 6),
            (self.pass_time, 4),
            (self.kill, 0.3),
            (self.hand_over, 0.5),
            (self.assign, 3),
            (self.release, 0.2),
        ]
        names, weights = [step for step, _ in steps], [weight for _, weight in steps]
        for step in self.random.choices(names, weights, k=STEPS):
            step()
            self.act()
        self.settle()
        self.closing()
        # Then nothing is followed any more: an event of each key is called where it was published.
        self.now_ms += FOLLOW_FOR_MS
        for key in KEYS:
            self.plans[self.publish(key)] = (0, ACKED)
        moved = sum(map(len, self.logs.values()))
        letters = len(self.letters)
        self.settle()
        if sum(map(len, self.logs.values())) != moved or len(self.letters) != letters:
            raise Broken("a key is followed for ever")

    def settle(self) -> None:
        """Without faults from here on. All is told at once, and all that is asked for is done."""
        for number in range(SETTLES_STEPS):
            if self.settled():
                break
            for step in (self.tell_all, self.assign, self.feed, self.answer, self.transact):
                step()
                self.act()
            if number % 5 == 0:
                self.pass_time()
                self.act()
        else:
            raise Broken(f"not all has settled: {self.commits}")
        self.tell_all()

    def publish(self, key: bytes | None) -> int:
        log = self.logs[Partition(SOURCE, 0)]
        log.append(Event(SOURCE, 0, len(log), key, b"x", b"x", (), WALL_MS))
        return len(log) - 1

    def settled(self) -> bool:
        return all(self.is_passed(p, offset) for p, log in self.logs.items() for offset in range(len(log)))

    def closing(self) -> None:
        ended = self.taken | {hop.delivery.event.offset for hop in self.letters}
        if ended != set(range(EVENTS)):
            raise Broken(f"lost: {set(range(EVENTS)) - ended}")
        by_key: dict[bytes, list[int]] = defaultdict(list)
        for hop in self.letters:
            event = hop.delivery.event
            if event.key is not None:
                by_key[event.key].append(event.offset)
        for key, offsets in by_key.items():
            if offsets != sorted(set(offsets)):
                raise Broken(f"dead letters of {key!r} out of order or twice: {offsets}")
        for tier in self.tiers:
            origins = [
                event.moved.origin.offset for event in self.logs[Partition(tier.topic, 0)] if event.moved
            ]
            if len(origins) != len(set(origins)):
                raise Broken(f"moved twice: {origins}")

    # -- What the auditor looks at ---------------------------------------------------------------------------

    def is_passed(self, partition: Partition, offset: int) -> bool:
        """What is committed says that it is settled there."""
        commit = self.commits[partition]
        carried, refused = ackmap.read_back(commit.offset, commit.metadata or None, -1)
        assert refused is None
        return offset < commit.offset or any(start <= offset < end for start, end in carried.ranges)

    def start_call(self, place: Partition, delivery: Delivery) -> None:
        """Nothing of its key that was published before it is open: what stands in another place has been
        passed there for good, what stands here was taken, or passed."""
        event = delivery.event
        self.called.append(event.offset)
        if event.key is None:
            return
        for earlier in self.logs[Partition(SOURCE, 0)][: event.offset]:
            if earlier.key != event.key:
                continue
            offset = earlier.offset
            dead = any(hop.delivery.event.offset == offset for hop in self.letters)
            if offset not in self.taken and not dead:
                raise Broken(f"{event.offset} is called in {place.topic}, and {offset} is open")
            for partition, log in self.logs.items():
                for at, each in enumerate(log):
                    origin = each.moved.origin.offset if each.moved else each.offset
                    if origin == offset and partition != place and not self.is_passed(partition, at):
                        raise Broken(
                            f"{event.offset} is called in {place.topic}, and {offset} may come again from "
                            f"{partition.topic}"
                        )
            if dead and event.offset > offset and self.follows(event.key, offset):
                raise Broken(f"{event.offset} is called although it follows {offset}, a dead letter")

    def follows(self, key: bytes, leader: int) -> bool:
        """Whether the key is bound to a dead letter that failed by itself."""
        died = [hop for hop in self.letters if hop.delivery.event.offset == leader and not hop.follows]
        if not died:
            return False
        at_ms = self.died_ms[leader]
        return self.now_ms < at_ms + FOLLOW_FOR_MS - 1.0 and self.released.get(key, -1.0) < at_ms

    # -- Steps -------------------------------------------------------------------------------------------

    def owners(self) -> list[tuple[Process, Partition, Owner]]:
        return [(process, p, owner) for process in self.processes for p, owner in process.owned.items()]

    def assign(self) -> None:
        held = {partition for _, partition, _ in self.owners()}
        free = [partition for partition in self.partitions if partition not in held]
        if not free:
            return
        partition, process = self.random.choice(free), self.random.choice(self.processes)
        commit = self.commits[partition]
        followed = Followed(
            partition.topic, self.subscription.retry, tier_of(self.tiers, partition.topic), self.wall_ms
        )
        intake = self.subscription.intake
        engine = Engine(
            self.subscription,
            partition,
            generation=1,
            committed=commit.offset,
            metadata=commit.metadata,
            log_end=len(self.logs[partition]),
            limits=Limits(
                Bound(50_000, 64 << 20),
                Bound(intake.subscription_events_max, intake.subscription_bytes_max),
                Slots(100),
            ),
            breaker=self.breaker,
            tally=Tally(),
            jitter=self.random.random,
            now_ms=self.now_ms,
            followed=followed,
        )
        owner = process.owned[partition] = Owner(engine, commit.offset)
        self.read_all(owner)

    def read_all(self, owner: Owner) -> None:
        """All that is remembered now; then what comes."""
        owner.engine.on_notes(self.compacted(), self.now_ms, all_told=True)
        owner.told = len(self.notes)

    def compacted(self) -> list[Note]:
        """The notes, some of which the broker has compacted away by now."""
        last = {(n.kind, n.topic, n.key, n.place): at for at, n in enumerate(self.notes)}
        keep = self.random.random() < 0.5
        return [
            note
            for at, note in enumerate(self.notes)
            if keep or last[note.kind, note.topic, note.key, note.place] == at
        ]

    def tell(self) -> None:
        owners = self.owners()
        if owners:
            _, _, owner = self.random.choice(owners)
            new = self.notes[owner.told : owner.told + self.random.randint(1, 4)]
            owner.engine.on_notes(new, self.now_ms, all_told=False)
            owner.told += len(new)

    def tell_all(self) -> None:
        for _, _, owner in self.owners():
            owner.engine.on_notes(self.notes[owner.told :], self.now_ms, all_told=False)
            owner.told = len(self.notes)

    def feed(self) -> None:
        owners = self.owners()
        if not owners:
            return
        _, partition, owner = self.random.choice(owners)
        events = self.logs[partition][owner.fed : owner.fed + self.random.randint(1, 6)]
        owner.fed += len(events)
        tier = owner.engine.tier
        told: Mapping[int, Preset]
        if tier is None:
            told = {event.offset: WRONG for event in events if event.offset in self.wrong}
        else:
            told = arrivals(events, tier, self.now_ms, self.wall_ms(self.now_ms))
        owner.engine.on_events(events, self.now_ms, told)

    def act(self) -> None:
        for process, partition, owner in self.owners():
            actions = owner.engine.take_actions(self.now_ms, 100)
            for delivery in actions.calls:
                self.start_call(partition, delivery)
                process.calls.append(delivery)
            process.hops += actions.hops
            for hop in actions.hops:
                self.decided_ms.setdefault(hop.delivery, self.now_ms)
            if actions.commit is not None:
                self.commits[partition] = actions.commit

    def answer(self) -> None:
        busy = [process for process in self.processes if process.calls]
        if not busy:
            return
        process = self.random.choice(busy)
        delivery = process.calls.pop(self.random.randrange(len(process.calls)))
        offset = delivery.event.offset
        fails, end = self.plans[offset]
        if self.failures[offset] < fails:
            self.failures[offset] += 1
            end = Outcome(Status.UNKNOWN, "not yet")
        elif end.status is Status.OK:
            self.taken.add(offset)
        delivery.engine.on_outcomes([(delivery, end)], self.now_ms)

    def transact(self) -> None:
        """One process writes some of its hops, in one transaction with what they pass."""
        busy = [process for process in self.processes if process.hops]
        if not busy:
            return
        process = self.random.choice(busy)
        count = self.random.randint(1, len(process.hops))
        hops, process.hops = process.hops[:count], process.hops[count:]
        by_engine: dict[Engine, list[Hop]] = defaultdict(list)
        for hop in hops:
            by_engine[hop.delivery.engine].append(hop)
        for engine in by_engine:
            engine.due.hold()
        fails, untold = self.random.random() < 0.1, self.random.random() < 0.05
        if not fails:
            for engine, those in by_engine.items():
                commit = engine.commit_with([hop.delivery for hop in those])
                self.notes += self.notes_of(engine, those)
                self.commits[engine.partition] = commit
                for hop in those:
                    self.write(hop)
        if untold:
            self.seen["died untold"] += 1
            self.die(process)
            return
        for engine, those in by_engine.items():
            if not fails and engine.followed is not None:
                engine.followed.written()
            engine.due.let_go(self.now_ms)
            error = "no" if fails else None
            engine.on_produced([(hop.delivery, error) for hop in those], self.now_ms)

    def notes_of(self, engine: Engine, hops: Iterable[Hop]) -> list[Note]:
        assert engine.followed is not None
        return engine.followed.notes(hops)

    def write(self, hop: Hop) -> None:
        delivery = hop.delivery
        event = delivery.event
        if hop.told is not None:
            self.seen["told"] += 1
            return
        self.seen["followed" if hop.follows else "left"] += 1
        if hop.tier is None:
            self.letters.append(hop)
            self.died_ms[event.offset] = self.decided_ms[delivery]
            return
        log = self.logs[Partition(hop.tier.topic, 0)]
        due_ms = self.wall_ms(self.now_ms) + (0.0 if hop.follows else hop.tier.delay_ms)
        moved = Moved(
            Position(SOURCE, 0, event.offset),
            delivery.attempt,
            round(self.wall_ms(self.now_ms)),
            round(due_ms),
            hop.outcome.status.name,
            hop.outcome.message,
        )
        log.append(replace(event, topic=hop.tier.topic, offset=len(log), moved=moved))

    def pass_time(self) -> None:
        self.now_ms += self.random.choice((1.0, 10.0, 60.0))
        for _, _, owner in self.owners():
            owner.engine.on_tick(self.now_ms)

    def kill(self) -> None:
        self.die(self.random.choice(self.processes))

    def die(self, process: Process) -> None:
        self.seen["died"] += 1
        process.owned.clear()
        process.calls.clear()
        process.hops.clear()

    def hand_over(self) -> None:
        """A partition is drained, committed and given up: by a process in which nothing of it is out."""
        ready = [
            (process, partition, owner)
            for process, partition, owner in self.owners()
            if not any(d.engine is owner.engine for d in process.calls)
            and not any(hop.delivery.engine is owner.engine for hop in process.hops)
            and owner.engine.drained
        ]
        if ready:
            process, partition, owner = self.random.choice(ready)
            self.commits[partition] = owner.engine.commit()
            owner.engine.close()
            del process.owned[partition]

    def release(self) -> None:
        key = self.random.choice([key for key in KEYS if key is not None])
        self.released[key] = self.now_ms
        self.notes.append(Note(Kind.RELEASED, SOURCE, key, at_ms=round(self.wall_ms(self.now_ms))))

    def wall_ms(self, now_ms: float) -> float:
        return WALL_MS + now_ms
