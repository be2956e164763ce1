"""Rows in which the bridge itself dies, stops, freezes or starves."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import replace

from tests.faults.checker import Expected, Report
from tests.faults.history import History
from tests.faults.matrix import Row
from tests.faults.scene import Scene
from tests.integration.delivery.processes import DEADLINE_S, until

__all__ = ["CRASH", "LONG_FREEZE_S", "ROWS", "freeze_beyond_the_session"]

CRASH = "calls out, and what was settled in the last 200 ms and a commit's round trip"
CRASH_AND_UNKNOWING = f"{CRASH}, and what the woken one calls until it hears"
KILLS = 4
#: Events whose key fails for ever.
POISONED = ("key-7", "key-11")
FREEZE_S = 5.0
#: Beyond the session's 10 s.
LONG_FREEZE_S = 14.0
#: In which what is answered is made anew, and all that may be out is on its way.
HELD_S = 1.0
#: A twentieth of a processor, without rights that a test may not have.
STARVED_RUN_S, STARVED_STOP_S, STARVED_S = 0.01, 0.19, 10.0


def _repeats(history: History, report: Report) -> bool:
    return report.repeats > 0


def _has_letters(history: History, report: Report) -> bool:
    return report.letters > 0


def _letters(history: History) -> Expected:
    """Poisoned keys' events only, and one copy of each: its offset was passed in the same transaction."""
    poisoned = {key.encode() for key in POISONED}
    return Expected(
        letters=frozenset(record.number for record in history.stored if record.key in poisoned),
    )


def kill_at_random(scene: Scene) -> None:
    scene.handler.tell(delay_ms=20)
    pelton = scene.serve()
    for _ in range(KILLS):
        scene.flow(400)
        pelton = scene.kill(pelton)
        scene.recovering()
    scene.flow()


def dies_at(place: str, *, poison: bool = False) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        poisoned = POISONED if poison else ()
        scene.handler.tell(delay_ms=10, status_of_key=dict.fromkeys(poisoned, "INVALID_ARGUMENT"))
        scene.dies(scene.serve(failpoint=place))
        scene.recovering()
        scene.flow()

    return act


def stop_well(scene: Scene) -> None:
    scene.handler.tell(delay_ms=50)
    for _ in range(3):
        pelton = scene.serve()
        scene.flow(400)
        pelton.stop()
    scene.serve()
    scene.flow()


def stop_and_cut(scene: Scene) -> None:
    """The handler hangs: a drain cannot end before its time. Whoever supervises kills in the end."""
    pelton = scene.serve()
    scene.flow(400)
    scene.handler.tell(hang=True)
    at = scene.called()
    until(lambda: scene.called() > at + 20, "calls to hang", DEADLINE_S)
    pelton.process.terminate()
    scene.wait(1.0)
    assert pelton.process.poll() is None, "it ended with calls out"
    at_ns = pelton.kill()
    scene.handler.tell(hang=False)
    scene.serve()
    scene.crashed(at_ns, "SIGTERM, then SIGKILL", pelton)
    scene.recovering()
    scene.flow()


def freeze_briefly(scene: Scene) -> None:
    pelton = scene.serve()
    scene.flow(400)
    with scene.cut("SIGSTOP"):
        pelton.process.send_signal(signal.SIGSTOP)
        scene.wait(FREEZE_S)
        pelton.process.send_signal(signal.SIGCONT)
        scene.recovering()
        scene.flow()


def freeze_beyond_the_session(scene: Scene, *, holding: bool = False) -> None:
    """Another one takes over meanwhile; the frozen one wakes up, and may commit nothing.

    With `holding`, calls that it has made are on their way all the while, and arrive when it wakes up.
    """
    frozen = scene.serve()
    scene.flow(400)
    from_ns = time.monotonic_ns()
    if holding:
        scene.proxy.hold()
        scene.wait(HELD_S)
    frozen.process.send_signal(signal.SIGSTOP)
    scene.serve()
    scene.recovering()
    scene.flow()
    scene.wait(LONG_FREEZE_S - (time.monotonic_ns() - from_ns) / 1e9)
    scene.proxy.let_go()
    frozen.process.send_signal(signal.SIGCONT)
    scene.flow(600)
    scene.crashed(from_ns, "SIGSTOP beyond the session", frozen)


