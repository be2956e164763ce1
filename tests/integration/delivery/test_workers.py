"""Several workers as one server: killed, replaced and stopped; the target's journal judges."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pelton.local.broker import LocalKafka
from tests.integration.delivery.processes import Pelton, Target, serving, until
from tests.integration.delivery.world import Draft, Log
from tests.kafka_fixtures import CreateTopic

PARTITIONS = 4
KEYS = 40


class Server:
    """`pelton serve --workers 2` on a topic of its own."""

    def __init__(self, kafka: LocalKafka, topic: str, target: Target, folder: Path) -> None:
        self.name = "worked"
        self.group = f"g-{topic}"
        config = folder / "pelton.yaml"
        config.write_text(
            f"""
kafka: {{ bootstrap.servers: "{kafka.bootstrap}" }}
server: {{ http: "127.0.0.1:0", grpc: "127.0.0.1:0" }}
targets: {{ shop: {{ address: "127.0.0.1:{target.port}" }} }}
subscriptions:
  {self.name}: {{ topics: [{topic}], group: {self.group}, target: shop, delivery: handler }}
""",
            encoding="utf-8",
        )
        self.pelton = Pelton(config, folder / "pelton.log", "--workers", "2")

    def pids(self) -> list[int]:
        """The workers' processes."""
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.pelton.process.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        return [int(pid) for pid in listed.stdout.split()]

    def serving(self) -> bool:
        """Both workers answer, and between them own every partition."""
        if not self.pelton.ready():
            return False
        return self.pelton.metrics().sum("pelton_partitions", subscription=self.name) == PARTITIONS


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.timeout(300)
def test_workers_are_one_server(
    kafka: LocalKafka,
    log: Log,
    create_topic: CreateTopic,
    tmp_path: Path,
    note: Callable[[str], None],
) -> None:
    topic = create_topic(partitions=PARTITIONS)
    published: list[str] = []

    def publish(count: int) -> None:
        events = log.publish(topic, [Draft(f"key-{at % KEYS}".encode()) for at in range(count)])
        published.extend(f"worked/{topic}/{one.partition}/{one.offset}" for one in events)

    def settled() -> bool:
        committed = log.committed(server.group, topic)
        return committed == {at: end for at, end in log.ends(topic).items() if end}

    with serving(Target(tmp_path)) as target:
        server = Server(kafka, topic, target, tmp_path)
        pelton = server.pelton
        try:
            until(server.serving, "both workers to serve")
            metrics = pelton.metrics()
            for worker in ("0", "1"):
                assert metrics.sum("pelton_partitions", worker=worker) == PARTITIONS / 2
                assert metrics.sum("process_resident_memory_bytes", worker=worker) > 0
            assert metrics.sum("pelton_workers", phase="serving") == 2

            # One dies with calls out: the other goes on, and it is replaced.
            before = server.pids()
            publish(2_000)
            os.kill(before[0], signal.SIGKILL)
            until(lambda: pelton.metrics().sum("pelton_worker_deaths_total") == 1, "the death to be seen")
            publish(500)
            until(lambda: len(set(server.pids()) - set(before)) == 1 and server.serving(), "a replacement")
            until(settled, "everything to be settled")

            # SIGHUP: all are replaced, one after another, and nothing repeats.
            before = server.pids()
            pelton.process.send_signal(signal.SIGHUP)
            until(lambda: not set(server.pids()) & set(before) and server.serving(), "new workers")
            publish(500)
            until(settled, "everything to be settled")
            assert pelton.metrics().sum("pelton_worker_deaths_total") == 1

            took_s = pelton.stop()
        finally:
            pelton.end()
    calls = target.journal()
    taken = [call.delivery_id for call in calls if call.status == "OK"]
    assert set(taken) == set(published)
    note(f"workers: 2, one killed: {len(taken) - len(set(taken))} repeats; a stop took {took_s:.2f} s")


def test_workers_do_not_outlive_their_supervisor(
    kafka: LocalKafka, create_topic: CreateTopic, tmp_path: Path
) -> None:
    with serving(Target(tmp_path)) as target:
        server = Server(kafka, create_topic(partitions=PARTITIONS), target, tmp_path)
        try:
            until(lambda: len(server.pids()) == 2 and server.serving(), "both workers to serve")
            pids = server.pids()
            server.pelton.kill()
            until(lambda: not any(map(alive, pids)), "the workers to end")
        finally:
            server.pelton.end()
    assert server.pelton.log().count("the supervisor is gone") == 2


def test_a_worker_that_cannot_start_ends_the_server(
    kafka: LocalKafka, topic_name: str, tmp_path: Path
) -> None:
    with serving(Target(tmp_path)) as target:
        server = Server(kafka, topic_name, target, tmp_path)
        assert server.pelton.wait() == 2
    assert f"topic '{topic_name}' does not exist" in server.pelton.log()
    assert "cannot start; what it said stands above" in server.pelton.log()
