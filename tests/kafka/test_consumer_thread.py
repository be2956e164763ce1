"""What the consumer's thread makes of commands; it does not run here, and no broker is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pelton.core.actions import Commit
from pelton.event import Partition
from pelton.kafka.assignment import Held
from pelton.kafka.consumer_thread import POLL_WAIT_S, Command, ConsumerThread
from pelton.kafka.topic_ids import TopicIds
from tests.integration.kafka_listening import Listening, subscription

P = Partition("t", 0)
SETTINGS: dict[str, Any] = {"bootstrap.servers": "127.0.0.1:1", "group.id": "g"}


@pytest.fixture
def thread() -> Iterator[ConsumerThread]:
    loop = asyncio.new_event_loop()
    yield made(loop)
    loop.close()


def made(loop: asyncio.AbstractEventLoop, sharers: int = 1) -> ConsumerThread:
    declared = subscription("g", "t")
    topic_ids = TopicIds(SETTINGS, ["t"])
    return ConsumerThread(
        declared, SETTINGS, topic_ids, Listening(), loop, 1.0, lambda *_: None, sharers=sharers
    )


def assigned(thread: ConsumerThread) -> Held:
    """It came and was announced; whether the loop has heard of it is another matter."""
    thread._assignment.add([P])
    held = thread._assignment.get(P)
    assert held is not None
    held.announced = True
    held.starts_at(5)
    return held


def run(thread: ConsumerThread, *commands: tuple[Command, Any]) -> None:
    for command in commands:
        thread.commands.put(command)
    thread._run_commands()


def test_what_was_meant_for_an_earlier_assignment_is_not_done(thread: ConsumerThread) -> None:
    held = assigned(thread)
    run(
        thread,
        (Command.PAUSE, (P,)),
        (Command.RELEASE, (P,)),
        (Command.COMMIT, {P: Commit(90, "of the one before")}),
    )
    # Else it would stand still for ever: nobody who knows it has paused it.
    assert not held.paused
    assert not held.released
    assert thread.statistics.commits_refused == 1
    assert thread._committing._commits.take(0.0) == {}


def test_from_when_it_was_heard_of_it_is_done(thread: ConsumerThread) -> None:
    gone = assigned(thread)
    held = assigned(thread)
    run(thread, (Command.HEARD, [gone]), (Command.PAUSE, (P,)))
    assert not held.paused
    run(thread, (Command.HEARD, [held]), (Command.PAUSE, (P,)), (Command.COMMIT, {P: Commit(7, "")}))
    assert held.paused
    assert thread._committing._commits.take(0.0) == {P: Commit(7, "")}
    run(thread, (Command.RESUME, (P,)), (Command.RELEASE, (P,)))
    assert not held.paused
    assert held.released


def test_a_loop_that_is_behind_is_read_for_again_when_it_says_so(thread: ConsumerThread) -> None:
    assert [thread._places() for _ in range(3)] == [1, 1, 0]
    thread.commands.put((Command.HANDLED, 1))
    thread._wait_for_command()
    assert [thread._places() for _ in range(2)] == [1, 0]


def polls(thread: ConsumerThread, times: int) -> list[float]:
    """How long each of so many polls waits, of which none brings anything."""
    waits: list[float] = []
    thread._client = cast("Any", SimpleNamespace(poll=waits.append))
    for _ in range(times):
        assert thread._poll() == []
    return waits


def test_a_consumer_that_is_alone_looks_for_commands_as_often_when_it_is_idle(thread: ConsumerThread) -> None:
    assert polls(thread, 5) == [POLL_WAIT_S] * 5


def test_of_many_consumers_the_idle_ones_wake_seldom_until_something_comes() -> None:
    loop = asyncio.new_event_loop()
    thread = made(loop, sharers=200)
    assert polls(thread, 6) == [POLL_WAIT_S, POLL_WAIT_S, 0.04, 0.08, 0.16, 0.2]
    run(thread, (Command.COMMIT, {}))
    assert polls(thread, 1) == [POLL_WAIT_S]
    loop.close()