def starve(scene: Scene) -> None:
    pelton = scene.serve()
    scene.flow(400)
    end = time.monotonic() + STARVED_S
    with scene.cut("a twentieth of a processor"):
        while time.monotonic() < end:
            pelton.process.send_signal(signal.SIGSTOP)
            scene.wait(STARVED_STOP_S)
            pelton.process.send_signal(signal.SIGCONT)
            scene.wait(STARVED_RUN_S)
        scene.recovering()
        scene.flow()


ROWS = [
    Row(
        *("1a", "bridge killed", "kill -9 under load, four times"),
        *("the next one goes on", CRASH, kill_at_random),
        bites=_repeats,
    ),
    Row(
        *("1f", "bridge killed, delivering by stream", "kill -9 under load, four times"),
        *("the next one goes on", CRASH, kill_at_random),
        scene={"stream": True},
        bites=_repeats,
    ),
    Row(
        *("1b", "bridge killed after OK, before commit", "failpoint outcomes-fed, the 40th time"),
        *("answered and uncommitted comes again", CRASH, dies_at("outcomes-fed:40")),
        bites=_repeats,
        quick=True,
    ),
    Row(
        *(
            "1c",
            "bridge killed after a dead letter, before it knows",
            "failpoint transaction-committed, the 5th time",
        ),
        *("one copy of each dead letter", CRASH, dies_at("transaction-committed:5", poison=True)),
        judge=_letters,
        bites=_has_letters,
        quick=True,
    ),
    Row(
        *("1g", "bridge killed in a transaction", "failpoint transaction-filled, the 4th time"),
        *("one copy of each dead letter", CRASH, dies_at("transaction-filled:4", poison=True)),
        judge=_letters,
        bites=_has_letters,
    ),
    Row(
        *("1h", "the same without transactions", "`atomic: never`, failpoint hops-acked, the 5th time"),
        *("the letter may be there twice", CRASH + "; one more copy of a dead letter a crash"),
        dies_at("hops-acked:5", poison=True),
        scene={"subscription": "    dead_letters: { atomic: never }"},
        judge=lambda history: replace(_letters(history), copies_max=2),
        bites=_has_letters,
    ),
    Row(
        *("1d", "bridge killed in the midst of a batch", "failpoint calls-submitted, the 40th time"),
        *("calls out come again", CRASH, dies_at("calls-submitted:40")),
    ),
    Row(
        *("1e", "bridge killed with a commit on its way", "failpoint commits-sent, the 10th time"),
        *("what it held comes again or not", CRASH, dies_at("commits-sent:10")),
    ),
    Row(
        *("2a", "bridge stopped in order", "SIGTERM under load, three times"),
        *("drains, exit 0, no repeat", "nothing", stop_well),
        repeats_none=True,
    ),
    Row(
        *("2b", "bridge stopped, then killed", "handler hangs, SIGTERM, 1 s, SIGKILL"),
        *("waits for its calls until it is killed", CRASH, stop_and_cut),
    ),
    Row(
        *("3a", "bridge frozen, shorter than its session", f"SIGSTOP {FREEZE_S:.0f} s, SIGCONT"),
        *("goes on", "calls whose deadline passed meanwhile", freeze_briefly),
    ),
    Row(
        *("3b", "bridge frozen beyond its session", f"SIGSTOP {LONG_FREEZE_S:.0f} s beside a second one"),
        *("the second takes over, the first commits nothing", CRASH_AND_UNKNOWING, freeze_beyond_the_session),
        scene={"expected": Expected(zombies=True)},
        bites=lambda history, report: len({owned.instance for owned in history.owned}) == 2,
    ),
    Row(
        *("30", "bridge starved", "SIGSTOP and SIGCONT: 10 ms in 200 for 10 s"),
        *("stays a member, no avalanche", "calls whose deadline passed meanwhile", starve),
        bites=lambda history, report: len(history.owned) < 5,
    ),
]
