"""The delivery proofs' world: a topic full of events, and what Kafka and the target say became of them.

What happened is read from the target's journal and from Kafka itself (offsets, dead letters), never from
what Pelton says of itself.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # not in __all__

from tests.integration.delivery.processes import DEADLINE_S, Call, Pelton

__all__ = [
    "OUT_TOGETHER_MIN",
    "Draft",
    "Log",
    "Published",
    "World",
    "out_together_max",
    "pace",
    "repeats",
    "some_keys",
]

Headers = tuple[tuple[str, bytes | None], ...]

#: Of one question to the group's coordinator.
ASK_TIMEOUT_S = 10.0
#: Twice the calls that a loop with one a partition has out; the world's topic has eight.
OUT_TOGETHER_MIN = 16
#: A value nobody looks at.
PLAIN = b"x" * 200


@dataclass(frozen=True, slots=True)
class Draft:
    """An event to publish."""

    key: bytes | None
    value: bytes | None = PLAIN
    headers: Headers = ()
    timestamp_ms: int = 0


@dataclass(frozen=True, slots=True)
class Published:
    """One event in the log."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None = None
    headers: Headers = ()
    timestamp_ms: int = 0

    def header(self, name: str) -> str:
        """The one header of this name."""
        (value,) = (value for key, value in self.headers if key == name)
        assert value is not None
        return value.decode()


class Listening(Protocol):
    """A target, whatever it is."""

    @property
    def port(self) -> int: ...


