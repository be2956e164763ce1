"""Rows in which the network between bridge and handler, or between bridge and Kafka, misbehaves."""

from __future__ import annotations

from tests.faults.checker import Report
from tests.faults.history import History
from tests.faults.matrix import Row
from tests.faults.proxy import Way
from tests.faults.scene import Scene

__all__ = ["ROWS"]

#: Of one attempt, where a row waits for it to pass.
TIMEOUT = "3s"
HOLE_S = 6.0
KAFKA_HOLE_S = 6.0
#: Longer than a session of 10 s.
LONG_KAFKA_HOLE_S = 16.0
SLOW_S = 6.0
ANSWERS = "calls whose answer was cut"
#: A connection that ends looks to each of its calls like a fault of its own.
PATIENT = "{ attempts: 30, backoff: 10ms..200ms }"


def _repeats(history: History, report: Report) -> bool:
    return report.repeats > 0


def _again(history: History, report: Report) -> bool:
    """Some calls had to be made again, taken or not."""
    return report.calls > report.ended


def black_hole(scene: Scene) -> None:
    scene.serve()
    scene.flow()
    with scene.cut("black hole"):
        scene.proxy.spoil(up=Way(black_hole=True), down=Way(black_hole=True))
        scene.wait(HOLE_S)
        scene.proxy.heal()
        scene.recovering()
        scene.flow(600)


def half_cut(scene: Scene) -> None:
    """Requests arrive, answers do not."""
    scene.serve()
    scene.flow()
    with scene.cut("answers cut"):
        scene.proxy.spoil(down=Way(black_hole=True))
        scene.wait(HOLE_S)
        scene.proxy.heal()
        scene.recovering()
        scene.flow(600)


def resets(scene: Scene) -> None:
    scene.handler.tell(delay_ms=20)
    scene.serve()
    scene.flow()
    with scene.cut("resets"):
        for _ in range(6):
            scene.flow(100)
            assert scene.proxy.reset() > 0
        scene.recovering()
        scene.flow()


def closes(scene: Scene) -> None:
    scene.handler.tell(delay_ms=20)
    scene.serve()
    scene.flow()
    with scene.cut("closes"):
        scene.proxy.spoil(down=Way(limit_bytes=20_000))
        scene.flow(800)
        connections = scene.proxy.connections
        assert connections > 2, f"{connections} connections"
        scene.proxy.heal()
        scene.recovering()
        scene.flow()


def refused(scene: Scene) -> None:
    """Nobody listens, then somebody does: an outage of any length sets nothing aside."""
    scene.serve()
    scene.flow()
    with scene.cut("refused"):
        scene.proxy.refuse()
        scene.proxy.close()
        scene.wait(8.0)
        scene.proxy.heal()
        scene.recovering()
        scene.flow(600)


def slow_line(scene: Scene) -> None:
    scene.serve()
    scene.flow()
    slow = Way(latency_ms=100, jitter_ms=75, bytes_per_s=64_000)
    scene.proxy.spoil(up=slow, down=slow)
    scene.wait(SLOW_S)
    scene.flow(200)
    scene.proxy.heal()
    scene.recovering()
    scene.flow(600)


def sliced(scene: Scene) -> None:
    scene.serve()
    scene.flow(200)
    scene.proxy.spoil(up=Way(slice_bytes=1), down=Way(slice_bytes=1))
    scene.flow(300)
    scene.proxy.heal()
    scene.recovering()
    scene.flow()


def kafka_resets(scene: Scene) -> None:
    scene.serve()
    scene.flow()
    for _ in range(5):
        scene.flow(200)
        assert scene.cluster.brokers[0].proxy.reset() > 0
    scene.recovering()
    scene.flow()


def kafka_hole(scene: Scene) -> None:
    _kafka_hole(scene, "Kafka in a black hole", KAFKA_HOLE_S, 600)


