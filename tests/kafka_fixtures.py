"""A real Kafka for the tests that want one: one broker for the whole pytest session, topics of unique names.

`tests/conftest.py` makes them known to every test. A broker that cannot start is an error of every test that
asked for it, never a skip.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from pelton.local.broker import LocalKafka

__all__ = ["CreateTopic", "create_topic", "kafka", "topic_name"]

#: A topic takes milliseconds on an idle broker.
CREATE_TIMEOUT_S = 30.0
#: Nothing leaves a topic by its age. Tests publish events that are years old, and the broker looks for those
#: every five minutes: between two lines of a test, one run in a hundred.
PROPERTIES = {"log.retention.ms": "-1"}

#: `create_topic(partitions=1, name="", config=None)` → the topic's name; a unique one if none is given.
CreateTopic = Callable[..., str]

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def kafka() -> Iterator[LocalKafka]:
    """The session's broker: `kafka.bootstrap` is its address. Do not stop it; other tests use it too."""
    with LocalKafka.temporary(properties=PROPERTIES) as broker:
        yield broker


def unique_name(request: pytest.FixtureRequest) -> str:
    """A name that says which test it belongs to, legal for a topic and a group, and never used twice."""
    test = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40].rstrip("-")
    return f"{test}-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def topic_name(request: pytest.FixtureRequest) -> str:
    """A topic name of this test alone; the topic does not exist yet."""
    return unique_name(request)


@pytest.fixture
def create_topic(kafka: LocalKafka, request: pytest.FixtureRequest) -> CreateTopic:
    """Make topics: `create_topic(partitions=8)` returns the name."""
    # It must stay referenced until its futures end: the function below holds it.
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})

    def create(partitions: int = 1, name: str = "", config: Mapping[str, str] | None = None) -> str:
        name = name or unique_name(request)
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        for future in admin.create_topics([topic], operation_timeout=CREATE_TIMEOUT_S).values():
            future.result(CREATE_TIMEOUT_S)
        return name

    return create
