"""Names and units of everything that is measured, and one snapshot of it a scrape.

The numbers are read from the engines' own tallies when somebody asks; nothing is updated on the data path
but the histogram of call times. A scrape runs on the event loop between two turns, so it is one snapshot,
and the conservation law (`core/tally.py`) holds in each.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pelton.core.breaker import Health
from pelton.core.limits import Bound

if TYPE_CHECKING:
    from pelton.bridge.running import Running

__all__ = ["CallTimes", "ServerCollector"]


class CallTimes:
    """A histogram of how long calls take, from start to outcome."""

    #: Upper bounds in milliseconds; what is above the last goes into the one without a bound.
    BOUNDS_MS: tuple[float, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000)

    __slots__ = ("_counts", "_sum_ms")

    def __init__(self) -> None:
        self._counts = [0] * (len(self.BOUNDS_MS) + 1)
        self._sum_ms = 0.0

    def observe(self, took_ms: float, calls: int) -> None:
        """So many calls took so long each."""
        self._counts[bisect_left(self.BOUNDS_MS, took_ms)] += calls
        self._sum_ms += took_ms * calls

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulated, by upper bound in seconds, as Prometheus wants them."""
        cumulated, buckets = 0, []
        for bound_ms, count in zip((*self.BOUNDS_MS, float("inf")), self._counts, strict=True):
            cumulated += count
            buckets.append(("+Inf" if bound_ms == float("inf") else str(bound_ms / 1000), float(cumulated)))
        return buckets

    @property
    def sum_seconds(self) -> float:
        return self._sum_ms / 1000


