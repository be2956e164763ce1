"""Verdicts are exceptions and values."""

from __future__ import annotations

import copy
import pickle
from datetime import timedelta

import pytest

from pelton.errors import PeltonError
from pelton.sdk.replies import DeadLetter, Drop, Retry, Verdict


def test_they_are_compared_by_what_they_say() -> None:
    assert Retry(after=2, reason="busy") == Retry(2.0, "busy")
    assert Retry(after=timedelta(milliseconds=1500)).after == 1.5
    assert Retry(after=2) != Retry(after=3)
    assert Drop("a") == Drop("a")
    assert Drop("a") != Drop("b")
    assert Drop("a") != DeadLetter("a")
    assert len({Drop("a"), Drop("a"), DeadLetter("a"), Retry(), Retry(0)}) == 4


def test_they_survive_copies() -> None:
    for verdict in (Retry(after=2, reason="busy"), Retry(), Drop("old"), DeadLetter("bad")):
        assert copy.copy(verdict) == verdict
        assert pickle.loads(pickle.dumps(verdict)) == verdict
    assert repr(Retry(after=2, reason="busy")) == "Retry(after=2.0, reason='busy')"
    assert repr(Drop("old")) == "Drop('old')"


def test_they_can_be_raised_and_are_no_errors_of_pelton() -> None:
    for kind in (Retry(), Drop("old"), DeadLetter("bad")):
        assert isinstance(kind, Verdict)
        assert not isinstance(kind, PeltonError)
        with pytest.raises(type(kind)) as caught:
            raise kind
        assert caught.value is kind


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), timedelta(seconds=-1), 1e12])
def test_a_wait_is_a_number_of_seconds(after: float | timedelta) -> None:
    with pytest.raises(ValueError, match="the wait must be"):
        Retry(after=after)
