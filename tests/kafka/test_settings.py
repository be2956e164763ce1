"""The client's settings: defaults, what passes through, what is refused."""

from __future__ import annotations

from typing import Any

import confluent_kafka
import pytest

from pelton.errors import ConfigError
from pelton.kafka.settings import (
    HOP_BYTES_MAX,
    admin_settings,
    consumer_settings,
    is_incremental,
    producer_settings,
    reader_settings,
    setting_problems,
    takes_slot,
    transaction_settings,
)

BASE: dict[str, Any] = {"bootstrap.servers": "localhost:9092"}


def test_the_consumers_settings() -> None:
    got = consumer_settings({**BASE, "fetch.wait.max.ms": 7, "acks": "all"}, group="g", instance_id="h-0")
    expected = {
        "group.id": "g",
        "group.instance.id": "h-0",
        "enable.auto.commit": "false",
        "enable.auto.offset.store": "false",
        "auto.offset.reset": "error",
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": 10_000,
        "heartbeat.interval.ms": 500,
        "queued.min.messages": 5000,
        "queued.max.messages.kbytes": 16_384,
        "fetch.queue.backoff.ms": 10,
        "isolation.level": "read_committed",
        "max.poll.interval.ms": 300_000,
        "fetch.wait.max.ms": 7,
    }
    assert {name: got.get(name) for name in expected} == expected
    assert "acks" not in got


def test_the_newer_protocol_has_none_of_the_classic_ones() -> None:
    got = consumer_settings({**BASE, "group.protocol": "consumer"}, group="g", instance_id="h-0")
    assert not {"group.instance.id", "session.timeout.ms", "heartbeat.interval.ms"} & set(got)
    assert "partition.assignment.strategy" not in got
    assert not takes_slot({"group.protocol": "consumer"})


def test_what_the_source_took_fits_into_a_transaction() -> None:
    assert transaction_settings(BASE, transactional_id="g/h-0")["message.max.bytes"] == HOP_BYTES_MAX
    chosen = transaction_settings({**BASE, "message.max.bytes": 5_000_000}, transactional_id="g/h-0")
    assert chosen["message.max.bytes"] == 5_000_000


def test_who_takes_a_slot_and_who_moves_single_partitions() -> None:
    assert takes_slot(BASE)
    assert not takes_slot({"group.instance.id": "mine"})
    assert is_incremental(BASE)
    assert not is_incremental({"partition.assignment.strategy": "range"})
    assert is_incremental({"group.protocol": "consumer"})


def test_the_producers_settings() -> None:
    got = producer_settings({**BASE, "linger.ms": 9})
    assert got["acks"] == "all"
    assert got["enable.idempotence"] == "true"
    assert got["partitioner"] == "murmur2_random"
    assert got["linger.ms"] == 9
    assert "delivery.timeout.ms" not in producer_settings({**BASE, "message.timeout.ms": 5})


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"enable.auto.commit": True}, "kafka.enable.auto.commit"),
        ({"enable.auto.commit": "true"}, "kafka.enable.auto.commit"),
        ({"enable.auto.offset.store": True}, "kafka.enable.auto.offset.store"),
        ({"auto.offset.reset": "latest"}, "kafka.auto.offset.reset"),
        ({"enable.partition.eof": True}, "kafka.enable.partition.eof"),
        ({"acks": 1}, "kafka.acks"),
        ({"request.required.acks": 0}, "kafka.request.required.acks"),
        ({"enable.idempotence": False}, "kafka.enable.idempotence"),
        ({"group.id": "g"}, "kafka.group.id"),
        ({"transactional.id": "x"}, "kafka.transactional.id"),
        ({"group.protocol": "newest"}, "kafka.group.protocol"),
        ({"partition.assignment.strategy": "range,roundrobin"}, "kafka.partition.assignment.strategy"),
        ({"group.protocol": "consumer", "session.timeout.ms": 1}, "kafka.session.timeout.ms"),
        ({"group.protocol": "consumer", "group.instance.id": "x"}, "kafka.group.instance.id"),
    ],
)
def test_what_would_break_the_guarantee_is_refused(settings: dict[str, Any], path: str) -> None:
    (problem,) = setting_problems(settings)
    assert problem.path == path
    assert problem.mend
    with pytest.raises(ConfigError):
        consumer_settings({**BASE, **settings}, group="g", instance_id=None)


@pytest.mark.parametrize(
    "settings",
    [
        {"enable.auto.commit": False, "enable.auto.offset.store": "False", "auto.offset.reset": "error"},
        {"acks": -1, "enable.idempotence": True},
        {"group.protocol": "consumer"},
        {"security.protocol": "SSL"},
    ],
)
def test_what_says_the_same_passes(settings: dict[str, Any]) -> None:
    assert setting_problems(settings) == []


def test_no_address_is_a_problem() -> None:
    for make in (producer_settings, admin_settings):
        with pytest.raises(ConfigError, match=r"bootstrap\.servers"):
            make({})


def test_the_client_takes_all_of_them() -> None:
    nowhere = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}
    for protocol in ("classic", "consumer"):
        settings = consumer_settings({**nowhere, "group.protocol": protocol}, group="g", instance_id="h-0")
        confluent_kafka.Consumer(settings).close()
    confluent_kafka.Consumer(reader_settings(nowhere, group="g")).close()
    confluent_kafka.Producer(producer_settings(nowhere))
