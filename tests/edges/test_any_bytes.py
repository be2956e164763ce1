"""Whatever bytes stand anywhere: each event has an end with a reason, and nothing is raised that is not ours.

Every reader of a stranger's bytes is driven here as its caller drives it. The auditor is what the next reader
makes of the result, or protobuf itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import confluent_kafka
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from pelton import App
from pelton.bridge.requests import SubscriptionRequests, prepare
from pelton.cli.show import as_json, as_text
from pelton.core import ackmap
from pelton.core.ackmap import AckMapError
from pelton.core.actions import Hop
from pelton.core.outcome import ACKED, Outcome, Status, Verdict
from pelton.errors import RequestError
from pelton.event import Event
from pelton.kafka.hops import REASON_BYTES_MAX, record_of
from pelton.kafka.records import Record, RecordStatistics, event_of
from pelton.rpc.metadata import BUDGET_BYTES, size_bytes
from pelton.rpc.status import outcome_of_ok, outcome_of_reply, outcome_of_settlement, outcome_of_status
from pelton.sdk import decode, wire
from pelton.sdk.context import Context
from pelton.sdk.stream import HandlerStream
from pelton.subscription import DeliveryMode, MetadataPolicy, Parameter
from pelton.v1 import handler_pb2
from tests.edges.seeds import PROTOBUF, STRUCTURED, nearly
from tests.properties.profile import tried
from tests.request.making import REQUEST, delivery_of, subscription_of

#: What no log and no reason may ever hold; it stands in every record's value and headers.
SECRET = "s3cr3t"


def consumed(
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]] = (),
    *,
    key: bytes | None = b"k",
    timestamp: tuple[int, int] = (1, 1234),
) -> Event:
    """As the consumer's thread makes it."""
    message = confluent_kafka.Message(
        topic="t", partition=0, offset=0, key=key, value=value, headers=list(headers), timestamp=timestamp
    )
    return event_of(cast(Record, message), RecordStatistics())


def everything_asked_for(mode: DeliveryMode) -> SubscriptionRequests:
    """A subscription that reads of an event all that can be read, by path and by CEL."""
    subscription = subscription_of(
        {
            "text": "event.text",
            "raw": "event.value",
            "timestamp": "event.time",
            "struct": "event.json",
            "labels": "event.headers",
            "stringvalue": "event.key_text",
            "maybe": "params.when",
            "flag": "event.time == null || event.time > timestamp('2020-01-01T00:00:00Z')",
            "text_list": "event.attributes.map(name, name)",
            "ratio": "double(event.json.ratio)",
            "int64value": "size(event.subject + event.source + event.content_type + event.schema)",
        }
        if mode is DeliveryMode.UNARY
        else None,
        parameters=(
            Parameter("when", expression="event.time"),
            Parameter("published", expression="string(event.published)"),
        ),
        mode=mode,
    )
    return prepare(
        replace(
            subscription,
            filter="event.type != 'x' && (event.time == null || event.published != event.time)",
            metadata=MetadataPolicy(("h", "Upper", "raw-bin"), ("when", "published")),
        ),
        REQUEST,
        lambda now_ms: now_ms,
    )


REQUESTS = {mode: everything_asked_for(mode) for mode in DeliveryMode}

names = st.one_of(
    st.sampled_from(
        [
            *("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_", "ce_Ext", "ce_data"),
            *("content-type", "Content-Type", "traceparent", "tracestate", "h", "Upper", "raw-bin"),
            *("pelton-delivery-id", "Pelton-Attempt", ":path", "grpc-timeout", "", "\u212a"),
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
)
texts = st.one_of(
    st.none(),
    st.sampled_from([b"1.0", b"", b"\r\nx: y", b"\xff", b"application/cloudevents+json", b"text/plain"]),
    st.sampled_from([b"0001-01-01T00:00:00+23:59", b"9999-12-31T23:59:59.9-23:59", b"2020-02-30T00:00:00Z"]),
    st.sampled_from([b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01", b"x" * 3_000, "é".encode() * 3_000]),
    st.binary(max_size=20),
)
times = st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, 1 << 42))
values = st.one_of(
    st.none(),
    nearly(*STRUCTURED.values(), *PROTOBUF.values()),
    st.sampled_from([b"[" * 10_000, b'{"a":' * 10_000, b'{"ratio":"1e999"}', b'{"ratio":1e999}']),
)
BINARY_MODE: list[tuple[str, bytes | None]] = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"1"),
    ("ce_source", b"/s"),
    ("ce_type", b"t"),
]
prefixes = st.sampled_from([[], BINARY_MODE, [("content-type", b"application/cloudevents+json")]])


