"""A broker that says nothing, whatever its connections look like, is noticed; and so is that it is back."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pelton.bridge import running as running_module
from pelton.bridge.running import Running
from pelton.kafka import settings as settings_module
from pelton.kafka.consumer import Consumer
from pelton.local.broker import LocalKafka
from tests.integration.kafka_listening import consuming, subscription, until
from tests.kafka_fixtures import CreateTopic

REPORT_EVERY_MS = 100
SILENT_MS = 1_500.0


def of(consumer: Consumer, bootstrap: str) -> Running:
    """A subscription of which only the consumer is real, and which has its place in the group."""
    one = object.__new__(Running)
    one._pump = cast(Any, SimpleNamespace(joined=True))
    one._consumer = consumer
    one._kafka = {"bootstrap.servers": bootstrap}
    return one


def broker_pid(kafka: LocalKafka) -> int:
    """Between us and the broker stands its supervisor."""
    supervisor = kafka.status().pid
    (pid,) = map(int, Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split())
    return pid


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = ((str(REPORT_EVERY_MS),), "")
    monkeypatch.setitem(settings_module._PINNED_CONSUMING, "statistics.interval.ms", pinned)
    monkeypatch.setattr(running_module, "BROKERS_SILENT_MS", SILENT_MS)


async def test_a_broker_that_is_frozen(kafka: LocalKafka, create_topic: CreateTopic) -> None:
    topic = create_topic()
    pid = broker_pid(kafka)
    async with consuming(kafka.bootstrap, subscription(f"g-{topic}", topic)) as listener:
        await until(lambda: listener.assigned, "the partition")
        one = of(listener.consumer, kafka.bootstrap)
        assert one.not_ready == ""
        os.kill(pid, signal.SIGSTOP)
        try:
            await until(lambda: one.not_ready, "the silence to be noticed")
            assert one.not_ready.startswith(f"Kafka at {kafka.bootstrap} has not answered for ")
        finally:
            os.kill(pid, signal.SIGCONT)
        await until(lambda: not one.not_ready, "the broker to be heard again")


async def test_a_broker_that_never_was_there() -> None:
    async with consuming("127.0.0.1:1", subscription("g-never", "never")) as listener:
        one = of(listener.consumer, "127.0.0.1:1")
        assert one.not_ready == ""
        await until(lambda: one.not_ready, "the silence to be noticed")
        assert "Kafka at 127.0.0.1:1 has not answered" in one.not_ready
