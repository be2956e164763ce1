"""What goes with a call: every entry, the budget and the order of the cuts, illegal names and values."""

from __future__ import annotations

import re
import string
import timeit
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.core.delivery import Delivery, State
from pelton.event import Attributes, Event, Headers, Partition
from pelton.rpc.metadata import BUDGET_BYTES, CallMetadata, size_bytes, validate_name
from pelton.rpc.transport import Metadata
from pelton.subscription import (
    DeliveryMode,
    MetadataPolicy,
    RequestMapping,
    Secret,
    Subscription,
    Target,
)
from tests.core.rig import Rig

ENGINE = Rig(name="notify-shop", partition=Partition("events", 3)).engine
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def subscription(
    *,
    headers: tuple[str, ...] = (),
    parameters: tuple[str, ...] = (),
    mode: DeliveryMode = DeliveryMode.UNARY,
    request: RequestMapping = RequestMapping(),  # noqa: B008  # frozen
    bearer: Secret | None = None,
) -> Subscription:
    return Subscription(
        "notify-shop",
        ("events",),
        Target("shop", "127.0.0.1:1", bearer=bearer),
        "/a.B/C",
        "pelton.notify-shop",
        mode=mode,
        request=request,
        metadata=MetadataPolicy(headers, parameters),
    )


def delivery(
    *,
    key: bytes | None = b"key",
    value: bytes | None = b"v",
    headers: Headers = (),
    attributes: Attributes | None = None,
    attempt: int = 1,
    offset: int = 42,
) -> Delivery:
    event = Event("events", 3, offset, key, value, value, headers, 0, attributes)
    made = Delivery(event, ENGINE, None, 1, State.CALLING)
    made.attempt = attempt
    return made


COMMON: Metadata = (
    ("pelton-subscription", "notify-shop"),
    ("pelton-attempt", "1"),
    ("pelton-topic", "events"),
    ("pelton-partition", "3"),
)
PLAIN: Metadata = (
    *COMMON,
    ("pelton-delivery-id", "notify-shop/events/3/42"),
    ("pelton-offset", "42"),
)
KEY = ("pelton-key-bin", b"key")


def entries_of(metadata: CallMetadata, delivery: Delivery, parameters: Mapping[str, str]) -> Metadata:
    common, own = metadata.of(delivery, parameters)
    return common + own


def test_plain_record() -> None:
    assert entries_of(CallMetadata(subscription()), delivery(), {}) == (*PLAIN, KEY)


@pytest.mark.parametrize(
    ("key", "expected"),
    [(None, ()), (b"", (("pelton-key-bin", b""),)), (b"\xff\0", (("pelton-key-bin", b"\xff\0"),))],
)
def test_key(key: bytes | None, expected: Metadata) -> None:
    assert entries_of(CallMetadata(subscription()), delivery(key=key), {}) == PLAIN + expected


def test_what_calls_have_in_common_is_one_tuple() -> None:
    """A transport may know it by its identity."""
    metadata = CallMetadata(subscription())
    common, _ = metadata.of(delivery(), {})
    assert common == COMMON
    for other in (delivery(offset=43), delivery(key=b"other"), delivery(value=None)):
        assert metadata.of(other, {})[0] is common
    assert metadata.of(delivery(attempt=2), {})[0] == (COMMON[0], ("pelton-attempt", "2"), *COMMON[2:])


def test_attempts_beyond_those_that_are_kept() -> None:
    metadata = CallMetadata(subscription())
    for attempt in (1, 64, 65, 1_000):
        assert ("pelton-attempt", str(attempt)) in entries_of(metadata, delivery(attempt=attempt), {})
        common, _ = metadata.of(delivery(attempt=attempt), {})
        assert (metadata.of(delivery(attempt=attempt), {})[0] is common) == (attempt <= 64)


def test_offset_zero() -> None:
    entries = dict(entries_of(CallMetadata(subscription()), delivery(offset=0), {}))
    assert entries["pelton-offset"] == "0"
    assert entries["pelton-delivery-id"] == "notify-shop/events/3/0"


