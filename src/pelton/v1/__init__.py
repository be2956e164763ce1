"""The messages of the v1 contract: `from pelton.v1 import Delivery, Reply`.

Only the message classes. The service stubs import grpc, so they stay where they are generated:
`pelton.v1.handler_pb2_grpc`. Everything beside this file is generated (`make proto`) and never edited.
Importing needs a protobuf runtime at least as new as the generator's, 5.29; grpcio for the stubs, 1.71.2.
"""

from __future__ import annotations

from pelton.v1.event_pb2 import Event, Header, Position
from pelton.v1.handler_pb2 import (
    Ack,
    DeadLetter,
    Delivery,
    DeliveryBatch,
    Drop,
    Failure,
    Reply,
    Retry,
    Settlement,
    SettlementBatch,
)

__all__ = [
    "Ack",
    "DeadLetter",
    "Delivery",
    "DeliveryBatch",
    "Drop",
    "Event",
    "Failure",
    "Header",
    "Position",
    "Reply",
    "Retry",
    "Settlement",
    "SettlementBatch",
]
