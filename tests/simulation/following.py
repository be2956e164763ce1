"""What is remembered of followed keys: its topic with what is open and aborted in it, and a process's reader.

The reader is the real `FollowReader`, its turns driven by hand as the consumer's thread is. Written anew is
its client, which sees of the topic what a reader of committed records may: nothing behind the first
transaction that has not ended. One is decided before its mark stands in the topic, as it is with Kafka.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from confluent_kafka import Consumer as Client
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from pelton.core.followed import Note
from pelton.kafka.following import BATCHES_UNHANDLED_MAX, FollowReader
from pelton.kafka.records import Outgoing
from tests.simulation.steps import Steps

if TYPE_CHECKING:
    import asyncio
    import threading

    from tests.simulation.process import Process
    from tests.simulation.world import World

__all__ = ["FakeReader", "FollowTopic"]

#: The longest from a transaction's end to its mark in the topic.
MARK_S = 0.3
#: A turn comes so late after what it is for; and while the brokers cannot be reached.
TURN_S = 0.05
CUT_OFF_TURN_S = 0.2
#: How many records a turn takes at most: fewer than there are, so that readings come in parts.
TAKEN_MAX = 3


class _Message(NamedTuple):
    """What a client hands over: a record, or that there is no more."""

    number: int
    at: int
    record: Outgoing | None

    def partition(self) -> int:
        return self.number

    def offset(self) -> int:
        return self.at

    def error(self) -> KafkaError | None:
        return KafkaError(KafkaError._PARTITION_EOF) if self.record is None else None

    def key(self) -> bytes | None:
        assert self.record is not None
        return self.record.key

    def value(self) -> bytes | None:
        assert self.record is not None
        return self.record.value


@dataclass(slots=True)
class _Log:
    """One partition."""

    end: int = 0
    records: list[tuple[int, Outgoing]] = field(default_factory=list)
    #: Transactions without their mark, and what each has written, ascending.
    open: dict[object, list[int]] = field(default_factory=dict)

    @property
    def stable(self) -> int:
        """Readers of committed records see what is below."""
        return min((offsets[0] for offsets in self.open.values()), default=self.end)


class FollowTopic:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._logs: dict[int, _Log] = {}

    def log(self, number: int) -> _Log:
        return self._logs.setdefault(number, _Log())

    def write(self, records: Sequence[Outgoing], transaction: object | None = None) -> None:
        for record in records:
            assert record.partition is not None
            log = self.log(record.partition)
            log.records.append((log.end, record))
            if transaction is not None:
                log.open.setdefault(transaction, []).append(log.end)
            log.end += 1
        if transaction is None:
            self._world.wake_readers()

    def end(self, transaction: object, *, committed: bool) -> None:
        """It was decided; its mark comes to stand in each partition, maybe a while later."""
        for log in self._logs.values():
            if transaction in log.open:
                within_s = self._world.random.random() ** 3 * MARK_S
                self._world.loop.call_later(within_s, self._mark, log, transaction, committed)

    def _mark(self, log: _Log, transaction: object, committed: bool) -> None:
        written = log.open.pop(transaction)
        if not committed:
            log.records = [(at, record) for at, record in log.records if at not in written]
        log.end += 1
        self._world.wake_readers()

    def compact(self, number: int) -> None:
        """Of what can be read, only the last record of each key is kept."""
        log = self.log(number)
        last = {record.key: at for at, record in log.records if at < log.stable}
        log.records = [
            (at, record) for at, record in log.records if at >= log.stable or last[record.key] == at
        ]


class _Client:
    """Of the reader: as much of a consumer and of an admin client as it asks."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        #: Where each partition is read next, and those of which it was told that there is no more.
        self._positions: dict[int, int] = {}
        self._told_end: set[int] = set()

    @property
    def is_cut_off(self) -> bool:
        isolated = self._world.now_s < self._process.consumer.client.isolated_until_s
        return isolated or not self._world.broker.has_leader()

    @property
    def has_more(self) -> bool:
        return any(
            at < self._world.follow_topic.log(number).stable or number not in self._told_end
            for number, at in self._positions.items()
        )

    def list_offsets(
        self, asked: Mapping[TopicPartition, object], isolation_level: IsolationLevel, request_timeout: float
    ) -> dict[TopicPartition, SimpleNamespace]:
        if self.is_cut_off or self._world.strikes(self._world.faults.reads):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        found = {}
        for tp in asked:
            log = self._world.follow_topic.log(tp.partition)
            if log.open:
                self._world.sometimes("follow_read_waits_for_a_transaction")
            committed_only = isolation_level is IsolationLevel.READ_COMMITTED
            end = SimpleNamespace(offset=log.stable if committed_only else log.end)
            found[tp] = SimpleNamespace(result=lambda _, end=end: end)
        return found

    def incremental_assign(self, partitions: Sequence[TopicPartition]) -> None:
        for tp in partitions:
            if self._world.random.random() < 0.3:
                self._world.follow_topic.compact(tp.partition)
            self._positions[tp.partition] = 0

    def incremental_unassign(self, partitions: Sequence[TopicPartition]) -> None:
        for tp in partitions:
            del self._positions[tp.partition]
            self._told_end.discard(tp.partition)

    def poll(self, timeout: float) -> _Message | None:
        return None if self.is_cut_off else self._next()

    def consume(self, count: int, timeout: float) -> list[_Message]:
        most = self._world.random.randrange(min(count, TAKEN_MAX))
        taken = (self._next() for _ in range(most))
        return [message for message in taken if message is not None]

    def _next(self) -> _Message | None:
        for number, position in self._positions.items():
            log = self._world.follow_topic.log(number)
            stable = log.stable
            for at, record in log.records:
                if position <= at < stable:
                    self._positions[number] = at + 1
                    self._told_end.discard(number)
                    return _Message(number, at, record)
            if position < stable or number not in self._told_end:
                self._positions[number] = stable
                self._told_end.add(number)
                return _Message(number, stable, None)
        return None