def test_raw_tombstone_only() -> None:
    mapped = subscription(request=RequestMapping({"message": "event.text"}))
    handler = subscription(mode=DeliveryMode.HANDLER)
    tombstone = delivery(value=None)
    assert ("pelton-tombstone", "1") in entries_of(CallMetadata(subscription()), tombstone, {})
    assert ("pelton-tombstone", "1") not in entries_of(CallMetadata(subscription()), delivery(value=b""), {})
    for other in (mapped, handler):
        assert ("pelton-tombstone", "1") not in entries_of(CallMetadata(other), tombstone, {})


def test_cloud_event() -> None:
    attributes = Attributes(
        id="a b",
        source="/späti",
        type="order.created",
        subject='100%"',
        time="2026-01-01T00:00:00Z",
        content_type="application/json",
        schema="https://x/y",
        extensions={"traceparent": TRACEPARENT, "tracestate": "a=b", "tenant": "€", "Bad Name": "x"},
    )
    entries = entries_of(CallMetadata(subscription()), delivery(attributes=attributes), {})
    assert entries == (
        *PLAIN,
        ("traceparent", TRACEPARENT),
        ("tracestate", "a=b"),
        KEY,
        ("ce-specversion", "1.0"),
        ("ce-id", "a%20b"),
        ("ce-source", "/sp%C3%A4ti"),
        ("ce-type", "order.created"),
        ("ce-subject", "100%25%22"),
        ("ce-time", "2026-01-01T00:00:00Z"),
        ("ce-datacontenttype", "application/json"),
        ("ce-dataschema", "https://x/y"),
        ("ce-tenant", "%E2%82%AC"),
    )


@pytest.mark.parametrize("value", [b"nonsense", b"00-xyz", None, TRACEPARENT.encode() + b"\n", b"\xff"])
def test_a_trace_that_is_none_is_left_out(value: bytes | None) -> None:
    headers = (("traceparent", value), ("tracestate", b"a=b"))
    assert entries_of(CallMetadata(subscription()), delivery(headers=headers), {}) == (*PLAIN, KEY)


def test_trace_of_a_plain_record() -> None:
    headers = (("tracestate", b"a=b"), ("traceparent", TRACEPARENT.encode()))
    entries = entries_of(CallMetadata(subscription()), delivery(headers=headers), {})
    assert entries == (*PLAIN, ("traceparent", TRACEPARENT), ("tracestate", "a=b"), KEY)


def test_listed_headers() -> None:
    headers = (
        ("Tenant", b"acme"),
        ("other", b"no"),
        ("Tenant", b"two"),
        ("Tenant", None),
        ("raw-bin", b"\xff\0"),
        ("Tenant", "50% größer".encode()),
        ("Tenant", b" edge "),
        ("Tenant", b"50%"),
        ("Tenant", b""),
    )
    entries = entries_of(
        CallMetadata(subscription(headers=("Tenant", "raw-bin"))), delivery(headers=headers), {}
    )
    assert entries == (
        *PLAIN,
        KEY,
        ("tenant", "acme"),
        ("tenant", "two"),
        ("raw-bin", b"\xff\0"),
        ("tenant", "50%25 gr%C3%B6%C3%9Fer"),
        ("tenant", "%20edge%20"),
        ("tenant", "50%"),
        ("tenant", ""),
    )


def test_listed_parameters() -> None:
    metadata = CallMetadata(subscription(parameters=("Priority", "absent")))
    assert entries_of(metadata, delivery(), {"Priority": "high", "secret": "no"}) == (
        *PLAIN,
        ("pelton-param-priority", "high"),
        KEY,
    )


def test_over_the_budget_headers_go_first_then_attributes_then_the_key() -> None:
    def names(header_bytes: int, id_chars: int, key_bytes: int) -> set[str]:
        entries = entries_of(
            CallMetadata(subscription(headers=("big",))),
            delivery(
                headers=(("big", b"h" * header_bytes),),
                attributes=Attributes("i" * id_chars, "/s", "t"),
                key=b"k" * key_bytes,
            ),
            {},
        )
        assert size_bytes(entries) <= BUDGET_BYTES
        return {name for name, _ in entries} & {"big", "ce-id", "pelton-key-bin", "pelton-metadata-cut"}

    assert names(1_000, 1_000, 1_000) == {"big", "ce-id", "pelton-key-bin"}
    assert names(6_000, 1_000, 100) == {"ce-id", "pelton-key-bin", "pelton-metadata-cut"}
    assert names(10, 6_000, 1_000) == {"pelton-key-bin", "pelton-metadata-cut"}
    assert names(10, 10, 6_000) == {"pelton-metadata-cut"}


