"""Rows in which the group is the fault: members that come and go, are slow, or wake up too late."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.faults.checker import Expected, Report
from tests.faults.history import History, Kept
from tests.faults.matrix import Row
from tests.faults.refusals import Refusals
from tests.faults.rows_bridge import CRASH, LONG_FREEZE_S, freeze_beyond_the_session
from tests.faults.scene import Scene
from tests.integration.delivery.processes import DEADLINE_S, Pelton, until

__all__ = ["ROWS"]

#: Members that come while the one before them is still there, and leave while the next one is there.
GUESTS = 4
EAGER = "    kafka: { partition.assignment.strategy: range }"
CONSUMER = "    kafka: { group.protocol: consumer }"
#: A rebalance, not the coordinator, none to be had; an old generation, and no member at all.
CODES = (27, 16, 15, 22, 25)
#: As short as a session may be, and Pelton's own rules beside it: attempt < drain < half of this.
POLL_INTERVAL_MS = 9_000
SLOW_S = 11.0
SLOW = (
    f"    kafka: {{ max.poll.interval.ms: {POLL_INTERVAL_MS}, session.timeout.ms: 6000 }}\n"
    "    concurrency: 64"
)


def _assigned(pelton: Pelton) -> None:
    until(lambda: '"assigned"' in pelton.log(), "a member to be assigned something", DEADLINE_S)


def storm(scene: Scene) -> None:
    """Somebody comes or goes all the time; one stays."""
    scene.handler.tell(delay_ms=20)
    _assigned(scene.serve())
    before: Pelton | None = None
    for _ in range(GUESTS):
        guest = scene.serve()
        _assigned(guest)
        if before is not None:
            before.stop()
        before = guest
        scene.flow(50)
    assert before is not None
    before.stop()
    scene.recovering()
    scene.flow()


def _moved_often(history: History, report: Report) -> bool:
    """Everybody had something, and what the one that stays had went and came back."""
    owners = {owned.instance for owned in history.owned if owned.kept is Kept.ASSIGNED and owned.partitions}
    moves = sum(owned.kept is Kept.REVOKED for owned in history.owned)
    return len(owners) == GUESTS + 1 and moves >= GUESTS


def kill_members(scene: Scene) -> None:
    """Membership is dynamic: what a dead member had is somebody else's only when its session has ended."""
    scene.handler.tell(delay_ms=20)
    _assigned(scene.serve())
    for _ in range(2):
        guest = scene.serve()
        _assigned(guest)
        scene.flow(200)
        at_ns = guest.kill()
        scene.commits_go_on()
        scene.crashed(at_ns, "kill", guest)
    scene.recovering()
    scene.flow()


def slow_and_joined(scene: Scene) -> None:
    """Nothing is answered for longer than the client may go without a poll; somebody joins meanwhile."""
    first = scene.serve()
    scene.flow()
    with scene.cut("no answers"):
        at = scene.called()
        from_s = time.monotonic()
        scene.handler.tell(hang=True)
        until(lambda: scene.called() > at + 20, "calls to hang", DEADLINE_S)
        second = scene.serve()
        _assigned(second)
        scene.wait(SLOW_S - (time.monotonic() - from_s))
        scene.handler.tell(hang=False)
        scene.recovering()
        scene.flow(600)
        scene.commits_go_on()
    for one in (first, second):
        assert "maximum poll interval" not in one.log(), "a member was not polled in time"
        assert "assignment lost" not in one.log()


def refuse_commits(scene: Scene) -> None:
    """The broker is well, and takes no commit for a while, for one reason after the other."""
    pelton = scene.serve()
    scene.flow()
    (broker,) = scene.cluster.brokers
    refusals = Refusals(CODES)
    with scene.outage("commits refused"):
        # Connections begin anew, so that what passes is seen from its first byte on.
        broker.proxy.edit = refusals
        broker.proxy.reset()
        until(lambda: len(refusals.told) >= 2 * len(CODES), "commits to be refused", DEADLINE_S)
        assert scene.handler.running
        assert pelton.process.poll() is None, pelton.log()[-2_000:]
        broker.proxy.edit = None
        broker.proxy.reset()
        scene.recovering()
        scene.flow(600)
    assert pelton.process.poll() is None, pelton.log()[-2_000:]
    scene.figure = f"{len(refusals.told)} commits refused"


def _both(history: History, report: Report) -> bool:
    return len({owned.instance for owned in history.owned if owned.kept is Kept.ASSIGNED}) == 2


def fenced_by_the_handler(scene: Scene) -> None:
    """One is frozen beyond its session, and its last calls arrive late; the handler looks at the fence.

    They are held on their way. Whether one that wakes up makes calls of its own before it hears of its end
    is a race.
    """
    # Slower than what comes: there is always a next call that only waits for its turn.
    scene.handler.tell(delay_ms=100, fencing=True)
    freeze_beyond_the_session(scene, holding=True)
    scene.handler.tell(delay_ms=2)


def _stale(history: History, report: Report) -> bool:
    """And refused: the checker finds each that was taken."""
    return report.stale_calls > 0


def _storm(number: str, how: str, act: Callable[[Scene], None], subscription: str, *, quick: bool) -> Row:
    return Row(
        *(number, f"rebalance storm, {how}", f"{GUESTS} members join and leave, one always there"),
        *("drained before each move, in order", "nothing", act),
        scene={"subscription": subscription},
        bites=_moved_often,
        repeats_none=True,
        quick=quick,
    )


ROWS = [
    Row(
        *("7", "commits refused", "codes 27, 16, 15, 22, 25 in turn, ten times and more"),
        *("goes on by itself, in one process", "what was settled and not committed", refuse_commits),
        scene={"through": True},
        bites=lambda history, report: bool(history.faults),
    ),
    Row(
        *(
            "3c",
            "stale calls of a bridge that was frozen",
            f"SIGSTOP {LONG_FREEZE_S:.0f} s, its calls held on their way, a handler that fences",
        ),
        *("the handler refuses them by their fence", CRASH, fenced_by_the_handler),
        # A call that is out outlives the freeze: its answer is there when the bridge wakes up.
        scene={
            "fences": True,
            "subscription": "    concurrency: 16",
            "timeout": "60s",
            "drain_timeout": "70s",
            "expected": Expected(zombies=True),
        },
        bites=_stale,
    ),
    _storm("8a", "cooperative", storm, "", quick=False),
    _storm("8b", "eager", storm, EAGER, quick=False),
    _storm("8c", "KIP-848", storm, CONSUMER, quick=False),
    Row(
        *("8d", "members killed, KIP-848", "kill -9 of a second member, twice"),
        *("the others take over when its session has ended", CRASH, kill_members),
        scene={"subscription": CONSUMER},
    ),
    Row(
        *(
            "9",
            "slow handler and a joiner",
            f"no answer for {SLOW_S:.0f} s, max.poll.interval {POLL_INTERVAL_MS} ms",
        ),
        *(
            "both stay members, nothing is set aside",
            "calls whose deadline passed meanwhile",
            slow_and_joined,
        ),
        scene={"subscription": SLOW, "timeout": "3s", "drain_timeout": "4s"},
        bites=_both,
    ),
]
