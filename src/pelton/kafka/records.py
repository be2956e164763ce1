"""Kafka record to event.

What is here runs once for every record that is consumed: it is the hottest Python of the Kafka edge, and
calls each method of the client's record once. It never raises: what cannot be decoded becomes an event
with a flaw, and is dead-lettered with its own bytes. Nothing here talks to a broker.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from pelton.event import Attributes, Event, Headers
from pelton.kafka.cloudevents import (
    CONTENT_TYPE,
    STRUCTURED_PREFIX,
    NotACloudEvent,
    binary_attributes,
    structured_event,
)

__all__ = ["RESERVED_PREFIX", "Outgoing", "Record", "RecordStatistics", "event_of", "events_of"]

#: Reserved: we write these headers on our own topics, and trust them nowhere else.
RESERVED_PREFIX: Final = "pelton-"
#: The client's timestamp type for "this record has none".
_NO_TIMESTAMP: Final = 0


class Record(Protocol):
    """What is read of the client's message. One that reports an error is no record, and is not read on."""

    def error(self) -> object | None: ...
    def topic(self) -> str: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...
    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...
    def timestamp(self) -> tuple[int, int]: ...
    def headers(self) -> list[tuple[str, bytes | None]] | None: ...


@dataclass(slots=True)
class RecordStatistics:
    """Counted by the one thread that decodes; others may read."""

    #: Events whose time was not a time, and was left out.
    times_ignored: int = 0
    #: Events that cannot be delivered as what they claim to be.
    flawed: int = 0


@dataclass(slots=True)
class Outgoing:
    """A record to be written. None and empty differ in key, value and header values."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    #: Milliseconds since the epoch; None means the moment it is written.
    timestamp_ms: int | None = None
    #: None means by key (murmur2, as Java's clients do), or any where there is no key.
    partition: int | None = None


def events_of(
    messages: Iterable[Record], statistics: RecordStatistics, own_topics: Container[str]
) -> list[Event]:
    """The events that `messages` hold, in their order, without those that report an error."""
    events: list[Event] = []
    topic = ""
    for message in messages:
        if message.error() is not None:
            continue
        named = message.topic()
        if named != topic:
            # Each message has a text of its own: one for all is less to keep, and compared at a glance.
            topic = sys.intern(named)
        events.append(_event(message, topic, statistics, own_topics))
    return events


def event_of(record: Record, statistics: RecordStatistics, own_topics: Container[str] = ()) -> Event:
    """The event that `record` holds. Reserved headers survive from `own_topics` only."""
    return _event(record, record.topic(), statistics, own_topics)


def _event(record: Record, topic: str, statistics: RecordStatistics, own_topics: Container[str]) -> Event:
    kind, published_ms = record.timestamp()
    if kind == _NO_TIMESTAMP:
        published_ms = -1
    value = record.value()
    flaw: str | None = None
    try:
        headers = record.headers()
    except UnicodeDecodeError:
        headers = None
        flaw = "not deliverable: a header's name is not UTF-8"
        statistics.flawed += 1
    if not headers:
        partition, offset, key = record.partition(), record.offset(), record.key()
        return Event(topic, partition, offset, key, value, value, (), published_ms, None, flaw)
    if topic not in own_topics:
        headers = [header for header in headers if not header[0].lower().startswith(RESERVED_PREFIX)]
    kept = tuple(headers)
    attributes, data, flaw = _decode(kept, value, statistics)
    partition, offset, key = record.partition(), record.offset(), record.key()
    return Event(topic, partition, offset, key, data, value, kept, published_ms, attributes, flaw)


def _decode(
    headers: Headers, value: bytes | None, statistics: RecordStatistics
) -> tuple[Attributes | None, bytes | None, str | None]:
    """Attributes, data and flaw, by what the headers claim the record to be."""
    claims_binary = False
    content_type = b""
    for name, text in headers:
        if name == "ce_specversion":
            claims_binary = True
        elif text and len(name) == len(CONTENT_TYPE) and name.lower() == CONTENT_TYPE:
            content_type = text
    media_type = content_type.partition(b";")[0].strip().lower()
    data = value
    try:
        # A tombstone has nothing to decode, whatever its content type says.
        if value is not None and media_type.startswith(STRUCTURED_PREFIX):
            attributes, data, bad_time = structured_event(value, media_type)
        elif claims_binary:
            attributes, bad_time = binary_attributes(headers)
        else:
            return None, value, None
    except NotACloudEvent as error:
        statistics.flawed += 1
        return None, value, str(error)
    statistics.times_ignored += bad_time
    return attributes, data, None
