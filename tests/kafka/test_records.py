"""Records to events and back: nothing is lost, nothing raises; CloudEvents as another library has them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from cloudevents.core.bindings import kafka as oracle
from cloudevents.core.v1.event import CloudEvent
from confluent_kafka import KafkaError, Message
from hypothesis import given
from hypothesis import strategies as st

from pelton.event import Attributes, Event
from pelton.kafka.cloudevents import (
    STRUCTURED_BYTES_MAX,
    STRUCTURED_DEPTH_MAX,
    binary_headers,
)
from pelton.kafka.records import Record, RecordStatistics, event_of, events_of

STRUCTURED = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
REQUIRED = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


def event(
    value: bytes | None = b"v",
    headers: list[tuple[str, bytes | None]] | None = None,
    *,
    key: bytes | None = b"k",
    statistics: RecordStatistics | None = None,
    own: tuple[str, ...] = (),
    timestamp: tuple[int, int] = (1, 1234),
) -> Event:
    given = cast(Any, headers)
    message = Message(
        topic="t", partition=0, offset=0, key=key, value=value, headers=given, timestamp=timestamp
    )
    return event_of(cast(Record, message), statistics or RecordStatistics(), own)


def binary(**attributes: str) -> list[tuple[str, bytes | None]]:
    return [(f"ce_{name}", value.encode()) for name, value in {**REQUIRED, **attributes}.items()]


def structured(**members: Any) -> bytes:
    return json.dumps({**REQUIRED, **members}).encode()


def test_many_are_the_events_of_each_and_what_is_an_error_is_none() -> None:
    places = [("orders", 3), ("orders", 4), ("payments", 0), ("orders", 5)]
    messages = [
        Message(topic=topic, partition=1, offset=offset, value=b"%d" % at, timestamp=(1, at))
        for at, (topic, offset) in enumerate(places)
    ]
    lost = Message(topic="orders", partition=1, offset=9, error=KafkaError(KafkaError._ALL_BROKERS_DOWN))
    given = cast("list[Record]", [*messages[:2], lost, *messages[2:]])
    found = events_of(given, RecordStatistics(), ())
    assert found == [event_of(cast(Record, message), RecordStatistics()) for message in messages]
    assert [(each.topic, each.offset) for each in found] == places
    assert len({id(each.topic) for each in found}) == 2, "a topic's name is kept once"


def test_a_plain_record() -> None:
    plain = event()
    assert plain.attributes is None
    assert plain.flaw is None
    assert plain.position == ("t", 0, 0)
    assert (plain.key, plain.value, plain.record_value, plain.record_headers) == (b"k", b"v", b"v", ())
    assert plain.value is plain.record_value
    assert plain.published_ms == 1234


@pytest.mark.parametrize("key", [None, b"", b"\xff"])
@pytest.mark.parametrize("value", [None, b"", b"\x00"])
def test_null_and_empty_differ(key: bytes | None, value: bytes | None) -> None:
    got = event(value, key=key)
    assert (got.key, got.value, got.record_value) == (key, value, value)


def test_a_record_without_a_timestamp() -> None:
    assert event(timestamp=(0, -1)).published_ms == -1


def test_headers_keep_order_repeats_and_nulls() -> None:
    headers: list[tuple[str, bytes | None]] = [("b", b"1"), ("a", None), ("b", b""), ("b", b"1")]
    assert event(headers=headers).record_headers == tuple(headers)


def test_reserved_headers_are_trusted_on_our_own_topics_only() -> None:
    headers: list[tuple[str, bytes | None]] = [("pelton-attempts", b"3"), ("Pelton-X", b""), ("peltone", b"")]
    assert event(headers=headers).record_headers == (("peltone", b""),)
    assert event(headers=headers, own=("t",)).record_headers == tuple(headers)


def test_header_names_that_are_not_text_are_a_flaw() -> None:
    class Odd(Message):
        def headers(self) -> Any:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd")

    statistics = RecordStatistics()
    got = event_of(cast(Record, Odd(topic="t", partition=0, offset=0, timestamp=(1, 1))), statistics)
    assert got.flaw is not None
    assert statistics.flawed == 1


def test_binary_mode() -> None:
    headers = binary(subject="a%20b ü", time="2018-04-05T03:56:24Z", dataschema="urn:x", traceparent="00-1")
    got = event(headers=[*headers, ("Content-Type", b"application/avro"), ("x", b"y")])
    time, extensions = "2018-04-05T03:56:24Z", {"traceparent": "00-1"}
    assert got.attributes == Attributes(
        "1", "/s", "t", "a%20b ü", time, "application/avro", "urn:x", extensions
    )
    assert got.value is got.record_value
    assert got.headers == (("x", b"y"),)
    assert len(got.record_headers) == len(headers) + 2


def test_a_tombstone_can_be_a_cloudevent() -> None:
    got = event(None, binary())
    assert got.attributes is not None
    assert got.value is None
    assert event(None, cast(Any, STRUCTURED)).flaw is None


@pytest.mark.parametrize(
    "time", ["yesterday", "2018-13-05T03:56:24Z", "2018-04-05", "2018-04-05T03:56:24", "", "20180405T035624Z"]
)
def test_a_time_that_is_none_is_absent_and_counted(time: str) -> None:
    statistics = RecordStatistics()
    got = event(headers=binary(time=time), statistics=statistics)
    assert got.attributes is not None
    assert got.attributes.time is None
    assert got.time is None
    assert got.flaw is None
    assert statistics.times_ignored == 1


@pytest.mark.parametrize("time", ["2018-04-05T03:56:24.123456789+05:30", "2018-04-05T03:56:24Z"])
def test_every_time_that_is_kept_can_be_read(time: str) -> None:
    assert event(headers=binary(time=time)).time is not None


@pytest.mark.parametrize("missing", ["id", "source", "type"])
def test_a_binary_event_without_a_required_attribute_is_flawed(missing: str) -> None:
    statistics = RecordStatistics()
    headers = [header for header in binary() if header[0] != f"ce_{missing}"]
    got = event(headers=headers, statistics=statistics)
    assert missing in (got.flaw or "")
    assert got.attributes is None
    assert statistics.flawed == 1
    assert missing in (event(headers=binary(**{missing: ""})).flaw or "")


def test_what_else_is_flawed_in_binary_mode() -> None:
    assert event(headers=binary(specversion="0.3")).flaw
    assert event(headers=[*binary(), ("ce_subject", b"\xff")]).flaw


def test_no_specversion_no_cloudevent() -> None:
    got = event(headers=[("ce_id", b"1"), ("ce_type", b"t")])
    assert got.attributes is None
    assert got.flaw is None


@pytest.mark.parametrize(
    ("members", "value", "content_type"),
    [
        ({"data": {"a": [1, "ü", None]}}, '{"a":[1,"ü",null]}'.encode(), "application/json"),
        ({"data": "text", "datacontenttype": "text/plain"}, b"text", "text/plain"),
        ({"data": "text", "datacontenttype": "application/json"}, b'"text"', "application/json"),
        ({"data": "text"}, b'"text"', "application/json"),
        ({"data": None}, b"null", "application/json"),
        ({"data_base64": "AP8=", "datacontenttype": "a/b"}, b"\x00\xff", "a/b"),
        ({"data_base64": ""}, b"", ""),
        ({}, b"", ""),
    ],
)
def test_structured_data(members: dict[str, Any], value: bytes, content_type: str) -> None:
    record_value = structured(**members)
    got = event(record_value, cast(Any, STRUCTURED))
    assert got.flaw is None
    assert got.attributes is not None
    assert got.value == value
    assert got.record_value == record_value
    assert got.attributes.content_type == content_type


def test_structured_attributes_in_canonical_form() -> None:
    got = event(structured(number=5, yes=True, no=False, unset=None, time="bad"), cast(Any, STRUCTURED))
    assert got.attributes is not None
    assert got.attributes.extensions == {"number": "5", "yes": "true", "no": "false"}
    assert got.attributes.time is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"{}",
        structured(data=1, data_base64=""),
        structured(data_base64="?"),
        structured(data_base64=1),
        structured(extension=[1]),
        structured(extension=1.5),
        structured(**{"no-name": "x"}),
        structured(id=""),
        structured(specversion="2.0"),
        structured()[:-1] + b', "data": NaN}',
        structured()[:-1] + b', "data": 1e999}',
        structured()[:-1] + b', "data": "\\ud800", "datacontenttype": "a/b"}',
        structured()[:-1] + b', "subject": "\\ud800"}',
        structured()[:-1] + b', "data": ' + b"[" * 100_000 + b"}",
        structured(data=json.loads("[" * (STRUCTURED_DEPTH_MAX + 1) + "]" * (STRUCTURED_DEPTH_MAX + 1))),
        b" " * (STRUCTURED_BYTES_MAX + 1),
        structured()[:-1] + b', "data": ' + b"9" * 5000 + b"}",
    ],
    ids=range(21),
)
def test_what_is_not_a_structured_event_is_a_flaw(value: bytes) -> None:
    statistics = RecordStatistics()
    got = event(value, cast(Any, STRUCTURED), statistics=statistics)
    assert got.flaw is not None
    assert len(got.flaw) < 500
    assert got.value is got.record_value
    assert statistics.flawed == 1


def test_deep_enough_is_decoded_and_brackets_in_text_do_not_count() -> None:
    deep = json.loads("[" * (STRUCTURED_DEPTH_MAX - 1) + "]" * (STRUCTURED_DEPTH_MAX - 1))
    assert event(structured(data=deep), cast(Any, STRUCTURED)).flaw is None
    assert event(structured(data='[[{"' * 500), cast(Any, STRUCTURED)).flaw is None
    assert event(structured(data=[[1]] * 500), cast(Any, STRUCTURED)).flaw is None


@pytest.mark.parametrize("kind", [b"application/cloudevents-batch+json", b"application/cloudevents+avro"])
def test_other_formats_are_a_flaw(kind: bytes) -> None:
    assert "format is not understood" in (event(structured(), [("content-type", kind)]).flaw or "")


HEADER_NAMES = st.sampled_from(["ce_specversion", "ce_id", "content-type", "x"])
HEADER_VALUES = st.one_of(
    st.none(), st.binary(max_size=8), st.sampled_from([b"1.0", b"application/cloudevents+json"])
)


@given(st.binary(max_size=200), st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES)))
def test_nothing_raises(value: bytes, headers: list[tuple[str, bytes | None]]) -> None:
    got = event(value, headers)
    assert got.record_value == value
    assert got.record_headers == tuple(headers)


ATTRIBUTE = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


@given(ATTRIBUTE, ATTRIBUTE, ATTRIBUTE, st.dictionaries(st.sampled_from(["aa", "b2"]), ATTRIBUTE))
def test_binary_events_of_the_other_implementation(
    id_: str, source: str, subject: str, extensions: dict[str, str]
) -> None:
    time = datetime(2020, 1, 2, 3, 4, 5, 678, UTC)
    sent = CloudEvent(
        {
            "id": id_,
            "source": source,
            "type": "t",
            "subject": subject,
            "time": time,
            "datacontenttype": "application/json",
            **extensions,
            "specversion": "1.0",
        },
        {"a": 1},
    )
    message = oracle.to_binary_event(sent)
    got = event(message.value, list(message.headers.items()))
    assert got.flaw is None
    assert got.attributes is not None
    assert (got.id, got.source, got.type, got.subject) == (id_, source, "t", subject)
    assert got.time == time
    assert dict(got.extensions) == extensions
    assert json.loads(got.value or b"") == {"a": 1}
    # And the other way round.
    message = oracle.KafkaMessage(dict(binary_headers(got.attributes)), None, b'{"a":1}')
    back = oracle.from_kafka_event(message)
    assert back.get_attributes() == sent.get_attributes()
    assert back.get_data() == sent.get_data()


@given(st.one_of(st.dictionaries(st.text(max_size=5), st.integers()), st.binary(), st.just(None)), ATTRIBUTE)
def test_structured_events_of_the_other_implementation(data: Any, subject: str) -> None:
    sent = CloudEvent(
        {"id": "1", "source": "/s", "type": "t", "subject": subject, "specversion": "1.0"}, data
    )
    message = oracle.to_structured_event(sent)
    got = event(message.value, list(message.headers.items()))
    assert got.flaw is None
    assert got.subject == subject
    if isinstance(data, bytes):
        assert got.value == data
    elif data is None:
        assert got.value == b""
    else:
        assert json.loads(got.value or b"") == data
