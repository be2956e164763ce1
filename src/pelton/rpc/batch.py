"""The bytes of a `pelton.v1.DeliveryBatch`, put together from deliveries that are already serialised.

Building a Delivery costs microseconds, so it is done once, by whoever made the call; here its token is
appended as bytes, and the batch is a concatenation. Protobuf allows both: fields may come in any order, and
a message is the concatenation of its fields. Nothing here parses, and nothing here knows of streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pelton.v1 import handler_pb2
from pelton.varint import varint

__all__ = [
    "BATCH_OVERHEAD_BYTES",
    "CANCELLED_BYTES",
    "DELIVERY_OVERHEAD_BYTES",
    "batch_head",
    "compose",
    "delivery_field",
]

_LENGTH_DELIMITED = 2
_DELIVERIES_TAG = bytes([handler_pb2.DeliveryBatch.DELIVERIES_FIELD_NUMBER << 3 | _LENGTH_DELIMITED])
_TOKEN_TAG = bytes([handler_pb2.Delivery.TOKEN_FIELD_NUMBER << 3])

#: The most that a delivery grows by: two tags, a length and a token.
DELIVERY_OVERHEAD_BYTES = 1 + 5 + 1 + 10
#: The most that the timeout and the head of the packed tokens take.
BATCH_OVERHEAD_BYTES = 32
#: The most that one cancelled token takes.
CANCELLED_BYTES = 10


def delivery_field(body: bytes, token: int) -> tuple[bytes, ...]:
    """One entry of `deliveries`, in pieces: a serialised Delivery that has no token yet, and its token."""
    coded = varint(token)
    return (_DELIVERIES_TAG, varint(len(body) + len(_TOKEN_TAG) + len(coded)), body, _TOKEN_TAG, coded)


def batch_head(subscription: str, parameters: Mapping[str, str]) -> bytes:
    """What every batch of a subscription says once, made once."""
    return handler_pb2.DeliveryBatch(subscription=subscription, parameters=parameters).SerializeToString()


def compose(head: bytes, deliveries: Iterable[bytes], timeout_ms: float, cancelled: Iterable[int]) -> bytes:
    """A whole batch. `deliveries` are pieces from `delivery_field`, one after the other; a timeout of 0 says
    nothing (no deliveries)."""
    tail = handler_pb2.DeliveryBatch(cancelled=cancelled)
    if timeout_ms > 0:
        tail.timeout.FromMilliseconds(int(timeout_ms))
    return b"".join((head, *deliveries, tail.SerializeToString()))
