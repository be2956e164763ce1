"""Whether a target is well: when to stop calling it, and when to try it again.

One breaker per subscription: a target is a method, and two methods of one server fail apart. It answers
for the target as a whole; what a failure means for an event is `retry.py`'s.

Open means: no call starts but one probe at a time, after 1 s, then doubling to 5 s; any answer to a probe
that is neither unwell nor miswired closes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from pelton.core.budget import Budget

__all__ = ["PROBE_FIRST_MS", "Breaker", "Health"]

#: Open at this share of unwell outcomes ...
UNWELL_SHARE = 0.5
#: ... of at least so many ...
OUTCOMES_MIN = 20
#: ... in this window, kept in buckets of a second.
WINDOW_MS = 10_000.0
_BUCKET_MS = 1_000.0
#: Or at so many in a row with nothing good between them.
IN_A_ROW = 5

PROBE_FIRST_MS = 1_000.0
PROBE_MAX_MS = 5_000.0


class Health(Enum):
    """What the breaker believes of the target."""

    #: Calls go out as the limits allow.
    WELL = "well"
    #: It does not answer, or not in time: an outage, which burns no attempts.
    UNWELL = "unwell"
    #: It answers that it will not: wrong method, wrong credentials. Somebody must mend it.
    MISWIRED = "miswired"


#: Every change of health there is; the reason stands in `Breaker`.
TRANSITIONS: Mapping[Health, frozenset[Health]] = {
    Health.WELL: frozenset({Health.UNWELL, Health.MISWIRED}),
    Health.UNWELL: frozenset({Health.WELL, Health.MISWIRED}),
    Health.MISWIRED: frozenset({Health.WELL, Health.UNWELL}),
}


class Breaker:
    """Watches outcomes, three kinds of them: good, unwell, miswired. Times are monotonic milliseconds."""

    __slots__ = (
        "_buckets",
        "_miswired_in_a_row",
        "_open_before_ms",
        "_opened_ms",
        "_probe",
        "_probe_untried",
        "_probe_wait_ms",
        "_unwell_in_a_row",
        "budget",
        "closed",
        "health",
        "last_good_ms",
        "newest_good_start_ms",
        "next_probe_ms",
        "opened",
        "outage_confirmed",
    )

    def __init__(self) -> None:
        self.health = Health.WELL
        #: Its health is WELL; asked for every outcome, so it is kept and not computed.
        self.closed = True
        #: How often it has opened.
        self.opened = 0
        #: When the target last answered well, and when the latest-started such call had started.
        self.last_good_ms = float("-inf")
        self.newest_good_start_ms = float("-inf")
        self.next_probe_ms = float("inf")
        #: What may be said against an event by what the target does with others.
        self.budget = Budget()
        #: It is open, and a probe with an event that was never called has failed: no event's fault.
        self.outage_confirmed = False
        self._probe: object | None = None
        self._probe_untried = False
        self._probe_wait_ms = PROBE_FIRST_MS
        #: Second -> [good, unwell]; at most as many as the window has seconds.
        self._buckets: dict[int, list[int]] = {}
        self._unwell_in_a_row = 0
        self._miswired_in_a_row = 0
        self._opened_ms = 0.0
        self._open_before_ms = 0.0

    def open_ms(self, now_ms: float) -> float:
        """How long it has been open in all, up to now: what no event's age counts."""
        return self._open_before_ms + (0.0 if self.closed else now_ms - self._opened_ms)

    def well_lately(self, now_ms: float) -> bool:
        return now_ms - self.last_good_ms <= WINDOW_MS

    def may_probe(self, now_ms: float) -> bool:
        return self._probe is None and now_ms >= self.next_probe_ms

    def probing(self, call: object, *, untried: bool = False) -> None:
        """`call` starts although the breaker is open; `untried` says that its event was never called."""
        assert not self.closed
        assert self._probe is None
        self._probe = call
        self._probe_untried = untried
        # No other probe before this one has ended.
        self.next_probe_ms = float("inf")

    def good(
        self,
        calls: int,
        newest_start_ms: float,
        now_ms: float,
        probe: object | None = None,
        *,
        retried: int = 0,
    ) -> None:
        """The target answered `calls` calls; the one that started last did at `newest_start_ms`.

        So many of them are `retried` that they are no first attempts.

        `probe` is the call if there is only one; a probe's good answer closes the breaker. Answers to
        calls that had started before it opened say nothing of now.
        """
        self.last_good_ms = now_ms
        self.newest_good_start_ms = max(self.newest_good_start_ms, newest_start_ms)
        self._unwell_in_a_row = 0
        self._miswired_in_a_row = 0
        self._bucket(now_ms)[0] += calls
        self.budget.answered(calls, calls - retried)
        if not self.closed and probe is not None and probe is self._probe:
            self._close(now_ms)

    def unwell(self, call: object, now_ms: float, *, first: bool = False) -> None:
        """The target did not answer, or said that it cannot now; `first` says that it was a first attempt."""
        self._bucket(now_ms)[1] += 1
        self.budget.unanswered(first=first)
        self._unwell_in_a_row += 1
        if not self.closed:
            self._probed_in_vain(call, Health.UNWELL, now_ms)
        elif self._unwell_in_a_row >= IN_A_ROW or self._mostly_unwell():
            self._open(Health.UNWELL, now_ms)

    def miswired(self, call: object, now_ms: float, *, first: bool = False) -> None:
        """The target said that the call is not for it, or not from us."""
        self.budget.unanswered(first=first)
        self._miswired_in_a_row += 1
        if not self.closed:
            self._probed_in_vain(call, Health.MISWIRED, now_ms)
        elif self._miswired_in_a_row >= IN_A_ROW and not self.well_lately(now_ms):
            self._open(Health.MISWIRED, now_ms)

    def abandoned(self, call: object, now_ms: float) -> None:
        """We gave the call up ourselves; if it was the probe, another may go."""
        if call is self._probe:
            self._probe = None
            self.next_probe_ms = now_ms

    def _open(self, health: Health, now_ms: float) -> None:
        self._to(health)
        self.opened += 1
        self._opened_ms = now_ms
        self._probe = None
        self._probe_wait_ms = PROBE_FIRST_MS
        self.next_probe_ms = now_ms + PROBE_FIRST_MS

    def _close(self, now_ms: float) -> None:
        self._to(Health.WELL)
        self.outage_confirmed = False
        self._open_before_ms += now_ms - self._opened_ms
        self._probe = None
        self.next_probe_ms = float("inf")
        # What led to the opening is history: judged again it would open at the next hiccup.
        self._buckets.clear()
        self._unwell_in_a_row = 0
        self._miswired_in_a_row = 0

    def _probed_in_vain(self, call: object, health: Health, now_ms: float) -> None:
        if call is not self._probe:
            return
        self._probe = None
        if self._probe_untried and not self.outage_confirmed:
            self.outage_confirmed = True
            self.budget.outages += 1
        if self.health is not health:
            self._to(health)
        self._probe_wait_ms = min(self._probe_wait_ms * 2, PROBE_MAX_MS)
        self.next_probe_ms = now_ms + self._probe_wait_ms

    def _to(self, health: Health) -> None:
        assert health in TRANSITIONS[self.health], f"{self.health.name} -> {health.name}"
        self.health = health
        self.closed = health is Health.WELL

    def _bucket(self, now_ms: float) -> list[int]:
        second = int(now_ms // _BUCKET_MS)
        bucket = self._buckets.get(second)
        if bucket is None:
            oldest = second - int(WINDOW_MS // _BUCKET_MS)
            for old in [at for at in self._buckets if at <= oldest]:
                del self._buckets[old]
            bucket = self._buckets[second] = [0, 0]
        return bucket

    def _mostly_unwell(self) -> bool:
        good = sum(bucket[0] for bucket in self._buckets.values())
        unwell = sum(bucket[1] for bucket in self._buckets.values())
        return good + unwell >= OUTCOMES_MIN and unwell >= UNWELL_SHARE * (good + unwell)
