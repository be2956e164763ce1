"""The one thread that owns a subscription's Kafka client: commands in, batches of events out.

Rule 1: every call to the client is made on this thread. From another one a commit waits for the running
poll, and in a busy loop it has starved for 20 s. So the loop's side only puts commands into a queue, and
the thread carries them out between two polls, at most a poll's wait (5 to 20 ms) later.
Rule 2: inside a rebalance callback nothing may poll: the client aborts the process. So the callback of a
revoke runs a small loop of its own over the commands until the listener has drained.
Rule 3: nothing here decides what happens to an event.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVarTuple, cast

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from pelton.core.actions import Commit
from pelton.errors import BrokerError
from pelton.event import Event, Partition
from pelton.kafka.assignment import Assignment, Held
from pelton.kafka.commits import Commits
from pelton.kafka.faults import broker_error, error_of, is_denied, is_fatal, is_offset_lost
from pelton.kafka.listener import Assigned, Batch, ConsumerStatistics, Listener
from pelton.kafka.membership import Slot, generation_of
from pelton.kafka.records import Record, RecordStatistics, event_of
from pelton.kafka.settings import (
    bootstrap_of,
    consumer_settings,
    is_incremental,
    takes_slot,
)
from pelton.kafka.starting import end_of, place
from pelton.subscription import Subscription

__all__ = ["Assigned", "Consumer", "ConsumerStatistics", "Listener"]

log = logging.getLogger("pelton.kafka")
client_log = logging.getLogger("pelton.kafka.client")
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
#: Waits between tries of what the broker refused: to place a partition, to seek, to find the log's start.
RETRY_WAIT_FIRST_S: Final = 0.01
RETRY_WAIT_MAX_S: Final = 2.0
#: A seek that is refused for so long will be refused for ever.
REASSIGN_AFTER_S: Final = 0.08
#: The log's end and the lag are read from the client's memory this often.
LAG_EVERY_S: Final = 1.0
#: An error that repeats is logged once in this time.
SAME_ERROR_LOGGED_EVERY_S: Final = 10.0
#: Milliseconds where the coordinator answers; without it the group waits for the session's end.
LEAVE_TIMEOUT_S: Final = 3.0
#: Beyond the drain: the last commit, leaving the group, closing. The thread is abandoned after it.
STOP_TIMEOUT_S: Final = 15.0


class _Command(Enum):
    PAUSE = "pause"
    RESUME = "resume"
    COMMIT = "commit"
    RELEASE = "release"
    STOP = "stop"


class _Finished(Exception):
    """The client will not work again."""

    def __init__(self, error: BrokerError) -> None:
        self.error = error


class Consumer:
    """One subscription's consumer. Its methods belong to the event loop and return at once."""

    def __init__(
        self,
        subscription: Subscription,
        settings: Mapping[str, Any],
        listener: Listener,
        loop: asyncio.AbstractEventLoop,
        *,
        drain_timeout_ms: float,
    ) -> None:
        self._subscription = subscription
        self._settings = {**settings, **subscription.kafka}
        self._listener = listener
        self._loop = loop
        self._drain_timeout_s = drain_timeout_ms / 1000
        self._incremental = is_incremental(self._settings)
        self._bootstrap = bootstrap_of(self._settings)
        self._commands: SimpleQueue[tuple[_Command, Any]] = SimpleQueue()
        self._room = threading.Semaphore(BATCHES_UNHANDLED_MAX)
        self._ended: asyncio.Future[None] | None = None
        self._slot: Slot | None = None
        self._client: confluent_kafka.Consumer
        self._client_settings: dict[str, Any] = {}
        # From here on all is the thread's own.
        self._assignment = Assignment()
        self._commits = Commits()
        self._commit_sent_at = 0.0
        self._statistics = ConsumerStatistics()
        self._records = RecordStatistics()
        self._lag_due = 0.0
        self._was_assigned = False
        self._stopping = False
        self._logged: dict[int, float] = {}
        self._fatal: BrokerError | None = None

    # --- the loop's side ---

    def start(self) -> None:
        """Join the group. Raises if the settings cannot be used; all later failures go to the listener."""
        assert self._ended is None, "started twice"
        group = self._subscription.group
        if takes_slot(self._settings):
            self._slot = Slot.take(group)
        instance_id = self._slot.instance_id if self._slot else None
        try:
            self._client_settings = consumer_settings(self._settings, group=group, instance_id=instance_id)
            callbacks = {"error_cb": self._on_error, "on_commit": self._on_commit}
            self._client = confluent_kafka.Consumer({**self._client_settings, **callbacks}, logger=client_log)
        except BaseException as error:
            self._release_slot()
            if isinstance(error, KafkaException):
                raise self._broker_error(error_of(error), "cannot make a consumer") from error
            raise
        self._ended = self._loop.create_future()
        name = f"pelton-consumer-{self._subscription.name}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def pause(self, partitions: Collection[Partition]) -> None:
        self._commands.put((_Command.PAUSE, tuple(partitions)))

    def resume(self, partitions: Collection[Partition]) -> None:
        """Read on, behind the last event that was handed over."""
        self._commands.put((_Command.RESUME, tuple(partitions)))

    def commit(self, commits: Mapping[Partition, Commit]) -> None:
        """Commit soon; the latest per partition counts."""
        self._commands.put((_Command.COMMIT, dict(commits)))

    def release(self, partitions: Collection[Partition]) -> None:
        """The answer to `on_revoked`: these are drained, and their last commit has been asked for."""
        self._commands.put((_Command.RELEASE, tuple(partitions)))

    async def stop(self) -> None:
        """Commit what was asked for, leave the group, and return when the thread has ended.

        Drain first: nothing is told after this. Twice is safe, and so is before `start`.
        """
        if self._ended is None:
            return
        self._commands.put((_Command.STOP, None))
        try:
            async with asyncio.timeout(self._drain_timeout_s + STOP_TIMEOUT_S):
                await asyncio.shield(self._ended)
        except TimeoutError:
            log.error("%s: the consumer did not leave its group in time", self._subscription.name)

    def statistics(self) -> ConsumerStatistics:
        return replace(
            self._statistics, times_ignored=self._records.times_ignored, flawed=self._records.flawed
        )

    # --- the thread ---

    def _run(self) -> None:
        failure: BrokerError | None = None
        try:
            self._client.subscribe(
                list(self._subscription.topics),
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
            while not self._stopping:
                self._turn()
        except _Finished as finished:
            failure = finished.error
        except KafkaException as exception:
            failure = self._broker_error(error_of(exception), "the consumer ended")
        except Exception as error:
            log.exception("%s: the consumer's thread failed", self._subscription.name)
            failure = BrokerError(f"the consumer of {self._subscription.name} failed: {error!r}")
        finally:
            self._stopping = True
            self._leave(failure)
            if failure is not None:
                self._post(self._listener.on_failed, failure)
            self._post(self._set_ended)

    def _turn(self) -> None:
        """One round: what was asked for, what is due, then what the broker has."""
        self._run_commands()
        now = time.monotonic()
        if self._assignment.waiting:
            self._place_starting(now)
            self._place_lost(now)
            self._seek_due(now)
        self._send_commits(now)
        if now >= self._lag_due:
            self._read_lag(now)
        if not self._room.acquire(timeout=POLL_WAIT_SHORT_S):
            return
        batch = self._assignment.take(self._poll())
        if batch:
            self._statistics.batches += 1
            self._post(self._hand_over, batch)
        else:
            self._room.release()
        if self._fatal is not None:
            raise _Finished(self._fatal)

    def _poll(self) -> list[Event]:
        """Wait for the first record, then take what is ready: asking for many at once waits for many."""
        self._statistics.polls += 1
        first = self._client.poll(POLL_WAIT_SHORT_S if self._assignment.waiting else POLL_WAIT_S)
        if first is None:
            return []
        messages = [first, *self._client.consume(BATCH_EVENTS_MAX - 1, 0)]
        events = []
        records = self._records
        for message in messages:
            if message.error() is None:
                events.append(event_of(cast("Record", message), records))
            else:
                self._on_message_error(message)
        self._statistics.events += len(events)
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

    def _set_ended(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _leave(self, failure: BrokerError | None) -> None:
        """The last commit, out of the group, and the client's end."""
        try:
            self._run_commands()
            if failure is None:
                self._commit_now()
                self._leave_group()
            self._client.close()
        except (KafkaException, RuntimeError):
            log.exception("%s: leaving the group failed", self._subscription.name)
        finally:
            self._release_slot()

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
                log.warning("%s: the group did not let go in time", self._subscription.name)
                break

    def _release_slot(self) -> None:
        if self._slot is not None:
            self._slot.release()

    # --- commands ---

    def _run_commands(self) -> None:
        while True:
            try:
                command, argument = self._commands.get_nowait()
            except Empty:
                return
            self._run_command(command, argument)

    def _run_command(self, command: _Command, argument: Any) -> None:
        if command is _Command.COMMIT:
            self._want_commits(argument)
        elif command is _Command.STOP:
            self._stopping = True
        else:
            for held in filter(None, map(self._assignment.get, argument)):
                if command is _Command.RELEASE:
                    held.released = True
                elif command is _Command.RESUME:
                    held.paused = False
                elif not held.paused:
                    held.paused = True
                    held.flowing = False
                    self._client_pause([held.partition])

    def _want_commits(self, commits: Mapping[Partition, Commit]) -> None:
        for partition, commit in commits.items():
            held = self._assignment.get(partition)
            if held is None or not held.announced or commit.offset < held.committed:
                self._statistics.commits_refused += 1
            else:
                self._commits.want(partition, commit)

    def _client_pause(self, partitions: Sequence[Partition]) -> None:
        try:
            self._client.pause([TopicPartition(*p) for p in partitions])
        except KafkaException as exception:
            # Its events are not taken anyway, and are read again after the next seek.
            self._log_error(error_of(exception), "pause")

    # --- commits ---

    def _send_commits(self, now: float) -> None:
        commits = self._commits.take(now)
        if not commits:
            return
        self._commit_sent_at = now
        try:
            self._client.commit(offsets=_offsets(commits), asynchronous=True)
        except KafkaException as exception:
            self._commits.answered(commits.keys(), now)
            self._tell_committed({}, dict.fromkeys(commits, error_of(exception).str()))

    def _on_commit(self, error: KafkaError | None, answers: list[TopicPartition]) -> None:
        """The client's callback, from within a poll: the answer to an asynchronous commit."""
        now = time.monotonic()
        self._statistics.last_commit_ms = (now - self._commit_sent_at) * 1000
        done, failed = self._sort(error, answers)
        self._commits.answered(failed.keys(), now)
        self._tell_committed(done, failed)

    def _commit_now(self) -> None:
        """Commit everything wanted and wait for it: allowed in a rebalance callback, where polling is not."""
        commits = self._commits.take_all()
        if not commits:
            return
        now = time.monotonic()
        error: KafkaError | None = None
        answers = _offsets(commits)
        try:
            answers = self._client.commit(offsets=answers, asynchronous=False)
        except KafkaException as exception:
            error = error_of(exception)
        self._statistics.last_commit_ms = (time.monotonic() - now) * 1000
        done, failed = self._sort(error, answers)
        self._commits.settle(commits, failed.keys(), time.monotonic())
        self._tell_committed(done, failed)

    def _sort(
        self, error: KafkaError | None, answers: Sequence[TopicPartition]
    ) -> tuple[dict[Partition, int], dict[Partition, str]]:
        done: dict[Partition, int] = {}
        failed: dict[Partition, str] = {}
        for tp in answers:
            wrong = error or tp.error
            if wrong is None:
                done[Partition(tp.topic, tp.partition)] = tp.offset
            else:
                failed[Partition(tp.topic, tp.partition)] = wrong.str()
                if is_fatal(wrong):
                    self._fatal = self._broker_error(wrong, "a commit was refused")
        return done, failed

    def _tell_committed(self, done: dict[Partition, int], failed: dict[Partition, str]) -> None:
        for partition, offset in done.items():
            held = self._assignment.get(partition)
            if held is not None:
                held.committed = max(held.committed, offset)
        if done:
            self._statistics.commits += 1
            self._post(self._listener.on_committed, done, None)
        if failed:
            self._statistics.commit_errors += 1
            reasons = "; ".join(sorted(set(failed.values())))
            log.warning("%s: a commit failed and is tried again: %s", self._subscription.name, reasons)
            self._post(self._listener.on_committed, dict.fromkeys(failed, -1), reasons)

    # --- rebalance callbacks, from within a poll or the close ---

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
        self._client_pause(partitions)
        self._assignment.add(partitions)

    def _on_revoke(self, client: confluent_kafka.Consumer, going: list[TopicPartition]) -> None:
        partitions = [Partition(tp.topic, tp.partition) for tp in going]
        announced = [p for p in partitions if (held := self._assignment.get(p)) and held.announced]
        if announced and not self._stopping:
            self._post(self._listener.on_revoked, announced)
            self._drain(announced)
        self._commit_now()
        self._forget(partitions)
        self._unassign(client, going)

    def _on_lost(self, client: confluent_kafka.Consumer, gone: list[TopicPartition]) -> None:
        announced = self._forget([Partition(tp.topic, tp.partition) for tp in gone])
        self._unassign(client, gone)
        if announced and not self._stopping:
            log.warning("%s: lost %d partitions to the group", self._subscription.name, len(announced))
            self._post(self._listener.on_lost, announced)

    def _drain(self, partitions: Sequence[Partition]) -> None:
        """Carry out commits until the listener has released `partitions`. Other commands wait."""
        deferred: list[tuple[_Command, Any]] = []
        deadline = time.monotonic() + self._drain_timeout_s
        while not self._assignment.all_released(partitions) and not self._stopping:
            wait_s = deadline - time.monotonic()
            try:
                command, argument = self._commands.get(timeout=max(0.0, wait_s))
            except Empty:
                self._statistics.drains_cut += 1
                log.error(
                    "%s: the drain of %d partitions took longer than %.0f s: what is open is delivered again",
                    self._subscription.name,
                    len(partitions),
                    self._drain_timeout_s,
                )
                break
            if command in (_Command.PAUSE, _Command.RESUME):
                deferred.append((command, argument))
            else:
                self._run_command(command, argument)
                if self._commands.empty():
                    self._commit_now()
        for command, argument in deferred:
            self._run_command(command, argument)

    def _forget(self, partitions: Sequence[Partition]) -> list[Partition]:
        self._commits.drop(partitions)
        return self._assignment.remove(partitions)

    def _unassign(self, client: confluent_kafka.Consumer, going: list[TopicPartition]) -> None:
        try:
            if self._incremental:
                client.incremental_unassign(going)
            else:
                client.unassign()
        except KafkaException as exception:
            self._log_error(error_of(exception), "unassign")

    # --- placing partitions ---

    def _place_starting(self, now: float) -> None:
        starting = self._assignment.starting(now)
        if not starting:
            return
        partitions = [held.partition for held in starting]
        placed, errors = place(self._client, partitions, self._subscription.start, self._client_settings)
        generation = generation_of(self._client.consumer_group_metadata())
        assigned = []
        for found in placed:
            held = self._assignment.get(found.partition)
            assert held is not None, "nothing is revoked outside a poll"
            held.announced = True
            held.committed = found.offset
            held.starts_at(found.offset)
            self._statistics.metadata_unreadable += found.unreadable
            assigned.append(Assigned(found.partition, generation, found.offset, found.metadata))
        self._retry(errors, "the start of %s/%d is not known yet: %s")
        if assigned:
            self._was_assigned = True
            self._post(self._listener.on_assigned, assigned)

    def _retry(self, errors: Mapping[Partition, str], text: str) -> None:
        now = time.monotonic()
        for partition, why in errors.items():
            held = self._assignment.get(partition)
            if held is not None:
                held.backoff(now, RETRY_WAIT_FIRST_S, RETRY_WAIT_MAX_S)
                log.warning(text, *partition, why)

    def _seek_due(self, now: float) -> None:
        """Resume alone leaves a partition silent for up to a second; with a seek it flows at once."""
        due = self._assignment.to_seek(now)
        if not due:
            return
        for held in due:
            place_at = TopicPartition(*held.partition, held.next_offset)
            try:
                self._client.resume([place_at])
                self._client.seek(place_at)
            except KafkaException as exception:
                # Mostly it has just been assigned, and the client's own threads do not know yet. One whose
                # offset the client found lost before it was placed can never be sought again, though.
                if held.retry_wait_s >= REASSIGN_AFTER_S:
                    self._reassign(held)
                held.backoff(now, RETRY_WAIT_FIRST_S, RETRY_WAIT_MAX_S)
                self._log_error(error_of(exception), "seek", level=logging.DEBUG)
            else:
                held.flowing = True
                held.retry_at = held.retry_wait_s = 0.0

    def _lose_offset(self, held: Held | None) -> None:
        # One that is not placed yet has been reading from nowhere; see `_on_assign`.
        if held is not None and held.announced and held.lost_wanted < 0:
            held.lost_wanted = held.next_offset
            held.flowing = False

    def _place_lost(self, now: float) -> None:
        """Go on at the earliest offset the log still has, and say so."""
        for held in self._assignment.to_find(now):
            wanted = held.lost_wanted
            try:
                low, high = end_of(self._client, held.partition)
            except KafkaException as exception:
                why = error_of(exception).str()
                self._retry({held.partition: why}, "the log of %s/%d does not answer: %s")
                continue
            if low <= wanted <= high:  # a look from before it was placed; or the broker knows better now
                held.starts_at(wanted)
                self._reassign(held)
                continue
            self._statistics.offsets_lost += 1
            text = "%s/%d: offset %d is not in the log any more; reading goes on at %d"
            log.error(text, *held.partition, wanted, low)
            held.starts_at(low)
            self._reassign(held)
            self._post(self._listener.on_offsets_lost, held.partition, wanted, low)
            if low < wanted:
                held.committed = low
                self._commits.drop([held.partition])
                generation = generation_of(self._client.consumer_group_metadata())
                self._post(self._listener.on_lost, [held.partition])
                self._post(self._listener.on_assigned, [Assigned(held.partition, generation, low, None)])

    def _reassign(self, held: Held) -> None:
        """Take the partition anew at its next offset: after a lost offset the client refuses to seek."""
        anew = [held] if self._incremental else [one for one in self._assignment if one.announced]
        places = [TopicPartition(*one.partition, one.next_offset) for one in anew]
        if self._incremental:
            self._client.incremental_unassign(places)
            self._client.incremental_assign(places)
        else:
            starting = [TopicPartition(*one.partition, 0) for one in self._assignment if not one.announced]
            self._client.assign([*places, *starting])
        for one in anew:
            one.flowing = False
        self._client_pause([one.partition for one in self._assignment if not one.flowing])

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
        self._statistics.lag = lag

    # --- errors ---

    def _on_message_error(self, message: Message) -> None:
        error = message.error()
        topic, partition = message.topic(), message.partition()
        if error is None:
            return
        if not is_offset_lost(error):
            self._on_error(error)
        elif topic is not None and partition is not None:
            self._lose_offset(self._assignment.get((topic, partition)))

    def _on_error(self, error: KafkaError) -> None:
        """Also the client's callback, from within a poll. Only what cannot heal ends the consumer."""
        if is_fatal(error):
            self._fatal = self._fatal or self._broker_error(error, "the consumer ended")
        elif is_denied(error) and not self._was_assigned:
            # Later it may be a credential that is being replaced: then it is only logged.
            self._fatal = self._fatal or self._broker_error(error, "the consumer was not let in")
        else:
            self._log_error(error, "client")

    def _log_error(self, error: KafkaError, doing: str, *, level: int = logging.WARNING) -> None:
        self._statistics.client_errors += 1
        now = time.monotonic()
        if now - self._logged.get(error.code(), -SAME_ERROR_LOGGED_EVERY_S) >= SAME_ERROR_LOGGED_EVERY_S:
            self._logged[error.code()] = now
            log.log(level, "%s: %s: %s (%s)", self._subscription.name, doing, error.str(), error.name())

    def _broker_error(self, error: KafkaError, doing: str) -> BrokerError:
        return broker_error(error, f"{self._subscription.name}: {doing}", self._bootstrap)


def _offsets(commits: Mapping[Partition, Commit]) -> list[TopicPartition]:
    return [TopicPartition(*p, commit.offset, commit.metadata) for p, commit in commits.items()]