@given(
    values, prefixes, st.lists(st.tuples(names, texts), max_size=8), st.none() | st.binary(max_size=9), times
)
@example(b"v", BINARY_MODE, [("ce_time", b"0001-01-01T00:00:00+23:59")], None, 0)
@example(b"v", [], [], b"k", (1 << 63) - 1)
@example(b"", [], [("h", b"x" * 20_000)] * 50, b"k" * 20_000, 0)
@tried(120)
def test_any_record_is_delivered_or_set_aside(
    value: bytes | None,
    prefix: list[tuple[str, bytes | None]],
    more: list[tuple[str, bytes | None]],
    key: bytes | None,
    published_ms: int,
) -> None:
    event = consumed(value, [*prefix, *more], key=key, timestamp=(1, published_ms))
    assert event.record_value == value
    assert not any(name.lower().startswith("pelton-") for name, _ in event.record_headers)
    as_json(event), as_text(event)
    reasons: list[str] = [] if event.flaw is None else [event.flaw]
    for mode, requests in REQUESTS.items():
        try:
            requests.accepts(event)
            body, common, own = requests.build(delivery_of(event))
        except RequestError as error:
            reasons.append(str(error))
            continue
        assert size_bytes(common + own) <= BUDGET_BYTES
        for name, text in common + own:
            assert name == name.lower()
            assert name.endswith("-bin") or (isinstance(text, str) and text.isascii() and text.isprintable())
        if mode is not DeliveryMode.UNARY:
            seen = wire.event_of(handler_pb2.Delivery.FromString(body).event)
            assert (seen.key, seen.value, seen.record_headers) == (event.key, event.value, event.headers)
    for reason in reasons:
        assert "a bug in Pelton" not in reason
        letter = record_of(
            Hop(delivery_of(event), Outcome(Status.INVALID_ARGUMENT, reason)),
            "dlq",
            subscription="notify",
            first_attempted_wall_ms=None,
            failed_wall_ms=0.0,
        )
        said = dict(letter.headers)["pelton-reason"]
        assert said is not None
        assert 0 < len(said) <= REASON_BYTES_MAX
        assert (letter.key, letter.value) == (key, value)


