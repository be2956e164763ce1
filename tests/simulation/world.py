"""One schedule, from the first event to the last commit: virtual time, one seed, real pumps among fakes.

While there is chaos, things happen to it; then the faults stop, every seat has a process again, and
everything must settle.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from types import SimpleNamespace
from unittest.mock import patch

from pelton import failpoints
from pelton.core import ackmap
from pelton.core.actions import Commit, Hop
from pelton.core.followed import Kind, Note
from pelton.event import Event, Partition
from pelton.kafka import committing, complaints, consumer_thread, following, placing, starting
from pelton.kafka.hops import moved_here
from pelton.kafka.notes import remembered
from pelton.kafka.records import Outgoing
from tests.simulation.auditor import Auditor
from tests.simulation.broker import Broker, Log
from tests.simulation.following import FollowTopic
from tests.simulation.group import Group
from tests.simulation.loop import VirtualLoop
from tests.simulation.process import WALL_MS, Process
from tests.simulation.record import Record
from tests.simulation.schedule import Action, Faults, Schedule
from tests.simulation.situations import Reached
from tests.simulation.target import Target
from tests.simulation.transactions import TransactionLog
from tests.simulation.workload import (
    KEYS_WITH_ORDER,
    Publication,
    first_offsets,
    partitions_of,
    publications,
)

__all__ = ["World"]

#: The longest that anything waits once nothing is wrong: a dead letter that was refused again and again rests
#: for 30 s, a session lasts 6, a rebalance waits 10.
SETTLES_WITHIN_S = 120.0
#: How often it is looked whether all is settled.
LOOK_EVERY_S = 0.25
#: A process that has ended is started again so much later.
RESTART_S = 0.3
#: Well beyond what a reader needs to hear what is new in the topic of followed keys.
NEWS_S = 1.0


class World:
    """See the module. `run` raises what went wrong."""

    def __init__(self, schedule: Schedule, *, tracing: bool = False) -> None:
        self.schedule = schedule
        self.faults = schedule.faults
        self.random = Random(schedule.seed + 1)
        self.loop = VirtualLoop(self.fail)
        self.reached = Reached()
        self.sometimes = self.reached.sometimes
        self.tracing = tracing
        self.lines: list[str] = []
        #: What processes have asked of their surroundings, all together: where one may die.
        self.points = 0
        starts = first_offsets(schedule, self.random)
        partitions = list(starts)
        self.broker = Broker(self, [Log(partition, starts[partition]) for partition in partitions])
        self.group = Group(self, partitions, cooperative=schedule.cooperative)
        self.follow_topic = FollowTopic(self)
        self.transactions = TransactionLog(self)
        self.target = Target(self)
        self.record = Record(self.broker.logs, schedule.subscription.ordering)
        self.auditor = Auditor(self)
        #: What was committed has been spoiled by somebody else.
        self.damaged = False
        #: Some process's wall clock has jumped: what is measured by two of them says little.
        self.clocks_jumped = False
        #: Whose code is running.
        self.running: Process | None = None
        self._seats: list[Process | None] = [None] * schedule.seats
        self._incarnations = 0
        self._epilogue = False
        self._failure: BaseException | None = None

    @property
    def now_s(self) -> float:
        return self.loop.now

    def strikes(self, share: float) -> bool:
        """Whether something that goes wrong so often goes wrong now."""
        return share > 0.0 and self.random.random() < share

    def trace(self, who: object, what: str, about: object = "") -> None:
        self.lines.append(f"{self.loop.now:10.4f}  {who!s:<10} {what} {about}")

    def fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self.loop.stop()

    # -- The run -------------------------------------------------------------------------------------------

    def run(self) -> None:
        """To the end. Raises the first thing that went wrong."""
        schedule = self.schedule
        with self._surroundings():
            try:
                for seat in range(schedule.seats):
                    self._start(seat)
                for publication in publications(schedule, self.random):
                    self.loop.call_at(publication.at_s, self._publish, publication)
                for action in schedule.actions:
                    self.loop.call_at(action.at_s, self._do, action)
                self.loop.call_at(schedule.chaos_s, self._heal)
                self.loop.run_forever()
                if self._failure is None:
                    self.auditor.closing()
            finally:
                for process in self._seats:
                    if process is not None:
                        process.abandon()
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        """What the code under test takes from its modules: the clock, and the map's budget."""
        clock = SimpleNamespace(monotonic=self.loop.time)
        budget = self.schedule.map_budget
        with (
            patch.object(committing, "time", clock),
            patch.object(placing, "time", clock),
            patch.object(starting, "time", clock),
            patch.object(complaints, "time", clock),
            patch.object(following, "time", clock),
            patch.object(failpoints, "reach", self._reach),
            patch.object(consumer_thread, "time", clock),
            patch.object(ackmap, "PAYLOAD_BYTES_MAX", budget or ackmap.PAYLOAD_BYTES_MAX),
            patch.object(ackmap, "BITSET_OFFSETS_MAX", budget * 8 if budget else ackmap.BITSET_OFFSETS_MAX),
        ):
            yield

    def _reach(self, place: object) -> None:
        """One of the places in the code under test at which a process may die."""
        assert self.running is not None
        self.running.point()

    def _publish(self, publication: Publication) -> None:
        log = self.broker.logs[publication.partition]
        event = publication.event(log.end + publication.hole)
        log.append(event)
        self.record.published(event)
        if self.tracing:
            self.trace(
                "publisher", "event", f"{event.position} key {event.key!r} {publication.value.decode()}"
            )
        for process in self._seats:
            if process is not None:
                process.wake()

    def wake_readers(self) -> None:
        """There is more in the topic of followed keys."""
        for process in self._seats:
            if process is not None and process.reader is not None:
                process.reader.wake()

    def write(self, hop: Hop, outgoing: Outgoing) -> None:
        """A hop's record stands in its topic, for whoever reads it."""
        self.auditor.hop_written(hop)
        if hop.tier is None:
            self.broker.dead_letters.append(outgoing)
            return
        self.sometimes("moved")
        assert outgoing.partition is not None
        log = self.broker.logs[Partition(outgoing.topic, outgoing.partition)]
        offset = log.end + self.random.choice((0, 0, 1))
        value = outgoing.value
        event = moved_here(
            Event(
                *log.partition,
                offset,
                outgoing.key,
                value,
                value,
                outgoing.headers,
                outgoing.timestamp_ms or 0,
            )
        )
        assert event.flaw is None, event.flaw
        log.append(event)
        self.record.published(event)
        for process in self._seats:
            if process is not None:
                process.wake()

    def _heal(self) -> None:
        """Nothing goes wrong any more."""
        self.trace("world", "heals") if self.tracing else None
        self.faults = Faults()
        for seat, process in enumerate(self._seats):
            if process is None:
                self._start(seat)
        self.loop.call_later(LOOK_EVERY_S, self._look, self.loop.now + SETTLES_WITHIN_S)

    def _look(self, until_s: float) -> None:
        left = self.auditor.unsettled()
        if not left and self._epilogue_due():
            self._begin_epilogue()
        elif not left:
            self.loop.stop()
        elif self.loop.now > until_s:
            states = [
                f"{process} {engine.partition} {list(engine.deliveries())[:3]} paused={engine.paused}"
                for process in self._seats
                if process is not None
                for engine in process.pump.engines
            ]
            self.fail(AssertionError("not everything settles: " + "; ".join(left + states)))
        else:
            self.loop.call_later(LOOK_EVERY_S, self._look, until_s)

    # -- Followed keys -------------------------------------------------------------------------------------

    def _epilogue_due(self) -> bool:
        """Keys were followed, everything has ended, and nothing has happened that excuses one that stays so:
        one more event of each key shows that none does."""
        follows = self.schedule.subscription.follow_topic is not None and not self._epilogue
        return follows and not (self.damaged or self.clocks_jumped or self.reached.counts["offsets_cut"])

    def _begin_epilogue(self) -> None:
        self._epilogue = True
        busy = [max(p.busy_until_s, p.consumer.client.isolated_until_s) for p in self._seats if p is not None]
        at_s = max(self.loop.now, *busy) + NEWS_S
        follow_s = self.schedule.subscription.retry.follow_for_ms / 1000.0
        if follow_s > SETTLES_WITHIN_S:
            self.loop.call_at(at_s, self._release, KEYS_WITH_ORDER)
            follow_s = 0.0
        self.loop.call_at(at_s + follow_s + NEWS_S, self._publish_epilogue)

    def _publish_epilogue(self) -> None:
        self.sometimes("followed_no_more")
        sources = partitions_of(self.schedule)
        self.auditor.followers.over_from = {each: self.broker.logs[each].end for each in sources}
        for key in KEYS_WITH_ORDER:
            partition = sources[zlib.crc32(key) % len(sources)]
            self._publish(Publication(self.loop.now, partition, 0, key, b"wanted"))
        self.loop.call_later(LOOK_EVERY_S, self._look, self.loop.now + SETTLES_WITHIN_S)

    def _release(self, keys: Sequence[bytes]) -> None:
        """`pelton release`."""
        topic = self.schedule.subscription.follow_topic
        assert topic is not None
        for source in partitions_of(self.schedule):
            for key in keys:
                at_ms = round(WALL_MS + self.loop.now * 1000.0)
                note = Note(Kind.RELEASED, source.topic, key, at_ms=at_ms)
                self.follow_topic.write([remembered(note, topic, source.partition)])
                self.auditor.followers.released(source.topic, key)

    # -- Seats ---------------------------------------------------------------------------------------------

    def _start(self, seat: int) -> None:
        if self._seats[seat] is None:
            self._incarnations += 1
            instance = f"host-{seat}" if self.schedule.static else None
            process = self._seats[seat] = Process(self, f"p{seat}.{self._incarnations}", instance)
            if self.tracing:
                self.trace(process, "starts")

    def vacant(self, process: Process) -> None:
        """A process has ended; after a while another one takes its seat."""
        for seat, taken in enumerate(self._seats):
            if taken is process:
                self._seats[seat] = None
                self.loop.call_later(RESTART_S * (1 + 3 * self.random.random()), self._start, seat)

    # -- What is done to it --------------------------------------------------------------------------------

    def _do(self, action: Action) -> None:
        if self.tracing:
            self.trace("world", action.what, f"{action.which} {action.amount:.3f}")
        process = self._seats[action.which % len(self._seats)]
        partition = list(self.broker.logs)[action.which % len(self.broker.logs)]
        match action.what:
            case "join":
                self._seats.append(None)
                self._start(len(self._seats) - 1)
            case "cut":
                log = self.broker.logs[partition]
                log.cut(log.start + round((log.end - log.start) * min(1.0, action.amount / 4.0)))
            case "damage":
                self._damage(action.which)
            case "release":
                self._release([list(KEYS_WITH_ORDER)[action.which % len(KEYS_WITH_ORDER)]])
            case "fence" if process is not None and self.schedule.static:
                seat = self._seats.index(process)
                self._seats[seat] = None
                self._start(seat)
            case _ if process is None:
                pass
            case "kill":
                process.die("killed")
            case "stop":
                process.stop()
            case "clock":
                self.sometimes("clock_jumped")
                self.clocks_jumped = True
                process.clock_ahead_ms += self.random.choice((-1, 1)) * action.amount * 1_800_000.0
            case "expel":
                process.expel()
            case "freeze":
                process.freeze(action.amount)
            case "isolate":
                process.isolate(action.amount)
            case "slow":
                self.sometimes("loop_slow")
                process.slow(action.amount)
                # Just then partitions are dealt anew, or lost and assigned again: the thread goes on, and its
                # loop hears of it when it is over.
                if action.which % 4 == 1:
                    self.loop.call_later(0.05, self.group.deal)
                elif action.which % 4 == 3:
                    self.loop.call_later(0.05, process.expel)
            case _:
                assert action.what == "fence", action.what

    def _damage(self, which: int) -> None:
        """Somebody else has written beside a group's offset, or a bit has flipped; and its owner dies."""
        committed = self.broker.committed
        partitions = [each for each in committed if committed[each].metadata.partition("@")[0]] or list(
            committed
        )
        if not partitions:
            return
        partition = partitions[which % len(partitions)]
        commit = committed[partition]
        self.damaged = True
        text = commit.metadata
        if text:
            at = self.random.randrange(len(text))
            flipped = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
            text = self.random.choice((flipped, flipped, text[:at], text + "\0\0"))
        else:
            text = self.random.choice(("owned by somebody", "AQEAAQAAAAAB", "{}"))
        committed[partition] = Commit(commit.offset, text)
        for process in list(self._seats):
            # Else the next commit would write over it before anybody reads it.
            if process is not None and process.consumer.holds(partition):
                process.die("and what it has committed is damaged")
