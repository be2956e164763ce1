"""One subscription in motion: from a declaration to a data path, and back to nothing.

Starts once, stops twice safely, and `stop` returns only when nothing of it runs any more. Subscriptions
share the process's bounds, the connections and the dead-letter producer; all else is their own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

from pelton.bridge.check import Checked, describe
from pelton.bridge.dead_letters import DeadLetters
from pelton.bridge.following import Following
from pelton.bridge.hops import Hops
from pelton.bridge.logs import PumpLog, logger
from pelton.bridge.pump import HopSink, Pump
from pelton.bridge.requests import SubscriptionRequests, prepare
from pelton.core.limits import Bound, Limits, slots_of
from pelton.core.tally import Tally
from pelton.errors import BrokerError
from pelton.kafka.consumer import Consumer
from pelton.kafka.following import FollowReader
from pelton.kafka.listener import ConsumerStatistics
from pelton.kafka.prefetch import prefetch_bytes
from pelton.kafka.settings import bootstrap_of
from pelton.rpc.channels import Channels
from pelton.rpc.choose import choose_transport, make_transport
from pelton.subscription import Atomic, Subscription

__all__ = ["BROKERS_SILENT_MS", "Running"]

#: The consumer waits this much longer than the pump for a drain, so that the pump's end of it comes first.
_DRAIN_GRACE_MS = 2_000.0
#: Not ready when no broker has been heard for so long. Above every heartbeat's interval (500 ms, or the 5 s
#: that brokers ask for under `group.protocol=consumer`): a pause of all partitions is not taken for it.
BROKERS_SILENT_MS = 15_000.0
#: How often a target that cannot be asked for its types is asked again, doubling.
_DESCRIBE_AGAIN_FIRST_S = 1.0
_DESCRIBE_AGAIN_MAX_S = 15.0


class Running:
    """See the module. `sharers` is how many subscriptions share the process's bound; `on_failed` is told
    what this one cannot recover from."""

    def __init__(
        self,
        subscription: Subscription,
        *,
        loop: asyncio.AbstractEventLoop,
        kafka: Mapping[str, Any],
        process: Bound,
        sharers: int,
        channels: Channels,
        dead_letters: DeadLetters,
        wall_ms_of: Callable[[float], float],
        on_failed: Callable[[str, BrokerError], None],
    ) -> None:
        self.subscription = subscription
        intake = subscription.intake
        self.limits = Limits(
            process,
            Bound(intake.subscription_events_max, intake.subscription_bytes_max),
            slots_of(subscription),
            sharers=sharers,
        )
        self._read_ahead_bytes = prefetch_bytes(process.bytes_max, sharers)
        self._sharers = sharers
        self._loop = loop
        self._kafka = kafka
        self._channels = channels
        self._dead_letters = dead_letters
        self._wall_ms_of = wall_ms_of
        self._on_failed = on_failed
        self._log = logger().bind(subscription=subscription.name)
        self._starting: asyncio.Task[None] | None = None
        self._waiting_for = "not started"
        self._consumer: Consumer | None = None
        self._pump: Pump | None = None
        self._hops: Hops | None = None
        self._follow_reader: FollowReader | None = None

    @property
    def name(self) -> str:
        return self.subscription.name

    @property
    def started(self) -> bool:
        """It has a data path."""
        return self._pump is not None

    @property
    def pump(self) -> Pump:
        assert self._pump is not None, f"{self.name} is not started"
        return self._pump

    @property
    def not_ready(self) -> str:
        """What it still waits for; empty when it is ready."""
        if self._pump is None:
            return self._waiting_for
        silent_ms = self.statistics().brokers_silent_ms
        if silent_ms >= BROKERS_SILENT_MS:
            return f"Kafka at {bootstrap_of(self._kafka)} has not answered for {silent_ms / 1000:.0f} s"
        return "" if self._pump.joined else "waiting for its place in the consumer group"

    def statistics(self) -> ConsumerStatistics:
        return self._consuming.statistics()

    @property
    def _consuming(self) -> Consumer:
        assert self._consumer is not None, f"{self.name} is not started"
        return self._consumer

    def start(self, checked: Checked) -> None:
        """Begin with what the check found; where it found the target silent, ask until it answers."""
        requests = checked.requests
        if requests is not None:
            self._run(requests)
            if checked.silent:
                self._log.warning("target does not answer: events wait until it does", why=checked.unseen)
        else:
            self._waiting_for = checked.waiting_for
            self._log.warning("subscription not started yet, tried again", waiting_for=self._waiting_for)
            self._starting = asyncio.create_task(self._start_later(), name=f"describe {self.name}")

    async def stop(self) -> None:
        """Drain, commit, leave the group, disconnect."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._pump is None:
            return
        await self._pump.drain()
        await self._consuming.stop()
        if self._follow_reader is not None:
            self._follow_reader.stop()
        if self._hops is not None:
            await self._hops.close()
        await self._pump.transport.close(0.0)

    async def _start_later(self) -> None:
        wait_s = _DESCRIBE_AGAIN_FIRST_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _DESCRIBE_AGAIN_MAX_S)
            try:
                described = await describe(self.subscription, self._channels)
                if described.waiting_for:
                    self._waiting_for = described.waiting_for
                    continue
                self._run(prepare(self.subscription, described.input_type, self._wall_ms_of))
            except Exception as error:
                self._waiting_for = str(error)
                self._log.error("subscription cannot start, tried again", error=str(error))
                continue
            return

    def _run(self, requests: SubscriptionRequests) -> None:
        subscription = self.subscription
        log = PumpLog(subscription.name)

        def on_failed(error: BrokerError) -> None:
            self._on_failed(self.name, error)

        def open_sink(pump: Pump) -> HopSink:
            if subscription.atomic is Atomic.NEVER:
                return self._dead_letters.sink(subscription, pump.on_produced)
            self._hops = Hops(
                subscription,
                kafka={**self._kafka, **subscription.kafka},
                dead_letters=self._dead_letters,
                told=pump,
                quiet=lambda partitions, on_quiet: self._consuming.quiet(partitions, on_quiet),
                loop=self._loop,
                on_failed=on_failed,
                log=log,
            )
            return self._hops

        def open_source(pump: Pump) -> Consumer:
            self._consumer = Consumer(
                subscription,
                self._kafka,
                pump,
                self._loop,
                drain_timeout_ms=subscription.drain_timeout_ms + _DRAIN_GRACE_MS,
                before_joining=self._hops.before_joining if self._hops else None,
                read_ahead_bytes=self._read_ahead_bytes,
                sharers=self._sharers,
            )
            return self._consumer

        def open_following(pump: Pump) -> Following:
            topic = subscription.follow_topic
            assert topic is not None
            self._follow_reader = FollowReader(
                subscription.name, topic, {**self._kafka, **subscription.kafka}, self._loop, pump.on_notes
            )
            return Following(subscription, self._follow_reader, self._wall_ms_of, log)

        self._pump = Pump(
            subscription,
            loop=self._loop,
            limits=self.limits,
            tally=Tally(),
            jitter=random.random,
            requests=requests,
            open_transport=lambda on_results: make_transport(subscription, self._channels, on_results),
            open_sink=open_sink,
            open_source=open_source,
            on_failed=on_failed,
            log=log,
            wall_ms_of=self._wall_ms_of,
            open_following=None if subscription.follow_topic is None else open_following,
        )
        self._consuming.start()
        self._log.info(
            "subscription started",
            group=subscription.group,
            topics=list(subscription.topics),
            target=subscription.target.address,
            method=subscription.method,
            ordering=subscription.ordering.value,
            **self._calls_by(),
        )

    def _calls_by(self) -> dict[str, str]:
        """What makes the calls, and why it is not the fastest where it could be."""
        choice, why = choose_transport(self.subscription)
        return {"transport": choice.value, **({"not_native": why} if why else {})}
