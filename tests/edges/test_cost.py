"""What a stranger's bytes cost: work in proportion to their size, and no memory before a limit is asked.

The same hostile input at two sizes, eight times apart, on this process's own CPU clock: twice the proportion
and more is allowed for noise and caches; work that grows with the square is thirty-two times over it.
"""

from __future__ import annotations

import base64
import json
import time
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from pelton.bridge.logs import sanitised
from pelton.bridge.requests import prepare
from pelton.core import ackmap
from pelton.core.ackmap import AckMapError
from pelton.core.outcome import Outcome
from pelton.errors import RequestError
from pelton.event import Event
from pelton.kafka.cloudevents import STRUCTURED_BYTES_MAX
from pelton.request.document import JSON_BYTES_MAX, document_of
from pelton.rpc.metadata import BUDGET_BYTES, size_bytes
from pelton.rpc.status import outcome_of_status
from pelton.sdk import decode
from pelton.subscription import DeliveryMode, MetadataPolicy, Subscription
from tests.edges.test_any_bytes import BINARY_MODE, consumed
from tests.request.making import REQUEST, delivery_of, event_of, subscription_of

GROWTH = 8
#: At most this times as dear as in proportion.
NOISE = 4
#: A run shorter than this says nothing; then both sizes grow.
MEASURABLE_S = 0.000_5
SIZE_FIRST = 1_000
SIZE_MAX = 1 << 20
STRUCTURED: list[tuple[str, bytes | None]] = [("content-type", b"application/cloudevents+json")]


def refused(act: Callable[[], object]) -> None:
    with pytest.raises((RequestError, AckMapError, decode.Undecodable)):
        act()


def set_aside(event: Event) -> None:
    assert event.flaw is not None


def subscription(mode: DeliveryMode) -> Subscription:
    return replace(subscription_of(mode=mode), metadata=MetadataPolicy(headers=("h",)))


RAW = prepare(subscription(DeliveryMode.UNARY), None, float)
HANDLER = prepare(subscription(DeliveryMode.HANDLER), None, float)
LOOPING = prepare(
    replace(subscription_of(), filter="event.json.all(x, event.json.all(y, x != y || x == y))"), None, float
)
MAPPED = prepare(subscription_of({"struct": "event.json", "labels": "event.headers"}), REQUEST, float)


def sent(event: Event) -> None:
    """It is called as it is; what does not fit into the metadata is cut."""
    assert event.flaw is None
    for requests in (RAW, HANDLER):
        _, common, own = requests.build(delivery_of(event))
        assert size_bytes(common + own) <= BUDGET_BYTES
        if event.size_bytes > 4 * BUDGET_BYTES or len(event.record_headers) > BUDGET_BYTES:
            assert ("pelton-metadata-cut", "1") in own


