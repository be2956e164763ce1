"""Bringing assigned partitions to where they are to be read: at their start, after a pause, after a loss.

On the consumer's thread, between two polls. What the broker refuses is tried again; meanwhile the partition
stands still.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from pelton.event import Partition
from pelton.kafka.assignment import Assignment, Held
from pelton.kafka.committing import Committing
from pelton.kafka.complaints import Complaints
from pelton.kafka.faults import error_of
from pelton.kafka.listener import Assigned, ConsumerStatistics, Listener, Post
from pelton.kafka.membership import generation_of
from pelton.kafka.starting import end_of, place
from pelton.kafka.topic_ids import TopicIds
from pelton.subscription import Start

__all__ = ["Placing"]

log = logging.getLogger("pelton.kafka")

#: Waits between tries of what the broker refused: to place a partition, to seek, to find the log's start.
RETRY_WAIT_FIRST_S: Final = 0.01
RETRY_WAIT_MAX_S: Final = 2.0
#: A seek that is refused for so long will be refused for ever.
REASSIGN_AFTER_S: Final = 0.08


class Placing:
    """The places of one consumer's partitions."""

    def __init__(
        self,
        client: Consumer,
        assignment: Assignment,
        committing: Committing,
        topic_ids: TopicIds,
        announce: Callable[[Sequence[tuple[Assigned, Held]]], None],
        listener: Listener,
        post: Post,
        complaints: Complaints,
        statistics: ConsumerStatistics,
        *,
        start_of: Callable[[str], Start],
        settings: dict[str, Any],
        incremental: bool,
    ) -> None:
        self._client = client
        self._assignment = assignment
        self._committing = committing
        self._topic_ids = topic_ids
        self._announce = announce
        self._listener = listener
        self._post = post
        self._complaints = complaints
        self._statistics = statistics
        self._start_of = start_of
        self._settings = settings
        self._incremental = incremental

    def run(self, now: float) -> None:
        """Do what is due."""
        self._place_starting(now)
        self._place_lost(now)
        self._seek_due(now)

    def pause(self, partitions: Sequence[Partition]) -> None:
        """No more records of these from the client."""
        try:
            self._client.pause([TopicPartition(*p) for p in partitions])
        except KafkaException as exception:
            # Its events are not taken anyway, and are read again after the next seek.
            self._complaints.survive(error_of(exception), "pause")

    def lose_offset(self, held: Held | None) -> None:
        """The client says that the log does not have the partition's next offset."""
        # One that is not placed yet has been reading from nowhere; see `_on_assign`.
        if held is not None and held.announced and held.lost_wanted < 0:
            held.lost_wanted = held.next_offset
            held.lost_at = time.monotonic()
            held.flowing = False

    def start_over(self, topic: str) -> None:
        """The topic was deleted and made again: whatever its partitions are at, it is not theirs."""
        for held in self._assignment:
            if held.partition.topic == topic and held.announced:
                held.lost_wanted = held.next_offset
                held.anew = True
                held.flowing = False
                held.retry_at = 0.0

    def _place_starting(self, now: float) -> None:
        starting = self._assignment.starting(now)
        if not starting or not self._topic_ids.looked_since(max(held.since for held in starting), now):
            return
        partitions = [held.partition for held in starting]
        placed, errors = place(self._client, partitions, self._start_of, self._topic_ids, self._settings)
        generation = generation_of(self._client.consumer_group_metadata())
        assigned = []
        for found in placed:
            held = self._assignment.get(found.partition)
            assert held is not None, "nothing is revoked outside a poll"
            held.announced = True
            held.topic_id = self._topic_ids.of(held.partition.topic)
            held.committed = found.offset
            held.starts_at(found.offset)
            self._statistics.metadata_unreadable += found.unreadable
            if found.outdated >= 0:
                self._tell_lost(held, found.outdated, found.offset)
                self._committing.start_at(held.partition, found.offset)
            one = Assigned(found.partition, generation, found.offset, found.metadata, found.log_end)
            assigned.append((one, held))
        self._retry(errors, "the start of %s/%d is not known yet: %s")
        if assigned:
            self._complaints.was_assigned = True
            self._announce(assigned)

    def _retry(self, errors: Mapping[Partition, str], text: str) -> None:
        now = time.monotonic()
        for partition, why in errors.items():
            held = self._assignment.get(partition)
            if held is not None:
                held.backoff(now, RETRY_WAIT_FIRST_S, RETRY_WAIT_MAX_S)
                log.warning(text, *partition, why)

    def _seek_due(self, now: float) -> None:
        """Resume alone leaves a partition silent for up to a second; with a seek it flows at once."""
        due = self._assignment.to_seek(now)
        if not due:
            return
        for held in due:
            place_at = TopicPartition(*held.partition, held.next_offset)
            try:
                self._client.resume([place_at])
                self._client.seek(place_at)
            except KafkaException as exception:
                # Mostly it has just been assigned, and the client's own threads do not know yet. One whose
                # offset the client found lost before it was placed can never be sought again, though.
                if held.retry_wait_s >= REASSIGN_AFTER_S:
                    self._reassign(held)
                held.backoff(now, RETRY_WAIT_FIRST_S, RETRY_WAIT_MAX_S)
                self._complaints.survive(error_of(exception), "seek", level=logging.DEBUG)
            else:
                held.flowing = True
                held.retry_at = held.retry_wait_s = 0.0

    def _place_lost(self, now: float) -> None:
        """Go on at the earliest offset the log still has, and say so."""
        for held in list(self._assignment.to_find(now)):
            # Of a log that was made again all partitions begin anew, once, and with its id beside the commit.
            if not held.anew and not self._topic_ids.looked_since(held.lost_at, now):
                continue
            wanted = held.lost_wanted
            try:
                low, high = end_of(self._client, held.partition)
            except KafkaException as exception:
                why = error_of(exception).str()
                self._retry({held.partition: why}, "the log of %s/%d does not answer: %s")
                continue
            # A look from before it was placed; or the broker knows better now.
            if low <= wanted <= high and not held.anew:
                held.starts_at(wanted)
                self._reassign(held)
                continue
            self._tell_lost(held, wanted, low)
            if low < wanted or held.anew:
                held = self._begin_anew(held, low)
            held.starts_at(low)
            self._reassign(held)

    def _tell_lost(self, held: Held, wanted: int, got: int) -> None:
        self._statistics.offsets_lost += 1
        text = "%s/%d: offset %d is not in the log any more; reading goes on at %d"
        log.error(text, *held.partition, wanted, got)
        self._post(self._listener.on_offsets_lost, held.partition, wanted, got)

    def _begin_anew(self, old: Held, offset: int) -> Held:
        """The log is another one: what was asked for so far, pauses and commits, was meant for the old."""
        partition = old.partition
        self._assignment.add([partition], old.since)
        self._committing.drop([partition])
        held = self._assignment.get(partition)
        assert held is not None
        held.announced = True
        held.committed = offset
        held.topic_id = self._topic_ids.of(partition.topic)
        generation = generation_of(self._client.consumer_group_metadata())
        self._post(self._listener.on_lost, [partition])
        self._announce([(Assigned(partition, generation, offset, None), held)])
        self._committing.start_at(partition, offset)
        return held

    def _reassign(self, held: Held) -> None:
        """Take the partition anew at its next offset: after a lost offset the client refuses to seek."""
        anew = [held] if self._incremental else [one for one in self._assignment if one.announced]
        places = [TopicPartition(*one.partition, one.next_offset) for one in anew]
        starting = [TopicPartition(*one.partition, 0) for one in self._assignment if not one.announced]
        try:
            if self._incremental:
                self._client.incremental_unassign(places)
                self._client.incremental_assign(places)
            else:
                self._client.assign([*places, *starting])
        except KafkaException as exception:
            # A rebalance that is under way: the seek that follows fails as well, and this comes again.
            self._complaints.survive(error_of(exception), "assign")
        for one in anew:
            one.flowing = False
        self.pause([one.partition for one in self._assignment if not one.flowing])
