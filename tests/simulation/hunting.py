"""A planted bug, where all of them are found, and the hunt for one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from tests.simulation.run import run_here

__all__ = ["MUTANTS", "Caught", "Mutant", "Patch", "hunt", "mutant"]

Patch = AbstractContextManager[Any]
#: More schedules than any of them needs; one that survives them is not caught.
SCHEDULES_MAX = 3_000


@dataclass(frozen=True)
class Mutant:
    """One bug: what it does wrong, and how it is planted."""

    name: str
    plants: str
    plant: Callable[[], Patch]
    #: The seed at which the hunt begins. A bug that shows only once in hundreds of schedules has one before
    #: which nothing was found; when the drawing changes, it may take longer again.
    first: int = 0


@dataclass(frozen=True)
class Caught:
    """Who caught it, and with which seed."""

    schedules: int
    seed: int
    by: str


MUTANTS: dict[str, Mutant] = {}


def mutant(plants: str, *, first: int = 0) -> Callable[[Callable[[], Patch]], Callable[[], Patch]]:
    def register(plant: Callable[[], Patch]) -> Callable[[], Patch]:
        plant.__doc__ = plants
        MUTANTS[plant.__name__] = Mutant(plant.__name__, plants, plant, first)
        return plant

    return register


def hunt(prey: Mutant, schedules_max: int = SCHEDULES_MAX) -> Caught | None:
    """The first seed that shows it; None if none does."""
    with prey.plant():
        run = run_here(range(prey.first, prey.first + schedules_max), failures_max=1)
    if not run.failures:
        return None
    seed, text = run.failures[0]
    return Caught(run.schedules, seed, text)
