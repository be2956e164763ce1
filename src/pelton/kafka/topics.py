"""Looking topics up and making those of our own. Blocking: call it where the loop does not run.

Source topics are never created: a name with a typing mistake would become an empty topic that is read for
ever. Dead-letter topics are, with the source's partitions, because a dead letter keeps its partition number.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]  # not in __all__
from confluent_kafka.cimpl import NewTopic

from pelton.errors import BrokerError
from pelton.kafka.faults import broker_error, error_of
from pelton.kafka.settings import admin_settings, bootstrap_of

__all__ = [
    "ADMIN_TIMEOUT_S",
    "COMPACTED",
    "KEPT_FOR_EVER",
    "Wanted",
    "cleanup_of",
    "ensure_topic",
    "ensure_topics",
    "partitions_of",
]

client_log = logging.getLogger("pelton.kafka.client")

#: A healthy cluster answers in milliseconds; this is for one that is being restarted.
ADMIN_TIMEOUT_S: Final = 10.0
#: The settings of a dead-letter topic: its events stay until somebody has dealt with them, and one as large
#: as its source takes fits with the headers that say what happened. The limit is a wall, not a reservation.
KEPT_FOR_EVER: Final = {"retention.ms": "-1", "retention.bytes": "-1", "max.message.bytes": str(32 << 20)}
#: The settings of a topic that keeps the last of each key, whatever its age. Compacted often: it is read from
#: its beginning whenever a partition changes hands.
COMPACTED: Final = {
    "cleanup.policy": "compact",
    "max.message.bytes": str(32 << 20),
    "min.cleanable.dirty.ratio": "0.1",
    "segment.bytes": str(16 << 20),
    "segment.ms": str(6 * 3600 * 1000),
}
#: Asked for at once: a broker makes hundreds of partitions a second, and each request is to end in time.
_TOPICS_AT_ONCE_MAX: Final = 20
#: An error names so many topics.
_NAMED_MAX: Final = 5
#: A topic that has just been made is known to every broker a moment later.
_VISIBLE_POLL_S: Final = 0.05
_NOT_THERE: Final = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC})
_MEND_SILENT: Final = "Check that Kafka runs there and that security.protocol is the broker's."
#: The broker's own default.
_DEFAULT_REPLICATION: Final = -1


def partitions_of(
    settings: Mapping[str, Any], topics: Iterable[str], timeout: float = ADMIN_TIMEOUT_S
) -> dict[str, int | None]:
    """How many partitions each topic has; None for one that is not there."""
    # The client is referenced until its futures end: without it they never would.
    client = _client(settings)
    return _partitions(client, settings, list(topics), timeout)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A topic of our own, to be made unless it is there."""

    name: str
    partitions: int
    config: Mapping[str, str]


def ensure_topic(
    settings: Mapping[str, Any],
    name: str,
    partitions: int,
    config: Mapping[str, str] | None = None,
    timeout: float = ADMIN_TIMEOUT_S,
) -> None:
    """Make the topic `name` with `partitions` unless it is there; BrokerError if it has fewer."""
    ensure_topics(settings, [Wanted(name, partitions, config or {})], timeout)


def ensure_topics(
    settings: Mapping[str, Any], wanted: Sequence[Wanted], timeout: float = ADMIN_TIMEOUT_S
) -> None:
    """Make those that are not there; BrokerError if one has fewer partitions. One that is wanted twice, since
    subscriptions share it, gets the most that is wanted. By few requests: there may be hundreds of them."""
    where = bootstrap_of(settings)
    client = _client(settings)
    most: dict[str, Wanted] = {}
    for one in wanted:
        if one.name not in most or most[one.name].partitions < one.partitions:
            most[one.name] = one
    have = _partitions(client, settings, list(most), timeout)
    missing = [name for name, count in have.items() if count is None]
    for at in range(0, len(missing), _TOPICS_AT_ONCE_MAX):
        some = missing[at : at + _TOPICS_AT_ONCE_MAX]
        deadline = time.monotonic() + timeout
        _create(client, settings, [most[name] for name in some], timeout)
        while unseen := [name for name in some if have[name] is None]:
            have |= _partitions(client, settings, unseen, timeout)
            if all(have[name] is not None for name in unseen):
                break
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"{_named(unseen)}: created at {where}, and not every one is seen in {timeout} s."
                )
            time.sleep(_VISIBLE_POLL_S)
    for name, one in most.items():
        count = have[name]
        assert count is not None, "made, and seen"
        if count < one.partitions:
            raise BrokerError(
                f"the topic {name} at {where} has {count} partitions and needs {one.partitions}: every "
                f"record keeps the partition number it has in the source. Add partitions to {name}."
            )


def _named(topics: Sequence[str]) -> str:
    more = len(topics) - _NAMED_MAX
    return ", ".join(topics[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def cleanup_of(settings: Mapping[str, Any], name: str, timeout: float = ADMIN_TIMEOUT_S) -> str:
    """The `cleanup.policy` of a topic that is there."""
    client = _client(settings)
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    try:
        (future,) = client.describe_configs([resource], request_timeout=timeout).values()
        return str(future.result(timeout)["cleanup.policy"].value)
    except KafkaException as exception:
        doing = f"cannot look up the settings of {name}"
        raise broker_error(error_of(exception), doing, bootstrap_of(settings)) from exception
    except TimeoutError as error:
        raise BrokerError(
            f"cannot look up the settings of {name} at {bootstrap_of(settings)}: no answer in {timeout:g} s"
        ) from error


def _client(settings: Mapping[str, Any]) -> AdminClient:
    try:
        return AdminClient(admin_settings(settings), logger=client_log)
    except KafkaException as exception:
        raise broker_error(error_of(exception), "cannot make a client", bootstrap_of(settings)) from exception


def _partitions(
    client: AdminClient, settings: Mapping[str, Any], topics: list[str], timeout: float
) -> dict[str, int | None]:
    if not topics:
        return {}
    # Not `list_topics(name)`: asking for one topic's metadata may create it.
    found: dict[str, int | None] = {}
    try:
        futures = client.describe_topics(TopicCollection(topics), request_timeout=timeout)
        for name, future in futures.items():
            try:
                found[name] = len(future.result(timeout).partitions)
            except KafkaException as exception:
                if error_of(exception).code() not in _NOT_THERE:
                    raise
                found[name] = None
    except KafkaException as exception:
        doing = f"cannot look up {_named(topics)}"
        raise broker_error(error_of(exception), doing, bootstrap_of(settings)) from exception
    except (TimeoutError, ValueError) as error:
        doing = f"cannot look up {_named(topics)} at {bootstrap_of(settings)}"
        raise BrokerError(
            f"{doing}: {str(error) or f'no answer in {timeout:g} s'}. {_MEND_SILENT}"
        ) from error
    return found


def _create(
    client: AdminClient, settings: Mapping[str, Any], wanted: Sequence[Wanted], timeout: float
) -> None:
    topics = [
        NewTopic(
            one.name,
            num_partitions=one.partitions,
            replication_factor=_DEFAULT_REPLICATION,
            config=dict(one.config),
        )
        for one in wanted
    ]
    where = bootstrap_of(settings)
    for name, future in client.create_topics(topics, operation_timeout=timeout).items():
        try:
            future.result(timeout)
        except KafkaException as exception:
            error = error_of(exception)
            if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another process was faster
                raise broker_error(error, f"cannot create the topic {name}", where) from exception
        except TimeoutError as error:
            raise BrokerError(
                f"cannot create the topic {name} at {where}: no answer in {timeout} s"
            ) from error
