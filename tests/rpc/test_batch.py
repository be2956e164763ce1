"""A stream's batches, byte for byte: what is composed by hand is what protobuf reads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pelton.rpc.batch import (
    BATCH_OVERHEAD_BYTES,
    CANCELLED_BYTES,
    DELIVERY_OVERHEAD_BYTES,
    batch_head,
    compose,
    delivery_fields,
)
from pelton.v1 import event_pb2, handler_pb2

tokens = st.integers(1, 300) | st.integers(1, (1 << 64) - 1)


@given(
    first_token=st.integers(1, 300) | st.integers(16_300, 16_400) | st.integers(1, (1 << 64) - 9),
    sizes=st.lists(st.integers(0, 300) | st.integers(0, 20_000), max_size=8),
    parameters=st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3),
    timeout_ms=st.floats(1, 1e9),
    cancelled=st.lists(tokens, max_size=50),
)
def test_composed_bytes_say_what_the_message_would(
    first_token: int,
    sizes: list[int],
    parameters: dict[str, str],
    timeout_ms: float,
    cancelled: list[int],
) -> None:
    deliveries = [
        handler_pb2.Delivery(delivery_id=f"s/t/0/{size}", attempt=1, event=event_pb2.Event(value=bytes(size)))
        for size in sizes
    ]
    head = batch_head("notify-shop", parameters)
    bodies = [delivery.SerializeToString() for delivery in deliveries]
    fields = delivery_fields(bodies, first_token)
    assert sum(map(len, fields)) <= sum(len(body) + DELIVERY_OVERHEAD_BYTES for body in bodies)
    composed = compose(head, fields, timeout_ms, cancelled)
    for token, delivery in enumerate(deliveries, first_token):
        delivery.token = token
    expected = handler_pb2.DeliveryBatch(
        deliveries=deliveries, subscription="notify-shop", parameters=parameters, cancelled=cancelled
    )
    expected.timeout.FromMilliseconds(int(timeout_ms))
    assert handler_pb2.DeliveryBatch.FromString(composed) == expected
    bound = len(head) + sum(map(len, fields)) + BATCH_OVERHEAD_BYTES + CANCELLED_BYTES * len(cancelled)
    assert len(composed) <= bound


def test_nothing_but_cancelled_tokens_has_no_timeout() -> None:
    batch = handler_pb2.DeliveryBatch.FromString(compose(b"", (), 0.0, (7, 9)))
    assert list(batch.cancelled) == [7, 9]
    assert not batch.HasField("timeout")