def kafka_hole_beyond_the_session(scene: Scene) -> None:
    _kafka_hole(scene, "Kafka in a black hole beyond the session", LONG_KAFKA_HOLE_S, 1_500)


def _kafka_hole(scene: Scene, what: str, seconds: float, events_after: int) -> None:
    scene.serve()
    scene.flow()
    proxy = scene.cluster.brokers[0].proxy
    with scene.outage(what):
        proxy.spoil(up=Way(black_hole=True), down=Way(black_hole=True))
        scene.wait(seconds)
        proxy.heal()
        scene.recovering()
        scene.flow(events_after)


def kafka_slow(scene: Scene) -> None:
    scene.serve()
    scene.flow()
    proxy = scene.cluster.brokers[0].proxy
    slow = Way(latency_ms=200, jitter_ms=150, bytes_per_s=64_000)
    proxy.spoil(up=slow, down=slow)
    scene.wait(SLOW_S)
    scene.flow(200)
    proxy.heal()
    scene.recovering()
    scene.flow(600)


ROWS = [
    Row(
        *("14a", "handler refuses connections", "listener closed and connections ended for 8 s"),
        *("breaker, no attempt burned, recovers by itself", ANSWERS, refused),
    ),
    Row(
        *("15a", "half-open connection", f"black hole both ways for {HOLE_S:.0f} s, nobody is told"),
        *("deadlines find it, calls are made again", ANSWERS, black_hole),
        scene={"timeout": TIMEOUT},
        bites=_again,
    ),
    Row(
        *("15b", "half-open connection to Kafka", f"black hole both ways for {KAFKA_HOLE_S:.0f} s"),
        *("reads and commits go on", "what was settled and not committed", kafka_hole),
        scene={"through": True},
    ),
    Row(
        *("15c", "Kafka away beyond the session", f"black hole both ways for {LONG_KAFKA_HOLE_S:.0f} s"),
        *("joins again by itself", "what was settled and not committed", kafka_hole_beyond_the_session),
        scene={"through": True},
    ),
    Row(
        *("16", "asymmetric cut", f"only answers are cut, for {HOLE_S:.0f} s"),
        *("the same id comes again", ANSWERS, half_cut),
        scene={"timeout": TIMEOUT},
        bites=_repeats,
        quick=True,
    ),
    Row(
        *("17a", "connections reset in the midst of calls", "six resets under load"),
        *("made again", ANSWERS, resets),
        scene={"retry": PATIENT},
        bites=_again,
        quick=True,
    ),
    Row(
        *("17b", "connections ended in the midst of calls", "each ends after 20 kB of answers"),
        *("made again", ANSWERS, closes),
        scene={"retry": PATIENT},
        bites=_again,
    ),
    Row(
        *("17d", "connections reset again and again", "as 17a, with four attempts an event"),
        *("a flapping line sets nothing aside", ANSWERS, resets),
        bites=_again,
    ),
    Row(
        *("17c", "connections to Kafka reset", "five resets under load"),
        *("reads and commits go on", "nothing", kafka_resets),
        scene={"through": True},
        repeats_none=True,
    ),
    Row(
        *("20a", "byte by byte", "every byte of both ways in a piece of its own"),
        *("slower", "nothing", sliced),
        scene={"timeout": "30s", "drain_timeout": "40s"},
        repeats_none=True,
    ),
    Row(
        *("21a", "slow line to the handler", f"100±75 ms each way and 64 kB/s for {SLOW_S:.0f} s"),
        *("slower, no false death", "nothing", slow_line),
        scene={"timeout": "30s", "drain_timeout": "40s"},
        repeats_none=True,
    ),
    Row(
        *("21b", "slow line to Kafka", f"200±150 ms each way and 64 kB/s for {SLOW_S:.0f} s"),
        *("slower, stays a member", "nothing", kafka_slow),
        scene={"through": True},
        repeats_none=True,
    ),
]
