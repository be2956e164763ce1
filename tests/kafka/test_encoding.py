"""What a publisher hands in, as a record."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from pelton.errors import PublishError
from pelton.kafka.encoding import NewEvent, outgoing_of
from pelton.kafka.records import Outgoing
from pelton.v1 import event_pb2

NOW = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)


def record(value: Any = b"v", **rest: Any) -> Outgoing:
    return outgoing_of(NewEvent(value=value, **rest), topic="t", source=None, now=NOW)


@pytest.mark.parametrize(
    ("value", "expected", "headers"),
    [
        (b"\x00", b"\x00", ()),
        (bytearray(b"x"), b"x", ()),
        (b"", b"", ()),
        ("ü", "ü".encode(), ()),
        (None, None, ()),
        ({"a": "ü"}, '{"a":"ü"}'.encode(), (("content-type", b"application/json"),)),
        ([], b"[]", (("content-type", b"application/json"),)),
        (0, b"0", (("content-type", b"application/json"),)),
        (False, b"false", (("content-type", b"application/json"),)),
    ],
)
def test_plain_records(value: Any, expected: bytes | None, headers: Any) -> None:
    got = record(value)
    assert (got.topic, got.value, got.headers, got.partition) == ("t", expected, headers, None)
    assert got.timestamp_ms == 1577934245000


def test_key_headers_and_partition() -> None:
    got = record(key="k", headers={"a": "1", "b": None}, partition=0, topic="other")
    assert got == Outgoing("other", b"k", b"v", (("a", b"1"), ("b", None)), 1577934245000, 0)
    assert record(key=b"").key == b""
    assert record(headers=[("a", b"1"), ("a", b"2")]).headers == (("a", b"1"), ("a", b"2"))
    assert record(content_type="text/plain").headers == (("content-type", b"text/plain"),)


def test_an_attribute_makes_it_a_cloudevent() -> None:
    local = datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    extensions = {"n": 1, "b": True}
    got = record(
        {"a": 1}, type="order", id="7", subject="s", time=local, schema="urn:x", attributes=extensions
    )
    assert dict(got.headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"7",
        "ce_source": b"/topics/t",
        "ce_type": b"order",
        "ce_subject": b"s",
        "ce_time": b"2019-12-31T23:00:00Z",
        "ce_dataschema": b"urn:x",
        "ce_n": b"1",
        "ce_b": b"true",
        "content-type": b"application/json",
    }


def test_id_and_time_are_made() -> None:
    first, second = dict(record(type="t").headers), dict(record(type="t").headers)
    assert first["ce_id"] != second["ce_id"]
    assert first["ce_time"] == b"2020-01-02T03:04:05Z"


def test_a_protobuf_message_is_a_cloudevent_of_its_name() -> None:
    message = event_pb2.Event(id="1")
    got = record(message)
    headers = dict(got.headers)
    assert got.value == message.SerializeToString()
    assert headers["ce_type"] == b"pelton.v1.Event"
    assert headers["content-type"] == b"application/protobuf"
    assert dict(record(message, type="mine").headers)["ce_type"] == b"mine"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"value": object()}, "not JSON"),
        ({"value": float("nan")}, ""),
        ({"value": {"a": b""}}, ""),
        ({"key": 1}, "key"),
        ({"headers": {"a": 1}}, "header a"),
        ({"headers": {1: b""}}, "name"),
        ({"headers": {"ce_id": b""}}, "reserved"),
        ({"headers": {"Pelton-Status": b""}}, "reserved"),
        ({"id": "1"}, "type"),
        ({"type": "t", "time": datetime(2020, 1, 1)}, "zone"),
        ({"type": "t", "time": "soon"}, ""),
        ({"type": "t", "attributes": {"A": "x"}}, "'A'"),
        ({"type": "t", "attributes": {"id": "x"}}, "id"),
        ({"type": "t", "attributes": {"x": 1.5}}, "x"),
        ({"key": "\ud800"}, ""),
    ],
)
def test_what_cannot_be_a_record(bad: dict[str, Any], why: str) -> None:
    with pytest.raises(PublishError) as raised:
        record(**bad)
    assert why in str(raised.value)
    assert "t" in str(raised.value)
    assert not raised.value.retriable


def test_no_topic() -> None:
    with pytest.raises(PublishError, match="no topic"):
        outgoing_of(NewEvent(value=b""), topic=None, source=None, now=NOW)