class _Room:
    """Stands where the reader's semaphore does: what is not free now is not waited for."""

    def __init__(self) -> None:
        self._free = BATCHES_UNHANDLED_MAX

    def acquire(self, timeout: float) -> bool:
        if not self._free:
            return False
        self._free -= 1
        return True

    def release(self) -> None:
        self._free += 1


class FakeReader:
    """A process's reader, in steps of its thread."""

    def __init__(self, world: World, process: Process) -> None:
        topic = world.schedule.subscription.follow_topic
        assert topic is not None
        self._world = world
        self._process = process
        loop = SimpleNamespace(call_soon_threadsafe=process.post)
        self._reader = FollowReader("sim", topic, {}, cast("asyncio.AbstractEventLoop", loop), self._tell)
        self._reader._room = cast("Any", _Room())
        # It has one, and starts none.
        self._reader._thread = cast("threading.Thread", self)
        self._client: _Client | None = None
        self._steps = Steps(world, process, self._step)

    def read(self, number: int, ticket: int) -> None:
        self._reader.read(number, ticket)
        self.wake()

    def drop(self, number: int) -> None:
        self._reader.drop(number)
        self.wake()

    def wake(self, within_s: float = TURN_S) -> None:
        self._steps.within(within_s)

    def _step(self) -> None:
        reader = self._reader
        if self._client is None:
            self._client = _Client(self._world, self._process)
        client = self._client
        try:
            reader._turn(cast("Client", client), cast("AdminClient", client))
        except KafkaException as error:
            self._world.sometimes("follow_read_failed")
            reader._start_over(error)
            self._client = None
        if self._client is None or client.is_cut_off or reader._again:
            self.wake(CUT_OFF_TURN_S)
        elif client.has_more:
            self.wake()

    def _tell(self, number: int, notes: Sequence[Note], reached: int) -> None:
        pump = self._process.pump
        fresh = [engine for engine in pump.engines if engine.followed and not engine.followed.ready]
        pump.on_notes(number, notes, reached)
        if any(engine.followed.ready and len(engine.followed) for engine in fresh if engine.followed):
            self._world.sometimes("came_with_followed_keys")
