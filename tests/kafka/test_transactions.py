"""What comes out of the client's blocking calls; the real thing is in integration."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from pelton.kafka.faults import error_of
from pelton.kafka.transactions import _unburied


def test_the_reason_beneath_is_what_counts() -> None:
    fenced = KafkaException(KafkaError(KafkaError._FENCED))
    with pytest.raises(KafkaException) as raised, _unburied():
        raise SystemError("returned a result with an exception set") from fenced
    assert raised.value is fenced


def test_without_a_reason_the_client_is_finished() -> None:
    """Seen of `flush` on a busy computer, when the broker had fenced it: the thread ended with it."""
    with pytest.raises(KafkaException, match="NULL") as raised, _unburied():
        raise SystemError("returned NULL without setting an exception")
    assert error_of(raised.value).fatal()


def test_another_bug_stays_one() -> None:
    with pytest.raises(SystemError), _unburied():
        raise SystemError("something else") from ValueError()
