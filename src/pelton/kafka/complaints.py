"""What the client complains of: what ends the consumer, and what is logged and survived."""

from __future__ import annotations

import logging
import time
from typing import Final

from confluent_kafka import KafkaError

from pelton.errors import BrokerError
from pelton.kafka.faults import broker_error, is_denied, is_fatal
from pelton.kafka.listener import ConsumerStatistics

__all__ = ["Complaints"]

log = logging.getLogger("pelton.kafka")

#: An error that repeats is logged once in this time: a broker that is down is reported many times a second.
SAME_ERROR_LOGGED_EVERY_S: Final = 10.0


class Complaints:
    """The errors of one consumer, sorted on its thread."""

    def __init__(
        self, name: str, bootstrap: str, statistics: ConsumerStatistics, instance_id: str = ""
    ) -> None:
        self._name = name
        self._bootstrap = bootstrap
        self._member = f" as member {instance_id}" if instance_id else ""
        self._statistics = statistics
        self._logged: dict[int, float] = {}
        #: Set once the broker has let us in: from then on a denial may be a credential being replaced.
        self.was_assigned = False
        #: What ends the consumer, at its next turn.
        self.fatal: BrokerError | None = None

    def judge(self, error: KafkaError) -> None:
        """Only what cannot heal ends the consumer."""
        if is_fatal(error):
            self.fatal = self.fatal or self.as_ours(error, f"the consumer ended{self._member}")
        elif is_denied(error) and not self.was_assigned:
            self.fatal = self.fatal or self.as_ours(error, "the consumer was not let in")
        else:
            self.survive(error, "client")

    def survive(self, error: KafkaError, doing: str, *, level: int = logging.WARNING) -> None:
        """Count it, and log it unless it was logged just now."""
        self._statistics.client_errors += 1
        now = time.monotonic()
        if now - self._logged.get(error.code(), -SAME_ERROR_LOGGED_EVERY_S) >= SAME_ERROR_LOGGED_EVERY_S:
            self._logged[error.code()] = now
            log.log(level, "%s: %s: %s (%s)", self._name, doing, error.str(), error.name())

    def as_ours(self, error: KafkaError, doing: str) -> BrokerError:
        return broker_error(error, f"{self._name}: {doing}", self._bootstrap)
