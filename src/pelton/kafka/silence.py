"""How long the brokers have been silent, from what the client reports of itself.

A consumer hears from a broker all the time: heartbeats are answered, and fetches, even empty ones. So silence
says that nobody is there, or that nobody answers, whatever the connection looks like: a broker that is frozen
keeps its connections for minutes. Nothing here decides what silence means.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["REPORT_EVERY_MS", "heard_ago_ms"]

#: How often the client reports; making and reading it takes well under a millisecond for ten partitions.
REPORT_EVERY_MS: Final = 2_000

#: Since the last byte from each broker, in microseconds; -1 where there never was one. Looked for in the
#: text: the report of a thousand partitions is a megabyte, and all else in it is not needed.
_RECEIVED_AGO = re.compile(r'"rxidle": ?(\d+)')


def heard_ago_ms(report: str) -> float | None:
    """Since anything was heard of any broker; None where nothing ever was."""
    found = _RECEIVED_AGO.findall(report)
    return min(map(int, found)) / 1_000.0 if found else None
