"""What a handler may know about the attempt it is part of, beside the event itself.

Values only: nothing here talks to anyone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["NO_PARAMETERS", "NO_TRACE", "Context", "Failure", "Trace"]

#: Shared by every delivery without parameters.
NO_PARAMETERS: Mapping[str, str] = MappingProxyType({})


class Failure(NamedTuple):
    """How an attempt failed."""

    #: A `google.rpc.Code`.
    code: int
    message: str


class Trace(NamedTuple):
    """W3C trace context, as it came; empty where there is none."""

    traceparent: str = ""
    tracestate: str = ""


NO_TRACE = Trace()


@dataclass(frozen=True, slots=True)
class Context:
    """One attempt at one event for one subscription. All but the first two have defaults, for tests."""

    #: The same for every attempt at this event: the key to deduplicate on.
    delivery_id: str
    subscription: str
    #: Counted from 1.
    attempt: int = 1
    #: What the subscription adds to the event.
    parameters: Mapping[str, str] = field(default_factory=lambda: NO_PARAMETERS)
    #: Grows with every change of ownership of the partition: refuse a smaller one than you have seen. 0 where
    #: the broker does not tell.
    fence: int = 0
    #: When this attempt is given up, on the clock of `time.monotonic`; None where nobody set a limit.
    deadline: float | None = None
    first_attempted: datetime | None = None
    #: Why the previous attempt failed; None on the first.
    last_failure: Failure | None = None
    #: Set when the event is read again on purpose.
    replay_id: str = ""
    trace: Trace = NO_TRACE

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline, never below 0; None where there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
