"""What is read ahead keeps to the process's bound, however many share it and however large a record is."""

from __future__ import annotations

import confluent_kafka
import pytest

from pelton.kafka.prefetch import (
    BATCH_BYTES_MAX,
    BATCH_EVENTS_MAX,
    FETCH_BYTES_MAX,
    FETCH_BYTES_MIN,
    PACKED_TIMES,
    PREFETCH_BYTES_MAX,
    PREFETCH_BYTES_MIN,
    Batches,
    prefetch_bytes,
    prefetch_settings,
)
from pelton.kafka.settings import consumer_settings, reader_settings

PROCESS = 64 << 20


@pytest.mark.parametrize(
    ("sharers", "each"),
    [
        (1, PREFETCH_BYTES_MAX),
        (2, PREFETCH_BYTES_MAX),
        (8, 4 << 20),
        (32, 1 << 20),
        (256, PREFETCH_BYTES_MIN),
    ],
)
def test_all_queues_together_hold_half_of_the_bound(sharers: int, each: int) -> None:
    assert prefetch_bytes(PROCESS, sharers) == each
    if sharers <= 128:
        assert each * sharers <= PROCESS / 2


@pytest.mark.parametrize(
    ("record_bytes", "events"),
    [(0, BATCH_EVENTS_MAX), (1_000, BATCH_EVENTS_MAX), (10_000, 104), (1_000_000, 1), (50_000_000, 1)],
)
def test_a_batch_is_bounded_in_events_and_bytes(record_bytes: int, events: int) -> None:
    batches = Batches(PREFETCH_BYTES_MAX)
    taken = 1 + batches.more(record_bytes)
    assert taken == events
    assert taken == 1 or taken * record_bytes <= BATCH_BYTES_MAX


def test_a_small_first_one_does_not_hide_that_the_last_ones_were_large() -> None:
    batches = Batches(PREFETCH_BYTES_MAX)
    batches.took(10, 1_000_000)
    assert 1 + batches.more(1) == 10
    batches.took(10, 1_000)
    assert 1 + batches.more(1) == BATCH_EVENTS_MAX
    # With a short queue batches are small as well.
    assert 1 + Batches(1 << 20).more(10_000) == 26


def test_the_client_takes_what_is_computed_and_the_users_own_wins() -> None:
    nowhere = {"bootstrap.servers": "127.0.0.1:1"}
    got = consumer_settings(nowhere, group="g", instance_id=None, read_ahead_bytes=1 << 20)
    assert (got["queued.max.messages.kbytes"], got["fetch.max.bytes"]) == (1_024, 64 << 10)
    for more in ({}, {"message.max.bytes": 5_000_000}, {"queued.max.messages.kbytes": 99}):
        settings = {**nowhere, **more}
        got = consumer_settings(settings, group="g", instance_id=None, read_ahead_bytes=256 << 10)
        assert got.items() >= more.items() - {("message.max.bytes", 5_000_000)}
        confluent_kafka.Consumer(got).close()
        confluent_kafka.Consumer(reader_settings(settings, group="g")).close()


@pytest.mark.parametrize("sharers", [1, 2, 8, 16, 32])
def test_what_all_fetches_unpack_to_is_no_more_than_the_queues_hold(sharers: int) -> None:
    fetch_bytes = prefetch_settings(prefetch_bytes(PROCESS, sharers))["fetch.max.bytes"]
    assert FETCH_BYTES_MIN <= fetch_bytes <= FETCH_BYTES_MAX
    assert fetch_bytes * PACKED_TIMES * sharers <= PROCESS / 2


@pytest.mark.parametrize(("sharers", "wait_ms"), [(1, 25), (2, 25), (4, 50), (8, 100), (200, 100)])
def test_the_more_share_a_process_the_seldomer_each_asks_for_nothing(sharers: int, wait_ms: int) -> None:
    assert prefetch_settings(prefetch_bytes(PROCESS, sharers))["fetch.wait.max.ms"] == wait_ms


def test_a_record_that_is_larger_than_a_batch_comes_alone() -> None:
    batches = Batches(PREFETCH_BYTES_MAX)
    assert not batches.large
    batches.took(1, BATCH_BYTES_MAX + 1)
    assert batches.large
    batches.took(10, BATCH_BYTES_MAX)
    assert not batches.large
