"""The `pelton.v1.Delivery` of each attempt, for `handler` and `stream`, as bytes.

Written field by field, since most of a delivery is the same for a whole partition: composing costs less than
filling a message. The tests hold every byte against protobuf's own reading. In stream mode the
transport adds the token, which only it knows, by appending field 10: concatenation is merging.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from pelton.core.delivery import Delivery
from pelton.event import Attributes, Event, Headers
from pelton.request.document import refuse
from pelton.subscription import DeliveryMode, Subscription, id_prefix
from pelton.varint import LAST, MORE, varint

__all__ = ["FAILURE_CHARS_MAX", "HandlerRequestBuilder"]

#: Of the last failure's message: enough to say why, little enough to be sent with every attempt.
FAILURE_CHARS_MAX = 1024

#: Partitions, and texts such as an event's type, whose bytes are remembered; beyond it all are forgotten and
#: made again. A service meets fewer; the bound is against ids in places where kinds are expected.
REMEMBERED_MAX = 4096

#: Longer texts are not remembered, so that what is remembered stays below two MiB.
REMEMBERED_CHARS_MAX = 256


class _Beginnings:
    """What all deliveries of a partition have in common, coded; made once, and anew what offsets change when
    they grow by a digit, or by more than the first seven bits of a varint hold."""

    __slots__ = (
        "delivery_id",
        "digits",
        "event_id",
        "offset_first",
        "offset_rest",
        "partition",
        "plain",
        "plain_bytes",
        "position",
        "position_bytes",
        "published",
        "published_ms",
        "topic",
        "upper",
    )

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        #: A record without CloudEvents attributes has these behind its id; and how long they are with it.
        self.plain = _text(2, f"/topics/{topic}") + _text(3, "pelton.record")
        self.plain_bytes = 0
        #: Of the offsets that the ids are for: how long they are in decimal.
        self.digits = -1
        self.delivery_id = self.event_id = b""
        #: And those that the position is for: what is beyond their first seven bits; -1 of the offset 0,
        #: which is the default and is not there.
        self.upper = -2
        self.position = b""
        self.position_bytes = 0
        #: The position's end: by its first seven bits what the offset begins with, and the rest of it.
        self.offset_first = LAST
        self.offset_rest = b""
        #: What the event before had: many are of one millisecond.
        self.published_ms = -1
        self.published = b""

    def fit_digits(self, subscription: str, digits: int) -> None:
        self.digits = digits
        delivery_id = id_prefix(subscription, self.topic, self.partition).encode()
        event_id = f"{self.topic}/{self.partition}/".encode()
        self.delivery_id = b"\x0a" + varint(len(delivery_id) + digits) + delivery_id
        self.event_id = b"\x0a" + varint(len(event_id) + digits) + event_id
        self.plain_bytes = len(self.event_id) + digits + len(self.plain)

    def fit_upper(self, upper: int) -> None:
        self.upper = upper
        self.offset_first = MORE if upper > 0 else LAST if upper == 0 else _NOTHING
        self.offset_rest = varint(upper) if upper > 0 else b""
        offset_bytes = 0 if upper < 0 else 1 + len(self.offset_rest)
        position = _text(1, self.topic) + (b"\x10" + varint(self.partition) if self.partition else b"")
        if offset_bytes:
            position += b"\x18"
        self.position = b"\x5a" + varint(len(position) + offset_bytes) + position
        self.position_bytes = len(self.position) + offset_bytes


#: Instead of the first seven bits where there are none.
_NOTHING = [b""]


class HandlerRequestBuilder:
    """Of a `handler` or `stream` subscription. `wall_ms_of` turns the engine's monotonic milliseconds into
    milliseconds since the epoch."""

    def __init__(self, subscription: Subscription, wall_ms_of: Callable[[float], float]) -> None:
        self._wall_ms_of = wall_ms_of
        streaming = subscription.mode is DeliveryMode.STREAM
        # In a stream the batch says the name and the constants once.
        self._before_event = (b"" if streaming else _text(2, subscription.name)) + b"\x1a"
        constants = [p for p in subscription.parameters if p.constant is not None]
        self._constants = (
            b"" if streaming else b"".join(_entry(4, p.name, p.constant or "") for p in constants)
        )
        self._computed = tuple(p.name for p in subscription.parameters if p.constant is None)
        self._name = subscription.name
        self._partitions: dict[tuple[str, int], _Beginnings] = {}
        self._texts: dict[tuple[int, str], bytes] = {}
        # What the delivery before had, as it was coded: most of a batch share their partition, and when and
        # how often they were tried.
        self._beginnings = _Beginnings("", -1)
        self._attempt = 0
        self._generation = 0
        self._first_attempted_ms = 0.0
        self._attempted = b""

    def build(self, delivery: Delivery, parameters: Mapping[str, str]) -> bytes:
        event = delivery.event
        known = self._beginnings
        if event.partition != known.partition or event.topic != known.topic:
            known = self._beginnings = self._beginnings_of(event)
        offset = event.offset
        number = b"%d" % offset
        if len(number) != known.digits:
            known.fit_digits(self._name, len(number))
        upper = offset >> 7 if offset else -1
        if upper != known.upper:
            known.fit_upper(upper)
        # What the event's length is stands before it, and is known behind it.
        parts = [known.delivery_id, number, self._before_event, b""]
        try:
            parts[3] = varint(self._event(event, known, number, parts))
            parts.append(self._constants)
            for computed in self._computed:
                # A computed parameter that is null for this event is not there.
                value = parameters.get(computed)
                if value is not None:
                    parts.append(_entry(4, computed, value))
        except UnicodeEncodeError:
            refuse(event, "the delivery has a text with half a surrogate pair")
        generation = delivery.engine.generation
        if (
            delivery.attempt != self._attempt
            or generation != self._generation
            or delivery.first_attempted_ms != self._first_attempted_ms
        ):
            self._attempt, self._generation = delivery.attempt, generation
            self._first_attempted_ms = delivery.first_attempted_ms
            self._attempted = self._coded_attempt(delivery.attempt, generation, delivery.first_attempted_ms)
        parts.append(self._attempted)
        failure = delivery.last_failure
        if failure is not None:
            said = failure.message[:FAILURE_CHARS_MAX].encode("utf-8", "replace")
            code = b"\x08" + varint(failure.status) if failure.status else b""
            parts.append(_bytes(8, code + (_bytes(2, said) if said else b"")))
        return b"".join(parts)

    def _coded_attempt(self, number: int, generation: int, first_attempted_ms: float) -> bytes:
        fence = b"\x30" + varint(generation) if generation > 0 else b""
        if not number:
            return fence
        stamp = _stamp_ms(int(self._wall_ms_of(first_attempted_ms)))
        return b"\x28" + varint(number) + fence + _bytes(7, stamp)

    def _event(self, event: Event, known: _Beginnings, number: bytes, parts: list[bytes]) -> int:
        """Append the event, and say how long it is: to join it by itself costs more than to count."""
        attributes = event.attributes
        headers = event.headers
        size_bytes = known.position_bytes
        if attributes is None:
            parts += [known.event_id, number, known.plain]
            size_bytes += known.plain_bytes
            if headers and (content_type := event.content_type):
                coded = self._text(6, content_type)
                parts.append(coded)
                size_bytes += len(coded)
        else:
            coded = self._attributes(attributes, event)
            parts.append(coded)
            size_bytes += len(coded)
        key, data = event.key, event.value
        if key is not None:
            length = varint(len(key))
            parts += [b"\x42", length, key]
            size_bytes += 1 + len(length) + len(key)
        if data is not None:
            length = varint(len(data))
            parts += [b"\x4a", length, data]
            size_bytes += 1 + len(length) + len(data)
        if headers:
            coded = self._headers(headers)
            parts.append(coded)
            size_bytes += len(coded)
        parts += [known.position, known.offset_first[event.offset & 0x7F], known.offset_rest]
        published_ms = event.published_ms
        if published_ms >= 0:
            if published_ms != known.published_ms:
                known.published_ms = published_ms
                known.published = _bytes(12, _stamp_ms(published_ms))
            parts.append(known.published)
            size_bytes += len(known.published)
        return size_bytes

    def _attributes(self, attributes: Attributes, event: Event) -> bytes:
        text = self._text
        parts = [_text(1, attributes.id), text(2, attributes.source), text(3, attributes.type)]
        if attributes.subject:
            parts.append(_text(4, attributes.subject))
        if attributes.time:
            parts.append(_bytes(5, _stamp_rfc3339(attributes.time, event)))
        if attributes.content_type:
            parts.append(text(6, attributes.content_type))
        if attributes.schema:
            parts.append(text(7, attributes.schema))
        for name, value in attributes.extensions.items():
            parts.append(_entry(13, name, value))
        return b"".join(parts)

    def _headers(self, headers: Headers) -> bytes:
        parts: list[bytes] = []
        for name, content in headers:
            coded = self._text(1, name)
            if content is None:
                parts += [b"\x52", varint(len(coded)), coded]
            else:
                length = varint(len(content))
                size_bytes = len(coded) + 1 + len(length) + len(content)
                parts += [b"\x52", varint(size_bytes), coded, b"\x12", length, content]
        return b"".join(parts)

    def _beginnings_of(self, event: Event) -> _Beginnings:
        key = (event.topic, event.partition)
        known = self._partitions.get(key)
        if known is None:
            if len(self._partitions) >= REMEMBERED_MAX:
                self._partitions.clear()
            known = self._partitions[key] = _Beginnings(event.topic, event.partition)
        return known

    def _text(self, number: int, text: str) -> bytes:
        """`_text`, remembered: an event's kind and source are those of many others."""
        coded = self._texts.get((number, text))
        if coded is None:
            coded = _text(number, text)
            if len(text) <= REMEMBERED_CHARS_MAX:
                if len(self._texts) >= REMEMBERED_MAX:
                    self._texts.clear()
                self._texts[number, text] = coded
        return coded


