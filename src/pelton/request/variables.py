"""Everything an expression may name: one table, with the type and the meaning of each.

Plain paths and CEL read through the same rows, so that both mean the same. How an expression is compiled is
`expression.py`; nothing here knows CEL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from pelton.core.delivery import Delivery
from pelton.event import Event
from pelton.request.document import document_of, refuse, text_of

__all__ = ["ROOTS", "VARIABLES", "Kind", "Reader", "Variable", "header_of"]

#: Reads one value. In a filter there is no delivery yet; compilation refuses what would touch it.
Reader = Callable[[Event, Delivery, Mapping[str, str]], Any]


class Kind(Enum):
    """What an expression gives, as far as it is known before any event; null may stand in for each."""

    #: Always null.
    NULL = "null"
    BOOL = "bool"
    #: Signed, 64 bits.
    INT = "int"
    #: Unsigned, 64 bits.
    UINT = "uint"
    DOUBLE = "double"
    STRING = "string"
    BYTES = "bytes"
    TIMESTAMP = "timestamp"
    DURATION = "duration"
    LIST = "list"
    MAP = "map"
    #: Known only when the event is.
    DYN = "dyn"


@dataclass(frozen=True, slots=True)
class Variable:
    """One row: a name, what it gives, and how to read it."""

    name: str
    kind: Kind
    #: What it means, for the documentation and for error messages.
    meaning: str
    read: Reader
    #: May be null.
    nullable: bool = False
    #: Fields below it: of a document, or the entries of a map of strings.
    open: bool = False


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _key_text(event: Event, delivery: Delivery, parameters: Mapping[str, str]) -> str | None:
    key = event.key
    if key is None:
        return None
    try:
        return key.decode()
    except UnicodeDecodeError as error:
        refuse(event, f"event.key_text: the key is not UTF-8 (byte {error.start})")


def _time(event: Event, delivery: Delivery, parameters: Mapping[str, str]) -> datetime | None:
    try:
        time = event.time
        if time is None:
            return None
        # As UTC, so that whatever is done with it stays within the years that there are.
        return time.astimezone(UTC) if time.tzinfo is not None else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        refuse(event, "event.time: not an RFC 3339 time")


def _published(event: Event, delivery: Delivery, parameters: Mapping[str, str]) -> datetime | None:
    if event.published_ms < 0:
        return None
    try:
        return _EPOCH + timedelta(milliseconds=event.published_ms)
    except OverflowError:
        refuse(event, "event.published: beyond the year 9999")


def _headers(event: Event, delivery: Delivery, parameters: Mapping[str, str]) -> dict[str, str | None]:
    headers: dict[str, str | None] = {}
    for name, value in event.headers:
        try:
            headers[name] = value.decode() if value is not None else None
        except UnicodeDecodeError:
            # Other headers are readable all the same. Touching this one is an error: it is not there.
            headers.pop(name, None)
    return headers


def header_of(event: Event, name: str) -> str | None:
    """The last header of this name, as text."""
    for found in reversed(event.headers):
        if found[0] == name:
            break
    else:
        refuse(event, f"event.headers.{name}: no such header")
    value = found[1]
    try:
        return value.decode() if value is not None else None
    except UnicodeDecodeError:
        refuse(event, f"event.headers.{name}: the header is not UTF-8")


def _row(
    name: str, kind: Kind, meaning: str, read: Reader, *, nullable: bool = False, open: bool = False
) -> tuple[str, Variable]:
    return name, Variable(name, kind, meaning, read, nullable, open)


VARIABLES: Mapping[str, Variable] = dict(
    (
        _row("event.id", Kind.STRING, "CloudEvents id, or topic/partition/offset", lambda e, d, p: e.id),
        _row("event.source", Kind.STRING, "CloudEvents source, or /topics/<topic>", lambda e, d, p: e.source),
        _row("event.type", Kind.STRING, "CloudEvents type, or pelton.record", lambda e, d, p: e.type),
        _row("event.subject", Kind.STRING, "CloudEvents subject, or empty", lambda e, d, p: e.subject),
        _row("event.time", Kind.TIMESTAMP, "CloudEvents time, to the microsecond", _time, nullable=True),
        _row("event.content_type", Kind.STRING, "media type of the value", lambda e, d, p: e.content_type),
        _row("event.schema", Kind.STRING, "CloudEvents dataschema, or empty", lambda e, d, p: e.schema),
        _row("event.key", Kind.BYTES, "the record's key", lambda e, d, p: e.key, nullable=True),
        _row("event.key_text", Kind.STRING, "the key as UTF-8 text", _key_text, nullable=True),
        _row(
            "event.value", Kind.BYTES, "the data; null is a tombstone", lambda e, d, p: e.value, nullable=True
        ),
        _row("event.text", Kind.STRING, "the data as UTF-8 text", lambda e, d, p: text_of(e), nullable=True),
        _row(
            "event.json",
            Kind.DYN,
            "the data as JSON",
            lambda e, d, p: document_of(e),
            nullable=True,
            open=True,
        ),
        _row(
            "event.headers",
            Kind.MAP,
            "header name to UTF-8 text; the last one of a name",
            _headers,
            open=True,
        ),
        _row(
            "event.attributes",
            Kind.MAP,
            "CloudEvents extension attributes",
            lambda e, d, p: dict(e.extensions),
            open=True,
        ),
        _row("event.topic", Kind.STRING, "the topic it was read from", lambda e, d, p: e.topic),
        _row("event.partition", Kind.INT, "its partition", lambda e, d, p: e.partition),
        _row("event.offset", Kind.INT, "its offset", lambda e, d, p: e.offset),
        _row("event.published", Kind.TIMESTAMP, "the record's timestamp", _published, nullable=True),
        _row("delivery.id", Kind.STRING, "stable over all attempts", lambda e, d, p: d.delivery_id),
        _row(
            "delivery.subscription",
            Kind.STRING,
            "the subscription's name",
            lambda e, d, p: d.engine.id_prefix.partition("/")[0],
        ),
        _row("delivery.attempt", Kind.INT, "this attempt, counted from 1", lambda e, d, p: d.attempt),
        _row("delivery.fence", Kind.INT, "the group's generation", lambda e, d, p: d.engine.generation),
        # The names are the subscription's own; a computed parameter may be null for one event.
        _row("params", Kind.MAP, "the subscription's parameters", lambda e, d, p: p, open=True),
    )
)

#: What the names begin with.
ROOTS = ("event", "delivery", "params")
