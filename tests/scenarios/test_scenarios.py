"""The stories of `*.txt` in this folder, played on the engine.

`PELTON_REWRITE=1 pytest tests/scenarios` writes what happens into the scripts; commit such a change only if
you understand what caused it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pelton.core.delivery import TRANSITIONS, Delivery, State
from tests.scenarios.stage import play

SCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_scenario(path: Path) -> None:
    script = path.read_text()
    happened = play(script)
    if os.environ.get("PELTON_REWRITE"):
        path.write_text(happened)
    else:
        assert happened.splitlines() == script.splitlines()


def test_there_are_stories() -> None:
    assert len(SCRIPTS) >= 12
    for path in SCRIPTS:
        assert path.read_text().startswith("# "), f"{path.name} does not say what it tells"


def test_the_stories_take_every_arrow_of_the_state_diagram(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: set[tuple[State, State]] = set()
    to, start = Delivery.to, Delivery.start

    def recording(delivery: Delivery, state: State) -> None:
        taken.add((delivery.state, state))
        to(delivery, state)

    def starting(delivery: Delivery, now_ms: float, open_ms: float) -> None:
        taken.add((delivery.state, State.CALLING))
        start(delivery, now_ms, open_ms)

    monkeypatch.setattr(Delivery, "to", recording)
    monkeypatch.setattr(Delivery, "start", starting)
    for path in SCRIPTS:
        play(path.read_text())
    arrows = {(state, after) for state, into in TRANSITIONS.items() for after in into}
    # What is shelved has no delivery that could say that it is released.
    assert taken == arrows - {(State.SHELVED, State.RELEASED)}


def test_a_story_that_went_otherwise_is_noticed() -> None:
    script = "subscription\n----\nnothing\n\nevents a\n----\ncall 7 key=a attempt=1\n"
    assert play(script) == script.replace("call 7", "call 0")
