"""Commits on their way to the broker and back: `commits.py` says what and when, this sends and tells.

On the consumer's thread only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pelton import failpoints
from pelton.core.actions import Commit
from pelton.event import Partition
from pelton.failpoints import Failpoint
from pelton.kafka.assignment import Assignment
from pelton.kafka.commits import Commits
from pelton.kafka.complaints import Complaints
from pelton.kafka.faults import error_of, is_fatal
from pelton.kafka.listener import ConsumerStatistics, Listener, Post
from pelton.kafka.topic_ids import tagged

__all__ = ["Committing", "OnQuiet", "Quiet"]

log = logging.getLogger("pelton.kafka")


@dataclass(frozen=True, slots=True)
class Quiet:
    """No commit of the partitions that were asked about is wanted or on its way."""

    #: Those of them that are ours, and which log an offset of each belongs to.
    topic_ids: Mapping[Partition, str]
    #: What a transaction shows the group's coordinator.
    group_metadata: object


#: None says that they will not become quiet.
OnQuiet = Callable[[Quiet | None], None]


class Committing:
    """The commits of one consumer."""

    def __init__(
        self,
        client: Consumer,
        assignment: Assignment,
        listener: Listener,
        post: Post,
        complaints: Complaints,
        statistics: ConsumerStatistics,
        name: str,
    ) -> None:
        self._client = client
        self._assignment = assignment
        self._listener = listener
        self._post = post
        self._complaints = complaints
        self._statistics = statistics
        self._name = name
        self._commits = Commits()
        self._sent_at = 0.0
        self._asked: tuple[Collection[Partition], OnQuiet] | None = None

    def drop(self, partitions: Collection[Partition]) -> None:
        """These are not ours any more, or start over."""
        self._commits.drop(partitions)
        self._tell_quiet()

    def tell_when_quiet(self, partitions: Collection[Partition], on_quiet: OnQuiet) -> None:
        """Tell once no commit of these is wanted or on its way, so that a transaction may carry the next.

        Whoever asks has no further ones sent. A commit counts as on its way until the broker has taken it:
        one whose fate is not known might still arrive behind the transaction's, and win over it.
        """
        assert self._asked is None, "one transaction at a time"
        self._asked = partitions, on_quiet
        self._tell_quiet()

    @property
    def is_asked(self) -> bool:
        """Somebody waits for quiet."""
        return self._asked is not None

    def refuse_quiet(self) -> None:
        """Whoever waits for quiet waits in vain."""
        if self._asked is not None:
            (_, on_quiet), self._asked = self._asked, None
            self._post(on_quiet, None)

    def _tell_quiet(self) -> None:
        if self._asked is None or any(map(self._commits.under_way, self._asked[0])):
            return
        (partitions, on_quiet), self._asked = self._asked, None
        ours = {p: held.topic_id for p in partitions if (held := self._assignment.get(p)) and held.heard}
        # Taken now, not when they were assigned: a rebalance that moves only others changes it too.
        self._post(on_quiet, Quiet(ours, self._client.consumer_group_metadata()))

    def want(self, commits: Mapping[Partition, Commit]) -> None:
        """Commit these soon, if they are ours to commit."""
        for partition, commit in commits.items():
            held = self._assignment.get(partition)
            if held is None or not held.heard or commit.offset < held.committed:
                self._statistics.commits_refused += 1
            else:
                self._commits.want(partition, commit)

    def start_at(self, partition: Partition, offset: int) -> None:
        """Commit where a partition starts over: what is committed now speaks of a log that is gone."""
        self._commits.want(partition, Commit(offset, ""))

    def send(self, now: float) -> None:
        """Send what is due, without waiting for the answer."""
        commits = self._commits.take(now)
        if not commits:
            return
        self._sent_at = now
        try:
            self._client.commit(offsets=self._offsets(commits), asynchronous=True)
            failpoints.reach(Failpoint.COMMITS_SENT)
        except KafkaException as exception:
            self._commits.answered(commits.keys(), now)
            self._tell_committed({}, dict.fromkeys(commits, error_of(exception).str()))

    def on_answer(self, error: KafkaError | None, answers: list[TopicPartition]) -> None:
        """The client's callback, from within a poll: the answer to what `send` sent."""
        now = time.monotonic()
        self._statistics.last_commit_ms = (now - self._sent_at) * 1000
        done, failed = self._sort(error, answers)
        # A partition that went meanwhile, and may even be back, has no part in this answer any more.
        ours = self._commits.answered(failed.keys(), now)
        self._tell_committed(
            {p: offset for p, offset in done.items() if p in ours},
            {p: why for p, why in failed.items() if p in ours},
        )
        self._tell_quiet()

    def send_now(self) -> None:
        """Commit everything wanted and wait for it: allowed in a rebalance callback, where polling is not."""
        commits = self._commits.take_all()
        if not commits:
            return
        now = time.monotonic()
        error: KafkaError | None = None
        answers = self._offsets(commits)
        try:
            answers = self._client.commit(offsets=answers, asynchronous=False)
        except KafkaException as exception:
            error = error_of(exception)
        self._statistics.last_commit_ms = (time.monotonic() - now) * 1000
        done, failed = self._sort(error, answers)
        self._commits.settle(commits, failed.keys(), time.monotonic())
        self._tell_committed(done, failed)
        self._tell_quiet()

    def _sort(
        self, error: KafkaError | None, answers: Sequence[TopicPartition]
    ) -> tuple[dict[Partition, int], dict[Partition, str]]:
        done: dict[Partition, int] = {}
        failed: dict[Partition, str] = {}
        for tp in answers:
            wrong = error or tp.error
            if wrong is None:
                done[Partition(tp.topic, tp.partition)] = tp.offset
            else:
                failed[Partition(tp.topic, tp.partition)] = wrong.str()
                if is_fatal(wrong):
                    self._complaints.judge(wrong)
        return done, failed

    def _tell_committed(self, done: dict[Partition, int], failed: dict[Partition, str]) -> None:
        for partition, offset in done.items():
            held = self._assignment.get(partition)
            if held is not None:
                held.committed = max(held.committed, offset)
        if done:
            self._statistics.commits += 1
            self._post(self._listener.on_committed, done, None)
        if failed:
            self._statistics.commit_errors += 1
            reasons = "; ".join(sorted(set(failed.values())))
            log.warning("%s: a commit failed and is tried again: %s", self._name, reasons)
            self._post(self._listener.on_committed, dict.fromkeys(failed, -1), reasons)

    def _offsets(self, commits: Mapping[Partition, Commit]) -> list[TopicPartition]:
        offsets = []
        for partition, commit in commits.items():
            held = self._assignment.get(partition)
            assert held is not None, "what is not held any more was dropped"
            offsets.append(TopicPartition(*partition, commit.offset, tagged(commit.metadata, held.topic_id)))
        return offsets
