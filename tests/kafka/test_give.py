"""One record to the client: taken, not now, or never. Real queues empty too seldom at the wrong moment."""

from __future__ import annotations

from typing import Any, cast

import confluent_kafka
import pytest

from pelton.errors import PublishError
from pelton.kafka.producer import give
from pelton.kafka.records import Outgoing


class Client:
    """Its queue refuses the first records; `held` says how many it has each time it is asked."""

    def __init__(self, refuses: int, held: list[int]) -> None:
        self.refuses = refuses
        self.held = held
        self.taken: list[str] = []

    def __len__(self) -> int:
        return self.held.pop(0)

    def produce(self, topic: str, *_: object, **__: object) -> None:
        if self.refuses:
            self.refuses -= 1
            raise BufferError("Local: Queue full")
        self.taken.append(topic)


def given(client: Client) -> bool:
    return give(cast(confluent_kafka.Producer, client), Outgoing("t", b"k", b"v"), cast(Any, None))


def test_what_is_taken_is_given_once() -> None:
    client = Client(refuses=0, held=[])
    assert given(client)
    assert client.taken == ["t"]


def test_a_full_queue_takes_it_later() -> None:
    client = Client(refuses=1, held=[10])
    assert not given(client)
    assert client.taken == []


def test_a_queue_that_has_become_empty_since_takes_it_now() -> None:
    client = Client(refuses=1, held=[0])
    assert given(client)
    assert client.taken == ["t"]


def test_what_an_empty_queue_refuses_is_too_large() -> None:
    client = Client(refuses=2, held=[0, 0])
    with pytest.raises(
        PublishError, match=r"not written to t: larger than queue\.buffering\.max\.kbytes"
    ) as caught:
        given(client)
    assert not caught.value.retriable
    assert client.taken == []
