"""The thread that owns a subscription's Kafka client.

Rule 1: every call to the client is made here. From another thread a commit waits for the running poll, and
in a busy loop it has starved for 20 s. So the loop's side only puts commands into a queue, and the thread
carries them out between two polls, at most a poll's wait (5 to 20 ms) later.
Rule 2: inside a rebalance callback nothing may poll: the client aborts the process. So the callback of a
revoke runs a small loop of its own over the commands until the listener has drained.
Rule 3: nothing here decides what happens to an event.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVarTuple, cast

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from pelton.errors import BrokerError
from pelton.event import Event, Partition
from pelton.kafka.assignment import Assignment
from pelton.kafka.committing import Committing
from pelton.kafka.complaints import Complaints
from pelton.kafka.faults import error_of, is_offset_lost
from pelton.kafka.listener import Batch, ConsumerStatistics, Listener
from pelton.kafka.membership import generation_of
from pelton.kafka.placing import Placing
from pelton.kafka.records import Record, RecordStatistics, event_of
from pelton.kafka.settings import bootstrap_of, is_incremental
from pelton.subscription import Subscription

__all__ = ["Command", "ConsumerThread"]

log = logging.getLogger("pelton.kafka")
_Arguments = TypeVarTuple("_Arguments")

#: How long an idle poll waits: the longest a command waits while everything flows.
POLL_WAIT_S: Final = 0.02
#: The same while a partition stands still: the command that resumes it is due any moment.
POLL_WAIT_SHORT_S: Final = 0.005
#: Large enough that a crossing costs little per event, small enough that a pause takes hold soon.
BATCH_EVENTS_MAX: Final = 500
#: Batches the loop has not handled yet. Beyond them the thread reads no further: a loop that is behind
#: would otherwise pile up events whose pause it has not been able to ask for.
BATCHES_UNHANDLED_MAX: Final = 2
#: The log's end and the lag are read from the client's memory this often.
LAG_EVERY_S: Final = 1.0
#: Milliseconds where the coordinator answers; without it the group waits for the session's end.
LEAVE_TIMEOUT_S: Final = 3.0


class Command(Enum):
    """What the loop may ask of the thread."""

    #: No more events of these partitions.
    PAUSE = "pause"
    #: Events of these partitions again, behind the last one handed over.
    RESUME = "resume"
    #: Commit these offsets soon.
    COMMIT = "commit"
    #: These partitions, which are being revoked, are drained.
    RELEASE = "release"
    #: Leave the group and end.
    STOP = "stop"


class _Finished(Exception):
    """The client will not work again."""

    def __init__(self, error: BrokerError) -> None:
        self.error = error


class ConsumerThread:
    """One consumer's thread: made on the loop, where a bad setting raises; everything else is its own."""

    def __init__(
        self,
        subscription: Subscription,
        settings: dict[str, Any],
        listener: Listener,
        loop: asyncio.AbstractEventLoop,
        drain_timeout_s: float,
        on_ended: Callable[[], None],
    ) -> None:
        """`settings` are the client's own, complete. `on_ended` is called on the loop, last of all."""
        #: The one way in from the loop.
        self.commands: SimpleQueue[tuple[Command, Any]] = SimpleQueue()
        self.statistics = ConsumerStatistics()
        self.records = RecordStatistics()
        self._name = subscription.name
        self._topics = subscription.topics
        self._listener = listener
        self._loop = loop
        self._drain_timeout_s = drain_timeout_s
        self._on_ended = on_ended
        self._incremental = is_incremental(settings)
        self._room = threading.Semaphore(BATCHES_UNHANDLED_MAX)
        self._stopping = False
        self._lag_due = 0.0
        self._assignment = Assignment()
        self._complaints = Complaints(self._name, bootstrap_of(settings), self.statistics)
        callbacks = {"error_cb": self._complaints.judge, "on_commit": self._on_commit}
        client_log = logging.getLogger("pelton.kafka.client")
        self._client = confluent_kafka.Consumer({**settings, **callbacks}, logger=client_log)
        told = (listener, self._post, self._complaints, self.statistics)
        self._committing = Committing(self._client, self._assignment, *told, self._name)
        self._placing = Placing(
            self._client,
            self._assignment,
            self._committing,
            *told,
            start=subscription.start,
            settings=settings,
            incremental=self._incremental,
        )

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"pelton-consumer-{self._name}", daemon=True).start()

    def _on_commit(self, error: KafkaError | None, answers: list[TopicPartition]) -> None:
        self._committing.on_answer(error, answers)

    def _run(self) -> None:
        failure: BrokerError | None = None
        try:
            self._client.subscribe(
                list(self._topics),
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
            while not self._stopping:
                self._turn()
        except _Finished as finished:
            failure = finished.error
        except KafkaException as exception:
            failure = self._complaints.as_ours(error_of(exception), "the consumer ended")
        except Exception as error:
            log.exception("%s: the consumer's thread failed", self._name)
            failure = BrokerError(f"the consumer of {self._name} failed: {error!r}")
        finally:
            self._stopping = True
            self._leave(failure)
            if failure is not None:
                self._post(self._listener.on_failed, failure)
            self._post(self._on_ended)

    def _turn(self) -> None:
        """One round: what was asked for, what is due, then what the broker has."""
        self._run_commands()
        now = time.monotonic()
        if self._assignment.waiting:
            self._placing.run(now)
        self._committing.send(now)
        if now >= self._lag_due:
            self._read_lag(now)
        if not self._room.acquire(timeout=POLL_WAIT_SHORT_S):
            return
        batch = self._assignment.take(self._poll())
        if batch:
            self.statistics.batches += 1
            self._post(self._hand_over, batch)
        else:
            self._room.release()
        if self._complaints.fatal is not None:
            raise _Finished(self._complaints.fatal)

    def _poll(self) -> list[Event]:
        """Wait for the first record, then take what is ready: asking for many at once waits for many."""
        self.statistics.polls += 1
        first = self._client.poll(POLL_WAIT_SHORT_S if self._assignment.waiting else POLL_WAIT_S)
        if first is None:
            return []
        messages = [first, *self._client.consume(BATCH_EVENTS_MAX - 1, 0)]
        events = []
        records = self.records
        for message in messages:
            if message.error() is None:
                events.append(event_of(cast("Record", message), records))
            else:
                self._on_message_error(message)
        self.statistics.events += len(events)
        return events

    def _hand_over(self, batch: Batch) -> None:
        try:
            self._listener.on_events(batch)
        finally:
            self._room.release()

    def _post(self, callback: Callable[[*_Arguments], object], *arguments: *_Arguments) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            self._stopping = True

    def _leave(self, failure: BrokerError | None) -> None:
        """The last commit, out of the group, and the client's end."""
        try:
            self._run_commands()
            if failure is None:
                self._committing.send_now()
                self._leave_group()
            self._client.close()
        except Exception:  # whatever it is, whoever waits for the end must be told of it
            log.exception("%s: leaving the group failed", self._name)

    def _leave_group(self) -> None:
        """A close alone leaves a static member in the group for its session of 10 s, and so does one before
        the leave that `unsubscribe` asks for has been carried out. Then we have no name in the group (the
        classic protocol) or are in no generation (the newer one)."""
        client = self._client
        client.unsubscribe()
        deadline = time.monotonic() + LEAVE_TIMEOUT_S
        while client.memberid() and generation_of(client.consumer_group_metadata()):
            client.poll(POLL_WAIT_SHORT_S)
            if time.monotonic() > deadline:
                log.warning("%s: the group did not let go in time", self._name)
                break

    # --- commands ---

    def _run_commands(self) -> None:
        while True:
            try:
                command, argument = self.commands.get_nowait()
            except Empty:
                return
            self._run_command(command, argument)

    def _run_command(self, command: Command, argument: Any) -> None:
        if command is Command.COMMIT:
            self._committing.want(argument)
        elif command is Command.STOP:
            self._stopping = True
        else:
            for held in filter(None, map(self._assignment.get, argument)):
                if command is Command.RELEASE:
                    held.released = True
                elif command is Command.RESUME:
                    held.paused = False
                elif not held.paused:
                    held.paused = True
                    held.flowing = False
                    self._placing.pause([held.partition])

    # --- rebalance callbacks, from within a poll or the leave ---

    def _on_assign(self, client: confluent_kafka.Consumer, came: list[TopicPartition]) -> None:
        # Offset 0 stands for nothing: given none, the client would look the committed one up by itself
        # and report an error where there is none. Nothing flows until the partition has been placed.
        assigned = [TopicPartition(tp.topic, tp.partition, 0) for tp in came]
        if self._incremental:
            client.incremental_assign(assigned)
        else:
            client.assign(assigned)
        if not assigned:
            return
        partitions = [Partition(tp.topic, tp.partition) for tp in assigned]
        self._placing.pause(partitions)
        self._assignment.add(partitions)

    def _on_revoke(self, client: confluent_kafka.Consumer, going: list[TopicPartition]) -> None:
        partitions = [Partition(tp.topic, tp.partition) for tp in going]
        announced = [p for p in partitions if (held := self._assignment.get(p)) and held.announced]
        if announced and not self._stopping:
            self._post(self._listener.on_revoked, announced)
            self._drain(announced)
        self._committing.send_now()
        self._forget(partitions)
        self._unassign(client, going)

    def _on_lost(self, client: confluent_kafka.Consumer, gone: list[TopicPartition]) -> None:
        announced = self._forget([Partition(tp.topic, tp.partition) for tp in gone])
        self._unassign(client, gone)
        if announced and not self._stopping:
            log.warning("%s: lost %d partitions to the group", self._name, len(announced))
            self._post(self._listener.on_lost, announced)

    def _drain(self, partitions: Sequence[Partition]) -> None:
        """Carry out commits until the listener has released `partitions`. Other commands wait."""
        deferred: list[tuple[Command, Any]] = []
        deadline = time.monotonic() + self._drain_timeout_s
        while not self._assignment.all_released(partitions) and not self._stopping:
            wait_s = deadline - time.monotonic()
            try:
                command, argument = self.commands.get(timeout=max(0.0, wait_s))
            except Empty:
                self.statistics.drains_cut += 1
                log.error(
                    "%s: the drain of %d partitions took longer than %.0f s: what is open is delivered again",
                    self._name,
                    len(partitions),
                    self._drain_timeout_s,
                )
                break
            if command in (Command.PAUSE, Command.RESUME):
                deferred.append((command, argument))
            else:
                self._run_command(command, argument)
                if self.commands.empty():
                    self._committing.send_now()
        for command, argument in deferred:
            self._run_command(command, argument)

    def _forget(self, partitions: Sequence[Partition]) -> list[Partition]:
        self._committing.drop(partitions)
        return self._assignment.remove(partitions)

    def _unassign(self, client: confluent_kafka.Consumer, going: list[TopicPartition]) -> None:
        try:
            if self._incremental:
                client.incremental_unassign(going)
            else:
                client.unassign()
        except KafkaException as exception:
            self._complaints.survive(error_of(exception), "unassign")

    # --- what else is read ---

    def _on_message_error(self, message: Message) -> None:
        error = message.error()
        topic, partition = message.topic(), message.partition()
        if error is None:
            return
        if not is_offset_lost(error):
            self._complaints.judge(error)
        elif topic is not None and partition is not None:
            self._placing.lose_offset(self._assignment.get((topic, partition)))

    def _read_lag(self, now: float) -> None:
        self._lag_due = now + LAG_EVERY_S
        lag = {}
        for held in self._assignment:
            try:
                _, high = self._client.get_watermark_offsets(TopicPartition(*held.partition), cached=True)
            except KafkaException:
                continue  # nothing has been fetched of it yet
            if high >= 0 and held.committed >= 0:
                lag[held.partition] = max(0, high - held.committed)
        self.statistics.lag = lag
