"""Failpoints: refused by name, counted, and deadly only where they are armed."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from pelton import failpoints
from pelton.errors import ConfigError
from pelton.failpoints import VARIABLE, Failpoint

DIE = """
import os
from pelton import failpoints
from pelton.failpoints import Failpoint
failpoints.arm(os.environ)
for number in range(1, 5):
    print(number, flush=True)
    failpoints.reach(Failpoint.COMMITS_SENT)
    failpoints.reach(Failpoint.OUTCOMES_FED)
"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("outcomes", "names no place"),
        ("outcomes-fed:", "no number of times"),
        ("outcomes-fed:0", "no number of times"),
        ("outcomes-fed:-1", "no number of times"),
        ("outcomes-fed:²", "no number of times"),
        ("OUTCOMES_FED", "names no place"),
    ],
)
def test_what_names_no_place_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        failpoints.arm({VARIABLE: text})
    assert VARIABLE in str(refused.value)


def test_unset_it_does_nothing() -> None:
    for environ in ({}, {VARIABLE: ""}):
        failpoints.arm(environ)
        for place in Failpoint:
            failpoints.reach(place)


@pytest.mark.parametrize(("times", "reached"), [("", "1\n"), (":3", "1\n2\n3\n")])
def test_it_dies_at_the_place_and_not_before(times: str, reached: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DIE],
        env={VARIABLE: f"outcomes-fed{times}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == reached


def test_serve_refuses_it_at_start() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pelton", "serve", "-c", "tests/config/samples/smallest.yaml"],
        env={VARIABLE: "somewhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert VARIABLE in done.stderr
