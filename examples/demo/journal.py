"""What the publisher and the service write down, a line of JSON for each thing, and reading it as it grows.

By these two files and the dead-letter topic the demo judges itself, never by what Pelton says of itself: so
an event's identity here is the shop's own, the customer and the number of the customer's event.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from pelton import DeadLetter, Retry

__all__ = ["Journal", "Published", "Reader", "Step", "What"]


class What(StrEnum):
    """What happened to a call."""

    #: The handler was entered.
    BEGAN = "began"
    #: It returned: the event is done.
    TAKEN = "taken"
    #: It asked for another attempt.
    RETRY = "retry"
    #: It said that the event will never succeed.
    DEAD_LETTER = "dead letter"
    #: It ended otherwise: it failed, or nobody waited for its answer any longer.
    CUT = "cut"


class Published(NamedTuple):
    """A line of the publisher: Kafka has this event."""

    customer: str
    #: Counted from 1 for each customer.
    number: int
    type: str


class Step(NamedTuple):
    """A line of the service: a call began, or it ended."""

    customer: str
    number: int
    attempt: int
    what: What


class Journal:
    """Writes lines. Each is in the file when `write` returns, whatever happens to the process afterwards."""

    def __init__(self, path: Path | None) -> None:
        """`path` None writes nothing."""
        self._file = path.open("a", buffering=1, encoding="utf-8") if path else None

    def write(self, line: Published | Step) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    @contextmanager
    def call(self, customer: str, number: int, attempt: int) -> Iterator[None]:
        """Around a handler's work: two lines, one when it begins and one that says how it ended."""
        self.write(Step(customer, number, attempt, What.BEGAN))
        end = What.CUT
        try:
            yield
            end = What.TAKEN
        except Retry:
            end = What.RETRY
            raise
        except DeadLetter:
            end = What.DEAD_LETTER
            raise
        finally:
            self.write(Step(customer, number, attempt, end))


class Reader:
    """Reads the lines that another process writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def published(self) -> Iterator[Published]:
        return (Published(*line) for line in self._lines())

    def steps(self) -> Iterator[Step]:
        for customer, number, attempt, what in self._lines():
            yield Step(customer, number, attempt, What(what))

    def _lines(self) -> Iterator[list[Any]]:
        """What was written since the last time; none while the file is not there yet."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # its end is still being written
                self._offset += len(line)
                yield json.loads(line)
