"""Reading what is remembered of followed keys, from the beginning and then as it comes, without a group.

A client and a thread of its own. A partition is read from its beginning whenever one of the places that share
its number comes: whoever owned it before may have written until a moment ago. Its end is asked for first, and
beyond what is committed: a transaction that is being ended is waited for, since what it passed may have been
seen already. A reading is complete when everything below that end has been told.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final, cast

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # not in __all__

from pelton.core.followed import Note
from pelton.kafka.faults import error_of
from pelton.kafka.notes import note_of
from pelton.kafka.settings import READ_SELDOM, admin_settings, reader_settings

__all__ = ["FollowReader", "OnNotes"]

log = logging.getLogger("pelton.kafka")

#: How long a request of the loop may wait for the poll that is running.
POLL_WAIT_S: Final = 0.02
BATCH_RECORDS_MAX: Final = 500
#: Batches that the loop has not handled yet; beyond them nothing is read.
BATCHES_UNHANDLED_MAX: Final = 4
ASK_TIMEOUT_S: Final = 10.0
#: A broker that does not answer is asked again so much later. The partitions concerned wait.
AGAIN_S: Final = 1.0
#: What was not committed must not be read, whatever the user has set.
_SETTINGS: Final = {"isolation.level": "read_committed", **READ_SELDOM}

#: The partition's number, notes in their order, and the ticket of the reading that is complete with them; 0
#: while none is.
OnNotes = Callable[[int, Sequence[Note], int], None]


@dataclass(slots=True)
class _Reading:
    ticket: int
    #: One past the last record that was there when it was asked for.
    until: int
    complete: bool = False


class FollowReader:
    """One subscription's reader. Its methods belong to the loop, where `on_notes` is called, too."""

    def __init__(
        self,
        name: str,
        topic: str,
        settings: Mapping[str, Any],
        loop: asyncio.AbstractEventLoop,
        on_notes: OnNotes,
    ) -> None:
        self._name = name
        self._topic = topic
        self._settings = settings
        self._loop = loop
        self._on_notes = on_notes
        #: A partition's number and the ticket of a reading; None to read it no more.
        self._requests: SimpleQueue[tuple[int, int | None]] = SimpleQueue()
        self._room = threading.Semaphore(BATCHES_UNHANDLED_MAX)
        self._stopping = False
        #: What has not been begun, since the broker has not answered.
        self._again: dict[int, int] = {}
        self._again_at = 0.0
        self._readings: dict[int, _Reading] = {}
        self._thread: threading.Thread | None = None

    def read(self, number: int, ticket: int) -> None:
        """From the beginning; tickets only rise."""
        self._requests.put((number, ticket))
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name=f"pelton-following-{self._name}", daemon=True
            )
            self._thread.start()

    def drop(self, number: int) -> None:
        """Nobody needs it any more."""
        self._requests.put((number, None))

    def stop(self) -> None:
        self._stopping = True

    # --- on the thread ---

    def _run(self) -> None:
        while not self._stopping:
            client: Consumer | None = None
            try:
                own = reader_settings(self._settings, group=f"pelton-follow-{uuid.uuid4().hex[:12]}")
                client = Consumer({**own, **_SETTINGS}, logger=log.getChild("client"))
                admin = AdminClient(admin_settings(self._settings), logger=log.getChild("client"))
                while not self._stopping:
                    self._turn(client, admin)
            except (KafkaException, TimeoutError) as error:
                self._start_over(error)
            finally:
                if client is not None:
                    client.close()

    def _turn(self, client: Consumer, admin: AdminClient) -> None:
        self._take_requests(client)
        if self._again and time.monotonic() >= self._again_at:
            self._begin(client, admin)
        if not self._room.acquire(timeout=POLL_WAIT_S):
            return
        told = self._take(client)
        if told:
            self._tell(told)
        else:
            self._room.release()

    def _start_over(self, error: KafkaException | TimeoutError) -> None:
        """All over again, with another client."""
        why = error_of(error).str() if isinstance(error, KafkaException) else "no answer"
        log.warning("%s: what is followed cannot be read yet: %s", self._name, why)
        self._again = {**{n: one.ticket for n, one in self._readings.items()}, **self._again}
        self._readings.clear()
        self._again_at = time.monotonic() + AGAIN_S

    def _take_requests(self, client: Consumer) -> None:
        while True:
            try:
                number, ticket = self._requests.get_nowait()
            except Empty:
                return
            if ticket is not None:
                self._again[number] = ticket
                continue
            self._again.pop(number, None)
            if self._readings.pop(number, None) is not None:
                client.incremental_unassign([TopicPartition(self._topic, number)])

    def _begin(self, client: Consumer, admin: AdminClient) -> None:
        latest = cast("OffsetSpec", OffsetSpec.latest())  # type: ignore[no-untyped-call]
        asked = {TopicPartition(self._topic, number): latest for number in self._again}
        futures = admin.list_offsets(
            asked, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=ASK_TIMEOUT_S
        )
        ends = {tp.partition: future.result(ASK_TIMEOUT_S).offset for tp, future in futures.items()}
        for number, until in ends.items():
            if number in self._readings:
                client.incremental_unassign([TopicPartition(self._topic, number)])
            self._readings[number] = _Reading(self._again.pop(number), until)
            client.incremental_assign([TopicPartition(self._topic, number, OFFSET_BEGINNING)])

    def _take(self, client: Consumer) -> dict[int, tuple[list[Note], int]]:
        first = client.poll(POLL_WAIT_S)
        messages = [] if first is None else [first, *client.consume(BATCH_RECORDS_MAX - 1, 0)]
        told: dict[int, tuple[list[Note], int]] = {}
        for message in messages:
            number = cast("int", message.partition())
            reading = self._readings.get(number)
            if reading is None:
                continue
            notes, reached = told.get(number, ([], 0))
            position = self._position(message, notes)
            if position >= reading.until and not reading.complete:
                reading.complete = True
                reached = reading.ticket
            if notes or reached:
                told[number] = (notes, reached)
        return told

    def _position(self, message: Message, notes: list[Note]) -> int:
        """Up to where everything has been told with this one."""
        error, offset = message.error(), cast("int", message.offset())
        if error is None:
            note = note_of(message.key(), message.value())
            if note is None:
                log.warning("%s: %s holds a record that is not ours", self._name, self._topic)
            else:
                notes.append(note)
            return offset + 1
        if error.code() == KafkaError._PARTITION_EOF:
            return offset
        raise KafkaException(error)

    def _tell(self, told: dict[int, tuple[list[Note], int]]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._hand_over, told)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            self._stopping = True

    def _hand_over(self, told: Mapping[int, tuple[Sequence[Note], int]]) -> None:
        try:
            for number, (notes, reached) in told.items():
                if not self._stopping:
                    self._on_notes(number, notes, reached)
        finally:
            self._room.release()
