"""Why a record was not written, said so that somebody can mend it.

Where a topic is gone, or takes nothing, the client only says that a message has timed out. So the brokers are
asked about the topic then: on the thread that hears of it, which has nothing better to do with a topic that
takes nothing. How long and how often is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import KafkaError

from pelton.errors import BrokerError, PublishError
from pelton.kafka.faults import not_there, publish_error
from pelton.kafka.settings import bootstrap_of
from pelton.kafka.topics import partitions_of

__all__ = ["Unwritten"]

#: Of one question. A transaction that waits for it has 10 s in all, and has used 6 of them by then.
LOOK_TIMEOUT_S: Final = 2.0
#: Many records time out together, and again a little later; what was found holds for all of them.
LOOK_EVERY_S: Final = 10.0
#: Whoever publishes may name topics without end.
TOPICS_MAX: Final = 100


class Unwritten:
    """The failed writes of one client, on its thread."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        #: What was found of a topic, and when.
        self._found: dict[str, tuple[float, str]] = {}

    def error(self, error: KafkaError, topic: str) -> PublishError:
        """The broker's, or the client's, no to one record for `topic`."""
        if error.code() != KafkaError._MSG_TIMED_OUT:
            return publish_error(error, topic)
        return PublishError(self._look(topic), retriable=True)

    def _look(self, topic: str) -> str:
        at, text = self._found.pop(topic, (float("-inf"), ""))
        if time.monotonic() - at >= LOOK_EVERY_S:
            text = self._ask(topic)
            at = time.monotonic()
        while len(self._found) >= TOPICS_MAX:
            del self._found[next(iter(self._found))]
        self._found[topic] = at, text
        return text

    def _ask(self, topic: str) -> str:
        where = bootstrap_of(self._settings)
        late = f"not acknowledged by {topic} at {where} in time"
        try:
            partitions = partitions_of(self._settings, [topic], LOOK_TIMEOUT_S)[topic]
        except BrokerError as error:
            return f"{late}, and whether the topic is there is not known: {error}"
        if partitions is None:
            return not_there(topic, where)
        return (
            f"{late}: the topic is there, and takes nothing. See whether all of its {partitions} partitions "
            "have a leader and as many in-sync replicas as min.insync.replicas asks for"
        )
