"""Which making of a topic is being read: Kafka gives a topic that is deleted and made again another id.

Nothing else tells the two apart. The client reads on at the old offset as if nothing had happened, and where
the new log is longer already, the events below that offset would be passed without having been read. So the
id is looked up whenever partitions come, and every few seconds; and it goes with every commit, so that the
next owner of a partition knows which log its offset belongs to.

On the consumer's thread; nothing here waits.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from pelton.kafka.faults import error_of
from pelton.kafka.settings import admin_settings

__all__ = ["TopicIds", "is_outdated", "tagged", "untagged"]

log = logging.getLogger("pelton.kafka")

#: What is read of a topic that was made again in between is read out of turn, so not much of it may be.
LOOK_EVERY_S: Final = 2.0
#: A broker that does not say is asked again; partitions do not wait longer than this for it.
LOOK_TIMEOUT_S: Final = 3.0
#: In the commit's metadata, in front of the topic's id; in no map's alphabet.
_MARK: Final = "@"
#: 48 of the topic id's 128 random bits: two makings of one topic must differ, and nothing more.
_TOPIC_CHARS: Final = 8
#: Offsets that were copied to another cluster are translated there, and speak of its topic.
_CLUSTER_CHARS: Final = 4
#: What brokers before 2.8 say: they know no ids.
_NO_ID: Final = "A" * 22


def tagged(metadata: str, topic_id: str) -> str:
    """What is committed: the map, and the log it speaks of where that is known."""
    return f"{metadata}{_MARK}{topic_id}" if topic_id else metadata


def untagged(metadata: str) -> tuple[str, str]:
    """The map, and the id of the log it speaks of; empty where it does not say."""
    text, mark, topic_id = metadata.rpartition(_MARK)
    return (text, topic_id) if mark and len(topic_id) == _TOPIC_CHARS + _CLUSTER_CHARS else (metadata, "")


def is_outdated(topic_id: str, current: str) -> bool:
    """A commit with `topic_id` speaks of a log that was here, and is not any more."""
    here = topic_id[_TOPIC_CHARS:] == current[_TOPIC_CHARS:]
    return bool(topic_id and current) and here and topic_id != current


class TopicIds:
    """The ids of one subscription's topics, as last looked up."""

    def __init__(self, settings: Mapping[str, Any], topics: Sequence[str]) -> None:
        self._settings = settings
        self._topics = TopicCollection(list(topics))
        self._admin: AdminClient | None = None
        self._ids: dict[str, str] = {}
        self._first_counts: dict[str, int] = {}
        self._cluster: Future[Any] | None = None
        self._pending: dict[str, Future[Any]] = {}
        self._asked_at = float("-inf")
        self._answered_for = float("-inf")
        self._due = float("-inf")

    def of(self, topic: str) -> str:
        """The topic's id; empty where it is not known."""
        return self._ids.get(topic, "")

    def is_new(self, topic: str, partition: int) -> bool:
        """The partition was added, or its topic made again, while we were looking."""
        return partition >= self._first_counts.get(topic, partition + 1)

    def looked_since(self, moment: float, now: float) -> bool:
        """Whether what is known is from after `moment`; a look is made if not.

        Also where the broker has not answered in time: without the id everything goes on as it would.
        """
        if self._answered_for >= moment or now - moment > LOOK_TIMEOUT_S:
            return True
        if self._asked_at < moment:
            self._due = now
        return False

    def look(self, now: float) -> list[str]:
        """Ask when it is time, take the answer when it is there; returns the topics that were made again."""
        if self._pending:
            assert self._cluster is not None
            if not self._cluster.done() or not all(future.done() for future in self._pending.values()):
                return []
            pending, self._pending = self._pending, {}
            self._answered_for = self._asked_at
            return [topic for topic, future in pending.items() if self._is_another(topic, future)]
        if now >= self._due:
            if self._admin is None:
                self._admin = AdminClient(admin_settings(self._settings))
            self._asked_at = now
            self._due = now + LOOK_EVERY_S
            if self._cluster is None or self._cluster.exception() is not None:
                self._cluster = self._admin.describe_cluster(request_timeout=LOOK_TIMEOUT_S)
            self._pending = self._admin.describe_topics(self._topics, request_timeout=LOOK_TIMEOUT_S)
        return []

    def _is_another(self, topic: str, future: Future[Any]) -> bool:
        assert self._cluster is not None
        try:
            cluster = hashlib.sha256(self._cluster.result().cluster_id.encode()).hexdigest()
            description = future.result()
        except KafkaException as exception:
            # Gone, denied or not reachable: whoever reads it hears of that where it matters.
            log.debug("%s cannot be looked up: %s", topic, error_of(exception).str())
            return False
        topic_id = str(description.topic_id)
        if topic_id == _NO_ID:
            return False
        before, self._ids[topic] = self.of(topic), topic_id[:_TOPIC_CHARS] + cluster[:_CLUSTER_CHARS]
        again = is_outdated(before, self._ids[topic])
        if again:
            self._first_counts[topic] = 0
        else:
            self._first_counts.setdefault(topic, len(description.partitions))
        return again
