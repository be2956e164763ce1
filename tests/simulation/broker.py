"""The brokers: logs with holes, committed offsets with their metadata, dead letters. Nothing here is a
client.

What they take and refuse is Kafka's own rule: a commit is fenced by member and generation and by nothing
else, the later one wins, backwards too, and metadata of 4 096 characters is too much.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError

from pelton.core.actions import Commit
from pelton.event import Event, Partition
from pelton.kafka.records import Outgoing

if TYPE_CHECKING:
    from tests.simulation.client import FakeClient
    from tests.simulation.group import Member
    from tests.simulation.world import World

__all__ = ["Broker", "Log"]

#: Kafka's default, and this very length is refused.
METADATA_CHARS_MAX = 4_095


class Log:
    """One partition's: its events in order, and where it begins after retention has cut it."""

    def __init__(self, partition: Partition, first_offset: int) -> None:
        self.partition = partition
        self.events: list[Event] = []
        #: What retention has cut included: who reads again here is always quick enough.
        self.everything: dict[int, Event] = {}
        self.start = first_offset
        self.end = first_offset

    def append(self, event: Event) -> None:
        assert event.offset >= self.end
        self.events.append(event)
        self.everything[event.offset] = event
        self.end = event.offset + 1

    def read(self, offset: int, count: int) -> list[Event]:
        found = [event for event in self.events if event.offset >= offset]
        return found[:count]

    def cut(self, start: int) -> None:
        self.start = max(self.start, min(start, self.end))
        self.events = [event for event in self.events if event.offset >= self.start]


class Broker:
    """All brokers together."""

    def __init__(self, world: World, logs: list[Log]) -> None:
        self._world = world
        self.logs = {log.partition: log for log in logs}
        self.committed: dict[Partition, Commit] = {}
        self.dead_letters: list[Outgoing] = []

    def has_coordinator(self) -> bool:
        now_s = self._world.now_s
        return not any(outage.covers(now_s) for outage in self._world.faults.coordinator)

    def has_leader(self) -> bool:
        now_s = self._world.now_s
        return not any(outage.covers(now_s) for outage in self._world.faults.leader)

    def refusal(self, client: FakeClient, member: Member | None, generation: int) -> int | None:
        """Why offsets are not taken from this member and generation, by Kafka's code; None if they are."""
        world = self._world
        if member is None or member not in world.group.members:
            world.sometimes("commit_of_evicted_member")
            return KafkaError.UNKNOWN_MEMBER_ID
        if member.client is not client:
            world.sometimes("commit_of_fenced_process")
            return KafkaError.FENCED_INSTANCE_ID
        if generation != world.group.generation:
            world.sometimes("commit_of_old_generation")
            return KafkaError.ILLEGAL_GENERATION
        return None

    def commit(
        self, client: FakeClient, member: Member | None, generation: int, commits: Mapping[Partition, Commit]
    ) -> dict[Partition, int | None]:
        """Take a commit, or say by Kafka's code why not: None for each that was taken."""
        world = self._world
        if not self.has_coordinator():
            world.sometimes("commit_without_coordinator")
            client.coordinator_missed = True
            return dict.fromkeys(commits, KafkaError.NOT_COORDINATOR)
        code = self.refusal(client, member, generation)
        if code is not None:
            return dict.fromkeys(commits, code)
        if world.strikes(world.faults.commits_refused):
            return dict.fromkeys(commits, KafkaError.REBALANCE_IN_PROGRESS)
        answers: dict[Partition, int | None] = {}
        for partition, commit in commits.items():
            if len(commit.metadata) > METADATA_CHARS_MAX:
                answers[partition] = KafkaError.OFFSET_METADATA_TOO_LARGE
                continue
            world.auditor.stored(client.process, partition, commit)
            if commit.metadata.partition("@")[0]:
                world.sometimes("map_committed")
            self.committed[partition] = commit
            answers[partition] = None
        if client.coordinator_missed:
            client.coordinator_missed = False
            world.sometimes("commit_retried_on_new_coordinator")
        if world.strikes(world.faults.commits_unsure):
            world.sometimes("commit_done_and_answer_lost")
            return dict.fromkeys(commits, KafkaError.REQUEST_TIMED_OUT)
        return answers
