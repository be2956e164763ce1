"""Memory keeps to its cap beside a target that never answers; `make bench-memory` shows it at full size."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import SimpleNamespace

from bench.memory import cap_of, dead_port, memory_bytes
from pelton.config.settings import ProcessLimits
from tests.integration.delivery.processes import until
from tests.integration.delivery.world import Draft, World

MIB = 1 << 20
LIMITS = ProcessLimits(events_max=2_000, bytes_max=16 * MIB)
EVENT_BYTES = 20_000
#: Some 100 MB: twice what the cap leaves for events.
EVENTS = 5_000
#: Nothing more was read for so long.
QUIET_S = 1.5


def test_the_cap_holds_beside_a_target_that_never_answers(world: World, note: Callable[[str], None]) -> None:
    noise = os.urandom(2 * EVENT_BYTES)
    with dead_port(silent=True) as port:
        config = world.configure(SimpleNamespace(port=port), "    delivery: handler\n    timeout: 5s")
        text = config.read_text(encoding="utf-8").replace("    method: /any.Service/Method\n", "")
        limits = f"limits: {{ events: {LIMITS.events_max}, bytes: {LIMITS.bytes_max} }}\n"
        config.write_text(text + limits, encoding="utf-8")
        pelton = world.serve(config)
        until(pelton.ready, "its place in the group")
        idle = memory_bytes(pelton.process.pid)
        world.publish(Draft(b"%d" % number, noise[number : number + EVENT_BYTES]) for number in range(EVENTS))
        read, since = 0.0, time.monotonic()

        def quiet() -> bool:
            nonlocal read, since
            now = pelton.metrics().sum("pelton_events_consumed_total")
            if now > read:
                read, since = now, time.monotonic()
            return read > 0 and time.monotonic() - since > QUIET_S

        until(quiet, "it to read no more")
        most = memory_bytes(pelton.process.pid)
        pelton.kill()
    cap = cap_of(idle, LIMITS)
    note(
        f"memory: {most // MIB} MiB, idle {idle // MIB}, cap {cap // MIB}; {read:.0f} events of {EVENTS} read"
    )
    assert most <= cap
    # It read what it may, and stopped there.
    assert read * EVENT_BYTES >= LIMITS.bytes_max / 4
    assert read < EVENTS
