"""The publisher: customers' orders as events, at a steady rate.

    .venv/bin/python -m examples.demo.publisher

The customer is the key, so a customer's events stay in order, and those of others do not wait for them.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Final

from examples.demo.journal import Journal, Published
from pelton import NewEvent, PeltonError, Publisher, PublishError

TOPIC: Final = "orders"
#: How an order goes; every fifth ends in a refund that nobody can give.
ORDER: Final = ("order.placed", "order.paid", "order.packed")
STORY: Final = (*(*ORDER, "order.shipped") * 4, *ORDER, "order.refunded")
#: What has come due is published together, so often.
TICK_S: Final = 0.02
#: Handed over at once, if the rate asks for more than a tick can hold.
BATCH_EVENTS_MAX: Final = 1_000


def orders(customers: int, seed: int = 1) -> Iterator[NewEvent]:
    """The shop's events, without end: some customer's next one each time."""
    chance = random.Random(seed)
    numbers: Counter[int] = Counter()
    while True:
        customer = chance.randrange(customers)
        name = f"customer-{customer + 1:02}"
        # Each customer begins at another place of the story, so that all of it is seen at once.
        kind = STORY[(customer + numbers[customer]) % len(STORY)]
        numbers[customer] += 1
        value = {"customer": name, "number": numbers[customer], "cents": chance.randrange(500, 20_000)}
        yield NewEvent(value=value, key=name, type=kind)


async def publish(options: argparse.Namespace, journal: Journal) -> None:
    """Publish so many events at this rate; SIGTERM and Ctrl-C end it early, with none left in between."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    events = orders(options.keys)
    published = 0
    async with Publisher(options.bootstrap, topic=TOPIC, source="/shop") as publisher:
        start = loop.time()
        while published < options.events and not stop.is_set():
            due = min(options.events, int((loop.time() - start) * options.rate) + 1) - published
            batch = list(islice(events, min(due, BATCH_EVENTS_MAX)))
            # One result for each event: its position in Kafka, or why it was not taken.
            for event, result in zip(batch, await publisher.publish_many(batch), strict=True):
                if isinstance(result, PublishError):
                    raise result
                journal.write(Published(event.value["customer"], event.value["number"], str(event.type)))
            if not published:
                start = loop.time()  # the first one also had to find the brokers
            published += len(batch)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), TICK_S)


def main() -> None:
    parser = argparse.ArgumentParser(prog="publisher", description="Publish the events of orders.")
    parser.add_argument("--bootstrap", default="127.0.0.1:9092", help="Kafka's address")
    parser.add_argument("--events", type=int, default=1_000, help="how many")
    parser.add_argument("--rate", type=float, default=50.0, help="events a second")
    parser.add_argument("--keys", type=int, default=40, help="how many customers")
    parser.add_argument("--journal", type=Path, help="write down every event, for the demo's check")
    options = parser.parse_args()
    with closing(Journal(options.journal)) as journal:
        try:
            asyncio.run(publish(options, journal))
        except PeltonError as error:
            raise SystemExit(f"publisher: {error}") from None


if __name__ == "__main__":
    main()
