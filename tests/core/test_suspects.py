"""Suspect keys: remembered until one of their events is acked, and no more than a bound of them."""

from __future__ import annotations

import pytest

from pelton.core import suspects
from pelton.core.suspects import Suspects


def test_a_key_is_suspect_until_it_is_cleared() -> None:
    keys = Suspects()
    keys.add(b"a")
    keys.add(b"a")
    keys.add(b"")
    assert len(keys) == 2
    assert b"a" in keys
    assert b"" in keys
    assert b"b" not in keys
    keys.clear(b"a")
    keys.clear(b"never added")
    assert b"a" not in keys
    assert b"" in keys


def test_no_key_is_nobody() -> None:
    keys = Suspects()
    keys.add(None)
    assert len(keys) == 0
    assert None not in keys
    keys.clear(None)


def test_the_oldest_is_forgotten_beyond_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    assert suspects.SUSPECT_KEYS_MAX == 10_000
    monkeypatch.setattr(suspects, "SUSPECT_KEYS_MAX", 3)
    keys = Suspects()
    for key in (b"a", b"b", b"c", b"d"):
        keys.add(key)
    assert len(keys) == 3
    assert b"a" not in keys
    assert b"d" in keys
