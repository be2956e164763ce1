"""What to do after an attempt that did not settle its event: a decision, as a value.

Rule 1: one call of `decide`, one `Decision`; nothing is changed here. Rule 2: whether the target as a
whole is well is handed in; that is `breaker.py`'s to know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from pelton.core.outcome import Outcome
from pelton.subscription import Disposition, OnExhausted, RetryPolicy

__all__ = ["UNWELL_BACKOFF_MAX_MS", "Decision", "Do", "History", "Jitter", "decide"]

#: Draws from [0, 1).
Jitter = Callable[[], float]

#: The longest wait for a target that is unwell. The breaker keeps the calls away from it meanwhile, so a
#: longer wait would only delay the event after the target has come back.
UNWELL_BACKOFF_MAX_MS = 5_000.0

#: A wait that the target asks for is honoured up to this; more would look like a loss.
RETRY_AFTER_MAX_MS = 3_600_000.0


class Do(Enum):
    """What happens next to the event."""

    #: It is settled: the target took it.
    ACK = "ack"
    #: It is settled without effect.
    DROP = "drop"
    #: Another attempt, after the wait.
    WAIT = "wait"
    #: It is set aside.
    DEAD_LETTER = "dead_letter"
    #: The attempt did not count: call again as soon as it may.
    AGAIN = "again"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and what it does to the event's account of attempts."""

    do: Do
    after_ms: float = 0.0
    #: Attempts to burn, and how many failures stay unburned for now.
    burn: int = 0
    unburned: int = 0
    #: The event ran out of attempts: its key is suspect from now on.
    exhausted: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """What a decision needs to know of the event and its target."""

    #: Attempts made, this one included.
    attempt: int
    burned: int
    unburned: int
    #: Attempts allowed: the policy's, or 1 for a suspect key.
    attempts_max: int
    #: Since the first attempt, time with the breaker open left out.
    age_ms: float
    #: Another event's call that started after this one's previous failure succeeded.
    well_in_between: bool
    #: The target succeeded with anything lately.
    well_lately: bool


def decide(
    policy: RetryPolicy, disposition: Disposition, outcome: Outcome, history: History, jitter: Jitter
) -> Decision:
    """The decision after an attempt that ended in `outcome`, which means `disposition`.

    An outage burns no attempts, an event that hangs or kills its target burns one each time. The two look
    alike at the first failure, so it stays unburned; if the next failure comes although another event was
    called and taken in between, the target was well and both are burned.
    """
    if outcome.cancelled:
        return Decision(Do.AGAIN, unburned=history.unburned)
    if disposition is Disposition.ACK:
        return Decision(Do.ACK)
    if disposition is Disposition.DROP:
        return Decision(Do.DROP)
    if disposition is Disposition.DEAD_LETTER:
        return Decision(Do.DEAD_LETTER)
    if disposition is Disposition.UNWELL:
        if history.well_in_between:
            burn, unburned = 1 + history.unburned, 0
        else:
            burn, unburned = 0, 1
    elif disposition is Disposition.MISWIRED and not history.well_lately:
        burn, unburned = 0, history.unburned
    else:
        burn, unburned = 1, 0
    if outcome.final:
        # Burned now, so that it does not count again with the next failure if the event is held.
        burn, unburned = max(burn, 1), 0
    used_up = burn > 0 and (outcome.final or history.burned + burn >= history.attempts_max)
    exhausted = used_up or history.age_ms >= policy.give_up_after_ms
    if exhausted and policy.on_exhausted is OnExhausted.DEAD_LETTER:
        return Decision(Do.DEAD_LETTER, burn=burn, exhausted=True)
    return Decision(
        Do.WAIT, _wait_ms(policy, outcome, history, burned=burn > 0, jitter=jitter), burn, unburned
    )


def _wait_ms(
    policy: RetryPolicy, outcome: Outcome, history: History, *, burned: bool, jitter: Jitter
) -> float:
    if outcome.retry_after_ms is not None:
        return min(outcome.retry_after_ms, RETRY_AFTER_MAX_MS)
    # 2**40 times the smallest wait is beyond any maximum; the exponent is bounded so that it stays a float.
    ceiling_ms = policy.backoff_min_ms * 2.0 ** min(history.attempt - 1, 40)
    ceiling_ms = min(ceiling_ms, policy.backoff_max_ms)
    if not burned:
        ceiling_ms = min(ceiling_ms, UNWELL_BACKOFF_MAX_MS)
    return ceiling_ms * jitter()
