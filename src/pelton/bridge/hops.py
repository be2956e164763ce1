"""One subscription's hops and the offsets that they pass, in one Kafka transaction: exactly one copy.

One transaction at a time, and this is its course: gather what comes within a moment; have the engines hold
their commits; wait until none of the earlier ones is on its way; have the engines say what to commit with the
hops; write; tell the pump. Whatever ends it, the engines commit by themselves again.

A record that the broker will not take fails its transaction. The others are written without it; where several
were refused together, and one of them is to blame, they are halved until it stands alone.

Where the broker does not allow transactions a hop is produced, acknowledged, and then passed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from pelton.bridge.dead_letters import DeadLetters
from pelton.bridge.logs import PumpLog
from pelton.core.actions import Commit, Hop
from pelton.core.delivery import Delivery
from pelton.core.engine import Engine
from pelton.errors import BrokerError
from pelton.event import Partition
from pelton.kafka.committing import OnQuiet, Quiet
from pelton.kafka.notes import remembered
from pelton.kafka.records import Outgoing
from pelton.kafka.transactions import Ended, Transactions
from pelton.subscription import Subscription

__all__ = ["AtomicSink", "Hops", "Told"]

#: A transaction costs about the same for one record as for many, so the first one waits for others; and the
#: broker needs as long to be done with the one before. As long as others come it waits again, twice as long:
#: where many keys fail, fewer transactions take less from the others. Where few do, all of them are here
#: soon, each with its key waiting, and it goes at once.
GATHER_S = 0.01
#: All of these waits together; or so many times as long as the transaction before took, since a broker that
#: is slow to write one has better things to do than the next; and never longer than the last. Within these
#: waits it is left alone for so many times what a transaction took, by letters of other keys than were in it:
#: where they come one by one, each would have a transaction of its own. Where only some are of other keys it
#: is that part of it, or a hundred keys that fail for ever would be held up by one that is new each time.
GATHERED_S = 0.15
GATHERED_TO_TOOK = 10.0
GATHERED_MAX_S = 0.4
#: Of one transaction: it must be written well within the 10 s after which the broker ends it.
HOPS_MAX = 500
BYTES_MAX = 4 << 20
#: A transaction that comes to nothing, mostly because the group rebalances, is tried again so often at once;
#: then the outbox waits.
TRIES_MAX = 3


class Told(Protocol):
    """Whom it tells: the pump. Never from inside `submit`."""

    def on_produced(self, results: Sequence[tuple[Hop, str | None]]) -> None: ...
    def on_transaction(
        self, engines: Iterable[Engine], results: Sequence[tuple[Hop, str | None]]
    ) -> None: ...
    def on_transaction_unknown(self, engines: Iterable[Engine]) -> None: ...


class Writer(Protocol):
    """Carries transactions out, one at a time; `pelton.kafka.transactions` and the fakes implement it."""

    def prepare(self, on_prepared: Callable[[str | None], None]) -> None: ...
    def submit(
        self,
        records: Sequence[tuple[Hop, Outgoing]],
        commits: Mapping[Partition, Commit],
        quiet: Quiet,
        on_ended: Callable[[Ended[Hop]], None],
    ) -> None: ...


class Hops:
    """A subscription's way to its own topics; see `pelton.bridge.pump.HopSink`. Decides which way it is."""

    def __init__(
        self,
        subscription: Subscription,
        *,
        kafka: Mapping[str, Any],
        dead_letters: DeadLetters,
        told: Told,
        quiet: Callable[[Collection[Partition], OnQuiet], None],
        loop: asyncio.AbstractEventLoop,
        on_failed: Callable[[BrokerError], None],
        log: PumpLog,
    ) -> None:
        self._subscription = subscription
        self._kafka = kafka
        self._dead_letters = dead_letters
        self._told = told
        self._quiet = quiet
        self._loop = loop
        self._on_failed = on_failed
        self._log = log
        self._transactions: Transactions[Hop] | None = None
        #: None: as they come, and passed when acknowledged.
        self._atomic: AtomicSink | None = None
        self._plain = dead_letters.sink(subscription, told.on_produced)

    @property
    def atomic(self) -> bool:
        return self._atomic is not None

    def before_joining(self, name: str, join: Callable[[], None]) -> None:
        """End what a dead process of our name has left open, and find out whether transactions are allowed.

        `name` is ours alone within the group, and the same after a restart.
        """
        transactions = self._transactions = Transactions[Hop](
            self._kafka, f"{self._subscription.group}/{name}", self._loop, self._on_failed
        )

        def prepared(error: str | None) -> None:
            if error is not None and self._subscription.follow_topic is not None:
                # An event that leaves and what is remembered of its key must be one.
                self._on_failed(
                    BrokerError(f"{self._subscription.name}: `then_key: follow` needs transactions: {error}")
                )
                return
            if error is None:
                self._atomic = AtomicSink(
                    self._told, transactions, self._quiet, self._outgoing, self._loop, self._log
                )
            else:
                self._log.not_atomic(error)
            join()

        transactions.prepare(prepared)

    def submit(self, hops: Sequence[Hop]) -> None:
        (self._plain if self._atomic is None else self._atomic).submit(hops)

    async def close(self) -> None:
        """After the pump has drained."""
        if self._transactions is not None:
            await self._transactions.close()

    def _outgoing(self, hop: Hop) -> Outgoing:
        return self._dead_letters.outgoing(self._subscription, hop)


