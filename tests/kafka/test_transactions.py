"""What comes out of the client's blocking calls; the real thing is in integration."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from confluent_kafka import KafkaError, KafkaException

from pelton.kafka.faults import error_of
from pelton.kafka.transactions import _unburied

FENCED = KafkaException(KafkaError(KafkaError._FENCED, fatal=True))


def client(begins: KafkaException | None) -> Any:
    """One that answers a next transaction so."""
    return Mock(spec_set=["begin_transaction"], begin_transaction=Mock(side_effect=begins))


def test_the_reason_beneath_is_what_counts() -> None:
    with pytest.raises(KafkaException) as raised, _unburied(client(None)):
        raise SystemError("returned a result with an exception set") from FENCED
    assert raised.value is FENCED


def test_without_a_reason_the_client_is_asked_for_it() -> None:
    """Seen of `flush`, one time in a hundred, when the broker had fenced it."""
    with pytest.raises(KafkaException) as raised, _unburied(client(FENCED)):
        raise SystemError("returned NULL without setting an exception")
    assert raised.value is FENCED


@pytest.mark.parametrize("begins", [None, KafkaException(KafkaError(KafkaError._STATE))])
def test_without_any_reason_the_client_is_finished_still(begins: KafkaException | None) -> None:
    with pytest.raises(KafkaException, match="NULL") as raised, _unburied(client(begins)):
        raise SystemError("returned NULL without setting an exception")
    assert error_of(raised.value).fatal()


def test_another_bug_stays_one() -> None:
    with pytest.raises(SystemError), _unburied(client(None)):
        raise SystemError("something else") from ValueError()
