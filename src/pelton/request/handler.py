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
from pelton.event import Event
from pelton.request.document import refuse
from pelton.subscription import DeliveryMode, Subscription, position_id
from pelton.varint import VARINTS

__all__ = ["FAILURE_CHARS_MAX", "HandlerRequestBuilder"]

#: Of the last failure's message: enough to say why, little enough to be sent with every attempt.
FAILURE_CHARS_MAX = 1024

#: Partitions, and texts such as an event's type, whose bytes are remembered; beyond it all are forgotten and
#: made again. A service meets fewer; the bound is against ids in places where kinds are expected.
REMEMBERED_MAX = 4096

#: Longer texts are not remembered, so that what is remembered stays below two MiB.
REMEMBERED_CHARS_MAX = 256


class HandlerRequestBuilder:
    """Of a `handler` or `stream` subscription. `wall_ms_of` turns the engine's monotonic milliseconds into
    milliseconds since the epoch."""

    def __init__(self, subscription: Subscription, wall_ms_of: Callable[[float], float]) -> None:
        self._wall_ms_of = wall_ms_of
        streaming = subscription.mode is DeliveryMode.STREAM
        # In a stream the batch says the name and the constants once.
        self._subscription = b"" if streaming else _text(2, subscription.name)
        constants = [p for p in subscription.parameters if p.constant is not None]
        self._constants = (
            b"" if streaming else b"".join(_entry(4, p.name, p.constant or "") for p in constants)
        )
        self._computed = tuple(p.name for p in subscription.parameters if p.constant is None)
        self._name = subscription.name
        self._partitions: dict[tuple[str, int], tuple[bytes, bytes, bytes, bytes]] = {}
        self._texts: dict[tuple[int, str], bytes] = {}
        # What the delivery before had, as it was coded: most of a batch share their milliseconds.
        self._published: tuple[int, bytes] = (-1, b"")
        self._attempt: tuple[tuple[int, int, float], bytes] = ((0, 0, 0.0), b"")

    def build(self, delivery: Delivery, parameters: Mapping[str, str]) -> bytes:
        event = delivery.event
        known = self._partitions.get((event.topic, event.partition))
        if known is None:
            known = self._remember_partition(event)
        number = b"%d" % event.offset
        id_prefix = known[0]
        try:
            body = self._event(event, known, number)
            parts = [
                b"\x0a",
                VARINTS[len(id_prefix) + len(number)],
                id_prefix,
                number,
                self._subscription,
                b"\x1a",
                VARINTS[len(body)],
                body,
            ]
            if self._constants:
                parts.append(self._constants)
            for computed in self._computed:
                # A computed parameter that is null for this event is not there.
                value = parameters.get(computed)
                if value is not None:
                    parts.append(_entry(4, computed, value))
        except UnicodeEncodeError:
            refuse(event, "the delivery has a text with half a surrogate pair")
        attempt = (delivery.attempt, delivery.engine.generation, delivery.first_attempted_ms)
        if attempt != self._attempt[0]:
            self._attempt = (attempt, self._coded_attempt(*attempt))
        parts.append(self._attempt[1])
        failure = delivery.last_failure
        if failure is not None:
            said = failure.message[:FAILURE_CHARS_MAX].encode("utf-8", "replace")
            code = b"\x08" + VARINTS[failure.status] if failure.status else b""
            parts.append(_bytes(8, code + (_bytes(2, said) if said else b"")))
        return b"".join(parts)

    def _coded_attempt(self, number: int, generation: int, first_attempted_ms: float) -> bytes:
        fence = b"\x30" + VARINTS[generation] if generation > 0 else b""
        if not number:
            return fence
        stamp = _stamp_ms(int(self._wall_ms_of(first_attempted_ms)))
        return b"\x28" + VARINTS[number] + fence + _bytes(7, stamp)

    def _event(self, event: Event, known: tuple[bytes, bytes, bytes, bytes], number: bytes) -> bytes:
        attributes = event.attributes
        _, id_prefix, plain, position_prefix = known
        offset = event.offset
        headers = event.headers
        if attributes is None:
            parts = [b"\x0a", VARINTS[len(id_prefix) + len(number)], id_prefix, number, plain]
            if headers and (content_type := event.content_type):
                parts.append(self._text(6, content_type))
        else:
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
        key, data = event.key, event.value
        if key is not None:
            parts += (b"\x42", VARINTS[len(key)], key)
        if data is not None:
            parts += (b"\x4a", VARINTS[len(data)], data)
        for name, content in headers:
            coded = self._text(1, name)
            if content is None:
                parts += (b"\x52", VARINTS[len(coded)], coded)
            else:
                length = VARINTS[len(content)]
                parts += (
                    b"\x52",
                    VARINTS[len(coded) + 1 + len(length) + len(content)],
                    coded,
                    b"\x12",
                    length,
                    content,
                )
        position = position_prefix + b"\x18" + VARINTS[offset] if offset else position_prefix
        parts += (b"\x5a", VARINTS[len(position)], position)
        published_ms = event.published_ms
        if published_ms >= 0:
            if published_ms != self._published[0]:
                self._published = (published_ms, _bytes(12, _stamp_ms(published_ms)))
            parts.append(self._published[1])
        return b"".join(parts)

    def _remember_partition(self, event: Event) -> tuple[bytes, bytes, bytes, bytes]:
        """What all events of a partition begin with: the delivery's id, the event's, a plain record, the
        position."""
        if len(self._partitions) >= REMEMBERED_MAX:
            self._partitions.clear()
        topic, partition = event.topic, event.partition
        known = (
            position_id(self._name, event.position).removesuffix(str(event.offset)).encode(),
            f"{topic}/{partition}/".encode(),
            _text(2, f"/topics/{topic}") + _text(3, "pelton.record"),
            _text(1, topic) + (b"\x10" + VARINTS[partition] if partition else b""),
        )
        self._partitions[topic, partition] = known
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
    return _LENGTH_TAGS[number] + VARINTS[len(content)] + content


def _text(number: int, text: str) -> bytes:
    """A string without presence: nothing when empty."""
    return _bytes(number, text.encode()) if text else b""


def _entry(number: int, key: str, value: str) -> bytes:
    return _bytes(number, _text(1, key) + _text(2, value))


#: The nanoseconds of each millisecond.
_MILLIS = [b""] + [b"\x10" + VARINTS[ms * 1_000_000] for ms in range(1, 1000)]


def _stamp_ms(ms: int) -> bytes:
    seconds, rest = divmod(ms, 1000)
    return b"\x08" + VARINTS[seconds] + _MILLIS[rest] if seconds else _MILLIS[rest]


def _stamp(seconds: int, nanos: int) -> bytes:
    coded = b"\x08" + VARINTS[seconds] if seconds else b""
    return coded + b"\x10" + VARINTS[nanos] if nanos else coded


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
