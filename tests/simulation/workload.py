"""What is published: events of a few keys, in bursts, onto logs with holes. It knows nothing of who reads
them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from random import Random

from pelton.event import Event, Partition
from tests.simulation.schedule import Schedule

__all__ = ["KEYS_WITH_ORDER", "Publication", "first_offsets", "partitions_of", "publications"]

_KEYS: tuple[bytes | None, ...] = (None, b"", b"k", b"l", b"m", b"n", b"o", b"p")
#: Those whose events stay in order.
KEYS_WITH_ORDER = tuple(key for key in _KEYS if key is not None)
#: What compaction, transactions and aborted ones leave out between two events.
_HOLES = (0, 0, 0, 0, 0, 1, 1, 2, 7, 300)


@dataclass(frozen=True, slots=True)
class Publication:
    """One event before it has an offset."""

    at_s: float
    partition: Partition
    #: Offsets that are left out before it.
    hole: int
    key: bytes | None
    #: `wanted`, `unwanted`, `undecidable`, `unbuildable` or `flawed`: words that the process's requests know.
    value: bytes

    def event(self, offset: int) -> Event:
        flaw = "not what it claims to be" if self.value == b"flawed" else None
        value = self.value
        return Event(*self.partition, offset, self.key, value, value, (), 0, flaw=flaw)


def partitions_of(schedule: Schedule) -> list[Partition]:
    return [Partition("ab"[number % 2], number // 2) for number in range(schedule.partitions)]


def tier_partitions_of(schedule: Schedule) -> list[Partition]:
    """A tier has a partition of each number that its sources have."""
    numbers = sorted({number for _, number in partitions_of(schedule)})
    return [Partition(tier.topic, each) for tier in schedule.subscription.retry.tiers for each in numbers]


def first_offsets(schedule: Schedule, random: Random) -> dict[Partition, int]:
    """Where each log begins: mostly not at 0, where being off by one does not show."""
    partitions = partitions_of(schedule) + tier_partitions_of(schedule)
    return {each: random.choice((0, 1, 117, 1 << 33)) for each in partitions}


def publications(schedule: Schedule, random: Random) -> list[Publication]:
    """All that will be published, by time. A key is always in one partition of each topic."""
    partitions = partitions_of(schedule)
    keys = random.sample(_KEYS, random.randint(1, len(_KEYS)))
    if schedule.poison and b"p" not in keys:
        keys.append(b"p")
    odd = random.random() * 0.3 if random.random() < 0.5 else 0.0
    at_s = 0.0
    published = []
    for _ in range(schedule.events):
        if random.random() < 0.2:
            at_s += random.random() * schedule.chaos_s * 8.0 / schedule.events
        key = random.choice(keys)
        number = random.randrange(len(partitions)) if key is None else zlib.crc32(key) % len(partitions)
        value = b"wanted"
        if random.random() < odd:
            words = [b"unbuildable", b"flawed"]
            if schedule.subscription.filter is not None:
                words += [b"unwanted", b"unwanted", b"undecidable"]
            value = random.choice(words)
        published.append(
            Publication(min(at_s, schedule.chaos_s), partitions[number], random.choice(_HOLES), key, value)
        )
    return published
