"""How hard the properties are tried: quick in normal runs, `HYPOTHESIS_PROFILE=deep` for a long search.

A failure prints the smallest example it found and a `@reproduce_failure(...)` line that replays it.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

__all__ = ["DEEP", "tried"]

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"


def tried(examples: int, *, steps: int = 50) -> settings:
    """So many examples in a normal run, twenty times as many and twice as long in a deep one."""
    return settings(
        max_examples=examples * 20 if DEEP else examples,
        stateful_step_count=steps * 2 if DEEP else steps,
        deadline=None,
        print_blob=True,
        # Two shared cores: slow data is no finding.
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
