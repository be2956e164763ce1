"""The C library's heap, which Kafka's clients fill from a thread for each broker.

What Python's own objects take is not decided here, nor is what may wait (`core/limits.py`).
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

__all__ = ["ARENAS_MAX", "share_arenas"]

#: glibc gives each thread an arena until there are eight for each core, and what a burst has filled in one of
#: them is no use to another: with clients that come and go, twice the memory that is in use at any time.
ARENAS_MAX: Final = 2
#: mallopt(3): M_ARENA_MAX.
_M_ARENA_MAX: Final = -8
#: glibc reads it itself: whoever sets it knows what for.
_VARIABLE: Final = "MALLOC_ARENA_MAX"


def share_arenas() -> None:
    """Let all threads share so many arenas; before they begin. Without glibc there are none to share."""
    if _VARIABLE in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS_MAX)
