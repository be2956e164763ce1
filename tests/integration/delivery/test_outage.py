"""The target is down for twenty seconds under load: no attempt counts, and all is delivered after."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.integration.delivery.processes import Target, serving, until
from tests.integration.delivery.world import OUT_TOGETHER_MIN, World, out_together_max, pace, repeats

DOWN_S = 20.0
SEED = "outage"
BACKLOG = 4_000
DELAY_MS = 20
#: Calls that were out, by Pelton's own count, right before it goes down.
OUT_MIN = 10
#: Calls that may be out at once, by default.
CONCURRENCY = 256
#: The next probe is due within 5 s of the target's return; the ceiling leaves a busy computer its time.
RECOVERY_MAX_S = 30.0


@pytest.mark.timeout(300)
def test_an_outage_burns_nothing(world: World, note: Callable[[str], None]) -> None:
    world.keep_backlog(SEED, BACKLOG)
    with serving(Target(world.directory, "--delay-ms", str(DELAY_MS))) as target:
        # One attempt: the first that burned would set its event aside.
        pelton = world.serve(world.configure(target, retry="{ attempts: 1, backoff: 5ms..40ms }"))

        def calls_out() -> float:
            return pelton.metrics().sum("pelton_events_open", state="calling")

        def settled() -> float:
            count = pelton.metrics().sum("pelton_events_settled_total")
            world.keep_backlog(SEED, BACKLOG, count)
            return count

        until(lambda: settled() >= BACKLOG // 2, "events to flow")
        # The last look before it goes down, with nothing between: a call is out for a moment only.
        until(lambda: calls_out() >= OUT_MIN, "calls to be out")
        target.stop()
        down_ns = time.monotonic_ns()
        until(
            lambda: pelton.metrics().sum("pelton_target_health", health="unwell") == 1, "the breaker to open"
        )
        passed = world.passed()
        while time.monotonic_ns() - down_ns < DOWN_S * 1e9:
            # Alive all the time: nothing that a restart could mend.
            assert pelton.get("/livez")[0] == 200
            assert pelton.ready()
            time.sleep(1.0)
        assert world.passed() >= passed
        target.start()
        up_ns = time.monotonic_ns()
        until(world.all_committed, "every partition to be committed to its end")
        failed = pelton.metrics().sum("pelton_outcomes_total", status="UNAVAILABLE")
        pelton.stop()
    calls = target.journal()

    before = [call for call in calls if call.start_ns < down_ns]
    after = [call for call in calls if call.start_ns > down_ns]
    tried_again = sum(call.attempt > 1 for call in after)
    # It was tried while it was down, and some whose call had failed were called again.
    assert failed >= 3
    assert tried_again > 0
    assert world.dead_letters() == []
    assert world.lost(calls) == set()
    assert {call.delivery_id for call in calls if call.status == "OK"} == {
        world.delivery_id(event) for event in world.published
    }
    assert world.out_of_order(calls) == []
    # An answer that was given and did not arrive is the only reason to call again.
    assert len(repeats(calls)) <= CONCURRENCY
    recovered_s = (after[0].start_ns - up_ns) / 1e9
    note(
        f"outage: {pace(before):.0f} events/s before; down {DOWN_S:.0f} s,"
        f" {failed:.0f} failed calls in it; calls again {recovered_s:.2f} s after the return;"
        f" {tried_again} calls beyond the first attempt, 0 dead letters, none lost of {len(world.published)}"
    )
    assert recovered_s < RECOVERY_MAX_S
    assert out_together_max(before) >= OUT_TOGETHER_MIN
