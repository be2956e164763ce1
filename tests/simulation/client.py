"""A process's Kafka client: what `pelton.kafka` calls on a real one, without a thread and without waiting.

The code under test that uses it is the real one: `Placing`, `Committing`, `place`. What a real client
would call back from inside a poll stands in `told` and `answers`, for the consumer to take at its next
poll.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, TopicPartition

from pelton.core.actions import Commit
from pelton.event import Event, Partition

if TYPE_CHECKING:
    from tests.simulation.group import Member
    from tests.simulation.process import Process
    from tests.simulation.world import World

__all__ = ["FakeClient", "Told"]


class Answer(NamedTuple):
    """What the broker says of one partition; the client's own type cannot be given an error from outside."""

    topic: str
    partition: int
    offset: int
    metadata: str
    error: KafkaError | None = None


class Told(NamedTuple):
    """What the group has told the client and the consumer has not heard yet."""

    #: `assigned`, `revoked`, `lost` or `fenced`.
    what: str
    partitions: list[Partition]


class FakeClient:
    """See the module."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self.process = process
        self.member: Member | None = None
        self.generation = 0
        self.told: deque[Told] = deque()
        self.answers: deque[list[Answer]] = deque()
        #: Where each assigned partition is read next, -1 before it is known; and those that are not read.
        self._positions: dict[Partition, int] = {}
        self._paused: set[Partition] = set()
        self._fresh: set[Partition] = set()
        #: Commits that were sent and have not arrived, and in whose name.
        self._sent: deque[tuple[dict[Partition, Commit], tuple[Member | None, int]]] = deque()
        #: It cannot reach the brokers until then; what they say waits.
        self.isolated_until_s = 0.0
        #: What the group has said and has not arrived; void when the epoch of the membership ends.
        self._mail: deque[tuple[Told, int | None]] = deque()
        self._epoch = 0
        #: It has heard that the group has put it out, and has to join again.
        self._evicted = False
        self.coordinator_missed = False
        self.closed = False
        #: What a real client would call from within a poll, once it leaves.
        self.on_unsubscribe: Callable[[list[Partition]], None] = _ignore

    # -- What the group says -----------------------------------------------------------------------------

    def tell_assigned(self, partitions: list[Partition], generation: int) -> None:
        self._tell("assigned", partitions, generation)

    def tell_revoked(self, partitions: list[Partition]) -> None:
        self._tell("revoked", partitions, None)

    def unsubscribe(self) -> None:
        """Give up everything and leave; done when it returns."""
        self.on_unsubscribe(sorted(self._positions))
        self._end_epoch()
        self._world.group.leave(self)

    def memberid(self) -> str:
        """Asked for only after `unsubscribe`."""
        return ""

    def close(self) -> None:
        self.closed = True

    def _tell(self, what: str, partitions: list[Partition], generation: int | None) -> None:
        world = self._world
        self._mail.append((Told(what, partitions), generation))
        world.loop.call_later(world.random.uniform(0.0, 0.05), self._hear, self._epoch)

    def _hear(self, epoch: int) -> None:
        """The oldest of what was said arrives; nothing overtakes anything."""
        if epoch != self._epoch or self.closed:
            return
        if self._world.now_s < self.isolated_until_s:
            self._world.loop.call_at(self.isolated_until_s, self._hear, epoch)
            return
        told, generation = self._mail.popleft()
        if generation is not None:
            self.generation = generation
        if told.partitions:
            self.told.append(told)
        self.process.wake()

    def put_out(self) -> None:
        """The group has gone on without this one. It hears of it when it reaches the brokers again."""
        self._end_epoch()
        at_s = max(self._world.now_s + 0.05, self.isolated_until_s)
        self._world.loop.call_at(at_s, self._learn, self._epoch)

    def _learn(self, epoch: int) -> None:
        if epoch != self._epoch or self.closed:
            return
        if self._world.now_s < self.isolated_until_s:
            self._world.loop.call_at(self.isolated_until_s, self._learn, epoch)
            return
        self._evicted = True
        # What was said of an assignment that is gone is not said any more.
        kept = [told for told in self.told if told.what == "fenced"]
        self.told.clear()
        self.told.extend(kept)
        self.told.append(Told("lost", sorted(self._positions)))
        self.process.wake()

    def _end_epoch(self) -> None:
        self._epoch += 1
        self._mail.clear()

    def fence(self) -> None:
        """Another process has this one's name."""
        self._end_epoch()
        self.told.append(Told("fenced", []))
        if not self.closed:
            self.process.wake()

    def rejoin_if_out(self) -> None:
        if self._evicted and not self.closed:
            self._evicted = False
            self.join()

    def join(self) -> None:
        self._end_epoch()
        self.member = self._world.group.join(self, self.process.instance)

    # -- What a client is asked for ----------------------------------------------------------------------

    def consumer_group_metadata(self) -> bytes:
        return b"CGMDv2:" + self.generation.to_bytes(4, "little", signed=True) + b"sim"

    def incremental_assign(self, partitions: Sequence[TopicPartition]) -> None:
        for tp in partitions:
            partition = Partition(tp.topic, tp.partition)
            self._positions[partition] = tp.offset
            self._fresh.add(partition)

    def incremental_unassign(self, partitions: Sequence[TopicPartition]) -> None:
        for tp in partitions:
            self._forget(Partition(tp.topic, tp.partition))

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self.unassign()
        self.incremental_assign(partitions)

    def unassign(self) -> None:
        for partition in list(self._positions):
            self._forget(partition)

    def _forget(self, partition: Partition) -> None:
        self._positions.pop(partition, None)
        self._paused.discard(partition)
        self._fresh.discard(partition)

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self._paused.update(Partition(tp.topic, tp.partition) for tp in partitions)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self._paused.difference_update(Partition(tp.topic, tp.partition) for tp in partitions)

    def seek(self, place: TopicPartition) -> None:
        partition = Partition(place.topic, place.partition)
        if partition not in self._positions or self._world.strikes(self._world.faults.seeks):
            self._world.sometimes("seek_refused")
            raise KafkaException(KafkaError(KafkaError._STATE))
        self._positions[partition] = place.offset
        self._fresh.discard(partition)

    def committed(self, partitions: Sequence[TopicPartition], timeout: float) -> list[Answer]:
        world = self._world
        if self._cut_off() or not world.broker.has_coordinator() or world.strikes(world.faults.reads):
            world.sometimes("start_unknown_for_now")
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        if any(world.transactions.holds(Partition(tp.topic, tp.partition)) for tp in partitions):
            world.sometimes("start_waits_for_a_transaction")
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        answers = []
        for tp in partitions:
            commit = world.broker.committed.get(Partition(tp.topic, tp.partition))
            offset, metadata = (OFFSET_INVALID, "") if commit is None else (commit.offset, commit.metadata)
            answers.append(Answer(tp.topic, tp.partition, offset, metadata))
        return answers

    def get_watermark_offsets(
        self, tp: TopicPartition, timeout: float = 1.0, cached: bool = False
    ) -> tuple[int, int]:
        if self._cut_off() or not self._world.broker.has_leader():
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        log = self._world.broker.logs[Partition(tp.topic, tp.partition)]
        return log.start, log.end

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> list[Answer]:
        world = self._world
        commits = {Partition(tp.topic, tp.partition): Commit(tp.offset, tp.metadata or "") for tp in offsets}
        if not asynchronous:
            if self._cut_off():
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            while self._sent:
                # One connection: the broker comes to them in the order in which they were sent.
                self._carry_out()
            return _told(commits, world.broker.commit(self, self.member, self.generation, commits))
        self._sent.append((commits, (self.member, self.generation)))
        world.loop.call_later(self._way_s(), self._carry_out)
        return []

    def _way_s(self) -> float:
        return self._world.random.random() ** 3 * self._world.faults.commit_latency_s

    def _carry_out(self) -> None:
        """The oldest request arrives, whatever has become of its sender, unless it never left."""
        if not self._sent:
            return
        commits, (member, generation) = self._sent.popleft()
        if self._cut_off():
            answers: dict[Partition, int | None] = dict.fromkeys(commits, KafkaError._TIMED_OUT)
        else:
            answers = self._world.broker.commit(self, member, generation, commits)
        self._world.loop.call_later(self._way_s(), self._answer, commits, answers)

    def _answer(self, commits: dict[Partition, Commit], answers: dict[Partition, int | None]) -> None:
        if not self.closed:
            self.answers.append(_told(commits, answers))
            self.process.wake()

    def is_committing(self, partition: Partition) -> bool:
        """A commit of this partition has been sent, has not arrived, and would be taken."""
        now = (self.member, self.generation)
        return any(partition in commits and sent == now for commits, sent in self._sent)

    # -- Reading -----------------------------------------------------------------------------------------

    def fetch(self, count: int) -> tuple[list[Event], list[Partition]]:
        """Up to so many events, and the partitions whose next offset the log does not have."""
        world = self._world
        if self._cut_off() or not world.broker.has_leader():
            return [], []
        events: list[Event] = []
        lost: list[Partition] = []
        partitions = [
            each for each in self._positions if each not in self._paused and each not in self._fresh
        ]
        world.random.shuffle(partitions)
        for partition in partitions:
            log = world.broker.logs[partition]
            position = self._positions[partition]
            if position < log.start:
                lost.append(partition)
                continue
            found = log.read(position, count - len(events))
            if found:
                events += found
                self._positions[partition] = found[-1].offset + 1
        return events, lost

    def _cut_off(self) -> bool:
        return self._world.now_s < self.isolated_until_s


def _ignore(_: list[Partition]) -> None:
    return None


def _told(commits: dict[Partition, Commit], answers: dict[Partition, int | None]) -> list[Answer]:
    told = []
    for partition, commit in commits.items():
        code = answers[partition]
        error = None if code is None else KafkaError(code)
        told.append(Answer(*partition, commit.offset, commit.metadata, error))
    return told
