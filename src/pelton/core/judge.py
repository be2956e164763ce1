"""What an outcome that is no plain ack says: of the target to its breaker, and of the event to its account.

The breaker hears of it after the decision's questions were put: what matters is what *other* calls did since
the event's previous failure. What is done about the decision is `engine.py`'s.
"""

from __future__ import annotations

from pelton.core.breaker import Breaker
from pelton.core.delivery import Delivery
from pelton.core.outcome import Outcome, disposition_of, table_of
from pelton.core.retry import Decision, Do, History, Jitter, decide
from pelton.core.suspects import Suspects
from pelton.core.tally import Tally
from pelton.subscription import Disposition, Subscription, Tier

__all__ = ["Judge"]


class Judge:
    """Judges the outcomes of one partition. The breaker is the target's, shared by all partitions."""

    __slots__ = ("_breaker", "_jitter", "_may_move", "_policy", "_table", "_tally", "suspects")

    def __init__(
        self,
        subscription: Subscription,
        breaker: Breaker,
        tally: Tally,
        jitter: Jitter,
        next_tier: Tier | None,
    ) -> None:
        """`next_tier` is the retry tier to move to from here. An event that was moved gets one attempt."""
        self._policy = subscription.retry
        self._table = table_of(subscription)
        self._breaker = breaker
        self._tally = tally
        self._jitter = jitter
        self._may_move = next_tier is not None
        self.suspects = Suspects()

    def judge(self, delivery: Delivery, outcome: Outcome, now_ms: float) -> Decision:
        """What to do now. The event's account of attempts has been changed accordingly."""
        breaker, budget = self._breaker, self._breaker.budget
        disposition = disposition_of(outcome, self._table)
        counts = self._tally.outcomes
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
        mark = delivery.mark
        # One that followed others into its tier has had none of its attempts in memory yet.
        moved = delivery.event.moved
        once = (moved is not None and moved.attempts > 0) or delivery.event.key in self.suspects
        history = History(
            attempt=delivery.attempt,
            burned=delivery.burned,
            unburned=delivery.unburned,
            doubtful=delivery.doubtful,
            attempts_max=1 if once else self._policy.attempts,
            age_ms=now_ms - delivery.first_attempted_ms - (breaker.open_ms(now_ms) - delivery.open_before_ms),
            well_in_between=mark is not None and delivery.last_failed_ms < breaker.newest_good_start_ms,
            was_outage=mark is not None and budget.was_outage(mark),
            weight=0.0 if mark is None else budget.weight(mark),
            has_right=budget.has_right,
            may_move=self._may_move,
        )
        if outcome.cancelled or outcome.local:
            breaker.abandoned(delivery, now_ms)
        elif disposition is Disposition.UNWELL:
            breaker.unwell(delivery, now_ms, first=delivery.attempt == 1)
        elif disposition is Disposition.MISWIRED:
            breaker.miswired(delivery, now_ms, first=delivery.attempt == 1)
        else:
            breaker.good(1, delivery.started_ms, now_ms, delivery, retried=int(delivery.attempt > 1))
        decision = decide(self._policy, disposition, outcome, history, self._jitter)
        delivery.burned += decision.burn
        delivery.unburned = decision.unburned
        delivery.doubtful = decision.doubtful
        if decision.spends:
            budget.spend()
        if decision.exhausted:
            self.suspects.add(delivery.event.key)
        if decision.do in (Do.WAIT, Do.DEAD_LETTER, Do.MOVE):
            delivery.failed(outcome, now_ms)
            delivery.mark = budget.mark(in_outage=breaker.outage_confirmed)
        return decision
