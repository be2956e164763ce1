"""Commits: the latest wins, one request at a time, nothing wanted is forgotten."""

from __future__ import annotations

from pelton.core.actions import Commit
from pelton.event import Partition
from pelton.kafka.commits import RETRY_WAIT_FIRST_S, RETRY_WAIT_MAX_S, Commits

A, B = Partition("t", 0), Partition("t", 1)


def test_the_latest_wins_and_one_request_is_out_at_a_time() -> None:
    commits = Commits()
    assert commits.take(0) == {}
    commits.want(A, Commit(1, ""))
    commits.want(A, Commit(2, "m"))
    assert commits.take(0) == {A: Commit(2, "m")}
    commits.want(A, Commit(3, ""))
    assert commits.take(0) == {}
    commits.answered([], 0)
    assert commits.take(0) == {A: Commit(3, "")}
    commits.answered([], 0)
    assert commits.take(0) == {}


def test_what_failed_is_sent_again_later_unless_something_newer_is() -> None:
    commits = Commits()
    commits.want(A, Commit(1, ""))
    commits.want(B, Commit(1, ""))
    commits.take(0)
    commits.want(A, Commit(2, ""))
    commits.answered([A, B], 10.0)
    assert commits.take(10.0) == {}
    later = 10.0 + RETRY_WAIT_FIRST_S
    assert commits.take(later) == {A: Commit(2, ""), B: Commit(1, "")}


def test_the_wait_doubles_has_a_bound_and_ends() -> None:
    commits = Commits()
    commits.want(A, Commit(1, ""))
    now = 0.0
    for _ in range(20):
        now += RETRY_WAIT_MAX_S
        assert commits.take(now)
        commits.answered([A], now)
    assert commits.take(now + RETRY_WAIT_MAX_S - 0.01) == {}
    assert commits.take(now + RETRY_WAIT_MAX_S)
    commits.answered([], now)
    commits.want(A, Commit(2, ""))
    assert commits.take(now)


def test_the_last_word_includes_what_is_on_its_way() -> None:
    commits = Commits()
    commits.want(A, Commit(1, ""))
    commits.want(B, Commit(1, ""))
    commits.take(0)
    commits.want(B, Commit(2, ""))
    assert commits.take_all() == {A: Commit(1, ""), B: Commit(2, "")}
    assert commits.take_all() == {}
    # The first request's answer is still to come: it must not stand for a later one.
    commits.want(A, Commit(3, ""))
    assert commits.take(0) == {}
    commits.answered([A], 0)
    assert commits.take(RETRY_WAIT_MAX_S) == {A: Commit(3, "")}


def test_a_last_word_that_failed_is_wanted_again() -> None:
    commits = Commits()
    commits.want(A, Commit(1, ""))
    sent = commits.take_all()
    commits.settle(sent, [A, B], 0)
    assert commits.take(RETRY_WAIT_MAX_S) == {A: Commit(1, "")}


def test_what_is_not_ours_is_not_sent_again() -> None:
    commits = Commits()
    commits.want(A, Commit(1, ""))
    commits.want(B, Commit(1, ""))
    commits.take(0)
    commits.want(A, Commit(2, ""))
    commits.drop([A])
    assert set(commits.answered([A, B], 0)) == {B}
    assert commits.take(RETRY_WAIT_MAX_S) == {B: Commit(1, "")}