class ServerCollector(Collector):
    """Everything the server knows of itself, at the moment of the scrape."""

    def __init__(
        self,
        running: Callable[[], Sequence[Running]],
        process: Bound,
        wall_seconds: Callable[[], float] = time.time,
    ) -> None:
        self._running = running
        self._process = process
        self._wall_seconds = wall_seconds

    def collect(self) -> Iterable[Metric]:
        running = self._running()
        yield from self._events(running)
        yield from self._attempts(running)
        yield from self._targets(running)
        yield from self._partitions(running)
        yield from self._bounds(running)
        yield from self._commits(running)

    def _events(self, running: Sequence[Running]) -> Iterable[Metric]:
        consumed = CounterMetricFamily(
            "pelton_events_consumed", "Events taken from Kafka.", labels=["subscription"]
        )
        settled = CounterMetricFamily(
            "pelton_events_settled",
            "Events that reached one of the ends.",
            labels=["subscription", "end"],
        )
        already = CounterMetricFamily(
            "pelton_events_already_settled",
            "Events the ack map read back had settled.",
            labels=["subscription"],
        )
        released = CounterMetricFamily(
            "pelton_events_released",
            "Events left open for the partition's next owner.",
            labels=["subscription"],
        )
        opened = GaugeMetricFamily(
            "pelton_events_open", "Events not settled, by state.", labels=["subscription", "state"]
        )
        timeless = CounterMetricFamily(
            "pelton_times_ignored", "Events whose ce_time is none: left out.", labels=["subscription"]
        )
        lost = CounterMetricFamily(
            "pelton_events_lost_to_retention",
            "Events gone from the log before they were read.",
            labels=["subscription"],
        )
        for one in running:
            name, tally, engines = one.name, one.pump.tally, one.pump.engines
            consumed.add_metric([name], tally.consumed)
            for end in ("acked", "dropped", "filtered", "dead_lettered", "moved", "lost"):
                settled.add_metric([name, end], getattr(tally, end))
            already.add_metric([name], tally.already_settled)
            released.add_metric([name], tally.released)
            for state in ("queued", "calling", "waiting", "parked", "shelved", "producing"):
                opened.add_metric([name, state], sum(getattr(engine, state) for engine in engines))
            lost.add_metric([name], one.pump.offsets_lost)
            timeless.add_metric([name], one.statistics().times_ignored)
        yield from (consumed, settled, already, released, opened, lost, timeless)

    def _attempts(self, running: Sequence[Running]) -> Iterable[Metric]:
        attempts = CounterMetricFamily("pelton_attempts", "Calls started.", labels=["subscription"])
        outcomes = CounterMetricFamily(
            "pelton_outcomes", "Calls ended, by status.", labels=["subscription", "status"]
        )
        retries = CounterMetricFamily(
            "pelton_retries", "Attempts that will be repeated.", labels=["subscription"]
        )
        late = CounterMetricFamily(
            "pelton_outcomes_refused", "Outcomes of an assignment that is gone.", labels=["subscription"]
        )
        seconds = HistogramMetricFamily(
            "pelton_call_seconds", "From start to outcome.", labels=["subscription"]
        )
        for one in running:
            tally = one.pump.tally
            attempts.add_metric([one.name], tally.attempts)
            for status, count in tally.outcomes.items():
                outcomes.add_metric([one.name, status.name], count)
            retries.add_metric([one.name], tally.retries)
            late.add_metric([one.name], tally.late_outcomes)
            seconds.add_metric([one.name], one.pump.call_times.buckets(), one.pump.call_times.sum_seconds)
        yield from (attempts, outcomes, retries, late, seconds)

    def _targets(self, running: Sequence[Running]) -> Iterable[Metric]:
        health = GaugeMetricFamily(
            "pelton_target_health", "1 for the health the target is in.", labels=["subscription", "health"]
        )
        opened = CounterMetricFamily(
            "pelton_breaker_opened", "Times the breaker opened.", labels=["subscription"]
        )
        refused = CounterMetricFamily(
            "pelton_dead_letters_refused",
            "Dead letters and moves the broker did not take; each is tried again.",
            labels=["subscription"],
        )
        rights = GaugeMetricFamily(
            "pelton_dead_letter_rights",
            "Dead letters that may be written after calls that were not answered.",
            labels=["subscription"],
        )
        suspects = GaugeMetricFamily(
            "pelton_suspect_keys", "Keys whose events get one attempt each.", labels=["subscription"]
        )
        followed = GaugeMetricFamily(
            "pelton_followed_keys",
            "Keys whose later events go after one that was moved or dead-lettered.",
            labels=["subscription"],
        )
        for one in running:
            followers = [each.followed for each in one.pump.engines if each.followed is not None]
            followed.add_metric([one.name], sum(map(len, followers)))
            for state in Health:
                health.add_metric([one.name, state.value], float(one.pump.breaker.health is state))
            opened.add_metric([one.name], one.pump.breaker.opened)
            refused.add_metric([one.name], one.pump.tally.dead_letters_failed)
            rights.add_metric([one.name], one.pump.breaker.budget.rights)
            suspects.add_metric([one.name], sum(engine.suspect_keys for engine in one.pump.engines))
        yield from (health, opened, refused, rights, suspects, followed)

    def _partitions(self, running: Sequence[Running]) -> Iterable[Metric]:
        owned = GaugeMetricFamily("pelton_partitions", "Partitions owned.", labels=["subscription"])
        paused = GaugeMetricFamily("pelton_partitions_paused", "Of these, paused.", labels=["subscription"])
        lag = GaugeMetricFamily(
            "pelton_lag_events",
            "Log end less committed offset.",
            labels=["subscription", "topic", "partition"],
        )
        oldest = GaugeMetricFamily(
            "pelton_oldest_unsettled_seconds", "Age of the oldest event not settled.", labels=["subscription"]
        )
        overdue = GaugeMetricFamily(
            "pelton_overdue_seconds",
            "How long a partition with work has made no progress.",
            labels=["subscription"],
        )
        now = self._wall_seconds()
        for one in running:
            engines = one.pump.engines
            owned.add_metric([one.name], len(engines))
            paused.add_metric([one.name], sum(engine.paused for engine in engines))
            for partition, events in one.statistics().lag.items():
                lag.add_metric([one.name, partition.topic, str(partition.partition)], events)
            published = [
                lowest.event.published_ms
                for engine in engines
                if (lowest := engine.lowest) is not None and lowest.event.published_ms >= 0
            ]
            oldest.add_metric([one.name], max(0.0, now - min(published) / 1000) if published else 0.0)
            overdue.add_metric([one.name], one.pump.overdue_ms() / 1000)
        yield from (owned, paused, lag, oldest, overdue)

    def _bounds(self, running: Sequence[Running]) -> Iterable[Metric]:
        used = GaugeMetricFamily("pelton_bound_used", "What of a bound is used.", labels=["scope", "unit"])
        most = GaugeMetricFamily("pelton_bound_max", "The bound.", labels=["scope", "unit"])
        scopes = [("process", self._process), *((one.name, one.limits.subscription) for one in running)]
        for scope, bound in scopes:
            used.add_metric([scope, "events"], bound.events)
            used.add_metric([scope, "bytes"], bound.bytes)
            most.add_metric([scope, "events"], bound.events_max)
            most.add_metric([scope, "bytes"], bound.bytes_max)
        for one in running:
            used.add_metric([one.name, "calls"], one.limits.slots.taken)
            most.add_metric([one.name, "calls"], one.limits.slots.slots_max)
        limit = GaugeMetricFamily("pelton_calls_limit", "Calls that may be out now.", labels=["subscription"])
        found = GaugeMetricFamily(
            "pelton_calls_limit_found",
            "Calls that the target can use at once, as adapting finds; also where it only observes.",
            labels=["subscription"],
        )
        costly = GaugeMetricFamily(
            "pelton_calls_costly", "Calls out that are retries, or of slow keys.", labels=["subscription"]
        )
        for one in running:
            slots = one.limits.slots
            limit.add_metric([one.name], slots.limit)
            costly.add_metric([one.name], slots.costly)
            if slots.adaptive is not None:
                found.add_metric([one.name], slots.adaptive.found)
        yield from (used, most, limit, found, costly)

    def _commits(self, running: Sequence[Running]) -> Iterable[Metric]:
        commits = CounterMetricFamily(
            "pelton_commits", "Commits answered by the broker.", labels=["subscription"]
        )
        errors = CounterMetricFamily(
            "pelton_commit_errors", "Commits the broker refused.", labels=["subscription"]
        )
        last = GaugeMetricFamily(
            "pelton_commit_seconds", "Round trip of the last commit.", labels=["subscription"]
        )
        silent = GaugeMetricFamily(
            "pelton_kafka_silent_seconds",
            "Since any broker was heard, at the last look.",
            labels=["subscription"],
        )
        maps = CounterMetricFamily(
            "pelton_ack_maps_refused", "Ack maps read back that were not believed.", labels=["subscription"]
        )
        stalled = CounterMetricFamily(
            "pelton_ledger_stalled_seconds",
            "Time in which the ack map had no room for another call.",
            labels=["subscription"],
        )
        for one in running:
            statistics = one.statistics()
            commits.add_metric([one.name], statistics.commits)
            errors.add_metric([one.name], statistics.commit_errors)
            last.add_metric([one.name], statistics.last_commit_ms / 1000)
            silent.add_metric([one.name], statistics.brokers_silent_ms / 1000)
            maps.add_metric([one.name], one.pump.tally.maps_refused + statistics.metadata_unreadable)
            stalled.add_metric([one.name], one.pump.tally.ledger_stalled_ms / 1000)
        yield from (commits, errors, last, silent, maps, stalled)
