"""Handlers and publishing as the README shows them: all of this must type-check, strictly.

Never run; `test_typing.py` hands it to mypy and pyright.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import assert_type

from pelton import App, Context, DeadLetter, Drop, Event, Json, NewEvent, Publisher, PublishError, Retry

app = App("shop")


@dataclass
class Order:
    id: int


@app.handler
async def every(event: Event, context: Context) -> None:
    assert_type(event.key, bytes | None)
    assert_type(event.value, bytes | None)
    assert_type(context.attempt, int)
    assert_type(context.parameters["priority"], str)
    assert_type(context.remaining, float | None)
    if context.last_failure is not None:
        assert_type(context.last_failure.code, int)


@app.handler(type="order.created")
async def created(order: Order, context: Context) -> Retry | Drop | DeadLetter | None:
    assert_type(order.id, int)
    if context.attempt > 3:
        return DeadLetter("tried enough")
    if order.id == 0:
        raise Drop("a test order")
    return Retry(after=timedelta(seconds=2), reason="not yet")


@app.handler(type="order.paid", subscription="notify-shop")
def paid(order: Json) -> Retry | None:
    return Retry(after=0.5) if order is None else None


# The decorator leaves the function as it is, so that it can be called and tested.
async def called() -> None:
    assert_type(await created(Order(1), Context("d", "s")), Retry | Drop | DeadLetter | None)
    assert_type(paid({}), Retry | None)


async def publish() -> None:
    async with Publisher("localhost:9092") as publisher:
        published = await publisher.publish("orders", {"id": 1}, key="1", type="order.created")
        assert_type(published.position.offset, int)
        for result in await publisher.publish_many([NewEvent(topic="orders", value=b"x")]):
            if isinstance(result, PublishError):
                raise result
            assert_type(result.position.partition, int)


def main() -> None:
    app.run("127.0.0.1:50051")
