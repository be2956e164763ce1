"""Reading a topic without a group: nothing is joined, nothing committed, nothing disturbed."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, cast

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from pelton.errors import BrokerError
from pelton.event import Event, Partition
from pelton.kafka.faults import broker_error, error_of
from pelton.kafka.records import Record, RecordStatistics, event_of
from pelton.kafka.settings import bootstrap_of, reader_settings
from pelton.kafka.topics import partitions_of

__all__ = ["tail"]

client_log = logging.getLogger("pelton.kafka.client")

#: How long a stop waits for the poll that is running.
POLL_WAIT_S: Final = 0.2
BATCH_EVENTS_MAX: Final = 500
_NAMED: Final = {"beginning": OFFSET_BEGINNING, "end": OFFSET_END}


async def tail(
    settings: Mapping[str, Any],
    topic: str,
    *,
    start: str | int = "end",
    partition: int | None = None,
    count_max: int | None = None,
    follow: bool = True,
) -> AsyncIterator[Event]:
    """The events of `topic` as they stand and come, in order within each partition.

    `start` is ``beginning``, ``end``, an offset, or (below zero) so many events before each partition's end.
    Without `follow` it ends where each partition ends. Reserved headers are kept: what is shown is
    what is there. Close the iterator (`aclose`) to stop reading.
    """
    client = await asyncio.to_thread(_open, settings, topic, start, partition)
    statistics = RecordStatistics()
    seen = 0
    running: asyncio.Future[list[Any]] | None = None
    open_partitions = {tp.partition for tp in client.assignment()}
    try:
        while open_partitions and (count_max is None or seen < count_max):
            # Shielded: a cancelled wait must not leave a poll behind that runs into the close.
            running = asyncio.ensure_future(asyncio.to_thread(_read, client))
            messages = await asyncio.shield(running)
            for message in messages:
                error = message.error()
                if error is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise broker_error(error, f"reading {topic}", bootstrap_of(settings))
                    if not follow:
                        open_partitions.discard(message.partition())
                    continue
                yield event_of(cast("Record", message), statistics, (topic,))
                seen += 1
                if count_max is not None and seen >= count_max:
                    break
    finally:
        if running is not None:
            await asyncio.wait([running])
        await asyncio.to_thread(client.close)


def _open(settings: Mapping[str, Any], topic: str, start: str | int, partition: int | None) -> Consumer:
    if isinstance(start, str) and start not in _NAMED:
        raise BrokerError(f"{start!r} is no place to start: use beginning, end or an offset.")
    count = partitions_of(settings, [topic])[topic]
    where = bootstrap_of(settings)
    if count is None:
        raise BrokerError(f"the topic {topic} is not there at {where}. Check its name, or create it.")
    if partition is not None and not 0 <= partition < count:
        raise BrokerError(f"the topic {topic} at {where} has partitions 0 to {count - 1}, no {partition}.")
    wanted = range(count) if partition is None else (partition,)
    group = f"pelton-tail-{uuid.uuid4().hex[:12]}"
    try:
        client = Consumer(reader_settings(settings, group=group), logger=client_log)
        try:
            client.assign([_place(client, Partition(topic, number), start) for number in wanted])
        except BaseException:
            client.close()
            raise
    except KafkaException as exception:
        raise broker_error(error_of(exception), f"cannot read {topic}", where) from exception
    return client


def _place(client: Consumer, partition: Partition, start: str | int) -> TopicPartition:
    """Where reading `partition` starts; an offset outside the log is moved to its nearest end."""
    if isinstance(start, str):
        return TopicPartition(*partition, _NAMED[start])
    low, high = client.get_watermark_offsets(TopicPartition(*partition), timeout=10)
    wanted = high + start if start < 0 else start
    return TopicPartition(*partition, min(max(wanted, low), high))


def _read(client: Consumer) -> list[Any]:
    first = client.poll(POLL_WAIT_S)
    return [] if first is None else [first, *client.consume(BATCH_EVENTS_MAX - 1, 0)]
