"""A subscription's consumer as the event loop sees it: it asks, and the thread does.

What is asked for goes into the thread's queue and is answered through the listener. No call to the Kafka
client is made here; `consumer_thread.py` says why.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from confluent_kafka import KafkaException

from pelton.core.actions import Commit
from pelton.event import Partition
from pelton.kafka.consumer_thread import Command, ConsumerThread
from pelton.kafka.faults import broker_error, error_of
from pelton.kafka.listener import Assigned, ConsumerStatistics, Listener
from pelton.kafka.membership import Slot
from pelton.kafka.settings import bootstrap_of, consumer_settings, takes_slot
from pelton.subscription import Subscription

__all__ = ["Assigned", "Consumer", "ConsumerStatistics", "Listener"]

log = logging.getLogger("pelton.kafka")

#: Beyond the drain: the last commit, leaving the group, closing. The thread is abandoned after it.
STOP_TIMEOUT_S: Final = 15.0


class Consumer:
    """One subscription's consumer. Its methods belong to the event loop and return at once."""

    def __init__(
        self,
        subscription: Subscription,
        settings: Mapping[str, Any],
        listener: Listener,
        loop: asyncio.AbstractEventLoop,
        *,
        drain_timeout_ms: float,
    ) -> None:
        self._subscription = subscription
        self._settings = {**settings, **subscription.kafka}
        self._listener = listener
        self._loop = loop
        self._drain_timeout_s = drain_timeout_ms / 1000
        self._thread: ConsumerThread | None = None
        self._slot: Slot | None = None
        self._ended = asyncio.Event()

    def start(self) -> None:
        """Join the group. Raises if the settings cannot be used; all later failures go to the listener."""
        assert self._thread is None, "started twice"
        group = self._subscription.group
        if takes_slot(self._settings):
            self._slot = Slot.take(group)
        instance_id = self._slot.instance_id if self._slot else None
        try:
            settings = consumer_settings(self._settings, group=group, instance_id=instance_id)
            self._thread = ConsumerThread(
                self._subscription,
                settings,
                self._listener,
                self._loop,
                self._drain_timeout_s,
                self._on_ended,
            )
        except BaseException as error:
            self._release_slot()
            if isinstance(error, KafkaException):
                doing = f"{self._subscription.name}: cannot make a consumer"
                raise broker_error(error_of(error), doing, bootstrap_of(self._settings)) from error
            raise
        self._thread.start()

    def pause(self, partitions: Collection[Partition]) -> None:
        self._ask(Command.PAUSE, tuple(partitions))

    def resume(self, partitions: Collection[Partition]) -> None:
        """Read on, behind the last event that was handed over."""
        self._ask(Command.RESUME, tuple(partitions))

    def commit(self, commits: Mapping[Partition, Commit]) -> None:
        """Commit soon; the latest per partition counts."""
        self._ask(Command.COMMIT, dict(commits))

    def release(self, partitions: Collection[Partition]) -> None:
        """The answer to `on_revoked`: these are drained, and their last commit has been asked for."""
        self._ask(Command.RELEASE, tuple(partitions))

    async def stop(self) -> None:
        """Commit what was asked for, leave the group, and return when the thread has ended.

        Drain first: nothing is told after this. Twice is safe, and so is before `start`.
        """
        if self._thread is None:
            return
        self._ask(Command.STOP, None)
        try:
            async with asyncio.timeout(self._drain_timeout_s + STOP_TIMEOUT_S):
                await self._ended.wait()
        except TimeoutError:
            log.error("%s: the consumer did not leave its group in time", self._subscription.name)

    def statistics(self) -> ConsumerStatistics:
        """A copy of what the thread has counted so far."""
        if self._thread is None:
            return ConsumerStatistics()
        records = self._thread.records
        return replace(self._thread.statistics, times_ignored=records.times_ignored, flawed=records.flawed)

    def _ask(self, command: Command, argument: Any) -> None:
        assert self._thread is not None, "not started"
        self._thread.commands.put((command, argument))

    def _on_ended(self) -> None:
        self._release_slot()
        self._ended.set()

    def _release_slot(self) -> None:
        if self._slot is not None:
            self._slot.release()
