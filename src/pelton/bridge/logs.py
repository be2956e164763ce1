"""What the server says of itself: one structured line for each thing a person would want to know.

Never one a delivery that went well, and nothing of an event but where it stands: keys, values and headers
stay out of the log. What the target said is cut and sanitised.
"""

from __future__ import annotations

import logging
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from pelton.config.settings import Logging
from pelton.core.actions import Hop
from pelton.core.breaker import Health
from pelton.core.delivery import Delivery
from pelton.core.outcome import Outcome
from pelton.event import Partition
from pelton.kafka.listener import Assigned

__all__ = ["HOPS_NAMED_MAX", "OUT_NAMED_MAX", "PumpLog", "configure", "logger"]

#: What is shown of a target's own words.
_REASON_CHARS_MAX = 256
#: Of the calls that outlive an assignment, so many of each partition are named.
OUT_NAMED_MAX = 1_000
#: Of the events that leave together. All have their reason in their record; a flood would have the log cost
#: more than the letters.
HOPS_NAMED_MAX = 10
#: What moves a terminal's cursor or turns its text around, and halves of characters that no stream can write.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")


def configure(declared: Logging, *, worker: int | None = None) -> None:
    """Send structlog and stdlib logging to standard error, one line each: JSON, or text for people.

    `worker` stands in every line, where there are several.
    """
    number = logging.getLevelNamesMapping()[declared.level.upper()]
    json = declared.format == "json" or (declared.format == "auto" and not sys.stderr.isatty())
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if worker is not None:

        def say_which(_logger: Any, _method: str, said: structlog.types.EventDict) -> Any:
            said["worker"] = worker
            return said

        shared.insert(0, say_which)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=shared,
        )
    )
    # What its start and stop say of sockets and processes is said better by our own lines.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(number)


def logger() -> Any:
    return structlog.stdlib.get_logger("pelton")


def sanitised(reason: str) -> str:
    """A target's words on one line, cut."""
    # Cut before the search: a target may say megabytes.
    line = _CONTROL.sub(" ", reason[: 4 * _REASON_CHARS_MAX]).strip()
    return line if len(line) <= _REASON_CHARS_MAX else line[: _REASON_CHARS_MAX - 1] + "…"


class PumpLog:
    """The lines of one subscription."""

    def __init__(self, subscription: str) -> None:
        self._log = logger().bind(subscription=subscription)
        self._debug = logging.getLogger("pelton").isEnabledFor(logging.DEBUG)
        #: What the target, or the way to it, said last of an attempt that failed.
        self._failure: Outcome | None = None

    def assigned(self, group: str, assigned: Sequence[Assigned]) -> None:
        """One line, whatever came: the group, and where each partition begins."""
        self._log.info(
            "assigned",
            group=group,
            generation=assigned[0].generation,
            first_offsets={
                f"{one.partition.topic}/{one.partition.partition}": one.offset for one in assigned
            },
        )

    def map_refused(self, partition: Partition, reason: str) -> None:
        self._log.warning("ack map refused: settled events may repeat", **_of(partition), reason=reason)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        self._log.info("revoked", partitions=[f"{topic}/{number}" for topic, number in partitions])

    def lost(self, partitions: Sequence[Partition], out: Mapping[Partition, Sequence[int]]) -> None:
        """`out` has the offsets whose calls go on although the partition is gone: these may come twice."""
        self._log.warning(
            "assignment lost: what is out is refused",
            partitions=[f"{topic}/{number}" for topic, number in partitions],
            out={
                f"{topic}/{number}": sorted(offsets)[:OUT_NAMED_MAX]
                for (topic, number), offsets in out.items()
                if offsets
            },
        )

    def drain_cut(self, partition: Partition, calls: int) -> None:
        self._log.warning(
            "drain timed out: calls cut, they are made again by the next owner", **_of(partition), calls=calls
        )

    def offsets_lost(self, partition: Partition, wanted: int, got: int) -> None:
        if got < wanted:
            self._log.error(
                "the committed offset is beyond the log's end: was the topic made again? all is delivered",
                **_of(partition),
                committed=wanted,
                first_offset=got,
            )
            return
        self._log.error(
            "events were lost to retention before they were read",
            **_of(partition),
            committed=wanted,
            first_offset=got,
            events=got - wanted,
        )

    def follow_full(self, partition: Partition, keys: int) -> None:
        self._log.error(
            "no room to follow another key: its events wait, and in the end their partition",
            **_of(partition),
            keys=keys,
            mend="mend the target, or `pelton release` keys; retry.follow_keys is the bound",
        )

    def lost_while_parked(self, partition: Partition, events: int) -> None:
        self._log.error(
            "events were lost to retention while they were parked behind a key that waits",
            **_of(partition),
            events=events,
        )

    def health_changed(self, before: Health, after: Health) -> None:
        why: dict[str, Any] = {}
        if self._failure is not None and after is not Health.WELL:
            why = {"status": self._failure.status.name, "reason": sanitised(self._failure.message)}
        match after:
            case Health.WELL:
                self._log.info("target is well again", before=before.value)
            case Health.UNWELL:
                self._log.warning("target is unwell: calls stop, probing", before=before.value, **why)
            case Health.MISWIRED:
                self._log.error(
                    "target refuses every call: calls stop, probing",
                    mend="check the method, the credentials and the certificates",
                    before=before.value,
                    **why,
                )

    def attempt_failed(self, delivery: Delivery, outcome: Outcome) -> None:
        if not outcome.local and not outcome.cancelled:
            self._failure = outcome
        if self._debug:
            self._log.debug("attempt failed", **_of_delivery(delivery, outcome))

    def hopped(self, hops: Sequence[Hop]) -> None:
        """The broker has these."""
        left = [hop for hop in hops if hop.told is None]
        for hop in left[:HOPS_NAMED_MAX]:
            told = _of_delivery(hop.delivery, hop.outcome)
            if hop.tier is None:
                self._log.warning("dead-lettered", **told)
            else:
                self._log.info("moved to a retry tier", to=hop.tier.topic, **told)
        if more := left[HOPS_NAMED_MAX:]:
            moved = Counter(hop.tier.topic for hop in more if hop.tier is not None)
            dead_letters = len(more) - moved.total()
            self._log.warning("more left with them", dead_letters=dead_letters, moved=dict(moved))

    def not_atomic(self, error: str) -> None:
        self._log.warning(
            "no transactions: a crash may write a dead letter twice",
            error=error,
            mend="allow Describe and Write on this group's transactional ids, or say `atomic: never`",
        )

    def transaction_failed(self, error: str, hops: int) -> None:
        self._log.info("transaction not committed: tried again", hops=hops, error=error)

    def hop_refused(self, hop: Hop, error: str) -> None:
        what = "dead letter not written" if hop.tier is None else f"not moved to {hop.tier.topic}"
        if hop.told is not None:
            what = "not written that it has ended, for which its key waits"
        self._log.error(
            f"{what}: the partition waits until it is",
            delivery_id=hop.delivery.delivery_id,
            error=error,
            mend="see that the topic is there, with as many partitions as the source, and takes records; a "
            "restart creates one that is missing",
        )


def _of(partition: Partition) -> dict[str, Any]:
    return {"topic": partition.topic, "partition": partition.partition}


def _of_delivery(delivery: Delivery, outcome: Outcome) -> dict[str, Any]:
    event = delivery.event
    return {
        "topic": event.topic,
        "partition": event.partition,
        "offset": event.offset,
        "delivery_id": delivery.delivery_id,
        "attempt": delivery.attempt,
        "status": outcome.status.name,
        "reason": sanitised(outcome.message),
    }
