"""Looking topics up and making those of our own. Blocking: call it where the loop does not run.

Source topics are never created: a name with a typing mistake would become an empty topic that is read for
ever. Dead-letter topics are, with the source's partitions, because a dead letter keeps its partition number.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from pelton.errors import BrokerError
from pelton.kafka.faults import broker_error, error_of
from pelton.kafka.settings import admin_settings, bootstrap_of

__all__ = ["ADMIN_TIMEOUT_S", "KEPT_FOR_EVER", "ensure_topic", "partitions_of"]

client_log = logging.getLogger("pelton.kafka.client")

#: A healthy cluster answers in milliseconds; this is for one that is being restarted.
ADMIN_TIMEOUT_S: Final = 10.0
#: The settings of a dead-letter topic: its events stay until somebody has dealt with them, and one as large
#: as its source takes fits with the headers that say what happened. The limit is a wall, not a reservation.
KEPT_FOR_EVER: Final = {"retention.ms": "-1", "retention.bytes": "-1", "max.message.bytes": str(32 << 20)}
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


def ensure_topic(
    settings: Mapping[str, Any],
    name: str,
    partitions: int,
    config: Mapping[str, str] | None = None,
    timeout: float = ADMIN_TIMEOUT_S,
) -> None:
    """Make the topic `name` with `partitions` unless it is there; BrokerError if it has fewer."""
    where = bootstrap_of(settings)
    client = _client(settings)
    deadline = time.monotonic() + timeout
    have = _partitions(client, settings, [name], timeout)[name]
    if have is None:
        _create(client, settings, name, partitions, config, timeout)
        while (have := _partitions(client, settings, [name], timeout)[name]) is None:
            if time.monotonic() > deadline:
                raise BrokerError(f"the topic {name} was created at {where} and is not seen in {timeout} s.")
            time.sleep(_VISIBLE_POLL_S)
    if have < partitions:
        raise BrokerError(
            f"the topic {name} at {where} has {have} partitions and needs {partitions}: every record keeps "
            f"the partition number it has in the source. Add partitions to {name}."
        )


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
        doing = f"cannot look up {', '.join(topics)}"
        raise broker_error(error_of(exception), doing, bootstrap_of(settings)) from exception
    except (TimeoutError, ValueError) as error:
        doing = f"cannot look up {', '.join(topics)} at {bootstrap_of(settings)}"
        raise BrokerError(
            f"{doing}: {str(error) or f'no answer in {timeout:g} s'}. {_MEND_SILENT}"
        ) from error
    return found


def _create(
    client: AdminClient,
    settings: Mapping[str, Any],
    name: str,
    partitions: int,
    config: Mapping[str, str] | None,
    timeout: float,
) -> None:
    topic = NewTopic(
        name,
        num_partitions=partitions,
        replication_factor=_DEFAULT_REPLICATION,
        config=dict(config or {}),
    )
    where = bootstrap_of(settings)
    try:
        client.create_topics([topic], operation_timeout=timeout)[name].result(timeout)
    except KafkaException as exception:
        error = error_of(exception)
        if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another process was faster
            raise broker_error(error, f"cannot create the topic {name}", where) from exception
    except TimeoutError as error:
        raise BrokerError(f"cannot create the topic {name} at {where}: no answer in {timeout} s") from error
