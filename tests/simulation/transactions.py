"""The transactions of one process: what `pelton.kafka.transactions` is to the real sink of hops.

The broker's side is Kafka's: whoever comes with the same name fences the one before and ends what it has
left open; offsets are checked against member and generation when they are sent, not when they are
committed; while they are open nobody can read what is committed for their partitions; what is open for too
long is ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError

from pelton.core.actions import Commit, Hop
from pelton.errors import BrokerError
from pelton.event import Partition
from pelton.kafka.committing import Quiet
from pelton.kafka.membership import generation_of
from pelton.kafka.notes import note_of
from pelton.kafka.records import Outgoing
from pelton.kafka.topic_ids import tagged
from pelton.kafka.transactions import Ended, Refused

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

__all__ = ["FakeWriter", "Open", "TransactionLog"]

#: What the real client is told to ask the broker for.
TIMEOUT_S = 10.0
#: A step that finds the broker away is tried again.
AGAIN_S = 0.2


@dataclass(eq=False)
class Open:
    """A transaction that has not ended."""

    writer: FakeWriter
    records: Sequence[tuple[Hop, Outgoing]]
    #: Those that were sent to the group and accepted.
    offsets: dict[Partition, Commit] = field(default_factory=dict)
    #: What was taken in a retry tier, and ends with it, and how.
    taken: list[tuple[Partition, int, str]] = field(default_factory=list)


class TransactionLog:
    """The coordinator of transactions: whose name is whose, and what is open."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._follow = world.schedule.subscription.follow_topic
        self._writers: dict[str, FakeWriter] = {}
        self._open: dict[str, Open] = {}

    def initialise(self, name: str, writer: FakeWriter) -> None:
        """From now on the name is this writer's; what an earlier one has left open is ended."""
        self._writers[name] = writer
        if (left := self._open.pop(name, None)) is not None:
            self._world.follow_topic.end(left, committed=False)
            self._world.sometimes("transaction_left_open_was_ended")

    def begin(self, name: str, writer: FakeWriter, records: Sequence[tuple[Hop, Outgoing]]) -> Open:
        transaction = self._open[name] = Open(writer, records)
        self._world.loop.call_later(TIMEOUT_S, self._expire, name, transaction)
        return transaction

    def is_open(self, name: str, transaction: Open) -> bool:
        return self._open.get(name) is transaction and self._writers[name] is transaction.writer

    def holds(self, partition: Partition) -> bool:
        """An open transaction has offsets of this partition: what is committed for it cannot be told."""
        return any(partition in transaction.offsets for transaction in self._open.values())

    def commit(self, name: str, transaction: Open) -> None:
        world = self._world
        del self._open[name]
        for hop, outgoing in transaction.records:
            if outgoing.topic != self._follow:
                world.write(hop, outgoing)
        for partition, offset, end in transaction.taken:
            world.record.settle(partition, offset, end)
        world.follow_topic.end(transaction, committed=True)
        for partition, commit in transaction.offsets.items():
            world.auditor.stored(transaction.writer.process, partition, commit)
            world.broker.committed[partition] = commit
        world.sometimes("transaction_committed")

    def abort(self, name: str) -> None:
        if (transaction := self._open.pop(name, None)) is not None:
            self._world.follow_topic.end(transaction, committed=False)
        self._world.sometimes("transaction_aborted")

    def _expire(self, name: str, transaction: Open) -> None:
        if self._open.get(name) is transaction:
            del self._open[name]
            self._world.follow_topic.end(transaction, committed=False)
            self._world.sometimes("transaction_timed_out")