class Stage(Enum):
    """What the next transaction waits for."""

    #: There is nothing to write.
    IDLE = "idle"
    #: For the client to be ready.
    PREPARING = "preparing"
    #: For others to join.
    GATHERING = "gathering"
    #: For the commits that were asked for before it; the engines hold theirs from here on.
    HOLDING = "holding"
    #: For the broker.
    WRITING = "writing"
    #: For nothing: what became of the last one is not known, and this process ends.
    LOST = "lost"


@dataclass(slots=True)
class _Group:
    """Hops that go into one transaction, and how often that came to nothing."""

    hops: list[Hop]
    tries: int = 0


class AtomicSink:
    """Hops in, transactions out, and what became of each to the pump. Loop thread only."""

    def __init__(
        self,
        told: Told,
        writer: Writer,
        quiet: Callable[[Collection[Partition], OnQuiet], None],
        outgoing: Callable[[Hop], Outgoing],
        loop: asyncio.AbstractEventLoop,
        log: PumpLog,
    ) -> None:
        self._told = told
        self._writer = writer
        self._quiet = quiet
        self._outgoing = outgoing
        self._loop = loop
        self._log = log
        self._stage = Stage.IDLE
        #: All are bounded by the engines' open events.
        self._fresh: deque[Hop] = deque()
        self._fresh_bytes = 0
        #: What has been in a transaction that came to nothing, and goes into one again before all others.
        self._again: deque[_Group] = deque()
        #: Whose records were refused for what they are: each is written alone.
        self._at_fault: set[Delivery] = set()
        #: The group that is being held or written.
        self._group = _Group([])
        #: When the gathering looks again whether others have come.
        self._look: asyncio.TimerHandle | None = None
        #: When the last transaction began, and how long it took: quiet, the broker, and the way there.
        self._begun_s = 0.0
        self._took_s = 0.0
        #: Whose were in it, by partition and lane: their next ones have waited for it.
        self._before: frozenset[tuple[Partition, bytes]] = frozenset()

    def submit(self, hops: Sequence[Hop]) -> None:
        if self._stage is Stage.LOST:
            self._loop.call_soon(self._told.on_produced, [(hop, "this process ends") for hop in hops])
            return
        was_full = self._full
        for hop in hops:
            if hop.delivery in self._at_fault:
                self._again.append(_Group([hop]))
            else:
                self._fresh.append(hop)
                self._fresh_bytes += hop.delivery.size_bytes
        if self._stage is Stage.IDLE:
            self._prepare()
        elif self._stage is Stage.GATHERING and self._full and not was_full:
            self._look_again(0.0, GATHERED_MAX_S)

    @property
    def _full(self) -> bool:
        """What has come fills a transaction, which waits for nobody then."""
        return len(self._fresh) >= HOPS_MAX or self._fresh_bytes >= BYTES_MAX

    def _prepare(self) -> None:
        if not self._fresh and not self._again:
            self._stage = Stage.IDLE
            return
        self._stage = Stage.PREPARING
        self._writer.prepare(self._on_prepared)

    def _on_prepared(self, error: str | None) -> None:
        if error is not None:
            groups = [group.hops for group in self._again]
            hops = [hop for group in [*groups, self._fresh] for hop in group]
            self._again.clear()
            self._fresh.clear()
            self._fresh_bytes = 0
            self._stage = Stage.IDLE
            self._told.on_produced([(hop, error) for hop in hops])
        elif self._again or self._full:
            self._begin()
        else:
            self._stage = Stage.GATHERING
            self._look_again(GATHER_S, GATHER_S)

    def _gather(self, seen: int, waited_s: float) -> None:
        """As long as others come, and not for ever."""
        left_s = min(GATHERED_MAX_S, max(GATHERED_S, GATHERED_TO_TOOK * self._took_s)) - waited_s
        wait_s = min(waited_s + GATHER_S if seen < len(self._fresh) else self._rest_s(), left_s)
        if wait_s > 0.0 and not self._full:
            self._look_again(wait_s, waited_s + wait_s)
        else:
            self._begin()

    def _rest_s(self) -> float:
        """How much longer the broker is left alone: the more of these have waited for it, the less."""
        others = sum(lane not in self._before for lane in _lanes(self._fresh)) / len(self._fresh)
        return self._begun_s + (1.0 + others * GATHERED_TO_TOOK) * self._took_s - self._loop.time()

    def _look_again(self, wait_s: float, waited_s: float) -> None:
        """In `wait_s`; it will have waited `waited_s` in all by then."""
        if self._look is not None:
            self._look.cancel()
        self._look = self._loop.call_later(wait_s, self._gather, len(self._fresh), waited_s)

    def _begin(self) -> None:
        """Nothing is committed beside the transaction from here on."""
        group = self._group = self._next()
        if not group.hops:
            self._prepare()
            return
        engines = _engines(group.hops)
        for engine in engines:
            engine.due.hold()
        self._begun_s = self._loop.time()
        self._before = frozenset(lane for lane in _lanes(group.hops) if lane is not None)
        self._stage = Stage.HOLDING
        self._quiet([engine.partition for engine in engines], self._on_quiet)

    def _on_quiet(self, quiet: Quiet | None) -> None:
        hops = self._group.hops
        if quiet is None:
            self._on_ended(Ended("the group is being rebalanced"))
            return
        engines = _engines(hops)
        if any(engine.closed or engine.partition not in quiet.topic_ids for engine in engines):
            # It takes its hops along: the next owner delivers their events again.
            self._on_ended(Ended("a partition of it went"))
            return
        self._stage = Stage.WRITING
        records = [(hop, self._outgoing(hop)) for hop in hops if hop.told is None]
        records += _remembered(hops)
        commits = {engine.partition: engine.commit_with(those) for engine, those in engines.items()}
        self._writer.submit(records, commits, quiet, self._on_ended)

    def _on_ended(self, ended: Ended[Hop]) -> None:
        self._took_s = self._loop.time() - self._begun_s
        group = self._group
        engines = _engines(group.hops)
        if ended.unknown:
            self._stage = Stage.LOST
            waiting = [hop for again in self._again for hop in again.hops] + list(self._fresh)
            self._told.on_transaction_unknown(engines)
            self._told.on_produced([(hop, "this process ends") for hop in waiting])
            return
        results: list[tuple[Hop, str | None]]
        if ended.error is None:
            results = [(hop, None) for hop in group.hops]
            self._at_fault.difference_update(hop.delivery for hop in group.hops)
            for engine in engines:
                if engine.followed is not None:
                    engine.followed.written()
        else:
            self._log.transaction_failed(ended.error, len(group.hops))
            results = self._split(group, ended) if ended.refused else self._try_again(group, ended.error)
        self._prepare()
        self._told.on_transaction(engines, results)

    def _try_again(self, group: _Group, error: str) -> list[tuple[Hop, str | None]]:
        """No record is to blame. Returns what is given up for now."""
        group.tries += 1
        if group.tries < TRIES_MAX:
            self._again.appendleft(group)
            return []
        return [(hop, error) for hop in group.hops]

    def _split(self, group: _Group, ended: Ended[Hop]) -> list[tuple[Hop, str | None]]:
        """Some records were refused: the others go without them. Returns what is given up for now."""
        refused = {each.item.delivery: each for each in ended.refused}
        suspects = [each.item for each in refused.values() if each.at_fault]
        others = [hop for hop in group.hops if hop.delivery not in refused]
        given_up: list[tuple[Hop, str | None]] = [
            (each.item, each.error) for each in refused.values() if not each.at_fault
        ]
        if len(suspects) == 1:
            (hop,) = suspects
            self._at_fault = {delivery for delivery in self._at_fault if not delivery.engine.closed}
            self._at_fault.add(hop.delivery)
            given_up.append((hop, refused[hop.delivery].error))
        else:
            half = len(suspects) // 2
            self._again.extend(_Group(part) for part in (suspects[:half], suspects[half:]) if part)
        if others:
            self._again.appendleft(_Group(others))
        return given_up

    def _next(self) -> _Group:
        """What goes into the next transaction, without what is not ours any more."""
        while self._again:
            group = self._again.popleft()
            group.hops = [hop for hop in group.hops if not hop.delivery.engine.closed]
            if group.hops:
                return group
        hops: list[Hop] = []
        size_bytes = 0
        while self._fresh and len(hops) < HOPS_MAX:
            hop = self._fresh[0]
            its_bytes = hop.delivery.size_bytes
            if not hop.delivery.engine.closed:
                size_bytes += its_bytes
                if hops and size_bytes > BYTES_MAX:
                    break
                hops.append(hop)
            self._fresh.popleft()
            self._fresh_bytes -= its_bytes
        return _Group(hops)


def _remembered(hops: Iterable[Hop]) -> Iterator[tuple[Hop, Outgoing]]:
    """What is remembered of the keys of these, where keys are followed, and what no more."""
    by_engine: dict[Engine, list[Hop]] = {}
    for hop in hops:
        if hop.delivery.engine.followed is not None:
            by_engine.setdefault(hop.delivery.engine, []).append(hop)
    for engine, its in by_engine.items():
        topic, followed = engine.subscription.follow_topic, engine.followed
        assert topic is not None
        assert followed is not None
        for note in followed.notes(its):
            yield its[0], remembered(note, topic, engine.partition.partition)


def _lanes(hops: Iterable[Hop]) -> Iterator[tuple[Partition, bytes] | None]:
    """In which each stands; None where it has waited for nobody's."""
    for hop in hops:
        lane = hop.delivery.lane
        yield None if lane is None else (hop.delivery.engine.partition, lane.key)


def _engines(hops: Iterable[Hop]) -> dict[Engine, list[Delivery]]:
    """Whose they are."""
    deliveries: dict[Engine, list[Delivery]] = {}
    for hop in hops:
        deliveries.setdefault(hop.delivery.engine, []).append(hop.delivery)
    return deliveries
