"""Every planted bug is caught, within so many schedules: the auditor is awake."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation.hunting import SCHEDULES_MAX
from tests.simulation.mutants import MUTANTS, hunt

pytestmark = [pytest.mark.timeout(300), pytest.mark.interpreted]

#: Who may have caught it: the auditor, or an assert. Any other error is a simulation that is broken itself.
AUDITED = ("Violation: ", "AssertionError: ")


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_caught(name: str, note: Callable[[str], None]) -> None:
    caught = hunt(MUTANTS[name])
    assert caught is not None, f"{name} survives {SCHEDULES_MAX} schedules: it {MUTANTS[name].plants}"
    assert caught.by.startswith(AUDITED), f"{name} was not caught, the simulation broke: {caught.by}"
    note(f"mutant {name}: caught after {caught.schedules} schedules, by {caught.by[:60]}")
