"""The bytes of a `pelton.v1.DeliveryBatch`, put together from deliveries that are already serialised.

Building a Delivery costs microseconds, so it is done once, by whoever made the call; here its token is
appended as bytes, and the batch is a concatenation. Protobuf allows both: fields may come in any order, and
a message is the concatenation of its fields. Nothing here parses, and nothing here knows of streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pelton.v1 import handler_pb2
from pelton.varint import LAST, MORE, varint

__all__ = [
    "BATCH_OVERHEAD_BYTES",
    "CANCELLED_BYTES",
    "DELIVERY_OVERHEAD_BYTES",
    "batch_head",
    "compose",
    "delivery_fields",
]

_LENGTH_DELIMITED = 2
_DELIVERIES_TAG = bytes([handler_pb2.DeliveryBatch.DELIVERIES_FIELD_NUMBER << 3 | _LENGTH_DELIMITED])
_TOKEN_TAG = bytes([handler_pb2.Delivery.TOKEN_FIELD_NUMBER << 3])
#: A token's beginning: its tag, and its first seven bits where they are all of it, or where others follow.
_TOKEN_LAST = [_TOKEN_TAG + group for group in LAST]
_TOKEN_MORE = [_TOKEN_TAG + group for group in MORE]

#: The most that a delivery grows by: two tags, a length and a token.
DELIVERY_OVERHEAD_BYTES = 1 + 5 + 1 + 10
#: The most that the timeout and the head of the packed tokens take.
BATCH_OVERHEAD_BYTES = 32
#: The most that one cancelled token takes.
CANCELLED_BYTES = 10


def delivery_fields(bodies: Sequence[bytes], first_token: int) -> list[bytes]:
    """Entries of `deliveries`, in pieces: serialised Deliveries that have no token yet, and each its token,
    which is one more than that of the one before."""
    pieces: list[bytes] = []
    upper, begins, rest, token_bytes = -1, _TOKEN_LAST, b"", 0
    for token, body in enumerate(bodies, first_token):
        if token >> 7 != upper:
            # The same for many in a row.
            upper = token >> 7
            begins, rest = (_TOKEN_MORE, varint(upper)) if upper else (_TOKEN_LAST, b"")
            token_bytes = len(begins[0]) + len(rest)
        pieces += (_DELIVERIES_TAG, varint(len(body) + token_bytes), body, begins[token & 0x7F], rest)
    return pieces


def batch_head(subscription: str, parameters: Mapping[str, str]) -> bytes:
    """What every batch of a subscription says once, made once."""
    return handler_pb2.DeliveryBatch(subscription=subscription, parameters=parameters).SerializeToString()


def compose(head: bytes, deliveries: Iterable[bytes], timeout_ms: float, cancelled: Iterable[int]) -> bytes:
    """A whole batch. `deliveries` are pieces from `delivery_fields`; a timeout of 0 says nothing (no
    deliveries)."""
    tail = handler_pb2.DeliveryBatch(cancelled=cancelled)
    if timeout_ms > 0:
        tail.timeout.FromMilliseconds(int(timeout_ms))
    return b"".join((head, *deliveries, tail.SerializeToString()))
