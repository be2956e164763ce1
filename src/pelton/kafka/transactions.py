"""Records and the offsets of what they were made of, in one transaction: both are there, or neither is.

The client's transactional calls block, so they are made on a thread of their own, one transaction after the
other. Nothing here knows what the records are, nor when they may be written: the caller sees to it that
nobody else commits for these partitions meanwhile (`bridge/hops.py`).

The client is made when it is needed and dropped when it has been idle. Making it ends whatever a dead process
of the same name has left open, so it is made before the group is joined: else the partitions of an open
transaction would have no offset to start from until the broker gives it up.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, TypeVar

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from pelton import failpoints
from pelton.core.actions import Commit
from pelton.errors import BrokerError, FencedError, PublishError
from pelton.event import Partition
from pelton.failpoints import Failpoint
from pelton.kafka.committing import Quiet
from pelton.kafka.faults import OWN_NAMES, error_of, is_fenced, is_record_fault
from pelton.kafka.producer import give
from pelton.kafka.records import Outgoing
from pelton.kafka.settings import bootstrap_of, is_static, transaction_settings
from pelton.kafka.topic_ids import tagged
from pelton.kafka.unwritten import Unwritten

__all__ = ["MARK_BYTES", "Ended", "Refused", "Transactions"]

log = logging.getLogger("pelton.kafka")
client_log = logging.getLogger("pelton.kafka.client")

T = TypeVar("T")

#: The longest that one blocking call of the client goes on before it is looked whether it should.
CALL_TIMEOUT_S: Final = 1.0
#: A coordinator that is being restarted is back by then.
PREPARE_TIMEOUT_S: Final = 30.0
#: Beyond the client's own time-out of a record, after which each has had its report.
FLUSH_TIMEOUT_S: Final = 7.0
#: For the records and the offsets together. What is left of the broker's own time-out is for the commit.
FILL_TIMEOUT_S: Final = 8.0
#: For the end of one that comes to nothing: a broker that is there has ended it long before. One that cannot
#: end it is asked by the next client, and then by the outbox's clock; nothing of it counts meanwhile.
ABORT_TIMEOUT_S: Final = 5.0
#: What Kafka appends to each partition of a transaction to end it.
MARK_BYTES: Final = 78
#: While the client's queue is full.
POLL_WAIT_S: Final = 0.05
#: An idle client is four threads and half a megabyte; to make it anew takes 0.1 s.
IDLE_S: Final = 30.0
#: At the close: an open transaction that does not end by then is left to the next start.
CLOSE_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Refused(Generic[T]):
    """One record that was not taken, in a transaction that therefore was not committed."""

    item: T
    error: str
    #: The record is at fault, or another one of its partition in the same transaction.
    at_fault: bool


@dataclass(frozen=True, slots=True)
class Ended(Generic[T]):
    """How a transaction ended."""

    #: Why nothing of it is there; None says that all of it is.
    error: str | None = None
    refused: tuple[Refused[T], ...] = ()
    #: What is there is not known, and will not be known in this process, which must end.
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class _Transaction(Generic[T]):
    records: Sequence[tuple[T, Outgoing]]
    offsets: list[TopicPartition]
    group_metadata: object


class _Closing(Exception):
    """There is no time left to find out."""


class Transactions(Generic[T]):
    """One process's transactions for one consumer group. Its methods belong to the event loop.

    Everything that is told is told on the loop, never from inside the call that asks for it.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        transactional_id: str,
        loop: asyncio.AbstractEventLoop,
        on_failed: Callable[[BrokerError], None],
    ) -> None:
        self._id = transactional_id
        self._bootstrap = bootstrap_of(settings)
        self._static = is_static(settings)
        self._unwritten = Unwritten(settings)
        self._settings = transaction_settings(settings, transactional_id=transactional_id)
        self._timeout_s = self._settings["transaction.timeout.ms"] / 1000
        self._loop = loop
        self._on_failed = on_failed
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._closing = threading.Event()
        self._ended = asyncio.Event()
        self._client: confluent_kafka.Producer | None = None
        self._committing = False
        threading.Thread(target=self._run, name="pelton-transactions", daemon=True).start()

    def prepare(self, on_prepared: Callable[[str | None], None]) -> None:
        """Be ready for a transaction; told why not, where the broker does not allow it or does not answer."""
        self._tasks.put(lambda: self._post(partial(on_prepared, self._prepare())))

    def submit(
        self,
        records: Sequence[tuple[T, Outgoing]],
        commits: Mapping[Partition, Commit],
        quiet: Quiet,
        on_ended: Callable[[Ended[T]], None],
    ) -> None:
        """Write all of these in one transaction. `prepare` has just said that it may be."""
        offsets = [
            TopicPartition(*p, commit.offset, tagged(commit.metadata, quiet.topic_ids[p]))
            for p, commit in commits.items()
        ]
        transaction = _Transaction(records, offsets, quiet.group_metadata)

        def carry_out() -> None:
            ended = self._carry_out(transaction)
            self._post(partial(on_ended, ended))

        self._tasks.put(carry_out)

    async def close(self) -> None:
        """Nothing is told any more. Twice is safe."""
        self._closing.set()
        self._tasks.put(None)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._ended.wait()
        except TimeoutError:
            log.error("%s: a transaction has not ended; the next start ends it", self._id)

    # --- on the thread ---

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                try:
                    task = self._tasks.get(timeout=IDLE_S)
                except Empty:
                    self._client = None
                    continue
                if task is not None:
                    task()
        except _Closing:
            pass
        except Exception as error:
            log.exception("%s: the thread of the transactions failed", self._id)
            self._post(partial(self._on_failed, BrokerError(f"transactions of {self._id}: {error!r}")))
        finally:
            self._client = None
            self._post(self._ended.set)

    def _post(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            self._closing.set()

    def _prepare(self) -> str | None:
        if self._client is not None:
            return None
        try:
            client = confluent_kafka.Producer({**self._settings, "error_cb": _log_error}, logger=client_log)
            self._persist(client, client.init_transactions, PREPARE_TIMEOUT_S)
        except KafkaException as exception:
            error = error_of(exception)
            return f"transactions at {self._bootstrap}: {error.str()} ({error.name()})"
        self._client = client
        return None

    def _carry_out(self, transaction: _Transaction[T]) -> Ended[T]:
        client = self._client
        assert client is not None, "prepared"
        begun = time.monotonic()
        self._committing = False
        try:
            try:
                with _unburied(client):
                    refused = self._fill(client, transaction, begun)
                if not refused:
                    self._committing = True
                    # Asking again asks for the same end: until it is known, nobody else may commit.
                    self._persist(client, client.commit_transaction)
                    failpoints.reach(Failpoint.TRANSACTION_COMMITTED)
                    return Ended()
                ended = Ended(f"{len(refused)} records were not taken: {refused[0].error}", refused)
            except KafkaException as exception:
                error = error_of(exception)
                if error.fatal():
                    raise
                ended = Ended(f"{error.str()} ({error.name()})")
            self._abort(client, transaction)
        except KafkaException as exception:
            self._client = None
            return self._judge(error_of(exception), time.monotonic() - begun)
        return ended

    def _abort(self, client: confluent_kafka.Producer, transaction: _Transaction[T]) -> None:
        """Until the broker has ended it, nobody of our name can write, and these partitions wait."""
        try:
            self._persist(client, client.abort_transaction, ABORT_TIMEOUT_S)
        except KafkaException as exception:
            error = error_of(exception)
            topics = ", ".join(sorted({outgoing.topic for _, outgoing in transaction.records}))
            log.error(
                "%s: the broker at %s has not ended a transaction in %.0f s: %s (%s). "
                "Until it does, nothing is written to %s, and the partitions that this comes from wait. "
                "Kafka ends it by marks of its own in these topics: see that they have a leader, and that "
                "their max.message.bytes lets the marks pass, which have %d bytes. "
                "Raising it alone may not do: the coordinator may have to be restarted.",
                *(self._id, self._bootstrap, ABORT_TIMEOUT_S, error.str(), error.name()),
                *(topics, MARK_BYTES),
            )
            raise

    def _fill(
        self, client: confluent_kafka.Producer, transaction: _Transaction[T], begun: float
    ) -> tuple[Refused[T], ...]:
        """Everything that goes into it; the records that were not taken, if any."""
        failpoints.reach(Failpoint.TRANSACTION_HELD)
        client.begin_transaction()
        refused: list[Refused[T]] = []
        for item, outgoing in transaction.records:
            on_delivery = partial(self._on_delivery, refused, item, outgoing.topic)
            try:
                while not give(client, outgoing, on_delivery):
                    client.poll(POLL_WAIT_S)
            except PublishError as error:
                refused.append(Refused(item, str(error), at_fault=True))
        # The client's own commit would wait for the same; flushing first is quicker, and says what failed.
        if client.flush(FLUSH_TIMEOUT_S):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "the records were not acknowledged"))
        if not refused:
            failpoints.reach(Failpoint.TRANSACTION_WRITTEN)
            send = partial(
                client.send_offsets_to_transaction, transaction.offsets, transaction.group_metadata
            )
            self._persist(client, send, begun + FILL_TIMEOUT_S - time.monotonic())
            failpoints.reach(Failpoint.TRANSACTION_FILLED)
        return tuple(refused)

    def _on_delivery(
        self, refused: list[Refused[T]], item: T, topic: str, error: KafkaError | None, message: Message
    ) -> None:
        # What was purged by an abort is told after the list was read.
        if error is not None:
            why = self._unwritten.error(error, topic)
            refused.append(Refused(item, str(why), is_record_fault(error)))

    def _persist(
        self, client: confluent_kafka.Producer, call: Callable[[float], None], timeout_s: float = float("inf")
    ) -> None:
        """Make one blocking call, again and again while it only has not been answered."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                with _unburied(client):
                    call(CALL_TIMEOUT_S)
            except KafkaException as exception:
                if self._closing.is_set():
                    raise _Closing from exception
                if not error_of(exception).retriable() or time.monotonic() > deadline:
                    raise
            else:
                return

    def _judge(self, error: KafkaError, age_s: float) -> Ended[T]:
        """The client is finished: what has become of its transaction?"""
        text = f"{error.str()} ({error.name()})"
        fenced = is_fenced(error)
        if fenced and age_s >= self._timeout_s and (self._static or not self._committing):
            # The broker has given it up for its age, and a commit that comes later than that finds nothing.
            # Nobody else can have taken our name: its bearer would hold our place in the group as well, and
            # the offsets of the next transaction will be refused then.
            return Ended(f"the broker ended it after {self._timeout_s:.0f} s: {text}")
        if not fenced and not self._committing:
            return Ended(text)
        where = f"transactions of {self._id} at {self._bootstrap}: {text}."
        failure = (
            FencedError(f"{where} Another process writes under the same name. {OWN_NAMES}")
            if fenced
            else BrokerError(f"{where} Whether the last one was committed is known after a restart.")
        )
        self._post(partial(self._on_failed, failure))
        return Ended(text, unknown=True)


@contextmanager
def _unburied(client: confluent_kafka.Producer) -> Iterator[None]:
    """The client raises a fatal error while it goes through its callbacks; the next one of them stumbles over
    it, and what comes out is a SystemError with the reason beneath; or, one time in a hundred, with none."""
    try:
        yield
    except SystemError as error:
        if isinstance(error.__cause__, KafkaException):
            raise error.__cause__ from None
        if error.__cause__ is None:
            raise _last_fatal(client, error) from error
        raise


def _last_fatal(client: confluent_kafka.Producer, error: SystemError) -> KafkaException:
    """A client that is finished answers any such call by what ended it, without a word to the broker."""
    try:
        client.begin_transaction()
    except KafkaException as exception:
        if error_of(exception).fatal():
            return exception
    return KafkaException(KafkaError(KafkaError._FATAL, str(error), fatal=True))


def _log_error(error: KafkaError) -> None:
    log.warning("transactions: %s (%s)", error.str(), error.name())
