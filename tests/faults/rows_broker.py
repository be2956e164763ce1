"""Rows in which brokers die, freeze, fill their disk, or refuse dead letters."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable

from confluent_kafka.admin import ConfigResource  # type: ignore[attr-defined]  # not in __all__
from confluent_kafka.cimpl import NewTopic

from tests.faults.checker import Expected, Report
from tests.faults.cluster import Broker
from tests.faults.history import History
from tests.faults.matrix import Row, SkippedError
from tests.faults.scene import PARTITIONS, Scene
from tests.integration.delivery.processes import DEADLINE_S, until

__all__ = ["ROWS"]

UNCOMMITTED = "what was settled and not committed"
#: Beyond the broker's own session of 9 s: its partitions move.
FREEZE_S = 15.0
POISONED = ("key-7", "key-11")
#: Less than a dead letter, and more than the 78 bytes by which a broker ends a transaction in a partition:
#: where those are refused as well, it never ends, and nothing more is written under its name.
REFUSING_BYTES = 128
#: How long the dead-letter topic cannot be written.
REFUSED_S = 4.0
ADMIN_TIMEOUT_S = 60.0


def kill_one(scene: Scene) -> None:
    broker = scene.cluster.brokers[0]
    scene.serve()
    scene.flow()
    with scene.outage("the broker killed and started"):
        broker.kill()
        scene.wait(1.0)
        broker.start()
        scene.cluster.wait()
        scene.recovering()
        scene.flow(600)


def roll(scene: Scene) -> None:
    """One broker after the other ends in order and comes back."""
    scene.serve()
    scene.flow()
    with scene.outage("rolling restart"):
        for broker in scene.cluster.brokers:
            broker.stop()
            scene.flow(200)
            broker.start()
            scene.cluster.wait()
            scene.flow(200)
        scene.recovering()
        scene.flow()


def kill_leader(scene: Scene) -> None:
    scene.serve()
    scene.flow()
    with scene.outage("the leader of a partition killed"):
        leader = scene.cluster.leader(scene.topic)
        leader.kill()
        scene.flow(600)
        leader.start()
        scene.cluster.wait()
        scene.recovering()
        scene.flow()


def kill_two(scene: Scene) -> None:
    """No quorum, no in-sync replicas: nothing can be written until they are back."""
    scene.serve()
    scene.flow()
    with scene.outage("two of three killed"):
        for broker in scene.cluster.brokers[:2]:
            broker.kill()
        scene.wait(3.0)
        for broker in scene.cluster.brokers[:2]:
            broker.start()
        scene.cluster.wait()
        scene.recovering()
        scene.flow(600)


def kill_all(scene: Scene) -> None:
    scene.serve()
    scene.flow()
    with scene.outage("all three killed"):
        for broker in scene.cluster.brokers:
            broker.kill()
        for broker in scene.cluster.brokers:
            broker.start()
        scene.cluster.wait()
        scene.recovering()
        scene.flow(600)


def freeze_leader(scene: Scene) -> None:
    _freeze(scene, "the leader of a partition", lambda: scene.cluster.leader(scene.topic))


def freeze_coordinator(scene: Scene) -> None:
    """No commit and no heartbeat is answered, until another one has the group."""
    _freeze(scene, "the group's coordinator", lambda: _coordinator(scene))


def _freeze(scene: Scene, who: str, broker_now: Callable[[], Broker]) -> None:
    """It is still connected, and answers nobody."""
    scene.serve()
    scene.flow()
    with scene.outage(f"{who} frozen"):
        broker = broker_now()
        broker.freeze()
        scene.wait(FREEZE_S)
        scene.flow()
        broker.thaw()
        scene.recovering()
        scene.flow(600)


def _coordinator(scene: Scene) -> Broker:
    return scene.cluster.coordinator(f"pelton.{scene.name}")


def kill_coordinator(scene: Scene) -> None:
    scene.serve()
    scene.flow()
    with scene.outage("the group's coordinator killed"):
        broker = _coordinator(scene)
        broker.kill()
        scene.flow(900)
        broker.start()
        scene.cluster.wait()
        scene.recovering()
        scene.flow()


def disk_full(scene: Scene) -> None:
    """The broker ends by itself when it cannot write; with room again it comes back with what it had."""
    broker = scene.cluster.brokers[0]
    disk = broker.data.parent
    scene.serve()
    scene.flow()
    with scene.outage("disk full"):
        filler = disk / "filler"
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(bytes(64 * 1024))
                    file.flush()
            except OSError:
                pass
        until(lambda: not broker.running, "the broker to end for want of room", DEADLINE_S)
        filler.unlink()
        broker.start()
        scene.cluster.wait()
        scene.recovering()
        scene.flow(600)


def _letters(history: History) -> Expected:
    poisoned = {key.encode() for key in POISONED}
    return Expected(letters=frozenset(record.number for record in history.stored if record.key in poisoned))


def _has_letters(history: History, report: Report) -> bool:
    return report.letters > 0


def _limit(scene: Scene, bytes_max: int) -> None:
    resource = ConfigResource(
        ConfigResource.Type.TOPIC, f"dlq.{scene.name}", set_config={"max.message.bytes": str(bytes_max)}
    )
    for future in scene.cluster.admin.alter_configs([resource]).values():
        future.result(ADMIN_TIMEOUT_S)


def dead_letters_refused(scene: Scene) -> None:
    """The topic takes no record of this size; then it does."""
    pelton = scene.serve()
    scene.flow()
    _limit(scene, REFUSING_BYTES)
    scene.handler.tell(status_of_key=dict.fromkeys(POISONED, "INVALID_ARGUMENT"))
    until(lambda: "Raise the topic's max.message" in pelton.log(), "a dead letter to be refused", DEADLINE_S)
    scene.wait(REFUSED_S)
    _limit(scene, 1_000_000)
    scene.recovering()
    scene.flow(600)


def dead_letters_gone(scene: Scene) -> None:
    """Somebody deletes the topic; then it is made again."""
    pelton = scene.serve()
    scene.flow()
    admin, name = scene.cluster.admin, f"dlq.{scene.name}"
    for future in admin.delete_topics([name], operation_timeout=ADMIN_TIMEOUT_S).values():
        future.result(ADMIN_TIMEOUT_S)
    scene.handler.tell(status_of_key=dict.fromkeys(POISONED, "INVALID_ARGUMENT"))
    until(
        lambda: f"{name}: the topic is not there" in pelton.log(), "the missing topic to be named", DEADLINE_S
    )
    deadline = time.monotonic() + ADMIN_TIMEOUT_S
    while True:
        # A deleted topic's name is free only when all of it is gone.
        try:
            for future in admin.create_topics([NewTopic(name, PARTITIONS, 1)]).values():
                future.result(ADMIN_TIMEOUT_S)
            break
        except Exception:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    scene.recovering()
    scene.flow(600)


def mounted(path: str, size: str) -> None:
    """A small disk of our own at `path`; SkippedError where that is not permitted."""
    mount = shutil.which("mount")
    if mount is None:
        raise SkippedError("no mount(8)")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={size}", "pelton-faults", path], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise SkippedError(f"mounting a small disk is not permitted: {done.stderr.strip()}")


ROWS = [
    Row(
        *("4a", "the only broker killed", "SIGKILL, started 1 s later"),
        *("joins again by itself", UNCOMMITTED, kill_one),
    ),
    Row(
        *("4b", "brokers restarted one by one", "SIGTERM and start, each of three"),
        *("goes on all the while", UNCOMMITTED, roll),
        nodes=3,
    ),
    Row(
        *("4c", "two of three brokers killed", "SIGKILL, started 3 s later"),
        *("waits, joins again by itself", UNCOMMITTED, kill_two),
        nodes=3,
    ),
    Row(
        *("4d", "all brokers killed", "SIGKILL of three, started at once"),
        *("waits, joins again by itself", UNCOMMITTED, kill_all),
        nodes=3,
    ),
    Row(
        *("4e", "a partition's leader killed", "SIGKILL of one of three, back later"),
        *("goes on with the next leader", UNCOMMITTED, kill_leader),
        nodes=3,
    ),
    Row(
        *("5", "a partition's leader frozen", f"SIGSTOP {FREEZE_S:.0f} s, one of three"),
        *("goes on with the next leader", UNCOMMITTED, freeze_leader),
        nodes=3,
    ),
    Row(
        *("6a", "the group's coordinator killed", "SIGKILL of one of three, back later"),
        *("commits go to the next one", UNCOMMITTED, kill_coordinator),
        nodes=3,
    ),
    Row(
        *("6b", "the group's coordinator frozen", f"SIGSTOP {FREEZE_S:.0f} s, one of three"),
        *("commits go to the next one", UNCOMMITTED, freeze_coordinator),
        nodes=3,
    ),
    Row(
        *("25", "broker's disk full", "a small tmpfs filled to the last byte, then freed"),
        *("waits, joins again by itself", UNCOMMITTED, disk_full),
        own_cluster={"size": "96m"},
    ),
    Row(
        *("32a", "dead letters refused", f"topic's max.message.bytes 128 for {REFUSED_S:.0f} s and more"),
        *("the partition waits, nothing is passed", "nothing", dead_letters_refused),
        judge=_letters,
        bites=_has_letters,
        repeats_none=True,
    ),
    Row(
        *("32b", "dead-letter topic deleted", "deleted under load, made again later"),
        *("the partition waits, nothing is passed", "nothing", dead_letters_gone),
        judge=_letters,
        bites=_has_letters,
        repeats_none=True,
    ),
]
