"""The orders service: what Pelton calls. It is the file to copy for a service of your own.

    .venv/bin/python -m examples.demo.service

A handler says what becomes of an event by how it ends: it returns, and the event is done; it raises `Retry`
or any other exception, and the event comes again; it raises `DeadLetter`, and the event is set aside. No
Kafka here: the service is called over gRPC, and by whom is not its business.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass
from pathlib import Path

from examples.demo.journal import Journal
from pelton import App, Context, DeadLetter, Retry

#: What a handler's work takes.
WORK_S = 0.002
#: The bank takes a payment when it is asked for the third time.
BANK_ATTEMPTS = 3

app = App("orders")
journal = Journal(None)


@dataclass(frozen=True)
class Order:
    """The events' JSON. One that lacks a field, or has text for a number, never reaches a handler."""

    customer: str
    #: Of this customer's events, counted from 1.
    number: int
    cents: int


@app.handler(type="order.placed")
@app.handler(type="order.packed")
async def note_progress(order: Order, context: Context) -> None:
    """The ordinary case: do the work and return."""
    with journal.call(order.customer, order.number, context.attempt):
        await asyncio.sleep(WORK_S)


@app.handler(type="order.paid")
async def take_payment(order: Order, context: Context) -> None:
    """What may succeed later: fails twice, then succeeds. The customer's next event waits so long."""
    with journal.call(order.customer, order.number, context.attempt):
        await asyncio.sleep(WORK_S)
        if context.attempt < BANK_ATTEMPTS:
            raise Retry(reason="the bank is busy")


@app.handler(type="order.shipped")
async def tell_customer(order: Order, context: Context) -> None:
    """What the event alone does not say comes as a parameter, from the subscription in pelton.yaml."""
    with journal.call(order.customer, order.number, context.attempt):
        text = f"{order.customer}: your order is on its way with {context.parameters['carrier']}"
        await send(text)


@app.handler(type="order.refunded")
async def refund(order: Order, context: Context) -> None:
    """Poison: it will not succeed however often it is tried, and saying so saves the attempts."""
    with journal.call(order.customer, order.number, context.attempt):
        raise DeadLetter(f"no payment of {order.cents / 100:.2f} to give back")


async def send(text: str) -> None:
    """Where a shop would call its mail service."""
    await asyncio.sleep(WORK_S)


def main() -> None:
    global journal
    parser = argparse.ArgumentParser(prog="service", description="Handle the events of orders.")
    parser.add_argument(
        "--address", default="127.0.0.1:50051", help="where to listen; port 0 takes a free one"
    )
    parser.add_argument("--journal", type=Path, help="write down every call, for the demo's check")
    options = parser.parse_args()
    journal = Journal(options.journal)
    app.run(options.address)
    journal.close()


if __name__ == "__main__":
    main()
