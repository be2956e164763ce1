"""What an outcome means for its event: from the documentation, not from the code under test."""

from __future__ import annotations

from pelton.core.outcome import Outcome, Status, Verdict
from pelton.subscription import Disposition

__all__ = ["means_of"]

_OF_VERDICT = {
    Verdict.ACK: Disposition.ACK,
    Verdict.RETRY: Disposition.RETRY,
    Verdict.DROP: Disposition.DROP,
    Verdict.DEAD_LETTER: Disposition.DEAD_LETTER,
}
_UNWELL = {Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED, Status.RESOURCE_EXHAUSTED, Status.CANCELLED}
_MISWIRED = {Status.UNIMPLEMENTED, Status.UNAUTHENTICATED, Status.PERMISSION_DENIED}
_PASSING = {Status.ABORTED, Status.UNKNOWN, Status.INTERNAL}


def means_of(outcome: Outcome, *, idempotent: bool) -> Disposition:
    """The verdict where there is one, then what the transport knows, then the status."""
    if outcome.verdict is not None:
        return _OF_VERDICT[outcome.verdict]
    if outcome.disposition is not None:
        return outcome.disposition
    status = outcome.status
    if status is Status.OK or (status is Status.ALREADY_EXISTS and idempotent):
        return Disposition.ACK
    if status in _UNWELL:
        return Disposition.UNWELL
    if status in _MISWIRED:
        return Disposition.MISWIRED
    return Disposition.RETRY if status in _PASSING else Disposition.DEAD_LETTER
