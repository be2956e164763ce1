"""What arrived: an event and where it stands in the log.

Nothing here decodes bytes (that is `pelton.kafka.records` on the bridge, `pelton.sdk` in a handler)
and nothing here decides. A plain record, one without CloudEvents attributes, is an event too: the
defaults below give it an id, a source and a type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, NamedTuple

__all__ = ["Attributes", "Event", "Headers", "Moved", "Partition", "Position"]

#: Record headers in their order; a name may repeat, and a header may have no value at all.
Headers = tuple[tuple[str, bytes | None], ...]


class Partition(NamedTuple):
    """A topic's partition: the unit of ownership. Partition 0 is a partition like any other."""

    topic: str
    partition: int


class Position(NamedTuple):
    """An event's identity in Kafka. Offset 0 is an offset like any other."""

    topic: str
    partition: int
    offset: int


_NO_EXTENSIONS: Mapping[str, str] = {}


# `Final` holds for the type checkers only: a frozen class asks at run time, which costs more than all the
# rest. `__init__` stands here, since one that is generated stays interpreted where the rest is compiled. One
# is made per record.
@dataclass(init=False, slots=True)
class Attributes:
    """The CloudEvents 1.0 context attributes that an event carried."""

    id: Final[str]
    source: Final[str]
    type: Final[str]
    subject: Final[str]
    #: RFC 3339, as it came; None where it was absent or not a time.
    time: Final[str | None]
    content_type: Final[str]
    #: CloudEvents' ``dataschema``.
    schema: Final[str]
    #: Extension attributes in their canonical string form, `traceparent` among them.
    extensions: Final[Mapping[str, str]]

    def __init__(
        self,
        id: str,
        source: str,
        type: str,
        subject: str = "",
        time: str | None = None,
        content_type: str = "",
        schema: str = "",
        extensions: Mapping[str, str] = _NO_EXTENSIONS,
    ) -> None:
        self.id = id
        self.source = source
        self.type = type
        self.subject = subject
        self.time = time
        self.content_type = content_type
        self.schema = schema
        self.extensions = extensions


@dataclass(frozen=True, slots=True)
class Moved:
    """What is known of an event that was read from a retry tier: what was written when it was moved there."""

    #: Where it was published.
    origin: Position
    #: Attempts made so far.
    attempts: int
    #: By the wall clock, in milliseconds since the epoch; `due_ms` is when it may be called again.
    first_attempted_ms: int
    due_ms: int
    #: How the last attempt ended: the name of its status, and what the target said.
    status: str
    reason: str


@dataclass(init=False, slots=True)
class Event:
    """One event as it stands in the log.

    `value` is the event's data; `record_value` and `record_headers` are the record's own bytes, kept so
    that a dead letter is byte-identical. They are the same object unless the record was a structured
    CloudEvent. None (a tombstone) and empty differ everywhere.
    """

    topic: Final[str]
    partition: Final[int]
    offset: Final[int]
    key: Final[bytes | None]
    value: Final[bytes | None]
    record_value: Final[bytes | None]
    #: All headers of the record but Pelton's own (``pelton-*``), in order, repeats kept.
    record_headers: Final[Headers]
    #: The record's timestamp in milliseconds since the epoch; -1 where it has none.
    published_ms: Final[int]
    #: None for a plain record.
    attributes: Final[Attributes | None]
    #: Why the record cannot be delivered (not decodable as what it claims to be); None when it can.
    flaw: Final[str | None]
    #: None for an event that was read where it was published.
    moved: Final[Moved | None]

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        key: bytes | None,
        value: bytes | None,
        record_value: bytes | None,
        record_headers: Headers,
        published_ms: int,
        attributes: Attributes | None = None,
        flaw: str | None = None,
        moved: Moved | None = None,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.key = key
        self.value = value
        self.record_value = record_value
        self.record_headers = record_headers
        self.published_ms = published_ms
        self.attributes = attributes
        self.flaw = flaw
        self.moved = moved

    @property
    def position(self) -> Position:
        return Position(self.topic, self.partition, self.offset)

    def at_origin(self) -> Event:
        """The event as it stood where it was published."""
        if self.moved is None:
            return self
        topic, partition, offset = self.moved.origin
        return replace(self, topic=topic, partition=partition, offset=offset)

    @property
    def id(self) -> str:
        a = self.attributes
        return a.id if a is not None else f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def source(self) -> str:
        a = self.attributes
        return a.source if a is not None else f"/topics/{self.topic}"

    @property
    def type(self) -> str:
        a = self.attributes
        return a.type if a is not None else "pelton.record"

    @property
    def subject(self) -> str:
        a = self.attributes
        return a.subject if a is not None else ""

    @property
    def time(self) -> datetime | None:
        a = self.attributes
        return datetime.fromisoformat(a.time) if a is not None and a.time else None

    @property
    def content_type(self) -> str:
        """The data's media type: the CloudEvents attribute, else the record's `content-type` header."""
        a = self.attributes
        if a is not None:
            return a.content_type
        for name, value in self.record_headers:
            if name.lower() == "content-type" and value is not None:
                return value.decode("utf-8", "replace")
        return ""

    @property
    def schema(self) -> str:
        a = self.attributes
        return a.schema if a is not None else ""

    @property
    def extensions(self) -> Mapping[str, str]:
        a = self.attributes
        return a.extensions if a is not None else _NO_EXTENSIONS

    @property
    def headers(self) -> Headers:
        """The record's headers that are not CloudEvents attributes, in order, repeats kept."""
        if self.attributes is None:
            return self.record_headers
        return tuple(
            header
            for header in self.record_headers
            if not header[0].startswith("ce_") and header[0].lower() != "content-type"
        )

    @property
    def size_bytes(self) -> int:
        """What the event weighs against the limits: its key and its value."""
        return (len(self.key) if self.key else 0) + (len(self.record_value) if self.record_value else 0)
