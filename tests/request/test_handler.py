"""The bytes of `pelton.v1.Delivery`, against protobuf's own reading and writing of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.core.outcome import Outcome, Status
from pelton.errors import RequestError
from pelton.event import Attributes, Event
from pelton.request import handler as module
from pelton.request.build import Builder
from pelton.request.handler import FAILURE_CHARS_MAX, HandlerRequestBuilder
from pelton.subscription import DeliveryMode, Parameter
from pelton.v1 import handler_pb2
from tests.request.making import delivery_of, event_of, subscription_of

PARAMETERS = (
    Parameter("region", constant="eu"),
    Parameter("empty", constant=""),
    Parameter("x", expression="event.id"),
)
WALL_MS = 1_600_000_000_000


def builder_of(
    mode: DeliveryMode = DeliveryMode.HANDLER, parameters: tuple[Parameter, ...] = PARAMETERS
) -> Builder:
    return HandlerRequestBuilder(subscription_of(parameters=parameters, mode=mode), lambda ms: WALL_MS + ms)


def read(body: bytes) -> handler_pb2.Delivery:
    return handler_pb2.Delivery.FromString(body)


def expected_of(event: Event) -> handler_pb2.Delivery:
    """The event, and the delivery around it, written by protobuf field by field."""
    delivery = handler_pb2.Delivery(
        delivery_id=f"notify/{event.topic}/{event.partition}/{event.offset}",
        subscription="notify",
        attempt=2,
        fence=7,
    )
    delivery.parameters.update({"region": "eu", "empty": "", "x": event.id})
    delivery.first_attempted.FromMilliseconds(WALL_MS + 1500)
    delivery.last_failure.code = 14
    delivery.last_failure.message = "refused"
    made = delivery.event
    made.id, made.source, made.type = event.id, event.source, event.type
    made.subject, made.content_type, made.schema = event.subject, event.content_type, event.schema
    if event.attributes is not None and event.attributes.time:
        made.time.FromJsonString(event.attributes.time)
    if event.key is not None:
        made.key = event.key
    if event.value is not None:
        made.value = event.value
    for name, value in event.headers:
        made.headers.add(name=name, value=value)
    made.position.topic, made.position.partition = event.topic, event.partition
    made.position.offset = event.offset
    if event.published_ms >= 0:
        made.published.FromMilliseconds(event.published_ms)
    made.attributes.update(event.extensions)
    return delivery


_text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
_times = st.sampled_from(
    [
        "2024-01-02T03:04:05Z",
        "1969-12-31T23:59:59.999999999Z",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.123456789Z",
        "2024-01-02T03:04:05.1+02:00",
        "2024-01-02T03:04:05.000001-11:30",
    ]
)
_attributes = st.none() | st.builds(
    Attributes,
    id=_text,
    source=_text,
    type=_text,
    subject=_text,
    time=st.none() | _times,
    content_type=_text,
    schema=_text,
    extensions=st.dictionaries(_text, _text, max_size=3),
)
_bytes = st.none() | st.binary(max_size=20) | st.binary(min_size=120, max_size=300)
_names = _text | st.sampled_from(["content-type", "Content-Type", "ce_id", "tenant"])
_events = st.builds(
    lambda topic, partition, offset, key, value, headers, published_ms, attributes: Event(
        topic, partition, offset, key, value, value, tuple(headers), published_ms, attributes
    ),
    topic=st.sampled_from(["events", "a.b-c_d", "x" * 249]),
    partition=st.integers(0, 3) | st.integers(0, 2**31 - 1),
    offset=st.integers(0, 2) | st.integers(90, 130) | st.integers(900, 1_100) | st.integers(0, 2**63 - 1),
    key=_bytes,
    value=_bytes,
    headers=st.lists(st.tuples(_names, _bytes), max_size=4),
    published_ms=st.just(-1) | st.integers(0, 253402300799999),
    attributes=_attributes,
)
#: One for all examples, so that what it remembers of one event must not show in another.
_builder = builder_of()


@settings(max_examples=500, deadline=None)
@given(event=_events)
def test_protobuf_reads_every_delivery_as_it_was_meant(event: Event) -> None:
    delivery = delivery_of(event, attempt=2)
    delivery.first_attempted_ms = 1500.4
    delivery.last_failure = Outcome(Status.UNAVAILABLE, "refused")
    assert read(_builder.build(delivery, {"region": "eu", "empty": "", "x": event.id})) == expected_of(event)


def test_absent_and_empty_differ() -> None:
    made = read(builder_of().build(delivery_of(event_of(None, key=None, published_ms=-1)), {})).event
    assert [made.HasField(name) for name in ("key", "value", "published", "time", "position")] == [
        False
    ] * 4 + [True]
    made = read(builder_of().build(delivery_of(event_of(b"", key=b"")), {})).event
    assert [made.HasField(name) for name in ("key", "value", "published")] == [True] * 3


def test_headers_keep_order_repeats_and_nulls() -> None:
    headers = (("b", b"2"), ("a", None), ("b", b""), ("", b"x"))
    made = read(builder_of().build(delivery_of(event_of(headers=headers)), {})).event
    assert [(h.name, h.value if h.HasField("value") else None) for h in made.headers] == list(headers)


def test_the_first_attempt_says_nothing_of_failures() -> None:
    made = read(builder_of().build(delivery_of(event_of(), attempt=0, generation=-1), {}))
    assert not made.HasField("last_failure")
    assert not made.HasField("first_attempted")
    assert (made.attempt, made.fence, made.token, made.replay_id) == (0, 0, 0, "")


def test_in_a_stream_only_what_differs_is_said() -> None:
    body = builder_of(DeliveryMode.STREAM).build(
        delivery_of(event_of()), {"region": "eu", "empty": "", "x": "1"}
    )
    made = read(body)
    assert made.subscription == ""
    assert dict(made.parameters) == {"x": "1"}
    assert made.delivery_id == "notify/events/0/0"
    # The transport names the attempt by appending the token.
    assert read(body + b"\x50\x05").token == 5


def test_a_computed_parameter_that_is_null_is_absent() -> None:
    assert dict(read(builder_of().build(delivery_of(event_of()), {})).parameters) == {
        "region": "eu",
        "empty": "",
    }


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (Outcome(Status.OK, ""), 0, ""),
        (Outcome(Status.UNKNOWN, "x" * 5000), 2, "x" * FAILURE_CHARS_MAX),
        (Outcome(Status.INTERNAL, "half \ud800 pair"), 13, "half ? pair"),
        (Outcome(Status.INTERNAL, "é" * 100), 13, "é" * 100),
    ],
)
def test_the_last_failure_is_cut_and_always_text(failure: Outcome, code: int, message: str) -> None:
    delivery = delivery_of(event_of())
    delivery.last_failure = failure
    made = read(builder_of().build(delivery, {}))
    assert made.HasField("last_failure")
    assert (made.last_failure.code, made.last_failure.message) == (code, message)


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (event_of(attributes=Attributes("i", "s", "t", time="yesterday")), "not an RFC 3339 time"),
        (event_of(attributes=Attributes("\ud800", "s", "t")), "half a surrogate pair"),
        (event_of(headers=(("\udc80", b""),)), "half a surrogate pair"),
    ],
)
def test_what_no_message_can_hold_is_the_events_fault(event: Event, says: str) -> None:
    with pytest.raises(RequestError, match=rf"{says} \(event events/0/0\)"):
        builder_of().build(delivery_of(event), {})


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED_MAX", 10)
    builder = HandlerRequestBuilder(subscription_of(), lambda ms: ms)
    for number in range(50):
        event = event_of(partition=number, attributes=Attributes("i", f"/s/{number}", "t" * 300))
        made = read(builder.build(delivery_of(event), {})).event
        assert (made.source, made.position.partition) == (f"/s/{number}", number)
    assert len(builder._partitions) <= 10
    assert len(builder._texts) <= 10
    assert all(len(text) <= 256 for _, text in builder._texts)
