"""Where an assigned partition starts: what was committed, or what the subscription says of a new one.

Called on the consumer's thread, outside the rebalance callback. Every call to the broker has a time-out,
since nothing else is polled meanwhile; whoever is not placed is tried again later.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from confluent_kafka import OFFSET_STORED, Consumer, KafkaError, KafkaException, TopicPartition

from pelton.event import Partition
from pelton.kafka.faults import error_of
from pelton.kafka.topic_ids import TopicIds, is_outdated, tagged, untagged
from pelton.subscription import Start

__all__ = ["Placed", "end_of", "place"]

log = logging.getLogger("pelton.kafka")

#: A healthy coordinator answers in milliseconds. One that cannot answer yet (an open transaction of another
#: member) holds the other partitions up no longer than this.
ASK_TIMEOUT_S: Final = 1.0
#: For all new partitions together: a broker that is gone must not keep the thread from polling.
PLACE_TIMEOUT_S: Final = 5.0
#: The look with a client of its own has to connect first.
PROBE_TIMEOUT_S: Final = 10.0
_SLOW: Final = "not asked yet: the brokers are slow"
#: Unreadable metadata has been seen to be readable a moment later: the client had lost its end.
DECODE_ATTEMPTS_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Placed:
    """Where one partition starts."""

    partition: Partition
    offset: int
    metadata: str | None
    #: Its metadata was there and was not text.
    unreadable: bool = False
    #: One past the log's last offset, asked only where there is metadata that it could contradict; else -1.
    log_end: int = -1
    #: What was committed for a log of the same name that is gone; -1 where that is not so.
    outdated: int = -1


def place(
    client: Consumer,
    partitions: Sequence[Partition],
    start_of: Callable[[str], Start],
    topic_ids: TopicIds,
    settings: dict[str, Any],
) -> tuple[list[Placed], dict[Partition, str]]:
    """Those whose start is known now, and why it is not for the others."""
    placed: list[Placed] = []
    errors: dict[Partition, str] = {}
    fresh: list[Partition] = []
    answers = _committed(client, partitions)
    deadline = time.monotonic() + PLACE_TIMEOUT_S
    for partition, answer in answers.items():
        if time.monotonic() > deadline:
            errors[partition] = _SLOW
        elif isinstance(answer, KafkaError):
            errors[partition] = answer.str()
        elif answer is None:
            _place_unreadable(partition, settings, placed, errors)
        elif answer.offset >= 0:
            _place_committed(client, partition, answer, topic_ids, placed, errors)
        else:
            fresh.append(partition)
    if fresh:
        _place_fresh(client, fresh, start_of, topic_ids, placed, errors)
    return placed, errors


def _place_committed(
    client: Consumer,
    partition: Partition,
    answer: TopicPartition,
    topic_ids: TopicIds,
    placed: list[Placed],
    errors: dict[Partition, str],
) -> None:
    metadata, written_for = untagged(answer.metadata or "")
    outdated = is_outdated(written_for, topic_ids.of(partition.topic))
    log_start = log_end = -1
    if metadata or outdated:
        try:
            log_start, log_end = end_of(client, partition)
        except KafkaException as exception:
            errors[partition] = error_of(exception).str()
            return
    if outdated:
        placed.append(Placed(partition, log_start, None, outdated=answer.offset))
    else:
        placed.append(Placed(partition, answer.offset, metadata, log_end=log_end))


def end_of(client: Consumer, partition: Partition) -> tuple[int, int]:
    """The first offset of the partition's log, and the one behind its last."""
    # None where the time was up, whatever the client's annotations say.
    found = cast(
        "tuple[int, int] | None",
        client.get_watermark_offsets(TopicPartition(*partition), timeout=ASK_TIMEOUT_S),
    )
    if found is None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
    return found


def _committed(
    client: Consumer, partitions: Sequence[Partition]
) -> dict[Partition, TopicPartition | KafkaError | None]:
    """The group's offset of each partition, or the error; None where its metadata is not text."""
    for attempt in range(DECODE_ATTEMPTS_MAX):
        try:
            answers = client.committed([TopicPartition(*p) for p in partitions], timeout=ASK_TIMEOUT_S)
        except UnicodeDecodeError:
            if len(partitions) > 1:  # one of them is unreadable, and it must not hide the others
                return {p: answer for one in partitions for p, answer in _committed(client, [one]).items()}
            text = "%s/%d: the commit's metadata is not text (read %d of %d)"
            log.warning(text, *partitions[0], attempt + 1, DECODE_ATTEMPTS_MAX)
            continue
        except KafkaException as exception:
            return dict.fromkeys(partitions, error_of(exception))
        return {Partition(tp.topic, tp.partition): tp.error or tp for tp in answers}
    return {partitions[0]: None}


