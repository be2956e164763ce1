"""Retry topics that hold events and are read no more, because a tier was taken out of the configuration.

Blocking: call it where the loop does not run. Nothing here changes anything.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from pelton.kafka.faults import broker_error, error_of
from pelton.kafka.settings import admin_settings, bootstrap_of
from pelton.subscription import Subscription

__all__ = ["unread_tiers"]

client_log = logging.getLogger("pelton.kafka.client")

#: Of each question; a start waits for all of them.
ASK_TIMEOUT_S: Final = 5.0


def unread_tiers(
    settings: Mapping[str, Any], subscriptions: Sequence[Subscription]
) -> dict[str, dict[str, int]]:
    """Subscription → topic → events not settled, at most; BrokerError where nobody can say."""
    found: dict[str, dict[str, int]] = {}
    try:
        topics = AdminClient(admin_settings(settings), logger=client_log).list_topics(timeout=ASK_TIMEOUT_S)
        for subscription in subscriptions:
            former = _former(topics.topics, subscription)
            if former:
                found[subscription.name] = _unread(former, settings, subscription)
    except KafkaException as exception:
        doing = "cannot look for former retry topics"
        raise broker_error(error_of(exception), doing, bootstrap_of(settings)) from exception
    return found


def _former(topics: Mapping[str, Any], subscription: Subscription) -> list[TopicPartition]:
    """The partitions of its retry topics that it reads no more."""
    # The name of a subscription has no dots in it: no other one's topics begin like this.
    ours = re.compile(rf"retry\.{re.escape(subscription.name)}\.[0-9.]+(ms|s|m|h|d)")
    return [
        TopicPartition(name, number)
        for name, topic in topics.items()
        if ours.fullmatch(name) and name not in subscription.read_topics
        for number in topic.partitions
    ]


def _unread(
    former: list[TopicPartition], settings: Mapping[str, Any], subscription: Subscription
) -> dict[str, int]:
    # Asked as a member of the group would ask, without joining it: the admin client's way to ask for a
    # group's offsets ends the process where the coordinator has not loaded the group yet.
    own = {"group.id": subscription.group, "enable.auto.commit": False, "enable.partition.eof": True}
    asked = {**admin_settings({**settings, **subscription.kafka}), **own}
    client = Consumer(asked, logger=client_log)
    unread: dict[str, int] = {}
    try:
        for at in client.committed(former, timeout=ASK_TIMEOUT_S):
            low, high = client.get_watermark_offsets(at, timeout=ASK_TIMEOUT_S)
            # Nothing committed is a negative offset.
            first = _first_event(client, at, max(low, at.offset)) if high > max(low, at.offset) else None
            if first is not None:
                unread[at.topic] = unread.get(at.topic, 0) + high - first
    finally:
        client.close()
    return unread


def _first_event(client: Consumer, at: TopicPartition, offset: int) -> int | None:
    """Where the first event from `offset` on is: transactions leave marks behind, which are none."""
    client.assign([TopicPartition(at.topic, at.partition, offset)])
    deadline = time.monotonic() + ASK_TIMEOUT_S
    while (left_s := deadline - time.monotonic()) > 0:
        message = client.poll(left_s)
        if message is None or message.topic() != at.topic or message.partition() != at.partition:
            continue
        error = message.error()
        if error is None:
            return message.offset()
        if error.code() != KafkaError._PARTITION_EOF:
            raise KafkaException(error)
        return None
    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
