"""`pelton.Publisher`: publishing from Python, one result for each event.

It makes records of what it is given (`encoding.py`), waits for room, hands them to the one `Producer` and
gives each caller its own result. Events of a key stay in the order in which they were handed in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

from pelton.errors import PublishError
from pelton.event import Position
from pelton.kafka.encoding import HeadersArgument, NewEvent, outgoing_of
from pelton.kafka.producer import Produced, Producer
from pelton.kafka.records import Outgoing

__all__ = ["NewEvent", "Published", "Publisher"]

#: Not acknowledged yet. Beyond either bound `publish` waits: the caller is slowed down, not failed. Well
#: inside the client's own queue, so that waiting happens here, in order.
BUFFER_EVENTS_MAX: Final = 10_000
BUFFER_BYTES_MAX: Final = 16 << 20
#: `close` waits so long for acknowledgements: as long as the client itself tries, and a little.
CLOSE_TIMEOUT_MS: Final = 35_000.0


@dataclass(frozen=True, slots=True)
class Published:
    """An event that every in-sync replica has."""

    position: Position
    timestamp_ms: int


class _Waiting:
    """One event on its way: what it takes of the buffer, and who waits for it."""

    __slots__ = ("done", "size_bytes", "timestamp_ms")

    def __init__(self, outgoing: Outgoing, done: asyncio.Future[Published | PublishError]) -> None:
        self.done = done
        self.size_bytes = len(outgoing.key or b"") + len(outgoing.value or b"")
        self.timestamp_ms = outgoing.timestamp_ms or 0


class Publisher:
    """Publishes events: ``async with Publisher("localhost:9092", topic="events") as publisher``.

    A plain record is written unless a CloudEvents attribute (`type`, `id`, `subject`, `time`, `schema`,
    `attributes`) is given or the value is a protobuf message; then it is a CloudEvent in binary mode, from
    `source` (default ``/topics/<topic>``), with an id and the time made where they are not given.
    """

    def __init__(
        self,
        settings: str | Mapping[str, Any],
        *,
        topic: str | None = None,
        source: str | None = None,
        buffer_events_max: int = BUFFER_EVENTS_MAX,
        buffer_bytes_max: int = BUFFER_BYTES_MAX,
    ) -> None:
        """`settings` is the brokers' addresses, or a mapping of Kafka client settings that has them."""
        self._settings = {"bootstrap.servers": settings} if isinstance(settings, str) else dict(settings)
        self._topic = topic
        self._source = source
        self._events_max = buffer_events_max
        self._bytes_max = buffer_bytes_max
        self._events = 0
        self._bytes = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._producer: Producer[_Waiting] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def open(self) -> None:
        """Get ready; it connects by itself. Raises if the settings cannot be used."""
        producer: Producer[_Waiting] = Producer(self._settings, self._on_produced, asyncio.get_running_loop())
        producer.start()
        self._producer = producer

    async def close(self) -> None:
        """Wait for what was handed in, then end. Twice is safe."""
        self._closed = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self._producer is not None:
            await self._producer.close(CLOSE_TIMEOUT_MS)

    async def publish(
        self,
        topic: str | None,
        value: Any,
        *,
        key: bytes | str | None = None,
        headers: HeadersArgument = (),
        type: str | None = None,
        id: str | None = None,
        subject: str | None = None,
        time: datetime | str | None = None,
        schema: str | None = None,
        attributes: Mapping[str, str | int | bool] | None = None,
        content_type: str | None = None,
        partition: int | None = None,
    ) -> Published:
        """Publish one event and wait until it is safe; raises `PublishError` if it is not.

        Waits for room first. Cancelled before there is room, nothing is written; afterwards the event may
        be written all the same. Calls from one task, or from tasks in their order, keep that order.
        """
        event = NewEvent(
            topic=topic,
            value=value,
            key=key,
            headers=headers,
            type=type,
            id=id,
            subject=subject,
            time=time,
            schema=schema,
            attributes=attributes or {},
            content_type=content_type,
            partition=partition,
        )
        result = await (await self._hand_in(self._encode(event)))
        if isinstance(result, PublishError):
            raise result
        return result

    async def publish_many(self, events: Iterable[NewEvent]) -> list[Published | PublishError]:
        """Publish all of them, in this order: one result each, and a bad one fails only itself.

        Not a transaction: others may stand between them, and some may be written and others not.
        """
        pending: list[asyncio.Future[Published | PublishError] | PublishError] = []
        for event in events:
            try:
                pending.append(await self._hand_in(self._encode(event)))
            except PublishError as error:
                pending.append(error)
        return [one if isinstance(one, PublishError) else await one for one in pending]

    def _encode(self, event: NewEvent) -> Outgoing:
        return outgoing_of(event, topic=self._topic, source=self._source, now=datetime.now(UTC))

    async def _hand_in(self, outgoing: Outgoing) -> asyncio.Future[Published | PublishError]:
        """Give it to the producer as soon as there is room; its result comes in the future returned."""
        if self._producer is None:
            raise PublishError("the publisher is not open: use it with `async with`", retriable=True)
        done: asyncio.Future[Published | PublishError] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(outgoing, done)
        # Whoever comes while others wait goes behind them, even if there is room: order within a key.
        if self._waiters or not self._has_room(waiting.size_bytes):
            await self._wait_for_room(waiting.size_bytes)
        if self._closed:
            raise PublishError(f"not written to {outgoing.topic}: the publisher is closed", retriable=True)
        self._events += 1
        self._bytes += waiting.size_bytes
        self._producer.submit([(waiting, outgoing)])
        return done

    def _has_room(self, size_bytes: int) -> bool:
        # One event always fits: larger than the whole buffer, it is still the broker's to refuse.
        fits = self._bytes + size_bytes <= self._bytes_max and self._events < self._events_max
        return fits or self._events == 0

    async def _wait_for_room(self, size_bytes: int) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            # Only the first in the queue is woken; it leaves the queue when it has found room.
            while not self._closed and not (self._waiters[0] is waiter and self._has_room(size_bytes)):
                await waiter
                fresh: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiters[self._waiters.index(waiter)] = fresh
                waiter = fresh
        finally:
            self._waiters.remove(waiter)
            # The next one's turn, be it because there is room for it too or because this one gave up.
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        if self._waiters and not self._waiters[0].done():
            self._waiters[0].set_result(None)

    def _on_produced(self, results: list[Produced[_Waiting]]) -> None:
        for waiting, position, error in results:
            self._events -= 1
            self._bytes -= waiting.size_bytes
            if waiting.done.done():
                continue  # its caller was cancelled
            if error is not None:
                waiting.done.set_result(error)
            elif position is not None:
                waiting.done.set_result(Published(position, waiting.timestamp_ms))
        self._wake()
