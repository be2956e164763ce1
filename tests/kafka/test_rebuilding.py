"""A consumer that is fenced joins anew: on a client that speaks to nobody; integration has the real thing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError

from pelton.errors import FencedError
from pelton.event import Partition
from pelton.kafka import rebuilds
from pelton.kafka.consumer import Consumer
from pelton.kafka.rebuilds import REBUILDS_MAX
from tests.integration.kafka_listening import Listening, subscription, until

P = Partition("t", 0)


class Client:
    """Each of the first `fences` is fenced at its first poll from then on."""

    made: list[Client]
    fences: int

    def __init__(self, settings: dict[str, Any], **_: object) -> None:
        self.settings = settings
        self.closed = False
        self.subscribed = False
        self._fenced = False
        type(self).made.append(self)

    def subscribe(self, topics: list[str], **callbacks: Any) -> None:
        self.subscribed = True

    def poll(self, timeout: float) -> None:
        if len(self.made) <= self.fences and not self._fenced:
            self._fenced = True
            self.settings["error_cb"](KafkaError(KafkaError.FENCED_INSTANCE_ID))

    def get_watermark_offsets(self, *_: object, **__: object) -> tuple[int, int]:
        return 0, 0

    def unsubscribe(self) -> None:
        """It has left when this returns."""

    def memberid(self) -> str:
        return ""

    def close(self) -> None:
        self.closed = True


class TopicIds:
    def __init__(self, *_: object) -> None:
        """Nothing is looked up."""

    def look(self, now: float) -> list[str]:
        return []


@pytest.fixture(autouse=True)
def client(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    monkeypatch.setattr("pelton.kafka.consumer_thread.confluent_kafka.Consumer", Client)
    monkeypatch.setattr("pelton.kafka.consumer.TopicIds", TopicIds)
    monkeypatch.setattr(rebuilds, "REBUILD_WAIT_FIRST_S", 0.0)
    Client.made = []
    Client.fences = 0
    return Client


def consumer(listener: Listening) -> Consumer:
    declared = subscription("g", "t", kafka={"group.instance.id": "me"})
    settings = {"bootstrap.servers": "127.0.0.1:1"}
    listener.consumer = Consumer(
        declared, settings, listener, asyncio.get_running_loop(), drain_timeout_ms=1_000
    )
    return listener.consumer


async def test_it_joins_anew_under_its_name_and_what_it_held_is_lost(client: type[Client]) -> None:
    listener = Listening()
    one = consumer(listener)
    joins: list[Callable[[], None]] = []
    one._before_joining = lambda name, join: joins.append(join)
    one.start()
    assert one._thread is not None
    one._thread._assignment.add([P])
    held = one._thread._assignment.get(P)
    assert held is not None
    held.announced = held.paused = True
    listener.assigned[P] = None  # type: ignore[assignment]
    # A commit that is not answered, and somebody who waits for it.
    one._thread._committing.start_at(P, 1)
    one._thread._committing._commits._awaited = True
    asked: list[object] = []
    one.quiet([P], asked.append)
    client.fences = 1
    joins[0]()
    await until(lambda: len(client.made) == 2, "the second client")
    assert client.made[0].closed
    assert listener.lost == [P]
    assert asked == [None]
    await until(lambda: client.made[1].subscribed, "the second to join")
    assert [made.settings["group.instance.id"] for made in client.made] == ["me", "me"]
    assert one.statistics().rebuilds == 1
    assert one.statistics().polls > 0
    await one.stop()
    assert client.made[1].closed
    assert not listener.failures


async def test_it_ends_when_it_is_fenced_again_and_again(client: type[Client]) -> None:
    listener = Listening()
    one = consumer(listener)
    client.fences = 1_000
    one.start()
    await until(lambda: listener.failures, "the end")
    assert len(client.made) == 1 + REBUILDS_MAX
    assert all(made.closed for made in client.made)
    (failure,) = listener.failures
    assert isinstance(failure, FencedError)
    assert f"joined anew {REBUILDS_MAX} times" in str(failure)
    await one.stop()
    assert len(listener.failures) == 1


async def test_a_stop_while_it_waits_to_join_anew_joins_nothing(
    client: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilds, "REBUILD_WAIT_FIRST_S", 3_600.0)
    listener = Listening()
    one = consumer(listener)
    client.fences = 1_000
    one.start()
    await until(lambda: len(client.made) == 3, "the one that has to wait")
    await one.stop()
    assert not client.made[2].subscribed
    assert client.made[2].closed
    assert not listener.failures
