"""Dead letters on their way to the broker: one producer for the process, one sink a subscription.

The plain form of the hop, for where transactions are not to be had (`hops.py`): produced, acknowledged by
all replicas, then passed in the ledger. A crash between the acknowledgement and the commit writes a second
copy, with the same delivery id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pelton.core.actions import Hop
from pelton.errors import PublishError
from pelton.event import Position
from pelton.kafka.hops import record_of
from pelton.kafka.producer import Producer
from pelton.kafka.records import Outgoing
from pelton.kafka.settings import HOP_BYTES_MAX
from pelton.subscription import Subscription

__all__ = ["DeadLetters", "Sink"]

#: The subscriptions have drained by then; this is for the broker's last answers.
_CLOSE_TIMEOUT_MS = 5_000.0

OnProduced = Callable[[Sequence[tuple[Hop, str | None]]], None]
_Item = tuple["Sink", Hop]


class DeadLetters:
    """Owns the producer. It is made with the first dead letter: most processes never write one."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        loop: asyncio.AbstractEventLoop,
        wall_ms_of: Callable[[float], float],
    ) -> None:
        self._settings = settings
        self._loop = loop
        self._wall_ms_of = wall_ms_of
        self._producer: Producer[_Item] | None = None

    def sink(self, subscription: Subscription, on_produced: OnProduced) -> Sink:
        return Sink(self, subscription, on_produced)

    def write(self, sink: Sink, hops: Sequence[Hop]) -> None:
        if self._producer is None:
            settings = {"message.max.bytes": HOP_BYTES_MAX, **self._settings}
            self._producer = Producer(settings, self._on_results, self._loop)
            self._producer.start()
        self._producer.submit([((sink, hop), self.outgoing(sink.subscription, hop)) for hop in hops])

    async def close(self) -> None:
        """Every dead letter handed over has had its answer by then, or gets one now."""
        if self._producer is not None:
            await self._producer.close(_CLOSE_TIMEOUT_MS)

    def outgoing(self, subscription: Subscription, hop: Hop) -> Outgoing:
        """The record for one of our own topics."""
        delivery = hop.delivery
        failed_ms = delivery.last_failed_ms if delivery.attempt else self._loop.time() * 1000.0
        return record_of(
            hop,
            subscription.dead_letter_topic if hop.tier is None else hop.tier.topic,
            subscription=subscription.name,
            first_attempted_wall_ms=self._wall_ms_of(delivery.first_attempted_ms)
            if delivery.attempt
            else None,
            failed_wall_ms=self._wall_ms_of(failed_ms),
        )

    def _on_results(self, results: list[tuple[_Item, Position | None, PublishError | None]]) -> None:
        by_sink: dict[Sink, list[tuple[Hop, str | None]]] = {}
        for (sink, hop), _, error in results:
            by_sink.setdefault(sink, []).append((hop, None if error is None else str(error)))
        for sink, group in by_sink.items():
            sink.on_produced(group)


class Sink:
    """One subscription's way to its dead-letter topic; see `pelton.bridge.pump.HopSink`."""

    def __init__(
        self, dead_letters: DeadLetters, subscription: Subscription, on_produced: OnProduced
    ) -> None:
        self._dead_letters = dead_letters
        self.subscription = subscription
        self.on_produced = on_produced

    def submit(self, hops: Sequence[Hop]) -> None:
        self._dead_letters.write(self, hops)
