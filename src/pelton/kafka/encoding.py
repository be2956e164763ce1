"""What a publisher hands in, as a record: value to bytes, attributes to headers.

A CloudEvent is made exactly when one of its attributes is asked for, or when the value is a protobuf
message, whose name is its type. Everything else is a plain record, as any Kafka client would write it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from pelton.errors import PublishError
from pelton.event import Attributes, Headers
from pelton.kafka.cloudevents import CONTENT_TYPE, CORE_ATTRIBUTES, binary_headers
from pelton.kafka.records import Outgoing

__all__ = ["HeadersArgument", "NewEvent", "outgoing_of"]

HeadersArgument = Mapping[str, bytes | str | None] | Iterable[tuple[str, bytes | str | None]]

_RESERVED: Final = ("ce_", "pelton-")


@dataclass(slots=True, kw_only=True)
class NewEvent:
    """One event to be published."""

    #: None is a tombstone. bytes and text go as they are, a protobuf message serialised, all else as JSON.
    value: Any
    #: None means the publisher's own topic.
    topic: str | None = None
    key: bytes | str | None = None
    headers: HeadersArgument = ()
    #: CloudEvents attributes. With one of them set the record is a CloudEvent, and needs a type.
    type: str | None = None
    id: str | None = None
    subject: str | None = None
    time: datetime | str | None = None
    schema: str | None = None
    #: Extension attributes.
    attributes: Mapping[str, str | int | bool] = field(default_factory=dict)
    #: The value's media type, where it is not what the value itself says.
    content_type: str | None = None
    #: None means by key.
    partition: int | None = None


def outgoing_of(event: NewEvent, *, topic: str | None, source: str | None, now: datetime) -> Outgoing:
    """The record of `event`; raises `PublishError` for what cannot be one."""
    name = event.topic or topic
    if not name:
        raise PublishError("no topic: name one with the event or with the publisher")
    try:
        value, content_type, message_name = _value(event.value)
        content_type = event.content_type or content_type
        headers = _headers(event.headers)
        attributes = _attributes(event, message_name, content_type, source or f"/topics/{name}", now)
        if attributes is not None:
            headers = (*binary_headers(attributes), *headers)
        elif content_type:
            headers = ((CONTENT_TYPE, content_type.encode()), *headers)
        key = event.key.encode() if isinstance(event.key, str) else event.key
        if key is not None and not isinstance(key, bytes):
            raise TypeError(f"the key is bytes or text, not {type(key).__name__}")
    except (TypeError, ValueError, RecursionError) as error:
        raise PublishError(f"not written to {name}: {error}") from error
    return Outgoing(name, key, value, headers, int(now.timestamp() * 1000), event.partition)


def _value(value: Any) -> tuple[bytes | None, str, str]:
    """Bytes, media type, and the full name of a protobuf message."""
    if value is None:
        return None, "", ""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value), "", ""
    if isinstance(value, str):
        return value.encode(), "", ""
    # Asked by shape, so that publishing JSON needs no protobuf.
    descriptor = getattr(value, "DESCRIPTOR", None)
    if descriptor is not None and hasattr(value, "SerializeToString"):
        try:
            return value.SerializeToString(), "application/protobuf", str(descriptor.full_name)
        except Exception as error:  # protobuf's own EncodeError: a required field of proto2 is missing
            raise ValueError(str(error)) from error
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode(), "application/json", ""


def _headers(headers: HeadersArgument) -> Headers:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    found = []
    for name, value in pairs:
        if not isinstance(name, str):
            raise TypeError(f"a header's name is text, not {type(name).__name__}")
        if name.lower().startswith(_RESERVED):
            raise ValueError(f"the header {name} is reserved; attributes have arguments of their own")
        if value is not None and not isinstance(value, (bytes, str)):
            raise TypeError(f"the header {name} is bytes, text or None, not {type(value).__name__}")
        found.append((name, value.encode() if isinstance(value, str) else value))
    return tuple(found)


def _attributes(
    event: NewEvent, message_name: str, content_type: str, source: str, now: datetime
) -> Attributes | None:
    asked = (event.type, event.id, event.subject, event.time, event.schema)
    if not message_name and not event.attributes and all(attribute is None for attribute in asked):
        return None
    kind = event.type or message_name
    if not kind:
        raise ValueError("a CloudEvent needs a type: give one, or no CloudEvents attribute at all")
    return Attributes(
        id=event.id or str(uuid.uuid4()),
        source=source,
        type=kind,
        subject=event.subject or "",
        time=_time(event.time if event.time is not None else now),
        content_type=content_type,
        schema=event.schema or "",
        extensions={name: _extension(name, value) for name, value in event.attributes.items()},
    )


def _time(moment: datetime | str) -> str:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if moment.tzinfo is None:
        raise ValueError("the time has no time zone")
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _extension(name: str, value: str | int | bool) -> str:
    if not (name.isascii() and name.isalnum() and name == name.lower()):
        raise ValueError(f"the attribute {name!r} has other characters than a-z and 0-9")
    if name in CORE_ATTRIBUTES or name == "data":
        raise ValueError(f"the attribute {name} has an argument of its own")
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (str, int)):
        raise TypeError(f"the attribute {name} is text, an integer or a boolean, not {type(value).__name__}")
    return str(value)