def _place_unreadable(
    partition: Partition, settings: dict[str, Any], placed: list[Placed], errors: dict[Partition, str]
) -> None:
    log.error(
        "%s/%d: the commit's metadata is not text: what was settled above the committed offset is not known "
        "and is delivered again",
        *partition,
    )
    try:
        offset = _committed_offset(partition, settings)
    except KafkaException as exception:
        errors[partition] = error_of(exception).str()
        return
    if offset is None:
        errors[partition] = "the committed offset was not found in time"
    else:
        placed.append(Placed(partition, offset, None, unreadable=True))


def _committed_offset(partition: Partition, settings: dict[str, Any]) -> int | None:
    """The committed offset where the client cannot say it: what a reader that starts there reads first.

    The client hands offset and metadata out together or not at all. This reader joins nothing: it takes
    the partition by hand, under the group's name, and commits nothing.
    """
    own = {name: value for name, value in settings.items() if name != "group.instance.id"}
    own |= {"enable.partition.eof": True, "client.id": f"pelton-look-{uuid.uuid4().hex[:8]}"}
    reader = Consumer(own, logger=logging.getLogger("pelton.kafka.client"))
    try:
        reader.assign([TopicPartition(*partition, OFFSET_STORED)])
        deadline = time.monotonic() + PROBE_TIMEOUT_S
        while time.monotonic() < deadline:
            message = reader.poll(deadline - time.monotonic())
            if message is None:
                continue
            error = message.error()
            if error is None or error.code() == KafkaError._PARTITION_EOF:
                return message.offset()
            if message.topic() is not None:
                raise KafkaException(error)
        return None
    finally:
        reader.close()


def _place_fresh(
    client: Consumer,
    fresh: Sequence[Partition],
    start_of: Callable[[str], Start],
    topic_ids: TopicIds,
    placed: list[Placed],
    errors: dict[Partition, str],
) -> None:
    """Find the start of partitions without a commit, and commit it before anything is delivered.

    Without that commit a restart would ask the policy again, and `latest` would jump over what came
    meanwhile.
    """
    commits = []
    deadline = time.monotonic() + PLACE_TIMEOUT_S
    for partition in fresh:
        if time.monotonic() > deadline:
            errors[partition] = _SLOW
            continue
        try:
            offset = _by_policy(client, partition, start_of(partition.topic), topic_ids)
            commits.append(TopicPartition(*partition, offset, tagged("", topic_ids.of(partition.topic))))
        except KafkaException as exception:
            errors[partition] = error_of(exception).str()
    if not commits:
        return
    try:
        answers = client.commit(offsets=commits, asynchronous=False)
    except KafkaException as exception:
        for tp in commits:
            errors[Partition(tp.topic, tp.partition)] = error_of(exception).str()
        return
    for tp in answers:
        partition = Partition(tp.topic, tp.partition)
        if tp.error is not None:
            errors[partition] = tp.error.str()
        else:
            placed.append(Placed(partition, tp.offset, None))


def _by_policy(client: Consumer, partition: Partition, start: Start, topic_ids: TopicIds) -> int:
    if start.at == "latest" and topic_ids.is_new(*partition):
        # `latest` is of the subscription's first day. What came into a partition that was added since, before
        # we found it, has been meant for us.
        return end_of(client, partition)[0]
    if start.at == "timestamp" and start.timestamp_ms is not None:
        asked = [TopicPartition(*partition, start.timestamp_ms)]
        (answer,) = client.offsets_for_times(asked, timeout=ASK_TIMEOUT_S)
        if answer.error is not None:
            raise KafkaException(answer.error)
        if answer.offset >= 0:
            return answer.offset
        return end_of(client, partition)[1]  # nothing is as young as that yet
    low, high = end_of(client, partition)
    return high if start.at == "latest" else low
