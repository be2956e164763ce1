"""What an attempt returned, and what a status means: values, not exceptions.

Rule 1: this file knows gRPC's status codes by number and name only; how they come off the wire is
`pelton.rpc.status`. Rule 2: nothing here looks at the history of an event or of a target; that is
`retry.py` and `breaker.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum

from pelton.subscription import Disposition, Subscription

__all__ = [
    "ACKED",
    "CANCELLED_BY_US",
    "STATUS_TABLE",
    "Outcome",
    "Status",
    "Verdict",
    "disposition_of",
    "table_of",
]


class Status(IntEnum):
    """The seventeen codes of `google.rpc.Code`."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Verdict(Enum):
    """What the target itself said should happen; it wins over the status."""

    ACK = "ack"
    RETRY = "retry"
    DROP = "drop"
    DEAD_LETTER = "dead-letter"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt returned.

    `status` is what the wire said (or what the transport makes of a failure before the wire).
    """

    status: Status
    #: For people: the details of the status, or the verdict's reason. Not yet sanitised.
    message: str = ""
    verdict: Verdict | None = None
    #: The target asks for this wait before the next attempt (verdict, pushback or RetryInfo).
    retry_after_ms: float | None = None
    #: The target asks for no further attempt (negative pushback).
    final: bool = False
    #: We cancelled the call ourselves (drain, revoke, stop): burns nothing, says nothing of the target.
    cancelled: bool = False
    #: The transport knows better than the table: an oversized or illegal request, a failed TLS handshake.
    disposition: Disposition | None = None
    #: Decided on this side before anything was sent: it says nothing of the target's health.
    local: bool = False


#: The one outcome of almost every call, shared.
ACKED = Outcome(Status.OK)
CANCELLED_BY_US = Outcome(Status.CANCELLED, "cancelled by Pelton", cancelled=True)

#: What each status means unless the subscription says otherwise (DESIGN: outcome -> decision).
STATUS_TABLE: Mapping[Status, Disposition] = {
    Status.OK: Disposition.ACK,
    Status.UNAVAILABLE: Disposition.UNWELL,
    Status.DEADLINE_EXCEEDED: Disposition.UNWELL,
    Status.RESOURCE_EXHAUSTED: Disposition.UNWELL,
    Status.CANCELLED: Disposition.UNWELL,
    Status.UNIMPLEMENTED: Disposition.MISWIRED,
    Status.UNAUTHENTICATED: Disposition.MISWIRED,
    Status.PERMISSION_DENIED: Disposition.MISWIRED,
    Status.ABORTED: Disposition.RETRY,
    Status.UNKNOWN: Disposition.RETRY,
    Status.INTERNAL: Disposition.RETRY,
    Status.INVALID_ARGUMENT: Disposition.DEAD_LETTER,
    Status.FAILED_PRECONDITION: Disposition.DEAD_LETTER,
    Status.OUT_OF_RANGE: Disposition.DEAD_LETTER,
    Status.NOT_FOUND: Disposition.DEAD_LETTER,
    Status.DATA_LOSS: Disposition.DEAD_LETTER,
    Status.ALREADY_EXISTS: Disposition.DEAD_LETTER,
}

_OF_VERDICT: Mapping[Verdict, Disposition] = {
    Verdict.ACK: Disposition.ACK,
    Verdict.RETRY: Disposition.RETRY,
    Verdict.DROP: Disposition.DROP,
    Verdict.DEAD_LETTER: Disposition.DEAD_LETTER,
}


def table_of(subscription: Subscription) -> Mapping[Status, Disposition]:
    """The table with the cells that the subscription changes."""
    table = dict(STATUS_TABLE)
    if subscription.idempotent:
        table[Status.ALREADY_EXISTS] = Disposition.ACK
    for name, disposition in subscription.statuses.items():
        table[Status[name]] = disposition
    return table


def disposition_of(outcome: Outcome, table: Mapping[Status, Disposition]) -> Disposition:
    """The verdict if the target gave one, else what the transport knows, else the table's cell."""
    if outcome.verdict is not None:
        return _OF_VERDICT[outcome.verdict]
    if outcome.disposition is not None:
        return outcome.disposition
    return table[outcome.status]
