"""The four journals as files: how a process appends to one durably, and how they become a `History`.

A writer's line is on the disk before anything is said that depends on it: the publisher's before the broker
is asked, the handler's before the answer leaves. So a kill -9 of either loses no testimony.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.faults.history import NEVER_NS, Call, Kept, Letter, Owned, Sample, Sent, Stored
from tests.integration.delivery.world import Published

__all__ = ["Journal", "Sampler", "as_letters", "as_stored", "calls_in", "number_of", "owned_in", "sent_in"]
__all__ += ["value_of"]

#: How often the committed offsets are asked for, and how long one answer may take.
SAMPLE_EVERY_S = 0.1
SAMPLE_TIMEOUT_S = 2.0
#: The value of an event: its number, and bytes that only make it heavier.
VALUE_BYTES = 200
DELIVERY_ID = re.compile(r"^[^/]+/[^/]+/(\d+)/(\d+)$")


def value_of(number: int, size: int = VALUE_BYTES) -> bytes:
    return (b"%010d:" % number).ljust(size, b"x")


def number_of(value: bytes | None) -> int:
    assert value is not None
    return int(value[:10])


class Journal:
    """Appends lines from one loop; many that wait at once share one fsync."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    def add(self, *entry: Any) -> None:
        """Goes to the disk with the next `durable`; at once to the operating system, which outlives us."""
        self._file.write(json.dumps(entry).encode() + b"\n")

    async def durable(self) -> None:
        """Returns when everything added so far is on the disk."""
        if self._next is None:
            # The one that runs may have begun before our lines were written: it proves nothing of them.
            self._next = asyncio.get_running_loop().create_task(self._flush_after(self._running))
        await asyncio.shield(self._next)

    async def _flush_after(self, running: asyncio.Task[None] | None) -> None:
        if running is not None:
            await running
        self._running, self._next = self._next, None
        await asyncio.get_running_loop().run_in_executor(None, os.fsync, self._file.fileno())


def _entries(path: Path) -> Iterator[list[Any]]:
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n"):
        # A kill may leave half a line, which was never relied upon.
        if line:
            try:
                yield json.loads(line)
            except ValueError:
                continue


def calls_in(path: Path) -> list[Call]:
    """Lines `["s", call, ns, wall, delivery id, attempt, instance, fence]` and `["e", call, ns, status]`."""
    started: dict[str, list[Any]] = {}
    ended: dict[str, list[Any]] = {}
    for entry in _entries(path):
        (started if entry[0] == "s" else ended)[entry[1]] = entry
    calls: list[Call] = []
    for name, (_, _, start_ns, wall, delivery_id, attempt, instance, fence) in started.items():
        found = DELIVERY_ID.match(delivery_id)
        assert found is not None, delivery_id
        _, _, end_ns, status = ended.get(name, (None, None, NEVER_NS, ""))
        place = int(found[1]), int(found[2])
        calls.append(Call(place, attempt, start_ns, end_ns, status, instance, wall, fence))
    return calls


def sent_in(path: Path) -> list[Sent]:
    """Lines `["p", number]` before, `["a", number, partition, offset]` after."""
    intended: list[int] = []
    places: dict[int, tuple[int, int]] = {}
    for entry in _entries(path):
        if entry[0] == "p":
            intended.append(entry[1])
        elif entry[0] == "a":
            places[entry[1]] = entry[2], entry[3]
    return [Sent(number, places.get(number)) for number in intended]


def owned_in(text: str, instance: str, topic: str) -> list[Owned]:
    """What the log of one life of a bridge says of partitions."""
    found: list[Owned] = []
    for line in text.splitlines():
        if not line.startswith("{"):
            continue
        entry = json.loads(line)
        out: dict[str, list[int]] = {}
        match entry.get("event"):
            case "assigned":
                kept, names = Kept.ASSIGNED, list(entry["first_offsets"])
            case "revoked":
                kept, names = Kept.REVOKED, entry["partitions"]
            case "assignment lost: what is out is refused":
                kept, names, out = Kept.LOST, entry["partitions"], entry["out"]
            case _:
                continue
        partitions = frozenset(_numbers(names, topic))
        places = frozenset(
            (number, offset) for number in _numbers(out, topic) for offset in out[f"{topic}/{number}"]
        )
        at_s = datetime.fromisoformat(entry["timestamp"]).timestamp()
        found.append(Owned(at_s, instance, kept, partitions, places))
    return found


def _numbers(names: Iterable[str], topic: str) -> list[int]:
    """Of those partitions that are the topic's."""
    return [int(number) for of, _, number in (name.rpartition("/") for name in names) if of == topic]


def as_stored(records: Sequence[Published]) -> list[Stored]:
    return [
        Stored(
            (each.partition, each.offset),
            number_of(each.value),
            each.key,
            each.value,
            each.headers,
            each.timestamp_ms,
        )
        for each in records
    ]


def as_letters(records: Sequence[Published], topic: str) -> list[Letter]:
    """Dead letters by their origin; what Pelton added to them is taken off."""
    letters: list[Letter] = []
    for each in records:
        assert each.header("pelton-origin-topic") == topic
        origin = int(each.header("pelton-origin-partition")), int(each.header("pelton-origin-offset"))
        headers = tuple(header for header in each.headers if not header[0].startswith("pelton-"))
        letters.append(Letter(origin, each.key, each.value, headers, each.timestamp_ms))
    return letters


class Sampler:
    """Asks Kafka what a group has committed, again and again, on a thread of its own. Use it as a context."""

    def __init__(self, bootstrap: str, group: str, topic: str, partitions: int) -> None:
        self.samples: list[Sample] = []
        #: The longest that an answer took.
        self.longest_ns = 0
        self._asked = [TopicPartition(topic, number) for number in range(partitions)]
        self._client = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": group,
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commit-sampler", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_EVERY_S):
            asked_ns = time.monotonic_ns()
            try:
                found = self._client.committed(self._asked, timeout=SAMPLE_TIMEOUT_S)
            except KafkaException:
                # The broker does not answer now: that is what some rows are about.
                continue
            told_ns = time.monotonic_ns()
            self.longest_ns = max(self.longest_ns, told_ns - asked_ns)
            self.samples += [
                Sample(asked_ns, told_ns, tp.partition, tp.offset) for tp in found if tp.offset >= 0
            ]
