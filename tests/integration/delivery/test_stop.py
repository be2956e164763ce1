"""SIGTERM: what is out is finished and committed, so that nothing repeats; a second one waits for nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.integration.delivery.processes import Target, serving, until
from tests.integration.delivery.world import OUT_TOGETHER_MIN, World, out_together_max, pace, repeats

#: Left to do at all times: more than is done between two looks.
BACKLOG = 4_000
SEED = "stop"
DELAY_MS = 20
#: Leaving a group takes about half a second; ten times that, and a busy computer.
STOP_MAX_S = 10.0


def test_a_stop_under_load_repeats_nothing(world: World, note: Callable[[str], None]) -> None:
    world.keep_backlog(SEED, BACKLOG)
    with serving(Target(world.directory, "--seed", SEED, "--delay-ms", str(DELAY_MS))) as target:
        config = world.configure(target)
        first = world.serve(config)

        def settled() -> float:
            count = first.metrics().sum("pelton_events_settled_total")
            world.keep_backlog(SEED, BACKLOG, count)
            return count

        until(lambda: settled() >= BACKLOG // 2, "events to flow")
        took_s = first.stop()
        second = world.serve(config)
        until(second.ready, "the second to have joined")
        until(world.all_committed, "every partition to be committed to its end")
        second.stop()
    calls = target.journal()

    lives = {call.peer for call in calls}
    assert len(lives) == 2, "there was nothing left when it stopped"
    assert repeats(calls) == []
    assert world.lost(calls) == set()
    assert world.out_of_order(calls) == []
    # Nothing was cut: every call that began came to its end.
    assert {call.status for call in calls} >= {"OK"}
    assert "CUT" not in {call.status for call in calls}
    dead = [letter.header("pelton-delivery-id") for letter in world.dead_letters()]
    assert len(dead) == len(set(dead))
    assert took_s < STOP_MAX_S
    first_life = [call for call in calls if call.peer == calls[0].peer]
    note(f"stop: under load in {took_s:.2f} s, {pace(first_life):.0f} events/s before it, 0 repeats")
    assert out_together_max(first_life) >= OUT_TOGETHER_MIN


def test_a_stop_at_rest_takes_no_time(world: World, note: Callable[[str], None]) -> None:
    world.publish_keys([b"one"])
    with serving(Target(world.directory)) as target:
        pelton = world.serve(world.configure(target))
        until(world.all_committed, "the event to be passed")
        took_s = pelton.stop()
    assert len(target.journal()) == 1
    note(f"stop: at rest in {took_s:.2f} s")
    assert took_s < STOP_MAX_S


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_second_signal_cuts(number: signal.Signals, world: World) -> None:
    world.publish_keys([b"one"])
    with serving(Target(world.directory, "--hang")) as target:
        pelton = world.serve(world.configure(target))
        until(lambda: pelton.metrics().sum("pelton_events_open", state="calling") == 1, "the call to be out")
        pelton.process.terminate()
        until(lambda: '"event": "draining"' in pelton.log(), "the drain to begin")
        # It waits for the call: the probes say so, and go on answering.
        assert pelton.get("/readyz") == (503, "stopping\n")
        assert pelton.get("/livez")[0] == 200
        pelton.process.send_signal(number)
        assert pelton.wait() == 130
    assert world.passed() == 0


def test_a_drain_waits_no_longer_than_it_may(world: World, note: Callable[[str], None]) -> None:
    """A call that hangs ends at its deadline, and the drain with it; its event stays the next owner's."""
    world.publish_keys([b"one"])
    with serving(Target(world.directory, "--hang")) as target:
        pelton = world.serve(world.configure(target, "    timeout: 1s\n    drain_timeout: 1500ms"))
        until(lambda: pelton.metrics().sum("pelton_events_open", state="calling") == 1, "the call to be out")
        took_s = pelton.stop()
    assert {call.status for call in target.journal()} == {"CUT"}
    assert world.passed() == 0
    assert world.dead_letters() == []
    note(f"stop: with a target that hangs in {took_s:.2f} s (drain_timeout 1.5 s)")
    assert took_s < STOP_MAX_S