#: What becomes of each document of the corpus: words of the reason, or None where it is delivered.
ENDS: dict[str, str | None] = {
    "good": None,
    "good-base64": None,
    "good-bad-time": None,
    "id-missing": "the required attribute id is missing",
    "id-empty": "the required attribute id is missing",
    "id-binary": "text that is not Unicode",
    "id-object": "the attribute id is neither",
    "version-other": "specversion is not 1.0",
    "name-illegal": "no attribute name",
    "number-huge": "a number is out of range",
    "number-long": "absurdly long",
    "nan": "a number in the value is not JSON",
    "data-twice": "both data and data_base64",
    "base64-wrong": "data_base64 is not base64",
    "surrogate-in-data": "text that is not Unicode",
    "not-utf8": "not UTF-8",
    "truncated": "not JSON",
    "list": "not a JSON object",
    "empty": "not JSON",
    "quotes-open": "not JSON",
    "bom": "not JSON",
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_each_document_of_the_corpus(name: str) -> None:
    value = STRUCTURED[name]
    event = consumed(value, [("content-type", b"application/cloudevents+json")])
    expected = ENDS[name]
    assert event.record_value == value
    if expected is None:
        assert (event.flaw, event.id) == (None, "1")
    else:
        assert event.flaw is not None
        assert expected in event.flaw
        for piece in ("secret", "Se-cret", "999"):
            assert piece not in event.flaw, "a reason is logged, and quotes nothing of the record"


# --- what a target answers -------------------------------------------------------------------------------

_REPLIES = tuple(PROTOBUF[name] for name in ("reply", "reply-from-tomorrow", "length-of-2-gb", "truncated"))
_SETTLEMENTS = (PROTOBUF["settlements"], PROTOBUF["length-of-2-gb"])
_DETAILS = tuple(data for name, data in PROTOBUF.items() if name.startswith("details"))
_VERDICTS = ("ack", "retry;after=2s", "dead-letter;reason=a;b", "drop;reason=", "retry;after=9999999h", "nak")


@given(nearly(*_REPLIES))
@tried(80)
def test_any_reply_is_an_outcome_and_acks_only_if_understood(reply: bytes) -> None:
    outcome = outcome_of_reply(reply)
    if outcome is not ACKED:
        assert outcome.status is Status.UNKNOWN or outcome.verdict in set(Verdict) - {Verdict.ACK}
        return
    # Read again without what this version knows of it: nothing but an empty ack may be left.
    message = handler_pb2.Reply.FromString(reply)
    assert message.WhichOneof("verdict") in (None, "ack")
    message.ClearField("ack")
    assert not message.SerializeToString()


@given(nearly(*_SETTLEMENTS))
@tried(100)
def test_any_settlements_are_outcomes(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        for settlement in handler_pb2.SettlementBatch.FromString(data).settlements:
            assert isinstance(outcome_of_settlement(settlement), Outcome)


trailers = st.lists(
    st.one_of(
        st.tuples(st.just("grpc-status-details-bin"), nearly(*_DETAILS)),
        st.tuples(st.just("pelton-verdict"), st.sampled_from(_VERDICTS) | st.text(max_size=20) | st.binary()),
        st.tuples(
            st.just("grpc-retry-pushback-ms"),
            st.sampled_from(["-1", "0", "99999999999", "٣", "1.5", ""]) | st.text(max_size=5) | st.binary(),
        ),
        st.tuples(st.text(max_size=8), st.text(max_size=8) | st.binary(max_size=8)),
    ),
    max_size=4,
)


@given(st.integers(-5, 40), st.text(max_size=40), trailers)
@example(14, "failed to connect to all addresses; last error: " + "Peer name " * 6_000, [])
@tried(100)
def test_any_status_and_trailers_are_an_outcome(
    code: int, details: str, entries: list[tuple[str, Any]]
) -> None:
    for outcome in (outcome_of_status(code, details, entries), outcome_of_ok(entries, None)):
        assert outcome.retry_after_ms is None or 0 <= outcome.retry_after_ms < 1e12
        assert outcome.status is not Status.UNKNOWN or outcome.disposition is None
    if not any(name == "pelton-verdict" for name, _ in entries):
        assert outcome_of_ok(entries, b"") is ACKED


@given(st.integers(0, 1 << 62), st.text(max_size=60), st.integers(-1, 1 << 62))
@tried(100)
def test_any_text_beside_an_offset_is_no_map(base: int, text: str, log_end: int) -> None:
    if text:
        with contextlib.suppress(AckMapError):
            ackmap.decode(base, text, log_end)
            raise AssertionError("it was read as a map")


# --- the handler's side ----------------------------------------------------------------------------------


@dataclass
class Node:
    """A type that contains itself, so that a bomb could recurse."""

    a: Node | None = None


def hints() -> list[Any]:
    return [Event, bytes, str, decode.Json, Node, dict[str, Node], handler_pb2.Delivery]


DECODERS = [decode.decoder(hint) for hint in hints()]

_DELIVERIES = tuple(
    data for name, data in PROTOBUF.items() if name.startswith(("delivery", "length", "trun"))
)
_BATCHES = tuple(data for name, data in PROTOBUF.items() if name.startswith("batch"))


@given(nearly(*_DELIVERIES), values)
@tried(80)
def test_any_delivery_is_read_and_any_value_decodes_or_says_why_not(data: bytes, value: bytes | None) -> None:
    with contextlib.suppress(DecodeError):
        message = handler_pb2.Delivery.FromString(data)
        wire.event_of(message.event)
        wire.context_of(message, subscription="s", shared={}, deadline=None)
    event = consumed(value)
    for read in DECODERS:
        with contextlib.suppress(decode.Undecodable):
            read(event)


@given(st.lists(nearly(*_BATCHES), min_size=1, max_size=3))
@tried(60)
def test_any_batches_are_settled_and_the_stream_ends_well(texts: list[bytes]) -> None:
    batches = []
    for text in texts:
        with contextlib.suppress(DecodeError):
            batches.append(handler_pb2.DeliveryBatch.FromString(text))
    app = App("any")

    @app.handler
    async def take(value: bytes, context: Context) -> None:
        """Takes everything."""

    settled: list[int] = []
    # A token that comes twice names one attempt no more; Pelton gives out each once.
    tokens = [delivery.token for batch in batches for delivery in batch.deliveries]
    if len(set(tokens)) < len(tokens):
        return

    async def read() -> handler_pb2.DeliveryBatch | None:
        return batches.pop(0) if batches else None

    async def write(batch: handler_pb2.SettlementBatch) -> None:
        settled.extend([*batch.acked, *(settlement.token for settlement in batch.settlements)])

    async def serve() -> None:
        slots, stopping = asyncio.Semaphore(4), asyncio.Event()
        async with asyncio.timeout(20):
            await HandlerStream(app, slots, stopping, read, write).run()

    asyncio.run(serve())
    assert sorted(settled) == sorted(tokens)
