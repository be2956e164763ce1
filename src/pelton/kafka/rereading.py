"""Reading single events again by their offsets, without a group: what was parked and forgotten.

A client and a thread of its own, made with the first request and closed when nothing was asked for a while:
the consumer's own client must not be sought back and forth, and the loop must not wait. One request is read
at a time; each is bounded in events by who asks, in bytes and time here, and what was not reached is asked
for again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Final, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from pelton.event import Event, Partition
from pelton.kafka.faults import error_of, is_offset_lost
from pelton.kafka.listener import Listener, Post
from pelton.kafka.records import Record, RecordStatistics, event_of
from pelton.kafka.settings import READ_SELDOM, reader_settings
from pelton.kafka.starting import end_of

__all__ = ["Rereading"]

log = logging.getLogger("pelton.kafka")

POLL_WAIT_S: Final = 0.05
BATCH_RECORDS_MAX: Final = 500
#: Of the bodies of one request; one event may overrun it.
BYTES_MAX: Final = 8 << 20
#: A broker that is gone must not keep other partitions' requests waiting.
REQUEST_TIMEOUT_S: Final = 10.0
#: Reading over what lies between two offsets is quicker than a seek, up to here.
SKIP_OFFSETS_MAX: Final = 5_000
#: Without a request for so long the client is closed.
IDLE_S: Final = 30.0


class Rereading:
    """One subscription's second reader. `ask` and `stop` belong to the loop."""

    def __init__(self, name: str, settings: Mapping[str, Any], listener: Listener, post: Post) -> None:
        self._name = name
        self._settings = settings
        self._listener = listener
        self._post = post
        self._requests: SimpleQueue[tuple[Partition, tuple[int, ...]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._client: Consumer | None = None
        self._statistics = RecordStatistics()
        self._stopping = False

    def ask(self, partition: Partition, offsets: tuple[int, ...]) -> None:
        """Read these, ascending; the answer comes by `Listener.on_read_again`."""
        self._requests.put((partition, offsets))
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name=f"pelton-rereading-{self._name}", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Whatever is being read is not waited for, and not answered."""
        self._stopping = True
        self._requests.put(None)

    def _run(self) -> None:
        while not self._stopping:
            try:
                request = self._requests.get(timeout=IDLE_S if self._client is not None else None)
            except Empty:
                self._close()
                continue
            if request is not None:
                self._answer(*request)
        self._close()

    def _answer(self, partition: Partition, offsets: tuple[int, ...]) -> None:
        events: list[Event] = []
        through = offsets[0] - 1
        try:
            through = self._read(partition, offsets, events)
        except KafkaException as exception:
            log.warning(
                "%s: %s/%d: what was parked cannot be read again yet: %s",
                self._name,
                *partition,
                error_of(exception).str(),
            )
            self._close()
        if not self._stopping:
            self._post(self._listener.on_read_again, partition, offsets, events, through)

    def _read(self, partition: Partition, offsets: tuple[int, ...], events: list[Event]) -> int:
        """Returns up to where `events` is complete."""
        client = self._client
        if client is None:
            own = reader_settings(self._settings, group=f"pelton-reread-{uuid.uuid4().hex[:12]}")
            client = self._client = Consumer({**own, **READ_SELDOM}, logger=log.getChild("client"))
        client.assign([TopicPartition(*partition, offsets[0])])
        wanted = deque(offsets)
        through, size_bytes, position = offsets[0] - 1, 0, offsets[0]
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        try:
            while wanted and size_bytes < BYTES_MAX and time.monotonic() < deadline and not self._stopping:
                for message in _take(client):
                    at = self._position(client, partition, message)
                    if at < position:
                        continue
                    if size_bytes >= BYTES_MAX:
                        break
                    position = at
                    while wanted and wanted[0] < at:
                        # The log goes on behind it without it.
                        through = wanted.popleft()
                    if message.error() is None and wanted and wanted[0] == at:
                        events.append(event_of(cast("Record", message), self._statistics))
                        size_bytes += events[-1].size_bytes
                        through = wanted.popleft()
                if wanted and wanted[0] - position > SKIP_OFFSETS_MAX:
                    with contextlib.suppress(KafkaException):  # then what lies between is read over
                        client.seek(TopicPartition(*partition, wanted[0]))
                        position = wanted[0]
        finally:
            client.unassign()
        return through

    def _position(self, client: Consumer, partition: Partition, message: Message) -> int:
        """The offset that `message` stands for: everything wanted below it that has not come is gone."""
        error = message.error()
        offset = message.offset()
        if error is None or error.code() == KafkaError._PARTITION_EOF:
            assert offset is not None
            return offset
        if not is_offset_lost(error):
            log.debug("%s: reading again: %s", self._name, error.str())
            return -1
        low, _ = end_of(client, partition)
        client.assign([TopicPartition(*partition, low)])
        return low

    def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()


def _take(client: Consumer) -> Sequence[Message]:
    first = client.poll(POLL_WAIT_S)
    return [] if first is None else [first, *client.consume(BATCH_RECORDS_MAX - 1, 0)]
