"""Rows in which the log, or what stands beside its offsets, is not as the bridge left it."""

from __future__ import annotations

from unittest.mock import patch

from confluent_kafka import Consumer, TopicPartition

from pelton.core import ackmap
from tests.faults.checker import Expected, Report
from tests.faults.history import History
from tests.faults.matrix import Row
from tests.faults.scene import PARTITIONS, Scene
from tests.integration.delivery.processes import DEADLINE_S, until

__all__ = ["ROWS"]

COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": "500",
    "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "1000",
}
#: Keys whose first event never ends: what comes behind them on their partition is settled, and in the map.
STUCK = ("key-3", "key-9", "key-20")
ASK_TIMEOUT_S = 10.0


def compacted(scene: Scene) -> None:
    """Kafka keeps the newest event of each key: whoever comes late finds holes wherever it reads."""
    until(lambda: scene.sent() >= 1_500, "events to be published", DEADLINE_S)
    scene.wait(1.0)
    until(
        lambda: scene.read() < sum(scene.ends().values()) // 2, "half of the log to be compacted", DEADLINE_S
    )
    scene.handler.tell(delay_ms=20)
    pelton = scene.serve()
    scene.recovering()
    scene.flow()
    pelton = scene.kill(pelton)
    scene.flow()


def _has_holes(history: History, report: Report) -> bool:
    return len(history.stored) < len(history.sent)


def later_map(scene: Scene) -> None:
    """What a later version has left beside the offsets: not read here, and not believed."""
    scene.handler.tell(delay_ms=5, status_of_key=dict.fromkeys(STUCK, "ABORTED"))
    pelton = scene.serve()
    scene.flow(600)
    # In order: beside a member that is believed to live nobody else may commit.
    pelton.stop()
    changed = _rewrite(scene)
    assert changed, "nothing had been settled above a committed offset"
    scene.handler.tell(status_of_key={})
    after = scene.serve()
    scene.recovering()
    scene.flow(600)
    # Everything that a map stood for, since the start.
    scene.crashed(pelton.started_ns, "maps that are not read", pelton)
    assert "version 2, this side knows 1" in after.log()
    scene.figure = f"{changed} maps of another version"


def _rewrite(scene: Scene) -> int:
    """The same maps, as version 2 would have written them."""
    client = Consumer(
        {"bootstrap.servers": scene.cluster.bootstrap, "group.id": scene.group, "enable.auto.commit": False}
    )
    try:
        found = client.committed([TopicPartition(scene.topic, n) for n in range(PARTITIONS)], ASK_TIMEOUT_S)
        changed = []
        for tp in found:
            text, mark, log = (tp.metadata or "").rpartition("@")
            if text:
                ranges = ackmap.decode(tp.offset, text).ranges
                with patch.object(ackmap, "_VERSION", 2):
                    text = ackmap.encode(tp.offset, ranges)
                changed.append(TopicPartition(tp.topic, tp.partition, tp.offset, text + mark + log))
        if changed:
            client.commit(offsets=changed, asynchronous=False)
        return len(changed)
    finally:
        client.close()


def _repeats(history: History, report: Report) -> bool:
    return report.repeats > 0


ROWS = [
    Row(
        *("31", "holes in the log", "cleanup.policy=compact, most events gone before they are read; kill -9"),
        *("goes on over the holes", "calls out, and what was settled and not committed", compacted),
        scene={"topic_config": COMPACTED, "expected": Expected(compacted=True)},
        bites=_has_holes,
    ),
    Row(
        *("36", "maps of a later version", "stopped, the maps beside the offsets rewritten as version 2"),
        *("not believed, said, and nothing is lost", "what the maps stood for", later_map),
        scene={"retry": "{ attempts: 100, backoff: 200ms..2s }"},
        bites=_repeats,
    ),
]
