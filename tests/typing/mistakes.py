"""Mistakes that a type checker must find, each in its own line, marked with what mypy calls it.

Never run; `test_typing.py` takes the marks away and compares what the checkers report with them.
"""

from __future__ import annotations

import pelton
from pelton import App, Context, Drop, Event, Publisher, Retry

app = App("shop")


@app.handler  # type: ignore[type-var]
async def says_false(event: Event) -> bool:
    return False


@app.handler(type=1)  # type: ignore[call-overload, untyped-decorator]
async def by_number(event: Event) -> None: ...


@app.handler(topic="orders")  # type: ignore[call-overload, untyped-decorator]
async def by_topic(event: Event) -> None: ...


Retry(after="2s")  # type: ignore[arg-type]
Drop()  # type: ignore[call-arg]
App()  # type: ignore[call-arg]
_ = pelton.Nothing  # type: ignore[attr-defined]


def about(context: Context, event: Event) -> None:
    context.attempt = 2  # type: ignore[misc]
    event.value = b""  # type: ignore[misc]
    _ = context.attemps  # type: ignore[attr-defined]


async def publish(publisher: Publisher) -> None:
    await publisher.publish("orders", b"", key=1)  # type: ignore[arg-type]
