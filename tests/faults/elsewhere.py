"""Faults of the list that need no load and no journals: which test shows each, for `docs/faults.md`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["ELSEWHERE"]

#: Number, fault, and the test: a file, or a function in one.
ELSEWHERE: Final[Sequence[tuple[str, str, str]]] = [
    ("22", "events at, and one above, the target's limit", "tests/edges/test_on_real_kafka.py"),
    (
        "22",
        "requests above the server's limit",
        "tests/conformance/test_lifecycle.py::test_larger_than_the_server_takes",
    ),
    ("22", "answers above ours", "tests/edges/test_answers.py"),
    ("22", "dead letters above their topic's limit", "tests/integration/test_transactions.py"),
    (
        "23",
        "20 KB, 20 000 and illegal headers, a giant and an empty key",
        "tests/edges/test_on_real_kafka.py",
    ),
    (
        "23",
        "metadata that no call may have",
        "tests/conformance/test_lifecycle.py::test_illegal_metadata",
    ),
    (
        "24",
        "truncated, deeply nested, compressed, forged and false records, in one topic",
        "tests/edges/test_on_real_kafka.py::test_every_poison_has_its_end",
    ),
    ("24", "any bytes as a record, a reply, a map", "tests/edges/test_any_bytes.py"),
    ("24", "work that grows no faster than its input", "tests/edges/test_cost.py"),
    (
        "31",
        "a topic deleted and made again",
        "tests/integration/test_topics_that_change.py"
        "::test_a_topic_made_again_is_read_from_its_beginning_however_long_it_is_already",
    ),
    (
        "31",
        "partitions added",
        "tests/integration/test_topics_that_change.py"
        "::test_what_came_into_a_new_partition_before_it_was_found_is_delivered",
    ),
    (
        "31",
        "aborted transactions in the source",
        "tests/integration/test_topics_that_change.py::test_aborted_transactions_are_holes",
    ),
    (
        "31",
        "retention takes what was not read",
        "tests/integration/test_consumer.py::test_offsets_lost_to_retention_are_told",
    ),
    (
        "36",
        "a map of a later version, alone",
        "tests/core/test_ackmap.py::test_a_later_version_is_refused_by_its_number",
    ),
]
