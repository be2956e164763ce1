"""The local Kafka serves real clients, keeps its data over a restart, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from pelton.errors import LocalKafkaError
from pelton.local import broker as broker_module
from pelton.local.broker import LocalKafka
from pelton.local.ports import free_ports
from pelton.local.state import State
from tests.kafka_fixtures import CreateTopic

#: Everything here takes 1–3 s on an idle computer.
DEADLINE_S = 40.0


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def publish(bootstrap: str, topic: str, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(DEADLINE_S) == 0


def consume(bootstrap: str, topic: str, count: int, **settings: str) -> list[bytes | None]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"of-{topic}",
            "auto.offset.reset": "earliest",
            **{name.replace("_", "."): value for name, value in settings.items()},
        }
    )
    consumer.subscribe([topic])
    values: list[bytes | None] = []
    deadline = time.monotonic() + DEADLINE_S
    try:
        while len(values) < count:
            assert time.monotonic() < deadline, f"only {len(values)} of {count} events came"
            record = consumer.poll(0.2)
            if record is not None:
                assert record.error() is None, record.error()
                values.append(record.value())
    finally:
        consumer.close()
    return values


def make_topic(bootstrap: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(DEADLINE_S)


def topics(bootstrap: str) -> set[str]:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    return set(admin.list_topics(timeout=DEADLINE_S).topics)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_events_go_in_and_come_out_by_both_group_protocols(
    kafka: LocalKafka, create_topic: CreateTopic, protocol: str
) -> None:
    topic = create_topic()
    publish(kafka.bootstrap, topic, b"one", b"two")
    assert consume(kafka.bootstrap, topic, 2, group_protocol=protocol) == [b"one", b"two"]


def test_a_transaction_commits(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    topic = create_topic()
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": topic})
    producer.init_transactions(DEADLINE_S)
    producer.begin_transaction()
    producer.produce(topic, b"whole")
    producer.commit_transaction(DEADLINE_S)
    assert consume(kafka.bootstrap, topic, 1) == [b"whole"]


def test_a_session_of_six_seconds_is_allowed(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    topic = create_topic()
    publish(kafka.bootstrap, topic, b"one")
    assert consume(kafka.bootstrap, topic, 1, session_timeout_ms="6000") == [b"one"]


def test_a_topic_that_nobody_made_is_not_made_by_asking(kafka: LocalKafka, topic_name: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    assert admin.list_topics(topic_name, timeout=DEADLINE_S).topics[topic_name].error is not None
    assert topic_name not in topics(kafka.bootstrap)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[LocalKafka]:
    """A broker that outlives its starter, in a directory of the test; not started."""
    broker = LocalKafka(tmp_path / "kafka")
    yield broker
    broker.kill()


def test_data_survives_a_restart_and_not_a_reset(own: LocalKafka) -> None:
    own.start()
    first = own.bootstrap
    make_topic(first, "kept")
    publish(first, "kept", b"one")
    own.stop()
    assert not own.status().running
    with pytest.raises(LocalKafkaError, match="start it first"):
        _ = own.bootstrap
    own.stop()

    own.start()
    assert own.bootstrap == first, "clients know the address"
    assert consume(own.bootstrap, "kept", 1) == [b"one"]

    own.reset()
    assert not own.status().running
    own.start()
    assert "kept" not in topics(own.bootstrap)


def test_another_process_finds_it_and_stops_it(own: LocalKafka) -> None:
    own.start()
    stranger = LocalKafka(own.directory)
    status = stranger.status()
    assert (status.running, status.bootstrap) == (True, own.bootstrap)
    with pytest.raises(LocalKafkaError, match="already runs"):
        stranger.start()
    assert own.status().running, "the refusal must not harm the one that runs"
    stranger.stop()
    assert not own.status().running


def test_a_crash_loses_nothing_that_was_acknowledged(own: LocalKafka) -> None:
    own.start()
    make_topic(own.bootstrap, "kept")
    publish(own.bootstrap, "kept", b"one")
    os.kill(own.status().pid, signal.SIGKILL)
    until(lambda: not own.status().running, "a killed broker still counts as running")
    own.start()
    assert consume(own.bootstrap, "kept", 1) == [b"one"]


def test_a_broker_that_cannot_start_shows_why_and_leaves_nothing(tmp_path: Path) -> None:
    broker = LocalKafka(tmp_path / "kafka", properties={"num.network.threads": "none"})
    with pytest.raises(LocalKafkaError, match=r"(?s)num\.network\.threads"):
        broker.start()
    assert not broker.status().running
    assert State.read(broker.directory / "state.json") is None


STARTER = """
import signal, sys
from pathlib import Path
from pelton.local import broker as broker_module
from pelton.local.broker import LocalKafka
from pelton.local.ports import free_ports

def ready(kafka):
    print(kafka.status().pid, kafka.directory, flush=True)
    signal.pause()

if sys.argv[1] == "temporary":
    with LocalKafka.temporary() as kafka:
        ready(kafka)
kafka = LocalKafka(Path(sys.argv[1]), supervised=True)
kafka.start()
ready(kafka)
"""


def group_members(pid: int) -> list[int]:
    """Live processes of the group that `pid` leads or led: the supervisor and the broker."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == pid and fields[0] not in "ZX":
                members.append(int(stat.parent.name))
    return members


@contextlib.contextmanager
def starter(where: str) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, where], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            pid, directory = process.stdout.readline().split()
            assert len(group_members(int(pid))) == 2, "a supervisor and a broker"
            yield process, int(pid), Path(directory)
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_orphan_and_no_directory_when_the_starter_is_killed() -> None:
    with starter("temporary") as (process, pid, directory):
        process.kill()
        until(lambda: not group_members(pid), "the broker outlives its starter")
        until(lambda: not directory.exists(), "the temporary directory stays behind")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_orphan_when_the_starter_of_a_kept_broker_is_killed(tmp_path: Path) -> None:
    with starter(str(tmp_path / "kafka")) as (process, pid, directory):
        process.kill()
        until(lambda: not group_members(pid), "the broker outlives its starter")
        assert (directory / "data" / "meta.properties").exists(), "data that is kept was removed"
        assert not LocalKafka(directory).status().running


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is of Linux")
def test_no_orphan_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    with starter(str(tmp_path / "kafka")) as (_process, pid, _directory):
        os.kill(pid, signal.SIGKILL)
        until(lambda: not group_members(pid), "the broker outlives its supervisor")


def test_a_port_lost_to_another_process_is_chosen_again(
    own: LocalKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        lost = taken.getsockname()[1]
        offers = [[lost, *free_ports(1)], free_ports(2)]
        expected = offers[1][0]
        monkeypatch.setattr(broker_module, "free_ports", lambda _count: offers.pop(0))
        own.start()
    assert own.bootstrap == f"127.0.0.1:{expected}"


def test_a_format_that_was_cut_short_is_finished(own: LocalKafka) -> None:
    (own.data / "__cluster_metadata-0").mkdir(parents=True)
    (own.data / "bootstrap.checkpoint").write_text("half")
    own.start()
    make_topic(own.bootstrap, "works")


def test_two_starts_at_once_give_one_broker(own: LocalKafka) -> None:
    others = [LocalKafka(own.directory) for _ in range(2)]
    failures: list[LocalKafkaError] = []

    def start(broker: LocalKafka) -> None:
        try:
            broker.start()
        except LocalKafkaError as error:
            failures.append(error)

    threads = [threading.Thread(target=start, args=(broker,)) for broker in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert [("already runs" in str(failure)) for failure in failures] == [True]
        assert own.status().serving
    finally:
        for broker in others:
            broker.kill()