class FakeWriter:
    """See the module. Its steps run on a thread of the process, with the broker's time between them."""

    def __init__(
        self, world: World, process: Process, name: str, on_failed: Callable[[BrokerError], None]
    ) -> None:
        self._world = world
        self.process = process
        self._name = name
        self._on_failed = on_failed
        self._ready = False
        #: What it is about to write says which keys are followed, and its process has not been told.
        self.carries_notes = False

    def prepare(self, on_prepared: Callable[[str | None], None]) -> None:
        def initialise() -> None:
            if self._away():
                self._later(initialise, AGAIN_S)
                return
            if not self._ready:
                self._world.transactions.initialise(self._name, self)
                self._ready = True
            self.process.post(on_prepared, None)

        self._later(initialise)

    def submit(
        self,
        records: Sequence[tuple[Hop, Outgoing]],
        commits: Mapping[Partition, Commit],
        quiet: Quiet,
        on_ended: Callable[[Ended[Hop]], None],
    ) -> None:
        world = self._world
        follow = world.schedule.subscription.follow_topic
        hops = [hop for hop, outgoing in records if outgoing.topic != follow]
        remembered = [outgoing for _, outgoing in records if outgoing.topic == follow]
        notes = [note for each in remembered if (note := note_of(each.key, each.value))]
        taken = world.auditor.transaction_asked(self.process, hops, notes, commits)
        self.carries_notes = bool(notes)
        offsets = {
            partition: Commit(commit.offset, tagged(commit.metadata, quiet.topic_ids[partition]))
            for partition, commit in commits.items()
        }
        generation = generation_of(quiet.group_metadata)
        transaction = world.transactions.begin(self._name, self, records)
        transaction.taken = taken
        begun_s = world.now_s
        self.process.point()

        def told(ended: Ended[Hop]) -> None:
            self.carries_notes = False
            on_ended(ended)

        def end(ended: Ended[Hop]) -> None:
            self.process.post(told, ended)

        def fenced(*, committing: bool) -> bool:
            if world.transactions.is_open(self._name, transaction):
                return False
            self._ready = False
            aged = world.now_s - begun_s >= TIMEOUT_S and (
                self.process.instance is not None or not committing
            )
            end(Ended("fenced", unknown=not aged))
            if not aged:
                world.sometimes("transaction_of_fenced_process")
                self.process.post(self._on_failed, BrokerError("transactions: fenced"))
            return True

        def write() -> None:
            if fenced(committing=False):
                return
            self.process.point()
            faults = world.faults
            down = any(outage.covers(world.now_s) for outage in faults.letters)
            refused = tuple(
                Refused(hop, "refused", at_fault=world.random.random() < 0.7)
                for hop, _ in records
                if world.strikes(faults.letters_refused)
            )
            if down or refused:
                world.sometimes("dead_letter_refused")
                world.transactions.abort(self._name)
                self._later(lambda: end(Ended("not written", refused)))
            else:
                world.follow_topic.write(remembered, transaction)
                self._later(fill)

        def fill() -> None:
            if self._away():
                self._later(fill, AGAIN_S)
                return
            if fenced(committing=False):
                return
            self.process.point()
            client = self.process.consumer.client
            code = world.broker.refusal(client, client.member, generation)
            if code is not None or world.strikes(world.faults.commits_refused):
                world.sometimes("transaction_offsets_refused")
                world.transactions.abort(self._name)
                self._later(lambda: end(Ended(KafkaError(code or KafkaError.CONCURRENT_TRANSACTIONS).str())))
                return
            transaction.offsets.update(offsets)
            self.process.point()
            self._later(commit)

        def commit() -> None:
            if self._away():
                self._later(commit, AGAIN_S)
                return
            if fenced(committing=True):
                return
            lost = world.strikes(world.faults.commits_unsure * 0.3)
            done = not lost or world.random.random() < 0.5
            if done:
                world.transactions.commit(self._name, transaction)
            self.process.point()
            if lost:
                world.sometimes("transaction_unknown_and_done" if done else "transaction_unknown_and_open")
                self._ready = False
                end(Ended("nobody says", unknown=True))
                self.process.post(
                    self._on_failed, BrokerError("transactions: whether it was committed is not known")
                )
            else:
                end(Ended())

        self._later(write)

    def _later(self, step: Callable[[], None], within_s: float = 0.05) -> None:
        self._world.loop.call_later(within_s * self._world.random.random(), self.process.on_thread, step)

    def _away(self) -> bool:
        return (
            self._world.now_s < self.process.consumer.client.isolated_until_s
            or not self._world.broker.has_coordinator()
        )
