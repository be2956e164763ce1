"""A write that timed out says why, as far as the brokers say it; they are not asked too often."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from pelton.errors import BrokerError
from pelton.kafka import unwritten
from pelton.kafka.unwritten import LOOK_EVERY_S, LOOK_TIMEOUT_S, TOPICS_MAX, Unwritten

LATE = KafkaError(KafkaError._MSG_TIMED_OUT)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(unwritten, "time", made)
    return made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return _asked(monkeypatch, None)


def _asked(monkeypatch: pytest.MonkeyPatch, said: int | BrokerError | None) -> list[str]:
    asked: list[str] = []

    def partitions_of(settings: object, topics: list[str], timeout: float) -> dict[str, int | None]:
        assert timeout == LOOK_TIMEOUT_S
        asked.extend(topics)
        if isinstance(said, BrokerError):
            raise said
        return dict.fromkeys(topics, said)

    monkeypatch.setattr(unwritten, "partitions_of", partitions_of)
    return asked


def failed() -> Unwritten:
    return Unwritten({"bootstrap.servers": "here:9092"})


def test_a_topic_that_is_gone_is_named(asked: list[str]) -> None:
    error = failed().error(LATE, "dlq.shop")
    assert str(error) == (
        "not written to dlq.shop: the topic is not there at here:9092. Check its name, or create it"
    )
    assert error.retriable
    assert asked == ["dlq.shop"]


def test_a_topic_that_is_there_and_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    _asked(monkeypatch, 3)
    error = failed().error(LATE, "t")
    assert "not acknowledged by t at here:9092 in time: the topic is there" in str(error)
    assert "3 partitions" in str(error)
    assert "min.insync.replicas" in str(error)
    assert error.retriable


def test_brokers_that_do_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    _asked(monkeypatch, BrokerError("no answer in 2 s"))
    error = failed().error(LATE, "t")
    assert "whether the topic is there is not known: no answer in 2 s" in str(error)
    assert error.retriable


def test_they_are_asked_once_for_many_and_again_later(clock: Clock, asked: list[str]) -> None:
    records = failed()
    first = str(records.error(LATE, "t"))
    assert str(records.error(LATE, "t")) == first
    records.error(LATE, "u")
    clock.now += LOOK_EVERY_S - 0.1
    assert str(records.error(LATE, "t")) == first
    assert asked == ["t", "u"]
    clock.now += 0.1
    records.error(LATE, "t")
    assert asked == ["t", "u", "t"]


def test_what_is_remembered_has_a_bound(asked: list[str]) -> None:
    records = failed()
    for number in range(TOPICS_MAX + 5):
        records.error(LATE, f"t{number}")
    assert len(records._found) == TOPICS_MAX
    records.error(LATE, f"t{TOPICS_MAX + 4}")
    assert len(asked) == TOPICS_MAX + 5


@pytest.mark.parametrize(
    ("code", "mend", "retriable"),
    [
        (KafkaError._UNKNOWN_TOPIC, "the topic is not there", True),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "the topic is not there", True),
        (KafkaError.MSG_SIZE_TOO_LARGE, "max.message.bytes", False),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "Allow this user", False),
        (KafkaError._UNKNOWN_PARTITION, "Add partitions", False),
        (KafkaError.NOT_ENOUGH_REPLICAS, "NOT_ENOUGH_REPLICAS", True),
    ],
)
def test_what_the_client_says_itself_is_not_asked_for(
    asked: list[str], code: int, mend: str, retriable: bool
) -> None:
    error = failed().error(KafkaError(code), "t")
    assert str(error).startswith("not written to t: ")
    assert mend in str(error)
    assert error.retriable is retriable
    assert asked == []
