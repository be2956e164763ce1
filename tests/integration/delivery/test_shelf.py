"""One key that waits, with far more behind it than fits: the others of its partition go on to the end."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pelton.local.broker import LocalKafka
from tests.integration.delivery.processes import Target, serving, until
from tests.integration.delivery.world import World, repeats
from tests.kafka_fixtures import CreateTopic

#: `PELTON_SHELVED=20000` for the long one. An ack map always has room for 24 000 offsets in any pattern.
BEHIND = int(os.environ.get("PELTON_SHELVED", "2000"))
OTHERS = BEHIND // 6
IN_MEMORY = 200
HOT = b"hot"


@pytest.mark.timeout(300)
def test_a_key_that_waits_does_not_stop_its_partition(
    kafka: LocalKafka, create_topic: CreateTopic, tmp_path: Path, note: Callable[[str], None]
) -> None:
    world = World(kafka.bootstrap, create_topic(partitions=1), 1, tmp_path)
    keys = [HOT] * BEHIND + [b"key-%d" % number for number in range(OTHERS)]
    random.Random(1).shuffle(keys)
    # It waits from the first event on.
    world.publish_keys([HOT, *keys])
    mended = tmp_path / "mended"
    options = ("--poison-keys", "hot", "--poison-status", "UNKNOWN", "--poison-until", str(mended))
    try:
        with serving(Target(tmp_path, *options)) as target:
            config = world.configure(
                target,
                f"    intake: {{ parked: {{ events: {IN_MEMORY} }} }}\n",
                retry="{ attempts: 1000, backoff: 100ms..200ms }",
            )
            pelton = world.serve(config)
            until(
                lambda: pelton.metrics().sum("pelton_events_settled_total", end="acked") == OTHERS,
                "the other keys to go on to the end",
            )
            scrape = pelton.metrics()
            shelved = scrape.sum("pelton_events_open", state="shelved")
            assert shelved >= BEHIND - IN_MEMORY
            assert scrape.sum("pelton_events_open", state="parked") <= IN_MEMORY
            assert scrape.sum("pelton_partitions_paused") == 0
            assert scrape.sum("pelton_events_consumed_total") == OTHERS + scrape.sum("pelton_events_open")
            mended.touch()
            until(world.all_committed, "the key to be delivered to its end")
            pelton.stop()
        calls = target.journal()
    finally:
        world.end()
    assert world.lost(calls) == set()
    assert world.out_of_order(calls) == []
    assert repeats(calls) == []
    hot = [call for call in calls if call.status == "OK"][-BEHIND:]
    seconds = (hot[-1].end_ns - hot[0].start_ns) / 1e9
    note(
        f"shelf: {OTHERS} events of other keys passed one that waits with {shelved:.0f} behind it shelved;"
        f" then those came in order at {len(hot) / seconds:.0f} events/s"
    )
