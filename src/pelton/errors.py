"""Every exception a user of Pelton can catch.

Outcomes of calls are values (`pelton.core.outcome`), bugs are asserts; what is left is here:

- `PeltonError`
    - `ConfigError`: the configuration cannot be used; carries every problem at once
    - `RequestError`: the request for one event cannot be built; the event is dead-lettered
    - `BrokerError`: Kafka said no, or did not answer
        - `FencedError`: another process took over this member's identity
        - `PublishError`: one event was not taken; its position in the log is not known
    - `TargetError`: a target cannot be described or reached at start
    - `HandlerError`: a handler cannot be registered, or an App served, as it is written
    - `LocalKafkaError`: the Kafka on this computer cannot be fetched, started or stopped

Each message says what failed, where, and how to mend it. The command line prints the message alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "BrokerError",
    "ConfigError",
    "FencedError",
    "HandlerError",
    "LocalKafkaError",
    "PeltonError",
    "Problem",
    "PublishError",
    "RequestError",
    "TargetError",
]


class PeltonError(Exception):
    """The root: catch this to catch everything Pelton raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a configuration: where it stands, what is wrong, how to mend it."""

    #: Dotted path in the file, such as ``subscriptions.notify.retry.backoff``.
    path: str
    #: What is wrong, in one sentence.
    message: str
    #: How to mend it, in one sentence; empty where the message already says so.
    mend: str = ""
    #: Line in the file, counted from 1; 0 where no line can be named.
    line: int = 0

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        mend = f" {self.mend}" if self.mend else ""
        return f"{where}{self.path}: {self.message}{mend}"


class ConfigError(PeltonError):
    """The configuration cannot be used. `problems` has every mistake found, in file order."""

    def __init__(self, problems: Sequence[Problem], *, source: str = "config") -> None:
        self.problems = tuple(problems)
        self.source = source
        count = len(self.problems)
        head = f"{source}: {count} problem{'s' if count != 1 else ''}"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))


class RequestError(PeltonError):
    """The request for one event cannot be built: a mapping, a filter or the data is at fault."""


class BrokerError(PeltonError):
    """Kafka said no, or did not answer in time."""


class FencedError(BrokerError):
    """Another process with the same `group.instance.id` took over; this one must end."""


class PublishError(BrokerError):
    """One event was not acknowledged by the broker. `retriable`: trying again may help."""

    def __init__(self, message: str, *, retriable: bool = False) -> None:
        super().__init__(message)
        self.retriable = retriable


class TargetError(PeltonError):
    """A target cannot be described or reached at start."""


class HandlerError(PeltonError):
    """A handler cannot be registered, or an App served, as it is written."""


class LocalKafkaError(PeltonError):
    """The Kafka on this computer cannot be fetched, started or stopped."""