class Log:
    """What Kafka holds of topics and groups, without a group of its own."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        self._known: dict[str, list[int]] = {}
        self._askers: dict[str, Consumer] = {}

    def close(self) -> None:
        for asker in self._askers.values():
            asker.close()

    def ends(self, topic: str) -> dict[int, int]:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        request = {TopicPartition(topic, number): latest for number in self._partitions(topic)}
        futures = self._admin.list_offsets(request, isolation_level=IsolationLevel.READ_COMMITTED)
        return {tp.partition: future.result(DEADLINE_S).offset for tp, future in futures.items()}

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """Committed offset of each partition; absent where nothing is committed.

        Asked as a member of the group would ask, without joining it. The admin client's way crashes this
        process where a young broker has not loaded the group's coordinator yet.
        """
        asker = self._askers.get(group)
        if asker is None:
            asker = self._askers[group] = Consumer({"bootstrap.servers": self.bootstrap, "group.id": group})
        wanted = [TopicPartition(topic, number) for number in self._partitions(topic)]
        end = time.monotonic() + DEADLINE_S
        while True:
            try:
                found = asker.committed(wanted, timeout=ASK_TIMEOUT_S)
            except KafkaException:
                assert time.monotonic() < end, f"the offsets of {group} cannot be read"
                continue
            return {tp.partition: tp.offset for tp in found if tp.offset >= 0}

    def _partitions(self, topic: str) -> list[int]:
        known = self._known.get(topic)
        if known is None:
            known = sorted(self._admin.list_topics(topic, timeout=DEADLINE_S).topics[topic].partitions)
            self._known[topic] = known
        return known

    def read(self, topic: str, isolation: str = "read_committed") -> list[Published]:
        """Everything in a topic, in offset order within a partition."""
        reader = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "unused",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": isolation,
            }
        )
        # Transactions leave marks that no reader sees: the ends do not say how many events there are.
        unread = set(self._partitions(topic))
        reader.assign([TopicPartition(topic, number, 0) for number in unread])
        found: list[Published] = []
        end = time.monotonic() + DEADLINE_S
        while unread:
            assert time.monotonic() < end, f"{len(found)} events of {topic} read, without an end"
            for message in reader.consume(1000, 0.1):
                error = message.error()
                if error is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    unread.discard(message.partition())
                    continue
                headers: Headers = tuple(message.headers() or ())  # type: ignore[arg-type]
                number, offset = message.partition(), message.offset()
                assert number is not None
                assert offset is not None
                key, value, (_, timestamp_ms) = message.key(), message.value(), message.timestamp()
                assert not isinstance(key, str)
                assert not isinstance(value, str)
                found.append(Published(number, offset, key, value, headers, timestamp_ms))
        reader.close()
        return found

    def publish(self, topic: str, drafts: Iterable[Draft], partition: int = -1) -> list[Published]:
        """In this order; returned in it, too."""
        done: dict[int, Published] = {}
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 20,
                "queue.buffering.max.messages": 1_000_000,
                "message.max.bytes": 10_000_000,
            }
        )
        count = 0
        for count, draft in enumerate(drafts, 1):

            def reported(error: object, message: object, at: int = count, draft: Draft = draft) -> None:
                assert error is None, error
                number, offset = message.partition(), message.offset()  # type: ignore[attr-defined]
                done[at] = Published(
                    number, offset, draft.key, draft.value, draft.headers, draft.timestamp_ms
                )

            producer.produce(
                topic,
                draft.value,
                draft.key,
                partition,
                on_delivery=reported,
                timestamp=draft.timestamp_ms,
                headers=list(draft.headers),
            )
        assert producer.flush(DEADLINE_S) == 0
        assert len(done) == count
        return [done[at] for at in sorted(done)]


class World:
    """One topic, one subscription of it, and everything that goes with them."""

    def __init__(self, bootstrap: str, topic: str, partitions: int, directory: Path) -> None:
        self.log = Log(bootstrap)
        self.topic = topic
        self.partitions = partitions
        self.directory = directory
        self.name = topic[:60].strip("-")
        self.published: list[Published] = []
        self._peltons: list[Pelton] = []

    # -- Making things happen ----------------------------------------------------------------------------

    def publish(self, drafts: Iterable[Draft]) -> None:
        self.published += self.log.publish(self.topic, drafts)

    def publish_keys(self, keys: Iterable[bytes | None]) -> None:
        """One event a key, in this order."""
        self.publish(Draft(key) for key in keys)

    def keep_backlog(self, seed: str, least: int, settled: float = 0.0) -> None:
        """Publish more where fewer than `least` are left: however fast it goes, load does not run out.

        `settled` is somebody's count of all that is; what is committed lags behind it.
        """
        while len(self.published) - settled < least:
            self.publish_keys(some_keys(f"{seed}-{len(self.published)}", least))

    def configure(
        self, target: Listening, subscription: str = "", retry: str = "{ attempts: 3, backoff: 5ms..40ms }"
    ) -> Path:
        """Write a config; `subscription` is more YAML for it, indented by four."""
        path = self.directory / "pelton.yaml"
        path.write_text(
            f"""
kafka: {{ bootstrap.servers: "{self.log.bootstrap}" }}
server: {{ http: "127.0.0.1:0", grpc: "127.0.0.1:0" }}
targets:
  oracle: {{ address: "127.0.0.1:{target.port}" }}
