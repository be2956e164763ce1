"""The delivery proofs' world: a topic full of events, a target, Pelton as processes, and what they left behind.

What happened is read from the target's journal and from Kafka itself (offsets, dead letters), never from
what Pelton says of itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, IsolationLevel, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

__all__ = ["Call", "Pelton", "Published", "Target", "World", "until"]

ROOT = Path(__file__).parents[3]
#: Ten times what the slowest of these takes on an idle computer.
DEADLINE_S = 100.0
POLL_S = 0.02


def until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Poll until `condition` holds; fail with what was waited for."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"waited {deadline_s} s for {what}"
        time.sleep(POLL_S)


@dataclass(frozen=True, slots=True)
class Published:
    """One event in the log."""

    partition: int
    offset: int
    key: bytes | None


@dataclass(frozen=True, slots=True)
class Call:
    """One call as the target saw it. `status` is ASKS where a trailer said more than the status."""

    start_ns: int
    end_ns: int
    delivery_id: str
    attempt: int
    status: str


class Target:
    """The process of `target.py`. It can be stopped and started again on the same port."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._journal = directory / "target.jsonl"
        self._options = options
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.integration.delivery.target", "--journal", str(self._journal)]
        command += ["--port", str(self.port), *self._options]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(DEADLINE_S)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def journal(self) -> list[Call]:
        """Every call there was, by its start. Stop it first."""
        assert self._process is None
        with self._journal.open(encoding="utf-8") as lines:
            return sorted((Call(*json.loads(line)) for line in lines), key=lambda call: call.start_ns)


class Pelton:
    """One `pelton serve`, its log in a file."""

    def __init__(self, config: Path, log: Path, http_port: int) -> None:
        self._http_port = http_port
        self._log: IO[bytes] = log.open("ab")
        self.started_ns = time.monotonic_ns()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pelton", "serve", "-c", str(config)], cwd=ROOT, stderr=self._log, stdout=self._log
        )

    def kill(self) -> int:
        """kill -9; returns when it was sent."""
        at_ns = time.monotonic_ns()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(DEADLINE_S)
        self._log.close()
        return at_ns

    def stop(self) -> float:
        """SIGTERM; returns the seconds it took. It must end well."""
        start = time.monotonic()
        self.process.terminate()
        code = self.process.wait(DEADLINE_S)
        self._log.close()
        assert code == 0, f"exit code {code}"
        return time.monotonic() - start

    def ready(self) -> bool:
        assert self.process.poll() is None, "pelton ended by itself"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._http_port}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._http_port}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
            return text


