"""A dead letter and the offset that it passes are one transaction: one copy, whenever the process dies."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from itertools import groupby

import pytest

from pelton.failpoints import Failpoint
from tests.integration.delivery.processes import Call, Pelton, Target, serving, until
from tests.integration.delivery.world import Draft, World

KEYS = 60
POISON = [b"key-%d" % number for number in range(0, KEYS, 5)]
TURNS = 4
#: Which transaction of a life the kill hits: some are whole before it.
THE_KILLED_ONE = 3
PLACES = (
    Failpoint.TRANSACTION_HELD,
    Failpoint.TRANSACTION_WRITTEN,
    Failpoint.TRANSACTION_FILLED,
    Failpoint.TRANSACTION_COMMITTED,
)
#: At these an open transaction is left behind, and its records are in the log for those who read everything.
LEFT_OPEN = {Failpoint.TRANSACTION_WRITTEN, Failpoint.TRANSACTION_FILLED}
#: The budget is 3 s from exec on a computer that does nothing else; the ceiling is ten times that.
FIRST_CALL_MAX_S = 30.0


def target_of(world: World) -> Target:
    keys = ",".join(key.decode() for key in POISON)
    return Target(world.directory, "--poison-status", "INVALID_ARGUMENT", "--poison-keys", keys)


def publish(world: World) -> None:
    world.publish(Draft(b"key-%d" % key) for _ in range(TURNS) for key in range(KEYS))


def copies(world: World, isolation: str = "read_committed") -> Counter[str]:
    """How many dead letters there are of each delivery."""
    letters = world.log.read(f"dlq.{world.name}", isolation)
    return Counter(letter.header("pelton-delivery-id") for letter in letters)


def poisoned(world: World) -> set[str]:
    return {world.delivery_id(event) for event in world.published if event.key in POISON}


def dies(pelton: Pelton, place: Failpoint) -> None:
    assert pelton.wait() == -signal.SIGKILL, f"it did not die at {place.value}"


@pytest.mark.timeout(300)
def test_one_copy_wherever_it_is_killed(world: World, note: Callable[[str], None]) -> None:
    lives: list[Pelton] = []
    left_open = 0
    with serving(target_of(world)) as target:
        config = world.configure(target)
        for place in PLACES:
            publish(world)
            pelton = world.serve(config, place.value, f"{place.value}:{THE_KILLED_ONE}")
            lives.append(pelton)
            dies(pelton, place)
            everything = copies(world, "read_uncommitted").total()
            left_open += everything > copies(world).total()
        publish(world)
        pelton = world.serve(config, "last")
        lives.append(pelton)
        until(world.all_committed, "every partition to be committed to its end")
        pelton.stop()
    calls = target.journal()

    assert left_open >= len(LEFT_OPEN), "a kill within a transaction leaves its records behind"
    dead = copies(world)
    assert set(dead) == poisoned(world)
    assert set(dead.values()) == {1}, "a dead letter twice"
    assert world.lost(calls) == set()
    assert world.out_of_order(calls, killed=True) == []
    # A delivery whose dead letter was committed is not called again, though its process never heard of it.
    committed_last = {
        place: first_call_s(calls, pelton) for place, pelton in zip(PLACES, lives[1:], strict=True)
    }
    for place, first_s in committed_last.items():
        note(f"atomic hops: killed at {place.value}: first call {first_s:.2f} s after exec")
        assert first_s < FIRST_CALL_MAX_S


def first_call_s(calls: list[Call], pelton: Pelton) -> float:
    """From a life's exec to the first call of its own: each life has one connection."""
    firsts = [
        next(life) for _, life in groupby(sorted(calls, key=lambda c: (c.peer, c.start_ns)), lambda c: c.peer)
    ]
    starts = sorted(call.start_ns for call in firsts)
    return (next(start for start in starts if start > pelton.started_ns) - pelton.started_ns) / 1e9


def test_the_same_kill_without_transactions_writes_twice(world: World) -> None:
    """What the other test would see if the hop were not atomic."""
    with serving(target_of(world)) as target:
        config = world.configure(target, "    dead_letters: { atomic: never }")
        publish(world)
        dies(world.serve(config, "killed", Failpoint.HOPS_ACKED.value), Failpoint.HOPS_ACKED)
        pelton = world.serve(config)
        until(world.all_committed, "every partition to be committed to its end")
        pelton.stop()
    dead = copies(world)
    assert set(dead) == poisoned(world)
    assert max(dead.values()) == 2
