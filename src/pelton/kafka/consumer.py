"""A subscription's consumer as the event loop sees it: it asks, and the thread does.

What is asked for goes into the thread's queue and is answered through the listener. No call to the Kafka
client is made here; `consumer_thread.py` says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVarTuple

from confluent_kafka import KafkaException

from pelton.core.actions import Commit
from pelton.errors import BrokerError, FencedError
from pelton.event import Partition
from pelton.kafka.committing import OnQuiet, Quiet
from pelton.kafka.consumer_thread import Command, ConsumerThread
from pelton.kafka.faults import OWN_NAMES, broker_error, error_of
from pelton.kafka.listener import Assigned, ConsumerStatistics, Listener
from pelton.kafka.membership import Slot
from pelton.kafka.prefetch import PREFETCH_BYTES_MAX
from pelton.kafka.rebuilds import REBUILD_WINDOW_S, REBUILDS_MAX, Rebuilds
from pelton.kafka.rereading import Rereading
from pelton.kafka.settings import bootstrap_of, consumer_settings, takes_slot
from pelton.kafka.topic_ids import TopicIds
from pelton.subscription import Subscription

__all__ = ["Assigned", "Consumer", "ConsumerStatistics", "Listener"]

log = logging.getLogger("pelton.kafka")
_Arguments = TypeVarTuple("_Arguments")

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
        before_joining: Callable[[str, Callable[[], None]], None] | None = None,
        read_ahead_bytes: int = PREFETCH_BYTES_MAX,
        sharers: int = 1,
    ) -> None:
        """`before_joining` is given this process's name in the group, which no other live process of this
        host has and which is the same after a restart, and calls back, on the loop, when the group may be
        joined. `sharers` is how many consumers the process has."""
        self._subscription = subscription
        self._settings = {**settings, **subscription.kafka}
        self._listener = listener
        self._loop = loop
        self._drain_timeout_s = drain_timeout_ms / 1000
        self._before_joining = before_joining
        self._on_quiet: OnQuiet | None = None
        self._joining = False
        self._client_settings: dict[str, Any] = {}
        self._read_ahead_bytes = read_ahead_bytes
        self._sharers = sharers
        self._thread: ConsumerThread | None = None
        self._rereading = Rereading(subscription.name, self._settings, listener, self._post)
        self._slot: Slot | None = None
        self._topic_ids = TopicIds(self._settings, subscription.read_topics)
        self._rebuilds = Rebuilds()
        self._stopping = False
        self._ended = asyncio.Event()

    def start(self) -> None:
        """Join the group. Raises if the settings cannot be used; all later failures go to the listener."""
        assert self._thread is None, "started twice"
        group = self._subscription.group
        given = self._settings.get("group.instance.id")
        is_static = takes_slot(self._settings)
        if is_static or (self._before_joining is not None and given is None):
            self._slot = Slot.take(group)
        name = self._slot.instance_id if self._slot else str(given)
        instance_id = name if is_static else None
        try:
            self._client_settings = consumer_settings(
                self._settings, group=group, instance_id=instance_id, read_ahead_bytes=self._read_ahead_bytes
            )
            self._thread = self._make_thread()
        except BaseException:
            self._release_slot()
            raise
        if self._before_joining is None:
            self._join()
        else:
            self._before_joining(name, self._join)

    def _make_thread(self) -> ConsumerThread:
        try:
            return ConsumerThread(
                self._subscription,
                self._client_settings,
                self._topic_ids,
                self._listener,
                self._loop,
                self._drain_timeout_s,
                self._on_ended,
                sharers=self._sharers,
                before=self._thread,
            )
        except KafkaException as exception:
            doing = f"{self._subscription.name}: cannot make a consumer"
            raise broker_error(error_of(exception), doing, bootstrap_of(self._settings)) from exception

    def _join(self) -> None:
        if self._thread is not None and not self._joining:
            self._joining = True
            self._thread.start()

    def pause(self, partitions: Collection[Partition]) -> None:
        self._ask(Command.PAUSE, tuple(partitions))

    def resume(self, partitions: Collection[Partition]) -> None:
        """Read on, behind the last event that was handed over."""
        self._ask(Command.RESUME, tuple(partitions))

    def commit(self, commits: Mapping[Partition, Commit]) -> None:
        """Commit soon; the latest per partition counts."""
        self._ask(Command.COMMIT, dict(commits))

    def quiet(self, partitions: Collection[Partition], on_quiet: OnQuiet) -> None:
        """Have `on_quiet` called once no commit of these is on its way; one asks at a time.

        The caller asks for no further ones until then. It is always called, and never from inside this.
        """
        assert self._on_quiet is None, "one transaction at a time"
        self._on_quiet = on_quiet
        if self._ended.is_set():
            self._loop.call_soon(self._tell_quiet, None)
        else:
            self._ask(Command.QUIET, (tuple(partitions), self._tell_quiet))

    def release(self, partitions: Collection[Partition]) -> None:
        """The answer to `on_revoked`: these are drained, and their last commit has been asked for."""
        self._ask(Command.RELEASE, tuple(partitions))

    def read_again(self, partition: Partition, offsets: tuple[int, ...]) -> None:
        """Single events of the partition, ascending, by a reader beside this one."""
        self._rereading.ask(partition, offsets)

    async def stop(self) -> None:
        """Commit what was asked for, leave the group, and return when the thread has ended.

        Drain first: nothing is told after this. Twice is safe, and so is before `start`.
        """
        if self._thread is None:
            return
        self._stopping = True
        self._rereading.stop()
        self._ask(Command.STOP, None)
        # One that still waits to join has its client closed on its thread, and joins nothing.
        self._join()
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

    def _post(self, callback: Callable[[*_Arguments], object], *arguments: *_Arguments) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _on_ended(self, failure: BrokerError | None, announced: Sequence[Partition]) -> None:
        if isinstance(failure, FencedError) and not self._stopping:
            failure = self._rebuild(failure, announced)
            if failure is None:
                return
        if failure is not None:
            self._listener.on_failed(failure)
        self._release_slot()
        self._ended.set()
        self._tell_quiet(None)

    def _rebuild(self, fenced: FencedError, announced: Sequence[Partition]) -> BrokerError | None:
        """Join again under our name, with a client of no past; what is in the way of that, if anything is.

        The slot stays ours meanwhile: no other process of this host can have taken its name.
        """
        wait_s = self._rebuilds.wait_s(time.monotonic())
        if wait_s is None:
            return FencedError(
                f"{fenced} It had joined anew {self._rebuilds.count} times in {REBUILD_WINDOW_S:.0f} s and "
                f"was fenced each time: another process has the same group.instance.id. {OWN_NAMES}"
            )
        assert self._thread is not None
        try:
            self._thread = self._make_thread()
        except BrokerError as error:
            return error
        log.warning(
            "%s. It may be alone all the same, and joins anew (time %d of at most %d in %.0f s)",
            str(fenced).removesuffix("."),
            self._rebuilds.count,
            REBUILDS_MAX,
            REBUILD_WINDOW_S,
        )
        self._thread.statistics.rebuilds += 1
        if announced:
            self._listener.on_lost(announced)
        # Whoever waits for quiet has been asking the client that is gone.
        self._tell_quiet(None)
        self._joining = False
        self._loop.call_later(wait_s, self._join)
        return None

    def _tell_quiet(self, quiet: Quiet | None) -> None:
        on_quiet, self._on_quiet = self._on_quiet, None
        if on_quiet is not None:
            on_quiet(quiet)

    def _release_slot(self) -> None:
        if self._slot is not None:
            self._slot.release()
