"""Between the contract's messages and the SDK's values: nothing is lost, nothing is made up."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pelton.sdk.context import NO_PARAMETERS
from pelton.sdk.replies import RETRY_AFTER_MAX_S, Retry
from pelton.sdk.wire import context_of, event_of, parameters_of, reply_of, text_of
from pelton.v1 import event_pb2, handler_pb2


def test_a_cloud_event() -> None:
    message = event_pb2.Event(
        id="1",
        source="/s",
        type="order",
        subject="sub",
        content_type="application/json",
        schema="urn:x",
        key=b"",
        value=b"",
        headers=[
            event_pb2.Header(name="a", value=b"1"),
            event_pb2.Header(name="a", value=b""),
            event_pb2.Header(name="a"),
        ],
        position=event_pb2.Position(topic="t", partition=3, offset=2**40),
        attributes={"traceparent": "00-aa-bb-01"},
    )
    message.time.FromJsonString("2026-11-23T09:00:00.123456789Z")
    message.published.FromMilliseconds(1_700_000_000_123)
    event = event_of(message)
    assert (event.id, event.source, event.type, event.subject) == ("1", "/s", "order", "sub")
    assert (event.content_type, event.schema) == ("application/json", "urn:x")
    assert event.time == datetime(2026, 11, 23, 9, 0, 0, 123456, tzinfo=UTC)
    assert (event.key, event.value) == (b"", b"")
    assert event.headers == (("a", b"1"), ("a", b""), ("a", None))
    assert event.position == ("t", 3, 2**40)
    assert event.published_ms == 1_700_000_000_123
    assert dict(event.extensions) == {"traceparent": "00-aa-bb-01"}


def test_a_plain_record_and_a_tombstone() -> None:
    message = event_pb2.Event(
        id="t/0/0",
        source="/topics/t",
        type="pelton.record",
        content_type="text/plain",
        headers=[event_pb2.Header(name="content-type", value=b"text/plain")],
        position=event_pb2.Position(topic="t"),
    )
    event = event_of(message)
    assert event.attributes is None
    assert (event.id, event.source, event.type) == ("t/0/0", "/topics/t", "pelton.record")
    assert event.content_type == "text/plain"
    assert event.headers == (("content-type", b"text/plain"),)
    assert (event.key, event.value, event.published_ms, event.time) == (None, None, -1, None)


def test_what_is_absent_in_a_delivery_is_absent_in_the_context() -> None:
    message = handler_pb2.Delivery(delivery_id="a/t/0/0", subscription="a", attempt=1)
    context = context_of(message, subscription="", shared=parameters_of({}), deadline=None)
    assert context.parameters is NO_PARAMETERS
    assert (context.first_attempted, context.last_failure, context.remaining) == (None, None, None)
    assert context.trace == ("", "")
    with pytest.raises(TypeError):
        context.parameters["a"] = "b"  # type: ignore[index]


@given(st.floats(min_value=0, max_value=RETRY_AFTER_MAX_S))
def test_a_wait_survives(after: float) -> None:
    sent = handler_pb2.Reply.FromString(reply_of(Retry(after=after)).SerializeToString())
    assert sent.retry.after.ToTimedelta().total_seconds() == pytest.approx(after, abs=2e-6)


def test_no_wait_is_not_a_wait_of_zero() -> None:
    assert not reply_of(Retry()).retry.HasField("after")
    assert reply_of(Retry(after=0)).retry.HasField("after")


@given(st.text(st.characters(exclude_categories=()), max_size=3_000))
@example("\ud800")
def test_every_text_can_be_sent(text: str) -> None:
    sent = handler_pb2.Drop(reason=text_of(text)).reason
    assert len(sent) <= 1_024
    assert sent[:10] == text.encode("utf-8", "replace").decode()[:10]
