"""Dead letters on their way to the broker: one producer for the process, one sink a subscription.

First form of the hop: produced, acknowledged by all replicas, then passed in the ledger. A crash between
the acknowledgement and the commit writes a second copy, with the same delivery id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pelton.core.actions import DeadLetter
from pelton.errors import PublishError
from pelton.event import Position
from pelton.kafka.producer import Producer
from pelton.kafka.records import Outgoing, dead_letter_of
from pelton.subscription import Subscription

__all__ = ["DeadLetters", "Sink"]

#: The subscriptions have drained by then; this is for the broker's last answers.
_CLOSE_TIMEOUT_MS = 5_000.0

#: Whatever the source topic took must go out again, a little larger: the client's own limit of 1 MB is below
#: the broker's. Beyond this, which is below what the client's queue holds, a record could never be queued.
_RECORD_BYTES_MAX = 32_000_000

OnProduced = Callable[[Sequence[tuple[DeadLetter, str | None]]], None]
_Item = tuple["Sink", DeadLetter]


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

    def write(self, sink: Sink, dead_letters: Sequence[DeadLetter]) -> None:
        if self._producer is None:
            settings = {"message.max.bytes": _RECORD_BYTES_MAX, **self._settings}
            self._producer = Producer(settings, self._on_results, self._loop)
            self._producer.start()
        self._producer.submit(
            [((sink, dead_letter), self._outgoing(sink, dead_letter)) for dead_letter in dead_letters]
        )

    async def close(self) -> None:
        """Every dead letter handed over has had its answer by then, or gets one now."""
        if self._producer is not None:
            await self._producer.close(_CLOSE_TIMEOUT_MS)

    def _outgoing(self, sink: Sink, dead_letter: DeadLetter) -> Outgoing:
        delivery = dead_letter.delivery
        failed_ms = delivery.last_failed_ms if delivery.attempt else self._loop.time() * 1000.0
        return dead_letter_of(
            dead_letter,
            sink.subscription.dead_letter_topic,
            subscription=sink.subscription.name,
            first_attempted_wall_ms=self._wall_ms_of(delivery.first_attempted_ms)
            if delivery.attempt
            else None,
            failed_wall_ms=self._wall_ms_of(failed_ms),
        )

    def _on_results(self, results: list[tuple[_Item, Position | None, PublishError | None]]) -> None:
        by_sink: dict[Sink, list[tuple[DeadLetter, str | None]]] = {}
        for (sink, dead_letter), _, error in results:
            by_sink.setdefault(sink, []).append((dead_letter, None if error is None else str(error)))
        for sink, group in by_sink.items():
            sink.on_produced(group)


class Sink:
    """One subscription's way to its dead-letter topic; see `pelton.bridge.pump.DeadLetterSink`."""

    def __init__(
        self, dead_letters: DeadLetters, subscription: Subscription, on_produced: OnProduced
    ) -> None:
        self._dead_letters = dead_letters
        self.subscription = subscription
        self.on_produced = on_produced

    def submit(self, dead_letters: Sequence[DeadLetter]) -> None:
        self._dead_letters.write(self, dead_letters)
