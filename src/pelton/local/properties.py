"""What the local broker is told: `server.properties` and its logging, as text. Nothing here touches a disk.

The values are for one node on a computer that has other things to do; each one that differs from Kafka's own
default says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pelton.errors import LocalKafkaError

__all__ = ["HOST", "logging_properties", "render", "server_properties"]

#: Loopback only: the broker has no password, so nothing outside this computer may reach it.
HOST = "127.0.0.1"

#: Ours, because start, stop and the readiness check depend on them.
OWNED = frozenset(
    {
        "advertised.listeners",
        "controller.listener.names",
        "controller.quorum.bootstrap.servers",
        "controller.quorum.voters",
        "listener.security.protocol.map",
        "listeners",
        "log.dir",
        "log.dirs",
        "metadata.log.dir",
        "node.id",
        "process.roles",
    }
)

#: The log rolls at this size and keeps two older files: a broker left running must not fill the disk.
LOG_FILE_BYTES_MAX = 16 * 1024 * 1024


def server_properties(
    *, port: int, controller_port: int, data: Path, extra: Mapping[str, str]
) -> dict[str, str]:
    """The broker's settings; `extra` overrides any of them that is not ours."""
    for name in extra:
        if name in OWNED:
            raise LocalKafkaError(f"`{name}` is set by Pelton for its local Kafka; leave it out")
    listeners = f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}"
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "listeners": listeners,
        "advertised.listeners": listeners,
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.bootstrap.servers": f"{HOST}:{controller_port}",
        "log.dirs": str(data),
        # A misspelt topic must be an error, as it is on a well-kept cluster.
        "auto.create.topics.enable": "false",
        # The first member of a group would wait 3 s for others that do not come.
        "group.initial.rebalance.delay.ms": "0",
        # Tests of a member that dies want its session to end soon; Kafka's floor is 6 s.
        "group.min.session.timeout.ms": "1000",
        # One node cannot hold three copies; with the default the first group or transaction fails.
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # 50 partitions each make the first group wait for 150 files; a few are enough for one node.
        "offsets.topic.num.partitions": "8",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.num.partitions": "4",
        # Kafka's own. After a kill the next start waits for it to end; a shorter one made the broker of a
        # starved computer fence itself, and everybody's sessions end.
        "broker.session.timeout.ms": "9000",
        "broker.heartbeat.interval.ms": "500",
        # The default takes 128 MiB of a 512 MiB heap.
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
        # Retention deletes whole segments; with 1 GiB ones a small disk would fill first.
        "log.segment.bytes": str(128 * 1024 * 1024),
        **extra,
    }


def render(properties: Mapping[str, str]) -> str:
    """The text of a Java properties file."""
    return "".join(f"{escaped(name, key=True)}={escaped(value)}\n" for name, value in properties.items())


def escaped(text: str, *, key: bool = False) -> str:
    """One name or value: a backslash, a line end or a leading blank would else change its meaning."""
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    if key:
        for character in " :=":
            text = text.replace(character, f"\\{character}")
    if text.startswith((" ", "#", "!")):
        text = f"\\{text}"
    return "".join(
        character if character.isascii() else "".join(f"\\u{unit:04x}" for unit in utf16(character))
        for character in text
    )


def utf16(character: str) -> tuple[int, ...]:
    """The code units Java knows the character by: two beyond the basic plane."""
    data = character.encode("utf-16-be")
    return tuple(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))


def logging_properties(log: Path) -> dict[str, str]:
    """The broker's logging: one file that rolls; the console is left to the JVM itself."""
    return {
        "status": "error",
        "appender.file.type": "RollingFile",
        "appender.file.name": "file",
        "appender.file.fileName": str(log),
        "appender.file.filePattern": f"{log}.%i",
        "appender.file.layout.type": "PatternLayout",
        "appender.file.layout.pattern": "%d{ISO8601} %p %c{1}: %m%n",
        "appender.file.policies.type": "Policies",
        "appender.file.policies.size.type": "SizeBasedTriggeringPolicy",
        "appender.file.policies.size.size": str(LOG_FILE_BYTES_MAX),
        "appender.file.strategy.type": "DefaultRolloverStrategy",
        "appender.file.strategy.max": "2",
        "rootLogger.level": "info",
        "rootLogger.appenderRef.file.ref": "file",
    }
