"""The thread that owns a subscription's Kafka client.

Rule 1: every call to the client is made here. From another thread a commit waits for the running poll, and
in a busy loop it has starved for 20 s. So the loop's side only puts commands into a queue, and the thread
carries them out between two polls, at most a poll's wait (5 to 20 ms) later; where many consumers share a
process, and nothing came lately, at most a millisecond for each of them.
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
from pelton.kafka.assignment import Assignment, Held
from pelton.kafka.committing import Committing
from pelton.kafka.complaints import Complaints
from pelton.kafka.faults import error_of, is_offset_lost
from pelton.kafka.hops import moved_here
from pelton.kafka.listener import Assigned, Batch, ConsumerStatistics, Listener
from pelton.kafka.membership import generation_of
from pelton.kafka.placing import Placing
from pelton.kafka.prefetch import PREFETCH_BYTES_MAX, Batches
from pelton.kafka.records import Record, RecordStatistics, events_of
from pelton.kafka.settings import bootstrap_of, is_incremental
from pelton.kafka.silence import heard_ago_ms
from pelton.kafka.topic_ids import TopicIds
from pelton.subscription import Subscription

__all__ = ["Command", "ConsumerThread", "OnEnded"]

log = logging.getLogger("pelton.kafka")
_Arguments = TypeVarTuple("_Arguments")
#: Told why, where it was not asked to, and which partitions the listener still believes to be ours.
OnEnded = Callable[[BrokerError | None, Sequence[Partition]], None]

#: How long an idle poll waits: the longest a command waits while everything flows.
POLL_WAIT_S: Final = 0.02
#: The same while a partition stands still: the command that resumes it is due any moment.
POLL_WAIT_SHORT_S: Final = 0.005
#: Batches the loop has not handled yet. Beyond them the thread reads no further: a loop that is behind
#: would otherwise pile up events whose pause it has not been able to ask for.
BATCHES_UNHANDLED_MAX: Final = 2
#: The log's end and the lag are read from the client's memory this often.
LAG_EVERY_S: Final = 1.0
#: All consumers of a process together wake up so often at most while they have nothing to do. Each time costs
#: a turn at the interpreter: two hundred of them at the waits above would leave the loop none.
IDLE_WAKES_PER_S_MAX: Final = 1_000
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
    #: A batch was handled, which took so many places: there is room for the next.
    HANDLED = "handled"
    #: The announcement of these was heard: what comes behind this is meant for them.
    HEARD = "heard"
    #: Say when no commit of these partitions is on its way.
    QUIET = "quiet"
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
        topic_ids: TopicIds,
        listener: Listener,
        loop: asyncio.AbstractEventLoop,
        drain_timeout_s: float,
        on_ended: OnEnded,
        *,
        sharers: int = 1,
        before: ConsumerThread | None = None,
    ) -> None:
        """`settings` are the client's own, complete. `on_ended` is called on the loop, last of all. `sharers`
        is how many consumers the process has. `before` has ended, and this one takes its place: what is
        counted is counted on."""
        #: The one way in from the loop.
        self.commands: SimpleQueue[tuple[Command, Any]] = SimpleQueue()
        self.statistics: ConsumerStatistics = before.statistics if before else ConsumerStatistics()
        self.records: RecordStatistics = before.records if before else RecordStatistics()
        self._name = subscription.name
        self._topics = subscription.read_topics
        self._tiers = frozenset(tier.topic for tier in subscription.retry.tiers)
        self._listener = listener
        self._loop = loop
        self._drain_timeout_s = drain_timeout_s
        self._on_ended = on_ended
        self._incremental = is_incremental(settings)
        self._room = BATCHES_UNHANDLED_MAX
        self._idle_wait_s = sharers / IDLE_WAKES_PER_S_MAX
        #: Grows to that while nothing comes, neither an event nor a command.
        self._quiet_wait_s = 0.0
        self._stopping = False
        self._lag_due = 0.0
        self._assignment = Assignment(self._tiers)
        queue_kbytes = settings.get("queued.max.messages.kbytes", PREFETCH_BYTES_MAX >> 10)
        self._batches = Batches(int(queue_kbytes) << 10)
        self._complaints = Complaints(
            self._name, bootstrap_of(settings), self.statistics, str(settings.get("group.instance.id", ""))
        )
        self._made_at = time.monotonic()
        callbacks = {
            "error_cb": self._complaints.judge,
            "on_commit": self._on_commit,
            "stats_cb": self._on_report,
        }
        client_log = logging.getLogger("pelton.kafka.client")
        self._client = confluent_kafka.Consumer({**settings, **callbacks}, logger=client_log)
        told = (listener, self._post, self._complaints, self.statistics)
        self._committing = Committing(self._client, self._assignment, *told, self._name)
        self._topic_ids = topic_ids
        self._placing = Placing(
            self._client,
            self._assignment,
            self._committing,
            self._topic_ids,
            self._announce,
            *told,
            start_of=subscription.start_of,
            settings=settings,
            incremental=self._incremental,
        )

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"pelton-consumer-{self._name}", daemon=True).start()

    def _on_commit(self, error: KafkaError | None, answers: list[TopicPartition]) -> None:
        self._committing.on_answer(error, answers)

    def _on_report(self, report: str) -> None:
        ago_ms = heard_ago_ms(report)
        since_start_ms = (time.monotonic() - self._made_at) * 1000
        self.statistics.brokers_silent_ms = since_start_ms if ago_ms is None else ago_ms

    def _run(self) -> None:
        failure: BrokerError | None = None
        try:
            # A stop may have come before the start.
            self._run_commands()
            if not self._stopping:
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
            announced = [held.partition for held in self._assignment if held.announced]
            self._leave(failure)
            self._post(self._on_ended, failure, announced)

    def _turn(self) -> None:
        """One round: what was asked for, what is due, then what the broker has."""
        self._run_commands()
        now = time.monotonic()
        for topic in self._topic_ids.look(now):
            self._placing.start_over(topic)
        if self._assignment.waiting:
            self._placing.run(now)
        self._committing.send(now)
        if now >= self._lag_due:
            self._read_lag(now)
        if not (places := self._places()):
            self._wait_for_command()
            return
        batch = self._assignment.take(self._poll())
        if batch:
            self.statistics.batches += 1
            self._post(self._hand_over, batch, places)
        else:
            self._room += places
        if self._complaints.fatal is not None:
            raise _Finished(self._complaints.fatal)

    def _places(self) -> int:
        """Take what the next batch needs of the room for unhandled ones: all of it where a single record is
        larger than a batch should be. 0: there is not enough yet."""
        places = BATCHES_UNHANDLED_MAX if self._batches.large else 1
        if self._room < places:
            return 0
        self._room -= places
        return places

    def _wait_for_command(self) -> None:
        """The loop is behind, and says when it is not: looking again and again would hold it up further."""
        try:
            command, argument = self.commands.get(timeout=max(POLL_WAIT_S, self._idle_wait_s))
        except Empty:
            return
        self._run_command(command, argument)

    def _poll(self) -> list[Event]:
        """Wait for the first record, then take what is ready: asking for many at once waits for many."""
        self.statistics.polls += 1
        wait_s = POLL_WAIT_SHORT_S if self._assignment.waiting else POLL_WAIT_S
        first = self._client.poll(max(wait_s, self._quiet_wait_s))
        if first is None:
            self._quiet_wait_s = min(self._idle_wait_s, max(wait_s, 2 * self._quiet_wait_s))
            return []
        self._quiet_wait_s = 0.0
        more = self._batches.more(len(first))
        messages = [first, *self._client.consume(more, 0)] if more else [first]
        tiers = self._tiers
        events = events_of(cast("list[Record]", messages), self.records, tiers)
        if len(events) < len(messages):
            for message in messages:
                self._look_for_error(message)
        self.statistics.events += len(events)
        if tiers:
            events = [moved_here(event) if event.topic in tiers else event for event in events]
        self._batches.took(len(messages), sum(map(len, messages)))
        return events

    def _hand_over(self, batch: Batch, places: int) -> None:
        try:
            self._listener.on_events(batch)
        finally:
            self.commands.put((Command.HANDLED, places))

    def _announce(self, came: Sequence[tuple[Assigned, Held]]) -> None:
        """Tell of partitions, and have the queue say from where on commands are meant for them."""

        def tell() -> None:
            self.commands.put((Command.HEARD, [held for _, held in came]))
            self._listener.on_assigned([assigned for assigned, _ in came])

        self._post(tell)

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
        self._quiet_wait_s = 0.0
        if command is Command.HANDLED:
            self._room += argument
        elif command is Command.COMMIT:
            self._committing.want(argument)
        elif command is Command.QUIET:
            self._committing.tell_when_quiet(*argument)
        elif command is Command.STOP:
            self._stopping = True
        elif command is Command.HEARD:
            for held in argument:
                held.heard = True
        else:
            for held in filter(None, map(self._assignment.get, argument)):
                if not held.heard:
                    continue
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
            # In the group, and nothing to do: there are more members than partitions.
            self._post(self._listener.on_assigned, [])
            return
        partitions = [Partition(tp.topic, tp.partition) for tp in assigned]
        self._placing.pause(partitions)
        self._assignment.add(partitions, time.monotonic())

    def _on_revoke(self, client: confluent_kafka.Consumer, going: list[TopicPartition]) -> None:
        partitions = [Partition(tp.topic, tp.partition) for tp in going]
        announced = [p for p in partitions if (held := self._assignment.get(p)) and held.announced]
        if announced and not self._stopping:
            self._post(self._listener.on_revoked, announced)
            self._drain(announced)
            if late := [p for p in announced if (held := self._assignment.get(p)) and not held.released]:
                # They may be back before their drain has ended, and must not find it still going on.
                self._post(self._listener.on_lost, late)
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
        if self._committing.is_asked:
            self._commit_now()
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
                    self._commit_now()
        for command, argument in deferred:
            self._run_command(command, argument)

    def _commit_now(self) -> None:
        """Commit what is wanted. Where that fails, and somebody waits for quiet, there will be none: commits
        are sent and answered from polls, of which there are none here."""
        self._committing.send_now()
        self._committing.refuse_quiet()

    def _forget(self, partitions: Sequence[Partition]) -> list[Partition]:
        announced = self._assignment.remove(partitions)
        self._committing.drop(partitions)
        return announced

    def _unassign(self, client: confluent_kafka.Consumer, going: list[TopicPartition]) -> None:
        try:
            if self._incremental:
                client.incremental_unassign(going)
            else:
                client.unassign()
        except KafkaException as exception:
            self._complaints.survive(error_of(exception), "unassign")

    # --- what else is read ---

    def _look_for_error(self, message: Message) -> None:
        error = message.error()
        if error is None:
            return
        topic, partition = message.topic(), message.partition()
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
