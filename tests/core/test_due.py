"""When a commit is asked for: soon, at once, or not while a transaction carries it."""

from __future__ import annotations

import pytest

from pelton.core.actions import Commit
from pelton.core.due import COMMIT_DELAY_MS, CommitDue

FOR_EVER = float("inf")


def test_nothing_settled_is_never_due() -> None:
    due = CommitDue()
    assert due.at_ms == FOR_EVER
    assert not due.now(1e12)


def test_it_waits_for_others_and_is_asked_for_once() -> None:
    due = CommitDue()
    due.settled(10.0, more=True)
    due.settled(30.0, more=True)
    assert due.at_ms == 10.0 + COMMIT_DELAY_MS
    assert not due.now(10.0)
    assert due.now(10.0 + COMMIT_DELAY_MS)
    due.asked(Commit(1, ""))
    assert due.last == Commit(1, "")
    assert not due.now(1e12)


def test_where_nothing_is_open_it_does_not_wait() -> None:
    due = CommitDue()
    due.settled(10.0, more=False)
    assert due.now(10.0)
    due.settled(10.0, more=True)
    assert not due.now(10.0)


def test_a_transaction_carries_it() -> None:
    due = CommitDue()
    due.settled(0.0, more=False)
    due.hold()
    due.settled(0.0, more=False)
    assert due.held
    assert due.at_ms == FOR_EVER
    assert not due.now(1e12)
    # Whatever was settled beside it, even before the hold, is due after it.
    due.let_go(1_000.0)
    assert not due.held
    assert due.at_ms == 1_000.0 + COMMIT_DELAY_MS


def test_one_transaction_at_a_time() -> None:
    due = CommitDue()
    due.hold()
    with pytest.raises(AssertionError, match="one transaction"):
        due.hold()
