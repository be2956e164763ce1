"""Prints the delivery's state diagram for ARCHITECTURE.md, drawn from the table that the code obeys.

python scripts/draw_states.py
"""

from __future__ import annotations

from pelton.core.delivery import ENDS, OPEN, TRANSITIONS, State

__all__ = ["draw"]


def draw() -> str:
    """The mermaid text, without its fence. A state that nothing leads to is not built yet and not drawn."""
    reached = {State.QUEUED}.union(*TRANSITIONS.values())
    lines = ["stateDiagram-v2", "    [*] --> queued"]
    for state in State:
        lines += [f"    {state.value} --> {after.value}" for after in State if after in TRANSITIONS[state]]
    lines += [f"    {state.value} --> [*]" for state in State if state not in OPEN and state in reached]
    lines.append("    classDef settled fill:#dfd,stroke:#393")
    lines += [f"    class {state.value} settled" for state in State if state in ENDS and state in reached]
    return "\n".join(lines)


if __name__ == "__main__":
    print(draw())