def quotes_left_open(size: int) -> bytes:
    return b"[" * 200 + b'"' + b'\\"' * (size // 2)


HOSTILE: dict[str, Callable[[int], object]] = {
    "structured: quotes left open": lambda n: set_aside(consumed(quotes_left_open(n), STRUCTURED)),
    "structured: nested": lambda n: set_aside(consumed(b'{"a":' * (n // 5), STRUCTURED)),
    "structured: many members": lambda n: set_aside(
        consumed(json.dumps({f"a{i}": i for i in range(n // 10)}).encode(), STRUCTURED)
    ),
    "json: quotes left open": lambda n: refused(lambda: document_of(event_of(quotes_left_open(n)))),
    "json: nested": lambda n: refused(lambda: document_of(event_of(b"[" * n))),
    "json: a number": lambda n: refused(lambda: document_of(event_of(b"9" * (5_000 + n)))),
    "json: a loop in a loop": lambda n: refused(lambda: LOOPING.accepts(event_of(b"[" + b"1," * n + b"1]"))),
    "json: mapped, too deep": lambda n: refused(
        lambda: MAPPED.build(delivery_of(event_of(b'{"a":' * 60 + b"[" + b"1," * n + b"1]" + b"}" * 60)))
    ),
    "handler: nested": lambda n: refused(lambda: decode.decoder(decode.Json)(event_of(b"[" * (2_000 + n)))),
    "a key": lambda n: sent(event_of(key=b"k" * n)),
    "attributes that must be encoded": lambda n: sent(
        consumed(b"v", [*BINARY_MODE, ("ce_subject", "é".encode() * n), ("ce_ext", b"\x00" * n)])
    ),
    "a header that must be encoded": lambda n: sent(consumed(b"v", [("h", b"\xff" * n)])),
    "headers, listed": lambda n: sent(consumed(b"v", [("h", b"1")] * (n // 4))),
    "headers, each an attribute": lambda n: sent(
        consumed(b"v", [*BINARY_MODE, *((f"ce_a{i}", b"1") for i in range(n // 8))])
    ),
    "a traceparent": lambda n: sent(consumed(b"v", [("traceparent", b"00-" + b"a" * n)])),
    "a status": lambda n: outcome_of_status(
        14, "failed to connect to all addresses; last error: " + "Peer name " * (n // 10)
    ),
    "a status that is said in the log": lambda n: sanitised("\x1b " * n),
    "an ack map": lambda n: refused(lambda: ackmap.decode(0, "A" * n)),
    "an ack map of runs": lambda n: forged_runs(min(n, 60_000)),
}


def forged_runs(size: int) -> None:
    payload = b"\x01" * (size // 2 * 2)
    assert len(ackmap.decode(0, forged(1, payload)).ranges) == size // 2


def forged(coding: int, payload: bytes, base: int = 0) -> str:
    """Whoever may write to the group can give a map its checksum."""
    head = bytes((1, coding)) + len(payload).to_bytes(2, "big")
    check = ackmap._checksum(coding, base, payload).to_bytes(4, "big")
    return base64.b64encode(head + check + payload).rstrip(b"=").decode()


def cpu_s(act: Callable[[int], object], size: int) -> float:
    """The least of three."""
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        act(size)
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.parametrize("what", HOSTILE)
def test_cost_grows_with_the_size_and_no_faster(what: str) -> None:
    act, size = HOSTILE[what], SIZE_FIRST
    small_s = cpu_s(act, size)
    while small_s < MEASURABLE_S and size < SIZE_MAX // GROWTH:
        size *= 4
        small_s = cpu_s(act, size)
    large_s = cpu_s(act, size * GROWTH)
    assert large_s <= GROWTH * NOISE * max(small_s, MEASURABLE_S)


def peak_bytes(act: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_nothing_is_decoded_above_its_limit() -> None:
    structured = b'{"data":[' + b"0," * STRUCTURED_BYTES_MAX + b"0]}"
    large = event_of(b"[" + b"0," * JSON_BYTES_MAX + b"0]")
    assert peak_bytes(lambda: set_aside(consumed(structured, STRUCTURED))) < STRUCTURED_BYTES_MAX // 4
    assert peak_bytes(lambda: refused(lambda: document_of(large))) < JSON_BYTES_MAX // 4


def test_a_bomb_in_the_ack_map_inflates_to_no_more_than_a_map() -> None:
    bomb = zlib.compress(b"\xff" * (32 << 20), 9)
    assert len(bomb) < 1 << 16
    assert peak_bytes(lambda: refused(lambda: ackmap.decode(0, forged(3, bomb)))) < 1 << 20


def test_a_value_that_is_compressed_is_data() -> None:
    """Nobody inflates what a publisher has deflated: it goes to the target as it is."""
    bomb = zlib.compress(b"\0" * (32 << 20), 9)
    event = consumed(bomb, [("content-encoding", b"gzip"), ("content-type", b"application/json")])
    assert peak_bytes(lambda: RAW.build(delivery_of(event))) < 1 << 20
    assert RAW.build(delivery_of(event))[0] == bomb


def test_a_long_status_is_no_other_for_its_length() -> None:
    """What is looked for stands at the beginning; what follows may be as long as it likes."""
    said = (
        "failed to connect to all addresses; last error: UNKNOWN: Ssl handshake failed (TSI_PROTOCOL_FAILURE)"
    )
    assert outcome_of_status(14, said + " " * 60_000) == replace(
        outcome_of_status(14, said), message=said + " " * 60_000
    )
    assert isinstance(outcome_of_status(14, said), Outcome)
