"""What the Kafka client says while it tries again and again: each thing once, on stderr.

Without this a broker that is away fills the terminal, ten lines a second. Only for commands that talk to a
person; the server has its own logs.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Final

__all__ = ["say_once"]

#: Different things said; a client that finds more than this has nothing new to say.
SAID_MAX: Final = 20

#: What differs between two tellings of the same thing: times, ports, counts.
_NUMBERS = re.compile(r"\d+")


class _Once(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        thing = _NUMBERS.sub("", text)
        if thing not in self._said and len(self._said) < SAID_MAX:
            self._said.add(thing)
            sys.stderr.write(f"pelton: {text}\n")


def say_once() -> None:
    """From here on, unless `--debug` shows everything already."""
    if logging.getLogger().handlers:
        return
    logger = logging.getLogger("pelton")
    logger.addHandler(_Once())
    logger.propagate = False
    # The client's own lines say the same a second time, for its developers.
    logging.getLogger("pelton.kafka.client").propagate = False
    logging.getLogger("pelton.kafka.client").addHandler(logging.NullHandler())
