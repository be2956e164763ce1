"""Every event ends as the oracle says, in order for its key, and none is lost: without faults of ours."""

from __future__ import annotations

from collections.abc import Callable

from tests.integration.delivery.answers import predict
from tests.integration.delivery.processes import Target, serving, until
from tests.integration.delivery.world import OUT_TOGETHER_MIN, World, out_together_max, pace, some_keys

SEED = "ends"
EVENTS = 20_000
DELAY_MS = 20


def test_twenty_thousand_events_end_as_predicted(world: World, note: Callable[[str], None]) -> None:
    world.publish_keys(some_keys(SEED, EVENTS))
    predicted: dict[str, str] = {}
    for lane in world.lanes().values():
        predicted |= predict(SEED, lane, suspects=True)
    for event in world.published:
        if event.key is None:
            predicted |= predict(SEED, [world.delivery_id(event)], suspects=False)
    assert len(predicted) == EVENTS
    assert set(predicted.values()) == {"acked", "dropped", "dead_lettered"}

    with serving(Target(world.directory, "--seed", SEED, "--delay-ms", str(DELAY_MS))) as target:
        pelton = world.serve(world.configure(target))
        until(world.all_committed, "every partition to be committed to its end")
        metrics = pelton.metrics()
        pelton.stop()
    calls = target.journal()

    dead = [letter.header("pelton-delivery-id") for letter in world.dead_letters()]
    taken = {call.delivery_id for call in calls if call.status == "OK"}
    assert sorted(dead) == sorted(key for key, end in predicted.items() if end == "dead_lettered")
    assert taken == {key for key, end in predicted.items() if end == "acked"}
    assert {call.delivery_id for call in calls} == set(predicted)
    assert world.out_of_order(calls) == []
    # What Pelton says of itself agrees, though nothing above relies on it.
    for end in ("acked", "dropped", "dead_lettered"):
        counted = metrics.sum("pelton_events_settled_total", end=end)
        assert counted == sum(was == end for was in predicted.values())
    note(f"ends: {EVENTS} events at {pace(calls):.0f}/s, {len(calls)} calls, {len(dead)} dead letters")
    assert out_together_max(calls) >= OUT_TOGETHER_MIN
