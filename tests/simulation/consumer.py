"""The consumer's thread as steps: the real `ConsumerThread`, driven by hand, because it may not block here.

All its bookkeeping and its turn are the real code. Written anew is only what blocks in it: the poll, which
reads from the fake client, and the drain of a revoke, which here goes on from step to step. Commands go in
through its own queue, what it tells goes out by `Process.post`, so that loop and thread see things of each
other as late as they really do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

from confluent_kafka import Consumer as Client
from confluent_kafka import KafkaError, TopicPartition

from pelton.core.actions import Commit
from pelton.event import Event, Partition
from pelton.kafka import consumer_thread
from pelton.kafka.committing import OnQuiet, Quiet
from pelton.kafka.consumer_thread import Command, ConsumerThread
from pelton.kafka.listener import Listener
from pelton.kafka.topic_ids import TopicIds
from tests.simulation.client import FakeClient
from tests.simulation.steps import Steps

if TYPE_CHECKING:
    import asyncio

    from tests.simulation.process import Process
    from tests.simulation.world import World

__all__ = ["FakeConsumer"]

#: A step without a cause, for what is only tried again.
IDLE_STEP_S = 0.5
#: A step soon, while something is to be placed or sought again.
RETRY_STEP_S = 0.02
#: The longest that reading events again takes.
READ_AGAIN_S = 0.5
#: `bridge/running.py` has the consumer wait so much longer than the pump.
DRAIN_GRACE_S = 2.0


class _TopicIds:
    """No topic is made again here."""

    def look(self, now: float) -> list[str]:
        return []

    def looked_since(self, moment: float, now: float) -> bool:
        return True

    def of(self, topic: str) -> str:
        return "topicid" + topic + "here"

    def is_new(self, topic: str, partition: int) -> bool:
        return False


class FakeConsumer:
    """What the pump takes for its `Source`."""

    def __init__(self, world: World, process: Process, listener: Listener) -> None:
        subscription = world.schedule.subscription
        self._world = world
        self._process = process
        self._listener = listener
        self.client = FakeClient(world, process)
        strategy = "cooperative-sticky" if world.schedule.cooperative else "range"
        settings = {"bootstrap.servers": "nowhere", "partition.assignment.strategy": strategy}
        loop = SimpleNamespace(call_soon_threadsafe=self._post)
        made = SimpleNamespace(Consumer=lambda *_, **__: self.client)
        with patch.object(consumer_thread, "confluent_kafka", made):
            self._thread = ConsumerThread(
                subscription,
                settings,
                cast("TopicIds", _TopicIds()),
                listener,
                cast("asyncio.AbstractEventLoop", loop),
                subscription.drain_timeout_ms / 1000.0 + DRAIN_GRACE_S,
                lambda *_: process.left(),
            )
        # It is woken by what is asked for, as by all else.
        self._thread._wait_for_command = lambda: None  # type: ignore[method-assign]
        # The real one waits for records, and makes events of them.
        self._thread._poll = self._poll  # type: ignore[method-assign]
        # It would block; `_go_on_draining` does the same in steps, before the rest of `_on_revoke`.
        self._thread._drain = lambda partitions: None  # type: ignore[method-assign]
        self._revoke_told = False
        self._on_quiet: OnQuiet | None = None
        self.client.on_unsubscribe = self._revoke_all
        self._deferred: list[tuple[Command, Any]] = []
        #: A revoke whose drain the thread waits for: what is going, what of it was announced, until when.
        self._revoke: tuple[list[Partition], list[Partition], float] | None = None
        self._steps = Steps(world, process, self._step)

    @property
    def drains_cut(self) -> int:
        return self._thread.statistics.drains_cut

    def holds(self, partition: Partition) -> bool:
        return self._thread._assignment.get(partition) is not None

    # -- What the pump asks for, on the loop ---------------------------------------------------------------

    def pause(self, partitions: Collection[Partition]) -> None:
        self._world.sometimes("paused")
        self._ask(Command.PAUSE, tuple(partitions))

    def resume(self, partitions: Collection[Partition]) -> None:
        self._ask(Command.RESUME, tuple(partitions))

    def commit(self, commits: Mapping[Partition, Commit]) -> None:
        for partition, commit in commits.items():
            self._world.auditor.commit_asked(self._process, partition, commit)
        self._ask(Command.COMMIT, dict(commits))

    def release(self, partitions: Collection[Partition]) -> None:
        self._world.auditor.released(self._process, partitions)
        self._ask(Command.RELEASE, tuple(partitions))

    def read_again(self, partition: Partition, offsets: tuple[int, ...]) -> None:
        """By a reader of its own, which takes its time, and now and then does not come to the end."""
        world = self._world
        world.sometimes("read_again")
        through = offsets[-1] if world.random.random() < 0.8 else world.random.choice(offsets)

        def answer() -> None:
            everything = world.broker.logs[partition].everything
            events = [everything[offset] for offset in offsets if offset <= through]
            self._process.post(self._listener.on_read_again, partition, offsets, events, through)

        world.loop.call_at(world.now_s + world.random.random() * READ_AGAIN_S, answer)

    def quiet(self, partitions: Collection[Partition], on_quiet: OnQuiet) -> None:
        assert self._on_quiet is None, "one transaction at a time"
        self._on_quiet = on_quiet
        if self.client.closed:
            self._process.post(self._tell_quiet, None)
        else:
            self._ask(Command.QUIET, (tuple(partitions), self._tell_quiet))

    def _tell_quiet(self, quiet: Quiet | None) -> None:
        on_quiet, self._on_quiet = self._on_quiet, None
        if on_quiet is not None:
            on_quiet(quiet)

    def stop(self) -> None:
        self._ask(Command.STOP, None)

    def _ask(self, command: Command, argument: Any) -> None:
        self._process.point()
        if self._world.tracing:
            # A callback's address is another one in every run.
            about = argument[0] if command is Command.QUIET else argument
            self._world.trace(self._process, command.value, about)
        self._thread.commands.put((command, argument))
        self.wake()

    # -- Steps of the thread -------------------------------------------------------------------------------

    def wake(self, within_s: float = RETRY_STEP_S) -> None:
        """There is something to do: the thread comes to it after a poll's wait at the latest."""
        self._steps.within(within_s)

    def _step(self) -> None:
        """A turn of the thread, or what it does instead while it waits in the drain of a revoke."""
        if self.client.closed:
            return
        thread = self._thread
        if self._revoke is not None:
            self._go_on_draining()
        if self._revoke is None:
            try:
                thread._turn()
            except consumer_thread._Finished as finished:
                self._world.sometimes("process_fenced")
                self.client.closed = True
                self._process.post(self._listener.on_failed, finished.error)
                self._process.post(self._tell_quiet, None)
                return
            if thread._stopping:
                thread._leave(None)
                self._process.post(self._tell_quiet, None)
                self._process.post(self._process.left)
                return
        soon = any(not held.flowing and not (held.announced and held.paused) for held in thread._assignment)
        self._steps.at(self._world.now_s + (RETRY_STEP_S if soon else IDLE_STEP_S))

    def _poll(self) -> list[Event]:
        """What a poll of the client would do: tell of the group and of commits, and hand records over."""
        client, thread = self.client, self._thread
        while client.answers:
            thread._on_commit(None, cast("list[TopicPartition]", client.answers.popleft()))
        while client.told and self._revoke is None:
            self._hear(*client.told.popleft())
        if self._revoke is not None or client.closed:
            return []
        client.rejoin_if_out()
        events, lost = client.fetch(self._world.schedule.batch_events_max)
        for partition in lost:
            thread._placing.lose_offset(thread._assignment.get(partition))
        if events or lost:
            self.wake()
        return events

    # -- Rebalances ----------------------------------------------------------------------------------------

    def _hear(self, what: str, partitions: list[Partition]) -> None:
        thread, client = self._thread, cast("Client", self.client)
        if self._world.tracing:
            self._world.trace(self._process, f"hears {what}", partitions)
        told = [TopicPartition(*partition) for partition in partitions]
        if what == "assigned":
            thread._on_assign(client, told)
        elif what == "lost":
            thread._on_lost(client, told)
        elif what == "fenced":
            thread._complaints.judge(KafkaError(KafkaError.FENCED_INSTANCE_ID))
        else:
            # `_on_revoke` up to where it blocks.
            announced = [p for p in partitions if (held := thread._assignment.get(p)) and held.announced]
            if announced:
                self._process.post(self._listener.on_revoked, announced)
            self._revoke = (partitions, announced, self._world.now_s + thread._drain_timeout_s)
            if thread._committing.is_asked:
                thread._commit_now()
            self._go_on_draining()

    def _go_on_draining(self) -> None:
        """`_drain`, as far as it goes now, and then the rest of `_on_revoke`."""
        assert self._revoke is not None
        thread = self._thread
        going, announced, until_s = self._revoke
        while not thread._assignment.all_released(announced) and not thread._stopping:
            if thread.commands.empty():
                if self._world.now_s < until_s:
                    self._steps.at(min(until_s, self._world.now_s + IDLE_STEP_S))
                    return
                thread.statistics.drains_cut += 1
                self._world.sometimes("thread_gave_a_drain_up")
                break
            command, argument = thread.commands.get()
            if command in (Command.PAUSE, Command.RESUME):
                self._deferred.append((command, argument))
                continue
            thread._run_command(command, argument)
            if thread.commands.empty():
                thread._commit_now()
        for command, argument in self._deferred:
            thread._run_command(command, argument)
        self._deferred.clear()
        self._revoke = None
        self._finish_revoke(going)
        self._world.group.gave_up(self.client, going)

    def _revoke_all(self, partitions: list[Partition]) -> None:
        """The client leaves the group, and the thread has said that it is stopping: nothing is told."""
        self._finish_revoke(partitions)

    def _finish_revoke(self, partitions: list[Partition]) -> None:
        """All of `_on_revoke` but what it has told already and waited for."""
        self._revoke_told = True
        told = [TopicPartition(*partition) for partition in partitions]
        self._thread._on_revoke(cast("Client", self.client), told)
        self._revoke_told = False

    def _post(self, callback: Callable[..., object], *arguments: Any) -> None:
        if not (self._revoke_told and callback == self._listener.on_revoked):
            self._process.post(callback, *arguments)
