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
    #: It goes to the next retry tier, and is tried again there.
    MOVE = "move"
    #: The attempt did not count: call again as soon as it may.
    AGAIN = "again"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and what it does to the event's account of attempts."""

    do: Do
    after_ms: float = 0.0
    #: Attempts to burn (below 0: to give back), and how many failures stay unburned for now.
    burn: float = 0.0
    unburned: int = 0
    #: What of it was burned for this failure, and may turn out to be the target's fault.
    doubtful: float = 0.0
    #: The event ran out of attempts: its key is suspect from now on.
    exhausted: bool = False
    #: It uses up a right of the target's dead-letter budget.
    spends: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """What a decision needs to know of the event and its target."""

    #: Attempts made, this one included.
    attempt: int
    burned: float
    unburned: int
    #: What was burned for the previous failure, which may have been an outage's after all.
    doubtful: float
    #: Attempts allowed: the policy's, or 1 for a suspect key.
    attempts_max: int
    #: Since the first attempt, time with the breaker open left out.
    age_ms: float
    #: Another event's call that started after this one's previous failure succeeded.
    well_in_between: bool
    #: The previous failure belongs to an outage that is confirmed by now.
    was_outage: bool
    #: How much a failure of the unwell kind says against the event (`budget.py`): of an attempt, 0 to 1.
    weight: float
    #: The target's dead-letter budget allows one more after a failure of the unwell kind.
    has_right: bool
    #: There is a retry tier that it has not been in.
    may_move: bool = False


#: Weights are sums of fractions: without this the last one may lack a digit.
_TOLERANCE = 1e-9


def decide(
    policy: RetryPolicy, disposition: Disposition, outcome: Outcome, history: History, jitter: Jitter
) -> Decision:
    """The decision after an attempt that ended in `outcome`, which means `disposition`.

    An outage burns no attempts, an event that hangs or kills its target burns one each time. The two look
    alike at the first failure, so it stays unburned; if the next failure comes although another event was
    called and taken in between, both are burned, by as much as they weigh. A failure that turns out to have
    been an outage's is given back. A target that has just become miswired refuses everything long before the
    breaker has seen enough of it: the same holds for it.

    An event that was exhausted by such failures also needs a right of the target's dead-letter budget, and
    waits while there is none; `give_up_after` is the user's own bound, and needs none.
    """
    if outcome.cancelled:
        return Decision(Do.AGAIN, unburned=history.unburned, doubtful=history.doubtful)
    if disposition is Disposition.ACK:
        return Decision(Do.ACK)
    if disposition is Disposition.DROP:
        return Decision(Do.DROP)
    if disposition is Disposition.DEAD_LETTER:
        return Decision(Do.DEAD_LETTER)
    burn, unburned, doubtful = 1.0, 0, 0.0
    unanswered = disposition in (Disposition.UNWELL, Disposition.MISWIRED)
    if unanswered:
        if history.was_outage:
            burn, unburned = -history.doubtful, 1
        elif history.well_in_between:
            burn, doubtful = history.weight * (1 + history.unburned), history.weight
        else:
            burn, unburned = 0.0, 1
    if outcome.final:
        # Burned now, so that it does not count again with the next failure if the event is held.
        burn, unburned, doubtful = max(burn, 1.0), 0, 0.0
    used_up = burn > 0.0 and (outcome.final or history.burned + burn >= history.attempts_max - _TOLERANCE)
    too_old = history.age_ms >= policy.give_up_after_ms
    if used_up and history.may_move and not too_old and not outcome.final:
        return Decision(Do.MOVE, burn=burn, exhausted=True)
    needs_right = unanswered and not outcome.final and not too_old
    exhausted = too_old or (used_up and (history.has_right or not needs_right))
    if exhausted and policy.on_exhausted is OnExhausted.DEAD_LETTER:
        return Decision(Do.DEAD_LETTER, burn=burn, exhausted=True, spends=needs_right)
    wait_ms = _wait_ms(policy, outcome, history, burned=burn > 0.0, jitter=jitter)
    return Decision(Do.WAIT, wait_ms, burn, unburned, doubtful)


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
