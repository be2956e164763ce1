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
from pelton.bridge.logs import PumpLog, logger
from pelton.bridge.pump import Pump
from pelton.bridge.requests import SubscriptionRequests, prepare
from pelton.core.limits import Bound, Limits, Slots
from pelton.core.tally import Tally
from pelton.errors import BrokerError
from pelton.kafka.consumer import Consumer
from pelton.kafka.listener import ConsumerStatistics
from pelton.rpc.channels import Channels
from pelton.rpc.choose import make_transport
from pelton.subscription import Subscription

__all__ = ["Running"]

#: The consumer waits this much longer than the pump for a drain, so that the pump's end of it comes first.
_DRAIN_GRACE_MS = 2_000.0
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
            Slots(subscription.concurrency),
            sharers=sharers,
        )
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
        return "" if self._pump.joined else "waiting for its place in the consumer group"

    def statistics(self) -> ConsumerStatistics:
        assert self._consumer is not None
        return self._consumer.statistics()

    def start(self, checked: Checked) -> None:
        """Begin with what the check found; where it found the target silent, ask until it answers."""
        requests = checked.requests
        if requests is not None:
            self._run(requests)
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
        assert self._consumer is not None
        await self._consumer.stop()
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

        def open_source(pump: Pump) -> Consumer:
            self._consumer = Consumer(
                subscription,
                self._kafka,
                pump,
                self._loop,
                drain_timeout_ms=subscription.drain_timeout_ms + _DRAIN_GRACE_MS,
            )
            return self._consumer

        self._pump = Pump(
            subscription,
            loop=self._loop,
            limits=self.limits,
            tally=Tally(),
            jitter=random.random,
            requests=requests,
            open_transport=lambda on_results: make_transport(subscription, self._channels, on_results),
            open_sink=lambda pump: self._dead_letters.sink(subscription, pump.on_produced),
            open_source=open_source,
            on_failed=lambda error: self._on_failed(self.name, error),
            log=PumpLog(subscription.name),
        )
        assert self._consumer is not None
        self._consumer.start()
        self._log.info(
            "subscription started",
            group=subscription.group,
            topics=list(subscription.topics),
            target=subscription.target.address,
            method=subscription.method,
            ordering=subscription.ordering.value,
        )
