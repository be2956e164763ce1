"""What arrived: an event and where it stands in the log.

Nothing here decodes bytes (that is `pelton.kafka.records` on the bridge, `pelton.sdk` in a handler)
and nothing here decides. A plain record, one without CloudEvents attributes, is an event too: the
defaults below give it an id, a source and a type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple, TypeVar, dataclass_transform

__all__ = ["Attributes", "Event", "Headers", "Moved", "Partition", "Position"]

_T = TypeVar("_T")

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


# Frozen for the type checkers only: the check at run time costs more than all the rest of making an
# event, and one is made per record.
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def _value(cls: type[_T]) -> type[_T]:
    return dataclass(slots=True)(cls)


_NO_EXTENSIONS: Mapping[str, str] = {}


@_value
class Attributes:
    """The CloudEvents 1.0 context attributes that an event carried."""

    id: str
    source: str
    type: str
    subject: str = ""
    #: RFC 3339, as it came; None where it was absent or not a time.
    time: str | None = None
    content_type: str = ""
    #: CloudEvents' ``dataschema``.
    schema: str = ""
    #: Extension attributes in their canonical string form, `traceparent` among them.
    extensions: Mapping[str, str] = field(default_factory=dict)


@_value
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


@_value
class Event:
    """One event as it stands in the log.

    `value` is the event's data; `record_value` and `record_headers` are the record's own bytes, kept so
    that a dead letter is byte-identical. They are the same object unless the record was a structured
    CloudEvent. None (a tombstone) and empty differ everywhere.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    record_value: bytes | None
    #: All headers of the record but Pelton's own (``pelton-*``), in order, repeats kept.
    record_headers: Headers
    #: The record's timestamp in milliseconds since the epoch; -1 where it has none.
    published_ms: int
    #: None for a plain record.
    attributes: Attributes | None = None
    #: Why the record cannot be delivered (not decodable as what it claims to be); None when it can.
    flaw: str | None = None
    #: None for an event that was read where it was published.
    moved: Moved | None = None

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