# The wire format, as much of it as a delivery needs. Field numbers below 16 have a tag of one byte.


_LENGTH_TAGS = [bytes([number << 3 | 2]) for number in range(16)]


def _bytes(number: int, content: bytes) -> bytes:
    return _LENGTH_TAGS[number] + varint(len(content)) + content


def _text(number: int, text: str) -> bytes:
    """A string without presence: nothing when empty."""
    return _bytes(number, text.encode()) if text else b""


def _entry(number: int, key: str, value: str) -> bytes:
    return _bytes(number, _text(1, key) + _text(2, value))


#: The nanoseconds of each millisecond.
_MILLIS = [b""] + [b"\x10" + varint(ms * 1_000_000) for ms in range(1, 1000)]


def _stamp_ms(ms: int) -> bytes:
    seconds, rest = divmod(ms, 1000)
    return b"\x08" + varint(seconds) + _MILLIS[rest] if seconds else _MILLIS[rest]


def _stamp(seconds: int, nanos: int) -> bytes:
    coded = b"\x08" + varint(seconds) if seconds else b""
    return coded + b"\x10" + varint(nanos) if nanos else coded


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FRACTION = re.compile(r"\.(\d{1,9})")


def _stamp_rfc3339(text: str, event: Event) -> bytes:
    """To the nanosecond, which a datetime does not hold."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        refuse(event, "the event's time is not an RFC 3339 time")
    since = (time if time.tzinfo is not None else time.replace(tzinfo=UTC)) - _EPOCH
    fraction = _FRACTION.search(text)
    nanos = int(fraction[1].ljust(9, "0")) if fraction is not None else 0
    return _stamp(since.days * 86_400 + since.seconds, nanos)
