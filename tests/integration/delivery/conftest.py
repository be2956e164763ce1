"""A world for each delivery proof: a topic of eight partitions on the session's broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pelton.local.broker import LocalKafka
from tests.integration.delivery.world import Log, World
from tests.kafka_fixtures import CreateTopic


@pytest.fixture
def log(kafka: LocalKafka) -> Iterator[Log]:
    log = Log(kafka.bootstrap)
    yield log
    log.close()


@pytest.fixture
def world(kafka: LocalKafka, create_topic: CreateTopic, tmp_path: Path) -> Iterator[World]:
    world = World(kafka.bootstrap, create_topic(partitions=8), 8, tmp_path)
    yield world
    world.end()
