"""Hops: the records of our own topics, dead letters and retry tiers, written and read back.

A record keeps its source's key, value, headers, timestamp and partition number to the byte. What Pelton
knows of it stands in headers of its own, and those are believed on our own topics only: `records.py` strips
them from all others.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from pelton.core.actions import Hop
from pelton.core.outcome import Status
from pelton.event import Event, Moved, Position
from pelton.kafka.records import RESERVED_PREFIX, Outgoing
from pelton.subscription import position_id

__all__ = ["REASON_BYTES_MAX", "moved_here", "record_of"]

#: A reason is for people; a whole stack trace would make the record larger than the topic allows.
REASON_BYTES_MAX: Final = 1024
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_NUMBER = re.compile(r"-1|[0-9]{1,18}")
#: More attempts than any policy allows are not ours.
_ATTEMPTS_MAX: Final = 1_000_000


def record_of(
    hop: Hop,
    topic: str,
    *,
    subscription: str,
    first_attempted_wall_ms: float | None,
    failed_wall_ms: float,
) -> Outgoing:
    """The record for `topic`: the source's bytes and partition, and why it is there.

    `first_attempted_wall_ms` is None for an event that was never attempted; its one failure is then the
    first as well.
    """
    delivery, outcome = hop.delivery, hop.outcome
    event, moved = delivery.event, delivery.event.moved
    first_ms = failed_wall_ms if first_attempted_wall_ms is None else first_attempted_wall_ms
    if moved is not None and moved.attempts:
        # As it was written the first time: nothing is lost on the way through two clocks.
        first_ms = moved.first_attempted_ms
    about = [
        ("origin-topic", event.topic),
        ("origin-partition", str(event.partition)),
        ("origin-offset", str(event.offset)),
        ("origin-timestamp", str(event.published_ms)),
        ("subscription", subscription),
        ("delivery-id", position_id(subscription, event.position)),
        ("attempts", str(delivery.attempt)),
        ("first-failed-at", _rfc3339(first_ms)),
        ("last-failed-at", _rfc3339(failed_wall_ms)),
        ("status", outcome.status.name),
        ("reason", _reason(outcome.message)),
    ]
    if hop.tier is not None:
        # Rounded up: no reader may believe that it is due before its time.
        # One that only follows is due at once, behind whom it follows.
        delay_ms = 0.0 if hop.follows else hop.tier.delay_ms
        about.append(("due-at", _rfc3339(math.ceil(failed_wall_ms + delay_ms))))
    own = [header for header in event.record_headers if not header[0].lower().startswith(RESERVED_PREFIX)]
    return Outgoing(
        topic=topic,
        key=event.key,
        value=event.record_value,
        headers=(*own, *((RESERVED_PREFIX + name, text.encode()) for name, text in about)),
        timestamp_ms=event.published_ms if event.published_ms >= 0 else None,
        partition=event.partition,
    )


def moved_here(event: Event) -> Event:
    """The event that was read from a retry tier, with its source's headers and timestamp again.

    A record that was not moved there by us gets a flaw: it is set aside, never called.
    """
    headers = tuple(header for header in event.record_headers if not header[0].startswith(RESERVED_PREFIX))
    said = {name: value for name, value in event.record_headers if name.startswith(RESERVED_PREFIX)}
    try:
        topic = _text(said, "origin-topic")
        origin = Position(topic, _number(said, "origin-partition"), _number(said, "origin-offset"))
        published_ms = _number(said, "origin-timestamp", least=-1)
        status = _text(said, "status")
        attempts = _number(said, "attempts")
        if not _TOPIC.fullmatch(topic) or status not in Status.__members__ or attempts > _ATTEMPTS_MAX:
            raise ValueError("its topic, its status or its attempts are none of ours")
        moved = Moved(
            origin,
            attempts,
            _moment(said, "first-failed-at"),
            _moment(said, "due-at"),
            status,
            _text(said, "reason"),
        )
    except (ValueError, OverflowError) as error:
        return replace(event, record_headers=headers, flaw=f"not moved here by Pelton: {error}")
    return replace(event, record_headers=headers, published_ms=published_ms, moved=moved)


def _text(said: dict[str, bytes | None], name: str) -> str:
    value = said.get(RESERVED_PREFIX + name)
    if value is None:
        raise ValueError(f"{RESERVED_PREFIX}{name} is missing")
    return value.decode()


def _number(said: dict[str, bytes | None], name: str, least: int = 0) -> int:
    text = _text(said, name)
    if not _NUMBER.fullmatch(text) or int(text) < least:
        raise ValueError(f"{RESERVED_PREFIX}{name} is no number of its kind")
    return int(text)


def _moment(said: dict[str, bytes | None], name: str) -> int:
    moment = datetime.fromisoformat(_text(said, name))
    if moment.tzinfo is None:
        raise ValueError(f"{RESERVED_PREFIX}{name} is no time with its zone")
    return round(moment.timestamp() * 1000)


def _rfc3339(wall_ms: float) -> str:
    moment = datetime.fromtimestamp(wall_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _reason(message: str) -> str:
    """`message` for people: one line of valid UTF-8, without what moves a terminal's cursor or text."""
    # Cut before the search, so that a message of megabytes costs no more than one that fits.
    line = _CONTROL_CHARACTERS.sub(" ", message[: 2 * REASON_BYTES_MAX]).strip()
    return line.encode("utf-8", "replace")[:REASON_BYTES_MAX].decode("utf-8", "ignore")
