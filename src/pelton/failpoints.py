"""Named places at which a process kills itself, so that a test can die exactly there.

`PELTON_FAILPOINT=outcomes-fed` kills (SIGKILL: no handler, no flush, no goodbye) when the place is reached,
`outcomes-fed:25` when it is reached for the 25th time. Read once, at start; a name that is not known is
refused. For tests only: unset, a place costs one comparison, and places are passed once a batch, never once
an event.

To add one: a member here that says what is durable at that moment and what is not, and
`failpoints.reach(Failpoint.NAME)` at the place, in a room above `core`. The core itself has none: it does
nothing that could be half done.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from enum import Enum

from pelton.errors import ConfigError, Problem

__all__ = ["VARIABLE", "Failpoint", "arm", "reach"]

VARIABLE = "PELTON_FAILPOINT"
_TIMES_MAX = 1_000_000


class Failpoint(Enum):
    """Each place, and how things stand there."""

    #: Calls were handed to the transport; earlier ones are out, and nothing has come back of these.
    CALLS_SUBMITTED = "calls-submitted"
    #: The target has answered and the engines know; nothing that these outcomes settle was committed.
    OUTCOMES_FED = "outcomes-fed"
    #: The broker has these hops' records; the ledger has not heard of it, and their offsets are not passed.
    HOPS_ACKED = "hops-acked"
    #: The engines hold their commits for a transaction; nothing of it was begun.
    TRANSACTION_HELD = "transaction-held"
    #: The broker has the records of a transaction; the offsets are not in it yet.
    TRANSACTION_WRITTEN = "transaction-written"
    #: The broker has records and offsets of a transaction, which is still open.
    TRANSACTION_FILLED = "transaction-filled"
    #: The broker has committed a transaction; nobody here has heard of it.
    TRANSACTION_COMMITTED = "transaction-committed"
    #: Commits were handed to the client; whether the broker gets them is open.
    COMMITS_SENT = "commits-sent"


_armed: Failpoint | None = None
_left = 0


def arm(environ: Mapping[str, str], *, source: str = "") -> None:
    """Take what the environment says; ConfigError where it names no place."""
    global _armed, _left
    text = environ.get(VARIABLE, "")
    _armed, _left = None, 0
    if not text:
        return
    name, colon, times = text.partition(":")
    known = {place.value: place for place in Failpoint}
    if name not in known:
        raise _wrong(f"{text!r} names no place.", f"The places are: {', '.join(known)}.", source)
    if colon and not (times.isascii() and times.isdigit() and 0 < int(times) <= _TIMES_MAX):
        mend = f"Write {name}:25 for the 25th time; 1 to {_TIMES_MAX}."
        raise _wrong(f"{times!r} is no number of times.", mend, source)
    _armed, _left = known[name], int(times) if colon else 1


def reach(place: Failpoint) -> None:
    """This place is reached; where it is the armed one for the last time, the process ends here."""
    global _left
    if place is not _armed:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def _wrong(message: str, mend: str, source: str) -> ConfigError:
    return ConfigError([Problem(VARIABLE, message, mend)], source=source)