class World:
    """One topic, one subscription of it, and everything that goes with them."""

    def __init__(self, bootstrap: str, topic: str, partitions: int, directory: Path) -> None:
        self.bootstrap = bootstrap
        self.topic = topic
        self.partitions = partitions
        self.directory = directory
        self.name = topic[:60].strip("-")
        self.published: list[Published] = []
        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        self._peltons: list[Pelton] = []

    # -- Making things happen ----------------------------------------------------------------------------

    def publish(self, keys: list[bytes | None], value: bytes = b"x" * 200) -> None:
        """One event a key, in this order."""
        done: list[Published] = []

        def reported(error: object, message: object) -> None:
            assert error is None, error
            done.append(Published(message.partition(), message.offset(), message.key()))  # type: ignore[attr-defined]

        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 20,
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        for key in keys:
            producer.produce(self.topic, value, key, on_delivery=reported)
        assert producer.flush(DEADLINE_S) == 0
        assert len(done) == len(keys)
        self.published += done

    def configure(self, target: Target, subscription: str = "", number: int = 0) -> Path:
        """Write a config; `subscription` is more YAML for it, indented by four."""
        path = self.directory / f"pelton-{number}.yaml"
        path.write_text(
            f"""
kafka: {{ bootstrap.servers: "{self.bootstrap}" }}
server: {{ http: "127.0.0.1:{self.http_port(number)}", grpc: "127.0.0.1:0" }}
targets:
  oracle: {{ address: "127.0.0.1:{target.port}" }}
subscriptions:
  {self.name}:
    topics: [{self.topic}]
    target: oracle
    method: /any.Service/Method
    retry: {{ attempts: 3, backoff: 5ms..40ms }}
{subscription}
""",
            encoding="utf-8",
        )
        return path

    def http_port(self, number: int) -> int:
        return 18_000 + os.getpid() % 1_000 * 10 + number

    def serve(self, config: Path, number: int = 0) -> Pelton:
        pelton = Pelton(config, self.directory / f"pelton-{number}.log", self.http_port(number))
        self._peltons.append(pelton)
        return pelton

    def end(self) -> None:
        """Whatever still runs is ended; the log of what was killed here is the place to look."""
        for pelton in self._peltons:
            if pelton.process.poll() is None:
                pelton.process.kill()
                pelton.process.wait()

    # -- What Kafka says -----------------------------------------------------------------------------------

    def committed(self) -> dict[int, int]:
        """Committed offset of each partition; absent where nothing is committed."""
        wanted = ConsumerGroupTopicPartitions(f"pelton.{self.name}")
        future = self._admin.list_consumer_group_offsets([wanted])[wanted.group_id]
        found = future.result(DEADLINE_S).topic_partitions
        return {tp.partition: tp.offset for tp in found if tp.topic == self.topic and tp.offset >= 0}

    def log_ends(self) -> dict[int, int]:
        request = {TopicPartition(self.topic, number): OffsetSpec.latest() for number in range(self.partitions)}
        futures = self._admin.list_offsets(request, isolation_level=IsolationLevel.READ_COMMITTED)
        return {tp.partition: future.result(DEADLINE_S).offset for tp, future in futures.items()}

    def all_committed(self) -> bool:
        """Every event is settled: the committed offset of every partition is its end."""
        committed = self.committed()
        return all(committed.get(number, 0) == end for number, end in self.log_ends().items())

    def settled_share(self) -> float:
        ends = self.log_ends()
        return sum(self.committed().values()) / max(1, sum(ends.values()))

    def dead_letters(self) -> list[str]:
        """The delivery ids in the dead-letter topic, copies and all."""
        topic = f"dlq.{self.name}"
        ends = {TopicPartition(topic, number): OffsetSpec.latest() for number in range(self.partitions)}
        wanted = sum(future.result(DEADLINE_S).offset for future in self._admin.list_offsets(ends).values())
        reader = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "unused", "enable.auto.commit": False})
        reader.assign([TopicPartition(topic, number, 0) for number in range(self.partitions)])
        ids: list[str] = []
        end = time.monotonic() + DEADLINE_S
        while len(ids) < wanted:
            assert time.monotonic() < end, f"{len(ids)} of {wanted} dead letters read"
            for message in reader.consume(1000, 0.1):
                assert message.error() is None, message.error()
                headers = dict(message.headers() or [])
                ids.append(str(headers["pelton-delivery-id"], "ascii"))
        reader.close()
        return ids

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
        ended = {call.delivery_id for call in calls if call.status == "OK" or call.status == "ASKS"}
        return {self.delivery_id(event) for event in self.published} - ended - set(self.dead_letters())

    def out_of_order(self, calls: list[Call], *, restarts: bool = False) -> list[str]:
        """Deliveries whose first call started before the one before them in their lane had had its last.

        With `restarts`, a call of the one before may come later again, if it was taken earlier: a repeat
        after a crash is no disorder. What must never be is that two of a lane are out together, or that one
        overtakes.
        """
        by_id: dict[str, list[Call]] = defaultdict(list)
        for call in calls:
            by_id[call.delivery_id].append(call)
        wrong: list[str] = []
        for lane in self.lanes().values():
            for before, after in zip(lane, lane[1:], strict=False):
                if after not in by_id:
                    continue
                start_ns = by_id[after][0].start_ns
                earlier = [call for call in by_id[before] if call.start_ns < start_ns]
                later = [call for call in by_id[before] if call.start_ns >= start_ns]
                if not earlier or any(call.end_ns > start_ns for call in earlier):
                    wrong.append(after)
                elif later and not (restarts and any(call.status != "UNAVAILABLE" for call in earlier)):
                    wrong.append(after)
        return wrong


def pace(calls: list[Call]) -> float:
    """Events a second, from the first call's start to the last one's end."""
    assert calls
    seconds = (max(call.end_ns for call in calls) - calls[0].start_ns) / 1e9
    return len({call.delivery_id for call in calls}) / seconds


def repeats(calls: list[Call]) -> list[Call]:
    """Calls that started after an OK of the same delivery id."""
    taken: dict[str, int] = {}
    found: list[Call] = []
    for call in calls:
        if taken.get(call.delivery_id, call.start_ns) < call.start_ns:
            found.append(call)
        if call.status == "OK":
            taken.setdefault(call.delivery_id, call.end_ns)
    return found


@contextmanager
def serving(target: Target) -> Iterator[Target]:
    target.start()
    try:
        yield target
    finally:
        target.stop()
