"""Between the messages of `pelton.v1` and what handlers see and say.

Pure translation: no I/O, no gRPC. Text that goes out is cut and made valid UTF-8 here, once, so that no
exception's text can keep an answer from being sent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from pelton.event import Attributes, Event
from pelton.sdk.context import NO_PARAMETERS, Context, Failure, Trace
from pelton.sdk.replies import RETRY_AFTER_MAX_S, DeadLetter, Drop, Retry, Verdict
from pelton.v1 import event_pb2, handler_pb2

__all__ = [
    "TEXT_CHARS_MAX",
    "context_of",
    "event_of",
    "parameters_of",
    "reply_of",
    "settlement_of",
    "text_of",
    "timeout_s",
]

#: Of a reason or a message that is sent; the dead letter's own bound for a reason is 1 KiB.
TEXT_CHARS_MAX: Final = 1_024


def event_of(message: event_pb2.Event) -> Event:
    """The event as the handler sees it: what was published, whatever way it came."""
    position = message.position
    topic, partition, offset = position.topic, position.partition, position.offset
    value = message.value if message.HasField("value") else None
    headers = message.headers
    published = message.published
    return Event(
        topic=topic,
        partition=partition,
        offset=offset,
        key=message.key if message.HasField("key") else None,
        value=value,
        record_value=value,
        record_headers=tuple((h.name, h.value if h.HasField("value") else None) for h in headers)
        if headers
        else (),
        published_ms=published.seconds * 1_000 + published.nanos // 1_000_000
        if message.HasField("published")
        else -1,
        attributes=_attributes(message, topic, partition, offset),
    )


def _attributes(message: event_pb2.Event, topic: str, partition: int, offset: int) -> Attributes | None:
    """None for a plain record, which the bridge describes by its position."""
    id_, source, type_ = message.id, message.source, message.type
    if type_ == "pelton.record" and source == f"/topics/{topic}" and id_ == f"{topic}/{partition}/{offset}":
        return None
    return Attributes(
        id=id_,
        source=source,
        type=type_,
        subject=message.subject,
        time=_rfc3339(message.time) if message.HasField("time") else None,
        content_type=message.content_type,
        schema=message.schema,
        extensions=dict(message.attributes) if message.attributes else {},
    )


def _rfc3339(time: Timestamp) -> str | None:
    """None for a time outside the years that there are: absent, as the bridge has it of any bad time."""
    try:
        return time.ToJsonString()
    except (ValueError, OverflowError):
        return None


def _moment(time: Timestamp) -> datetime | None:
    try:
        return time.ToDatetime(UTC)
    except (ValueError, OverflowError):
        return None


def timeout_s(timeout: Duration) -> float:
    """Seconds that can be waited for: none for a negative duration, a year at most."""
    return min(max(timeout.seconds + timeout.nanos / 1e9, 0.0), RETRY_AFTER_MAX_S)


def parameters_of(parameters: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(parameters)) if parameters else NO_PARAMETERS


def context_of(
    message: handler_pb2.Delivery,
    *,
    subscription: str,
    shared: Mapping[str, str],
    deadline: float | None,
    trace: Trace | None = None,
) -> Context:
    """The attempt. `subscription` and `shared` parameters stand in for what the message leaves to its batch.

    Without a `trace` of the call itself it is the publisher's, as it stands in the event.
    """
    own = message.parameters
    parameters = MappingProxyType({**shared, **own}) if own else shared
    failure = message.last_failure
    attributes = message.event.attributes
    return Context(
        delivery_id=message.delivery_id,
        subscription=message.subscription or subscription,
        attempt=message.attempt,
        parameters=parameters,
        fence=message.fence,
        deadline=deadline,
        first_attempted=_moment(message.first_attempted) if message.HasField("first_attempted") else None,
        last_failure=Failure(failure.code, failure.message) if message.HasField("last_failure") else None,
        replay_id=message.replay_id,
        trace=trace or Trace(attributes.get("traceparent", ""), attributes.get("tracestate", "")),
    )


def reply_of(verdict: Verdict) -> handler_pb2.Reply:
    reason = text_of(verdict.reason)
    if isinstance(verdict, Retry):
        retry = handler_pb2.Retry(reason=reason)
        if verdict.after is not None:
            fraction, seconds = math.modf(verdict.after)
            retry.after.CopyFrom(Duration(seconds=int(seconds), nanos=int(fraction * 1e9)))
        return handler_pb2.Reply(retry=retry)
    if isinstance(verdict, Drop):
        return handler_pb2.Reply(drop=handler_pb2.Drop(reason=reason))
    assert isinstance(verdict, DeadLetter), verdict
    return handler_pb2.Reply(dead_letter=handler_pb2.DeadLetter(reason=reason))


def settlement_of(token: int, answer: Verdict | Failure) -> handler_pb2.Settlement:
    """For everything but an ack, which is its token alone."""
    if isinstance(answer, Verdict):
        return handler_pb2.Settlement(token=token, reply=reply_of(answer))
    return handler_pb2.Settlement(token=token, code=answer.code, message=text_of(answer.message))


def text_of(text: str) -> str:
    """The text, cut and valid: a lone surrogate would keep the whole answer from being sent."""
    return str(text)[:TEXT_CHARS_MAX].encode("utf-8", "replace").decode("utf-8")