subscriptions:
  {self.name}:
    topics: [{self.topic}]
    target: oracle
    method: /any.Service/Method
    retry: {retry}
{subscription}
""",
            encoding="utf-8",
        )
        return path

    def serve(self, config: Path, name: str = "pelton", failpoint: str = "") -> Pelton:
        pelton = Pelton(config, self.directory / f"{name}.log", failpoint=failpoint)
        self._peltons.append(pelton)
        return pelton

    def end(self) -> None:
        """Whatever still runs is ended; the log of what was killed here is the place to look."""
        for pelton in self._peltons:
            pelton.end()
        self.log.close()

    # -- What Kafka says -----------------------------------------------------------------------------------

    def committed(self) -> dict[int, int]:
        return self.log.committed(f"pelton.{self.name}", self.topic)

    def all_committed(self) -> bool:
        """Every event is settled: the committed offset of every partition is its end."""
        committed = self.committed()
        return all(committed.get(number, 0) == end for number, end in self.log.ends(self.topic).items())

    def passed(self) -> int:
        """Events below the committed offsets: at least so many are settled."""
        return sum(self.committed().values())

    def dead_letters(self) -> list[Published]:
        """Everything in the dead-letter topic, copies and all."""
        return self.log.read(f"dlq.{self.name}")

    # -- What must hold --------------------------------------------------------------------------------------

    def delivery_id(self, event: Published) -> str:
        return f"{self.name}/{self.topic}/{event.partition}/{event.offset}"

    def lanes(self) -> dict[tuple[int, bytes], list[str]]:
        """Delivery ids by partition and key, in log order; events without a key are in none."""
        lanes: dict[tuple[int, bytes], list[str]] = defaultdict(list)
        for event in sorted(self.published, key=lambda event: event.offset):
            if event.key is not None:
                lanes[event.partition, event.key].append(self.delivery_id(event))
        return lanes

    def lost(self, calls: list[Call]) -> set[str]:
        """Events that neither the target has taken nor the dead-letter topic holds."""
        ended = {call.delivery_id for call in calls if call.status in ("OK", "ASKS")}
        dead = {letter.header("pelton-delivery-id") for letter in self.dead_letters()}
        return {self.delivery_id(event) for event in self.published} - ended - dead

    def out_of_order(self, calls: list[Call], *, killed: bool = False) -> list[str]:
        """Calls that overtook another one of their lane, or were out together with it.

        After a hard kill what was settled last is called again, and what was out then may still be worked on:
        with `killed`, order is judged among the calls of each process, told apart by their connections. That
        no event is called before the one before it has been, ever, is judged over all of them.
        """
        by_id: dict[str, list[Call]] = defaultdict(list)
        for call in calls:
            by_id[call.delivery_id].append(call)
        wrong: list[str] = []
        for lane in self.lanes().values():
            for before, after in itertools.pairwise(lane):
                if after in by_id and (
                    before not in by_id or by_id[before][0].end_ns > by_id[after][0].start_ns
                ):
                    wrong.append(f"{after} was called before {before} had been")
            place = {delivery_id: number for number, delivery_id in enumerate(lane)}
            last: dict[str, Call] = {}
            for call in sorted(
                (call for each in lane for call in by_id[each]), key=lambda call: call.start_ns
            ):
                process = call.peer if killed else ""
                earlier = last.get(process)
                if earlier is not None and place[earlier.delivery_id] > place[call.delivery_id]:
                    wrong.append(f"{call.delivery_id} came after {earlier.delivery_id}")
                elif earlier is not None and earlier.end_ns > call.start_ns:
                    wrong.append(f"{call.delivery_id} was out together with {earlier.delivery_id}")
                last[process] = call
        return wrong


def some_keys(seed: str, count: int) -> list[bytes | None]:
    """Five hundred keys, an empty one, and one event in fifty without a key."""
    choose = random.Random(seed)
    names = [b"key-%d" % number for number in range(499)] + [b""]
    return [None if choose.random() < 0.02 else choose.choice(names) for _ in range(count)]


def pace(calls: Sequence[Call]) -> float:
    """Events a second, from the first call's start to the last one's end."""
    assert calls
    seconds = (max(call.end_ns for call in calls) - calls[0].start_ns) / 1e9
    return len({call.delivery_id for call in calls}) / seconds


def out_together_max(calls: Sequence[Call]) -> int:
    """The most calls that were out at one moment."""
    moments = sorted([(call.start_ns, 1) for call in calls] + [(call.end_ns, -1) for call in calls])
    most = out = 0
    for _, change in moments:
        out += change
        most = max(most, out)
    return most


def repeats(calls: Sequence[Call]) -> list[Call]:
    """Calls that started after an OK of the same delivery id."""
    taken: dict[str, int] = {}
    found: list[Call] = []
    for call in calls:
        if taken.get(call.delivery_id, call.start_ns) < call.start_ns:
            found.append(call)
        if call.status == "OK":
            taken[call.delivery_id] = min(call.end_ns, taken.get(call.delivery_id, call.end_ns))
    return found
