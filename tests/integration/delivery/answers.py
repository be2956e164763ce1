"""The oracle: what the target answers to an attempt, and therefore how each event must end.

Both sides compute it from (seed, delivery id, attempt): the target when it is called, the test when it
checks. Nothing is remembered between them, so the prediction cannot be influenced by what Pelton did.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

__all__ = ["ATTEMPTS_MAX", "Answer", "Kind", "answer", "kind_of", "predict"]

#: `retry.attempts` of the subscriptions under test.
ATTEMPTS_MAX = 3


class Kind(Enum):
    """How the target treats one event. About one in twenty is not simply taken."""

    #: Taken at once.
    TAKEN = "taken"
    #: UNKNOWN once, then taken.
    FAILS_ONCE = "fails-once"
    #: UNKNOWN for ever: exhausted, and its key becomes suspect.
    FAILS_ALWAYS = "fails-always"
    #: UNAVAILABLE once, then taken: burns nothing, since the event before last did not fail.
    UNWELL_ONCE = "unwell-once"
    #: ABORTED once with a pushback, then taken.
    PUSHED_BACK = "pushed-back"
    #: The trailer asks for another attempt once.
    ASKS_RETRY = "asks-retry"
    #: The trailer drops it.
    DROPPED = "dropped"
    #: The trailer sets it aside.
    SET_ASIDE = "set-aside"
    #: INVALID_ARGUMENT.
    WRONG = "wrong"


#: In thousandths of all events; the rest is taken.
_SHARES = {
    Kind.FAILS_ONCE: 10,
    Kind.FAILS_ALWAYS: 5,
    Kind.UNWELL_ONCE: 10,
    Kind.PUSHED_BACK: 5,
    Kind.ASKS_RETRY: 5,
    Kind.DROPPED: 5,
    Kind.SET_ASIDE: 5,
    Kind.WRONG: 5,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One call's answer: a status by name, and trailers."""

    status: str = "OK"
    trailers: tuple[tuple[str, str], ...] = ()


_OK = Answer()


def kind_of(seed: str, delivery_id: str) -> Kind:
    digest = hashlib.blake2b(f"{seed}:{delivery_id}".encode(), digest_size=4).digest()
    at = int.from_bytes(digest, "big") % 1000
    for kind, share in _SHARES.items():
        if at < share:
            return kind
        at -= share
    return Kind.TAKEN


def answer(seed: str, delivery_id: str, attempt: int) -> Answer:
    match kind_of(seed, delivery_id), attempt:
        case Kind.WRONG, _:
            return Answer("INVALID_ARGUMENT")
        case Kind.DROPPED, _:
            return Answer("OK", (("pelton-verdict", "drop"),))
        case Kind.SET_ASIDE, _:
            return Answer("ABORTED", (("pelton-verdict", "dead-letter;reason=as asked"),))
        case Kind.FAILS_ALWAYS, _:
            return Answer("UNKNOWN")
        case Kind.FAILS_ONCE, 1:
            return Answer("UNKNOWN")
        case Kind.UNWELL_ONCE, 1:
            return Answer("UNAVAILABLE")
        case Kind.PUSHED_BACK, 1:
            return Answer("ABORTED", (("grpc-retry-pushback-ms", "5"),))
        case Kind.ASKS_RETRY, 1:
            return Answer("OK", (("pelton-verdict", "retry;after=10ms"),))
    return _OK


def predict(seed: str, lane: Iterable[str], *, suspects: bool) -> dict[str, str]:
    """How each delivery of one lane ends, given in order: acked, dropped or dead_lettered.

    With `suspects` (a lane of a key), whoever follows an exhausted event gets one attempt until one is acked.
    """
    ends: dict[str, str] = {}
    suspect = False
    for delivery_id in lane:
        kind = kind_of(seed, delivery_id)
        burned_once = kind in (Kind.FAILS_ONCE, Kind.PUSHED_BACK, Kind.ASKS_RETRY)
        if kind is Kind.DROPPED:
            ends[delivery_id] = "dropped"
        elif kind in (Kind.WRONG, Kind.SET_ASIDE):
            ends[delivery_id] = "dead_lettered"
        elif kind is Kind.FAILS_ALWAYS or (suspect and burned_once):
            ends[delivery_id] = "dead_lettered"
            suspect = suspects
        else:
            ends[delivery_id] = "acked"
            suspect = False
    return ends
