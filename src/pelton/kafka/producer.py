"""Writing to Kafka from the event loop: batches in, one result for each record out.

The client's own thread does the sending; one thread of ours waits for its reports and hands them to the
loop, many at a time. Only the loop's side gives records to the client, so that they keep their order. A
record ends in exactly one result: its position, or why it has none.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, TypeVar

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, Message

from pelton.errors import PublishError
from pelton.event import Position
from pelton.kafka.faults import broker_error, error_of, publish_error
from pelton.kafka.records import Outgoing
from pelton.kafka.settings import bootstrap_of, producer_settings
from pelton.kafka.unwritten import Unwritten

__all__ = ["Produced", "Producer", "ProducerStatistics", "give"]

log = logging.getLogger("pelton.kafka")
client_log = logging.getLogger("pelton.kafka.client")

T = TypeVar("T")

#: What was submitted, where it is now, or why it is not.
Produced = tuple[T, Position | None, PublishError | None]

#: Reports wake the poll at once; this is only how soon the thread sees that it is to end.
POLL_WAIT_S: Final = 0.1
#: Records that the client's queue had no room for. Callers bound what they submit: dead letters by the
#: engine's limits, the publisher by its buffer; this is the wall behind those, in records and in bytes.
BACKLOG_RECORDS_MAX: Final = 50_000
BACKLOG_BYTES_MAX: Final = 64 << 20
#: At the close, after the drain: for the reports of what was given up.
PURGE_TIMEOUT_S: Final = 5.0


@dataclass(slots=True)
class ProducerStatistics:
    """Counted on the loop; a copy is handed out."""

    produced: int = 0
    failed: int = 0
    #: Times that the client's queue was full.
    queue_full: int = 0
    #: Without a result yet, and those of them that the client has not got yet.
    open: int = 0
    backlog: int = 0


class Producer(Generic[T]):
    """Its methods belong to the event loop. `on_produced` is called there, never from inside `submit`."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        on_produced: Callable[[list[Produced[T]]], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._on_produced = on_produced
        self._loop = loop
        self._bootstrap = bootstrap_of(settings)
        self._settings = producer_settings(settings)
        self._unwritten = Unwritten(settings)
        self._client: confluent_kafka.Producer | None = None
        self._backlog: deque[tuple[T, Outgoing]] = deque()
        self._backlog_bytes = 0
        self._refused: list[Produced[T]] = []
        #: Filled by the client's callbacks on our thread, emptied there after each poll.
        self._reports: list[Produced[T]] = []
        self._statistics = ProducerStatistics()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = threading.Event()
        self._ended: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Make the client; it connects by itself. Raises if the settings cannot be used."""
        assert self._client is None, "started twice"
        try:
            self._client = confluent_kafka.Producer(
                {**self._settings, "error_cb": _log_error}, logger=client_log
            )
        except KafkaException as exception:
            raise broker_error(error_of(exception), "cannot make a producer", self._bootstrap) from exception
        self._ended = self._loop.create_future()
        thread = threading.Thread(target=self._run, args=(self._client,), name="pelton-producer", daemon=True)
        thread.start()

    def submit(self, batch: Sequence[tuple[T, Outgoing]]) -> None:
        """Write these, each behind those submitted before it. Does not block."""
        assert self._client is not None, "not started"
        if not batch:
            return
        self._statistics.open += len(batch)
        self._idle.clear()
        for item, outgoing in batch:
            # Behind a backlog everything waits, or it would overtake records of its key.
            if self._backlog or not self._produce(item, outgoing):
                self._put_back(item, outgoing)

    async def flush(self, timeout_ms: float) -> int:
        """Wait until everything submitted has its result; how many have none yet when the time is up."""
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await self._idle.wait()
        except TimeoutError:
            pass
        return self._statistics.open

    async def close(self, timeout_ms: float) -> None:
        """Flush, give up what is left (each with its result), and end. Twice is safe, and so is unstarted."""
        if self._client is None or self._ended is None:
            return
        if not self._closing.is_set():
            left = await self.flush(timeout_ms)
            if left:
                log.error("closing the producer with %d records not acknowledged", left)
            self._closing.set()
            while self._backlog:
                item, outgoing = self._pop_backlog()
                self._refuse(item, PublishError(f"not written to {outgoing.topic}: closed", retriable=True))
        await asyncio.shield(self._ended)

    def statistics(self) -> ProducerStatistics:
        now = self._statistics
        return ProducerStatistics(now.produced, now.failed, now.queue_full, now.open, len(self._backlog))

    # --- on the loop ---

    def _produce(self, item: T, outgoing: Outgoing) -> bool:
        """Give one record to the client; False if its queue is full."""
        assert self._client is not None
        try:
            if give(self._client, outgoing, partial(self._on_delivery, item, outgoing.topic)):
                return True
        except PublishError as error:
            self._refuse(item, error)
            return True
        self._statistics.queue_full += 1
        return False

    def _put_back(self, item: T, outgoing: Outgoing) -> None:
        size = _size_bytes(outgoing)
        if len(self._backlog) >= BACKLOG_RECORDS_MAX or self._backlog_bytes + size > BACKLOG_BYTES_MAX:
            text = f"not written to {outgoing.topic}: {len(self._backlog)} records wait already"
            self._refuse(item, PublishError(text, retriable=True))
            return
        self._backlog.append((item, outgoing))
        self._backlog_bytes += size

    def _pop_backlog(self) -> tuple[T, Outgoing]:
        item, outgoing = self._backlog.popleft()
        self._backlog_bytes -= _size_bytes(outgoing)
        return item, outgoing

    def _refuse(self, item: T, error: PublishError) -> None:
        """A result without the client; never told from inside the caller's own call."""
        if not self._refused:
            self._loop.call_soon(self._tell_refused)
        self._refused.append((item, None, error))

    def _tell_refused(self) -> None:
        refused, self._refused = self._refused, []
        self._tell(refused)

    def _tell(self, results: list[Produced[T]]) -> None:
        failed = sum(error is not None for _, _, error in results)
        self._statistics.failed += failed
        self._statistics.produced += len(results) - failed
        self._statistics.open -= len(results)
        # Reports mean room in the client's queue. Nothing else needs to wake the backlog: while it waits
        # the queue is full, and every record in it ends in a report.
        while self._backlog and not self._closing.is_set():
            item, outgoing = self._backlog[0]
            if not self._produce(item, outgoing):
                break
            self._pop_backlog()
        try:
            self._on_produced(results)
        finally:
            if self._statistics.open == 0:
                self._idle.set()

    # --- on the thread ---

    def _run(self, client: confluent_kafka.Producer) -> None:
        try:
            while not self._closing.is_set():
                client.poll(POLL_WAIT_S)
                self._hand_over()
            client.purge()
            client.flush(PURGE_TIMEOUT_S)
            self._hand_over()
        except Exception:
            log.exception("the producer's thread failed")
        finally:
            self._post(self._set_ended)

    def _on_delivery(self, item: T, topic: str, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._reports.append((item, None, self._unwritten.error(error, topic)))
            return
        partition, offset = message.partition(), message.offset()
        assert partition is not None, "acks=all reports it"
        assert offset is not None, "acks=all reports it"
        self._reports.append((item, Position(topic, partition, offset), None))

    def _hand_over(self) -> None:
        if self._reports:
            reports, self._reports = self._reports, []
            self._post(partial(self._tell, reports))

    def _post(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            self._closing.set()

    def _set_ended(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)


def give(
    client: confluent_kafka.Producer,
    outgoing: Outgoing,
    on_delivery: Callable[[KafkaError | None, Message], None],
) -> bool:
    """Give one record to the client; False if its queue is full. PublishError where it will never take it."""
    extra: dict[str, Any] = {}
    if outgoing.timestamp_ms is not None:
        extra["timestamp"] = outgoing.timestamp_ms
    if outgoing.partition is not None:
        extra["partition"] = outgoing.partition
    if outgoing.headers:
        extra["headers"] = list(outgoing.headers)
    was_empty = False
    while True:
        try:
            client.produce(outgoing.topic, outgoing.value, outgoing.key, on_delivery=on_delivery, **extra)
        except BufferError:
            if len(client):
                return False
            if was_empty:
                # Nothing to wait for: it alone is more than the queue may hold.
                text = f"not written to {outgoing.topic}: larger than queue.buffering.max.kbytes"
                raise PublishError(text) from None
            # Or it was full then: the thread of the reports may have emptied it since. Nobody else fills it.
            was_empty = True
        except KafkaException as exception:
            raise publish_error(error_of(exception), outgoing.topic) from exception
        except (TypeError, ValueError) as error:
            raise PublishError(f"not written to {outgoing.topic}: {error}") from error
        else:
            return True


def _size_bytes(outgoing: Outgoing) -> int:
    return len(outgoing.key or b"") + len(outgoing.value or b"")


def _log_error(error: KafkaError) -> None:
    log.warning("producer: %s (%s)", error.str(), error.name())
