"""Two instances on one host, named by nobody: one joins under load, one leaves, and nothing repeats."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest

from tests.integration.delivery.processes import Call, Pelton, Target, serving, until
from tests.integration.delivery.world import OUT_TOGETHER_MIN, World, out_together_max, pace, repeats

#: Settled in each of the three phases: one alone, both, the other alone.
EVENTS_A_PHASE = 2_000
#: Left to do at all times: more than is done between two looks.
BACKLOG = 5_000
SEED = "instances"
DELAY_MS = 20
#: The budget is 3 s on a computer that does nothing else; the ceiling is ten times that.
HAND_OVER_MAX_S = 30.0


def partition_of(call: Call) -> int:
    return int(call.delivery_id.split("/")[2])


def partitions(calls: Sequence[Call]) -> set[int]:
    return {partition_of(call) for call in calls}


def settled(world: World, *peltons: Pelton) -> float:
    """By the last of these, while there is more to do for all of them."""
    each = [pelton.metrics().sum("pelton_events_settled_total") for pelton in peltons]
    world.keep_backlog(SEED, BACKLOG, sum(each))
    return each[-1]


@pytest.mark.timeout(300)
def test_one_joins_and_one_leaves(world: World, note: Callable[[str], None]) -> None:
    world.keep_backlog(SEED, BACKLOG)
    with serving(Target(world.directory, "--seed", SEED, "--delay-ms", str(DELAY_MS))) as target:
        config = world.configure(target)
        first = world.serve(config, "first")
        until(lambda: settled(world, first) >= EVENTS_A_PHASE, "the first to do its part")
        second = world.serve(config, "second")
        # The first has work all the while, or it would have nothing in hand when it must hand over.
        until(lambda: settled(world, first) and second.listens, "the second to start")
        until(lambda: settled(world, first, second) >= EVENTS_A_PHASE, "the second to do its part")
        leaving_ns = time.monotonic_ns()
        first.stop()
        left_ns = time.monotonic_ns()
        until(world.all_committed, "every partition to be committed to its end")
        second.stop()
    calls = target.journal()

    firsts = [call for call in calls if call.peer == calls[0].peer]
    seconds = [call for call in calls if call.peer != calls[0].peer]
    assert len({call.peer for call in seconds}) == 1
    # Both had a part while there were two, and the second had everything in the end.
    together = [call for call in firsts if seconds[0].start_ns < call.start_ns < leaving_ns]
    assert 0 < len(partitions(together)) < world.partitions
    assert partitions(seconds) == set(range(world.partitions))

    assert world.lost(calls) == set()
    assert world.out_of_order(calls) == []
    assert repeats(calls) == []
    dead = [letter.header("pelton-delivery-id") for letter in world.dead_letters()]
    assert len(dead) == len(set(dead))

    last_of_first_ns = max(call.end_ns for call in firsts)
    taken = [
        min(
            call.start_ns
            for call in seconds
            if partition_of(call) == number and call.start_ns > last_of_first_ns
        )
        for number in partitions(together)
        if any(partition_of(call) == number and call.start_ns > last_of_first_ns for call in seconds)
    ]
    assert taken, "nothing of what the first had owned was left"
    note(
        f"instances: {len(firsts)} calls by one, {len(seconds)} by the other, at {pace(calls):.0f} events/s;"
        f" stop took {(left_ns - leaving_ns) / 1e9:.2f} s; next call of its partitions"
        f" {(min(taken) - left_ns) / 1e9:.2f} s after its exit, of the last one"
        f" {(max(taken) - left_ns) / 1e9:.2f} s;"
        " 0 repeats, none lost"
    )
    assert (max(taken) - left_ns) / 1e9 < HAND_OVER_MAX_S
    assert out_together_max(firsts) >= OUT_TOGETHER_MIN
