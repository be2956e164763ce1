"""Keys that are followed into the dead letters, as an operator sees them: which there are, and letting go.

Nothing here is a member of the subscription's group. What is written is read by whoever owns the partitions,
and by all who come after.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException

from pelton.core.followed import Kind, Note
from pelton.errors import BrokerError
from pelton.kafka.faults import broker_error, error_of
from pelton.kafka.notes import note_of, remembered
from pelton.kafka.settings import bootstrap_of, producer_settings
from pelton.kafka.tail import tail

__all__ = ["DeadKey", "dead_keys", "release"]

WRITE_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class DeadKey:
    """A key whose later events follow one of it into the dead letters."""

    topic: str
    partition: int
    key: bytes
    #: When that one was dead-lettered, by the wall clock, and its delivery id.
    at_ms: int
    leader: str


async def dead_keys(settings: Mapping[str, Any], subscription: str) -> list[DeadKey]:
    """Those that nobody has released, in the order in which they died. The subscription's `follow_for` may be
    over for some."""
    notes: dict[tuple[str, int, bytes], dict[tuple[Kind, str], Note]] = defaultdict(dict)
    async for event in tail(settings, f"follow.{subscription}", start="beginning", follow=False):
        note = note_of(event.key, event.record_value)
        if note is not None:
            notes[note.topic, event.partition, note.key][note.kind, note.place] = note
    found: list[DeadKey] = []
    for name, of_key in notes.items():
        said = [note for note in of_key.values() if not note.struck]
        if not any(note.kind is Kind.LEFT for note in said):
            continue
        died = max((note for note in said if note.kind is not Kind.RELEASED), key=lambda note: note.at_ms)
        released_ms = max((note.at_ms for note in said if note.kind is Kind.RELEASED), default=-1)
        if died.at_ms > released_ms:
            found.append(DeadKey(*name, died.at_ms, died.leader))
    return sorted(found, key=lambda dead: (dead.at_ms, dead.partition, dead.key))


async def release(settings: Mapping[str, Any], subscription: str, keys: Collection[DeadKey]) -> None:
    """Their next events are called again. BrokerError where that cannot be written."""
    await asyncio.to_thread(_write, settings, f"follow.{subscription}", keys)


def _write(settings: Mapping[str, Any], topic: str, keys: Collection[DeadKey]) -> None:
    errors: list[KafkaError] = []

    def reported(error: KafkaError | None, _: object) -> None:
        if error is not None:
            errors.append(error)

    try:
        client = confluent_kafka.Producer(producer_settings(settings))
        for dead in keys:
            # Whoever set it aside may have a clock that is ahead of ours.
            at_ms = max(round(time.time() * 1000), dead.at_ms)
            record = remembered(Note(Kind.RELEASED, dead.topic, dead.key, at_ms=at_ms), topic, dead.partition)
            client.produce(topic, record.value, record.key, dead.partition, on_delivery=reported)
        unsent = client.flush(WRITE_TIMEOUT_S)
    except KafkaException as exception:
        raise broker_error(
            error_of(exception), f"cannot write to {topic}", bootstrap_of(settings)
        ) from exception
    if errors:
        raise broker_error(errors[0], f"cannot write to {topic}", bootstrap_of(settings))
    if unsent:
        raise BrokerError(f"cannot write to {topic} at {bootstrap_of(settings)}: no answer in time")