def test_the_budget_to_the_byte() -> None:
    metadata = CallMetadata(subscription(headers=("big",)))

    def entries(size: int) -> Metadata:
        return entries_of(metadata, delivery(headers=(("big", b"h" * size),)), {})

    fits = max(size for size in range(BUDGET_BYTES) if ("pelton-metadata-cut", "1") not in entries(size))
    cut_bytes = size_bytes((("pelton-metadata-cut", "1"),))
    assert size_bytes(entries(fits)) == BUDGET_BYTES - cut_bytes
    assert entries(fits + 1) == (*PLAIN, KEY, ("pelton-metadata-cut", "1"))


def test_parameters_are_cut_last() -> None:
    metadata = CallMetadata(subscription(parameters=("big",)))
    assert entries_of(metadata, delivery(), {"big": "x" * 10_000}) == (*PLAIN, ("pelton-metadata-cut", "1"))


def test_a_token_has_room() -> None:
    """A bearer token is added by the transport, after the budget has been decided."""
    metadata = CallMetadata(subscription(headers=("big",), bearer=Secret("env", "TOKEN")))
    entries = entries_of(metadata, delivery(headers=(("big", b"h" * (BUDGET_BYTES - 2_000)),)), {})
    assert ("pelton-metadata-cut", "1") in entries


@pytest.mark.parametrize("name", ["tenant", "X-Tenant", "a.b_c-1", "raw-bin"])
def test_names_that_may_be_copied(name: str) -> None:
    assert validate_name(name) is None


@pytest.mark.parametrize("name", ["", "a b", "a:b", ":path", "é", "a\n", "x" * 129])
def test_names_that_cannot_be(name: str) -> None:
    assert "cannot be a metadata name" in (validate_name(name) or "")


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "Authorization",
        "HOST",
        "te",
        "cookie",
        "user-agent",
        "Content-Type",
        "grpc-x",
        "pelton-x",
        "ce-id",
        "traceparent",
    ],
)
def test_names_that_may_not(name: str) -> None:
    assert validate_name(name) is not None


LEGAL_NAME = re.compile(r"[a-z0-9_.-]+")


@given(
    headers=st.lists(
        st.tuples(st.sampled_from(["h", "b-bin", "traceparent"]), st.none() | st.binary(max_size=3_000))
    ),
    extensions=st.dictionaries(st.text(max_size=5), st.text(max_size=500), max_size=5),
    identity=st.text(max_size=20) | st.integers(0, 10_000).map(lambda size: "é" * size),
    key=st.none() | st.integers(0, 10_000).map(bytes),
    parameter=st.text(max_size=20) | st.integers(0, 10_000).map(lambda size: "x" * size),
    cloud=st.booleans(),
)
def test_always_legal_and_within_the_budget(
    headers: list[tuple[str, bytes | None]],
    extensions: dict[str, str],
    identity: str,
    key: bytes | None,
    parameter: str,
    cloud: bool,
) -> None:
    metadata = CallMetadata(subscription(headers=("h", "b-bin"), parameters=("p",)))
    attributes = Attributes(identity, "/s", "t", extensions=extensions) if cloud else None
    entries = entries_of(
        metadata, delivery(key=key, headers=tuple(headers), attributes=attributes), {"p": parameter}
    )
    assert size_bytes(entries) <= BUDGET_BYTES
    assert entries[:6] == PLAIN
    printable = set(string.printable) - set("\t\n\r\x0b\x0c")
    for name, value in entries:
        assert LEGAL_NAME.fullmatch(name)
        if name.endswith("-bin"):
            assert isinstance(value, bytes)
        else:
            assert isinstance(value, str)
            assert set(value) <= printable
            assert value == value.strip()


def test_a_plain_record_costs_little() -> None:
    metadata, one = CallMetadata(subscription()), delivery()
    seconds = min(timeit.repeat(lambda: metadata.of(one, {}), number=1_000, repeat=5))
    # 1.0 us measured; DESIGN has 5 for the whole event.
    assert seconds / 1_000 < 10e-6
