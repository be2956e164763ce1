"""Hops to records and back: the source's bytes at every hop, and what is believed of a record in a tier."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from pelton.core.actions import Hop
from pelton.core.delivery import Delivery, State
from pelton.core.outcome import Outcome, Status
from pelton.core.tiers import Arrival, arrivals
from pelton.event import Event, Moved, Partition, Position
from pelton.kafka.hops import REASON_BYTES_MAX, moved_here, record_of
from pelton.kafka.records import Outgoing, Record, RecordStatistics, event_of
from pelton.subscription import Tier
from tests.core.rig import Rig

STRUCTURED = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
TIER = Tier(60_000.0, "retry.s.1m")
NEXT = Tier(600_000.0, "retry.s.10m")
Headers = list[tuple[str, bytes | None]]


def event(
    value: bytes | None = b"v",
    headers: Headers | None = None,
    *,
    key: bytes | None = b"k",
    topic: str = "t",
    own: tuple[str, ...] = (),
    timestamp: tuple[int, int] = (1, 1234),
    offset: int = 0,
) -> Event:
    message = Message(
        topic=topic,
        partition=0,
        offset=offset,
        key=key,
        value=value,
        headers=cast(Any, headers),
        timestamp=timestamp,
    )
    return event_of(cast(Record, message), RecordStatistics(), own)


def hop_of(source: Event, message: str = "no", attempt: int = 3, tier: Tier | None = None) -> Hop:
    delivery = Delivery(source, Rig().engine, None, 0, State.PRODUCING)
    delivery.attempt = attempt
    return Hop(delivery, Outcome(Status.INVALID_ARGUMENT, message), tier)


def written(hop: Hop, first: float | None = 1_000.0, failed: float = 2_000.5) -> Outgoing:
    topic = "dlq.s" if hop.tier is None else hop.tier.topic
    return record_of(hop, topic, subscription="s", first_attempted_wall_ms=first, failed_wall_ms=failed)


def read_back(record: Outgoing, offset: int = 9) -> Event:
    """What the consumer makes of the record."""
    stamp = (1, record.timestamp_ms) if record.timestamp_ms is not None else (0, 0)
    headers = list(record.headers)
    read = event(
        record.value,
        headers,
        key=record.key,
        topic=record.topic,
        own=(record.topic,),
        timestamp=stamp,
        offset=offset,
    )
    return moved_here(read)


def test_a_dead_letter_keeps_the_records_own_bytes() -> None:
    value = b'{"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": {"a": 1}}'
    source = event(value, [*STRUCTURED, ("a", None), ("a", b""), ("pelton-status", b"OK")], key=b"")
    assert source.value != source.record_value
    out = written(hop_of(source))
    assert (out.topic, out.partition, out.key, out.value, out.timestamp_ms) == ("dlq.s", 0, b"", value, 1234)
    assert out.headers[:3] == (*STRUCTURED, ("a", None), ("a", b""))
    assert dict(out.headers[3:]) == {
        "pelton-origin-topic": b"t",
        "pelton-origin-partition": b"0",
        "pelton-origin-offset": b"0",
        "pelton-origin-timestamp": b"1234",
        "pelton-subscription": b"s",
        "pelton-delivery-id": b"s/t/0/0",
        "pelton-attempts": b"3",
        "pelton-first-failed-at": b"1970-01-01T00:00:01.000Z",
        "pelton-last-failed-at": b"1970-01-01T00:00:02.000Z",
        "pelton-status": b"INVALID_ARGUMENT",
        "pelton-reason": b"no",
    }


def test_a_move_says_when_it_is_due_and_never_too_early() -> None:
    headers = dict(written(hop_of(event(), tier=TIER), failed=2_000.001).headers)
    assert headers["pelton-due-at"] == b"1970-01-01T00:01:02.001Z"


def test_a_dead_letter_of_our_own_topic_says_its_own_origin_once() -> None:
    source = event(headers=[("pelton-status", b"OK")], own=("t",))
    names = [name for name, _ in written(hop_of(source)).headers]
    assert names.count("pelton-status") == 1


def test_a_dead_letter_without_attempt_or_timestamp() -> None:
    out = written(hop_of(event(None, timestamp=(0, 0)), attempt=0), None)
    assert out.timestamp_ms is None
    assert out.value is None
    headers = dict(out.headers)
    assert headers["pelton-first-failed-at"] == headers["pelton-last-failed-at"]
    assert headers["pelton-origin-timestamp"] == b"-1"


@given(st.text() | st.text("ü€😀\x1b\n", min_size=300, max_size=900))
def test_a_reason_is_one_short_line_of_text(message: str) -> None:
    reason = dict(written(hop_of(event(), message)).headers)["pelton-reason"]
    assert reason is not None
    text = reason.decode()
    assert len(reason) <= REASON_BYTES_MAX
    assert not any(ord(character) < 32 or ord(character) == 127 for character in text)


def test_a_reason_survives_lone_surrogates() -> None:
    out = written(hop_of(event(), "a\ud800b\x1b[31m\r\nc"))
    assert dict(out.headers)["pelton-reason"] == b"a?b [31m c"


bytes_or_none = st.none() | st.binary(max_size=20)
header_names = st.text(max_size=8).filter(lambda name: not name.lower().startswith("pelton-"))


@given(
    key=bytes_or_none,
    value=bytes_or_none,
    headers=st.lists(st.tuples(header_names, bytes_or_none), max_size=4),
    published_ms=st.integers(-1, 2**45),
    attempts=st.integers(1, 999_999),
    failed_ms=st.integers(10**12, 2 * 10**12),
    reason=st.text(max_size=30),
)
def test_an_event_goes_through_the_tiers_unchanged(
    key: bytes | None,
    value: bytes | None,
    headers: Headers,
    published_ms: int,
    attempts: int,
    failed_ms: int,
    reason: str,
) -> None:
    source = event(value, headers, key=key, timestamp=(0 if published_ms < 0 else 1, published_ms), offset=5)
    first_ms = failed_ms - 90_000
    first = written(hop_of(source, reason, attempts, TIER), float(first_ms), float(failed_ms))
    read = read_back(first)
    assert (read.topic, read.offset) == (TIER.topic, 9)
    assert read.moved is not None
    assert (read.moved.origin, read.moved.attempts) == (Position("t", 0, 5), attempts)
    assert (read.moved.first_attempted_ms, read.moved.due_ms) == (first_ms, failed_ms + 60_000)
    assert replace(read.at_origin(), moved=None) == source

    # And on, from there: the same record, but for what has happened since.
    arrival = arrivals([read], TIER, 0.0, float(failed_ms))[9]
    assert isinstance(arrival, Arrival)
    second = written(hop_of(arrival.event, "again", attempts + 1, NEXT), 0.0, failed_ms + 60_000.0)
    own = [header for header in second.headers if not header[0].startswith("pelton-")]
    assert own == list(source.record_headers)
    assert (second.key, second.value, second.timestamp_ms, second.partition) == (
        first.key,
        first.value,
        first.timestamp_ms,
        first.partition,
    )
    said, before = dict(second.headers), dict(first.headers)
    for name in ("origin-topic", "origin-offset", "origin-timestamp", "delivery-id", "first-failed-at"):
        assert said[f"pelton-{name}"] == before[f"pelton-{name}"]
    assert said["pelton-attempts"] == b"%d" % (attempts + 1)


def moved_headers(**changes: bytes | None) -> Headers:
    headers = dict(written(hop_of(event(), tier=TIER)).headers)
    for name, value in changes.items():
        full = f"pelton-{name.replace('_', '-')}"
        if value == b"<none>":
            del headers[full]
        else:
            headers[full] = value
    return [("mine", b"1"), *headers.items()]


def test_a_topic_that_stamps_records_itself_does_not_change_an_event() -> None:
    read = moved_here(event(headers=moved_headers(), own=("t",), timestamp=(2, 999_999)))
    assert read.published_ms == 1234
    assert isinstance(read.moved, Moved)


@pytest.mark.parametrize(
    "changes",
    [
        {"origin_topic": b"<none>"},
        {"origin_topic": None},
        {"origin_topic": b"\xff"},
        {"origin_topic": b"../x y"},
        {"origin_partition": b"one"},
        {"origin_partition": b"-1"},
        {"origin_offset": b"-1"},
        {"origin_offset": b"9" * 30},
        {"origin_offset": "\u0663".encode()},
        {"origin_timestamp": b"1e3"},
        {"attempts": b"00x"},
        {"attempts": b"-1"},
        {"attempts": b"99999999999"},
        {"status": b"FINE"},
        {"status": b"<none>"},
        {"reason": b"<none>"},
        {"first_failed_at": b"yesterday"},
        {"due_at": b"<none>"},
        {"due_at": b""},
        {"due_at": b"2026-01-01T00:00:00"},
    ],
)
def test_a_record_that_is_not_one_of_ours_gets_a_flaw_and_keeps_its_own(
    changes: dict[str, bytes | None],
) -> None:
    read = moved_here(event(headers=moved_headers(**changes), own=("t",)))
    assert read.moved is None
    assert read.flaw is not None
    assert read.flaw.startswith("not moved here by Pelton: ")
    assert read.record_headers == (("mine", b"1"),)
    assert (read.topic, read.offset, read.published_ms) == ("t", 0, 1234)


@given(
    st.dictionaries(
        st.sampled_from(["origin-topic", "origin-offset", "attempts", "due-at", "status"]), bytes_or_none
    )
)
def test_whatever_stands_in_the_headers_nothing_is_raised(forged: dict[str, bytes | None]) -> None:
    headers = dict(written(hop_of(event(), tier=TIER)).headers)
    headers |= {f"pelton-{name}": value for name, value in forged.items()}
    read = moved_here(event(headers=list(headers.items()), own=("t",)))
    assert (read.moved is None) == (read.flaw is not None)


def test_a_delivery_id_is_the_origins() -> None:
    engine = Rig(name="s", partition=Partition("retry.s.1m", 0)).engine
    arrived = read_back(written(hop_of(event(offset=5), tier=TIER))).at_origin()
    delivery = Delivery(arrived, engine, None, 0, State.QUEUED)
    assert delivery.delivery_id == "s/t/0/5"
