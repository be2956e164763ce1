"""Kafka itself, to publish to and to read from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pelton.local.broker import LocalKafka
from tests.integration.delivery.world import Log


@pytest.fixture
def log(kafka: LocalKafka) -> Iterator[Log]:
    log = Log(kafka.bootstrap)
    yield log
    log.close()
