"""`pelton tail`: the events of a topic, as they stand and as they come, disturbing no subscription."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from cyclopts import Parameter
from cyclopts.validators import Number

from pelton.cli.bootstrap import Bootstrap, ConfigFile, Set, settings_of
from pelton.cli.quiet import say_once

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from pelton.event import Event

__all__ = ["tail"]

Start = Annotated[Literal["beginning", "end"] | int, Parameter(name="--from", allow_leading_hyphen=True)]


def tail(
    topic: str,
    /,
    *,
    start: Annotated[
        Literal["beginning", "end"] | int, Parameter(name="--from", allow_leading_hyphen=True)
    ] = "end",
    partition: Annotated[int | None, Parameter(validator=Number(gte=0))] = None,
    count_max: Annotated[int | None, Parameter(name="--max", validator=Number(gte=1))] = None,
    follow: Annotated[bool, Parameter(show_default=False)] = True,
    output: Literal["text", "json"] = "text",
    bootstrap: Bootstrap = "",
    config: ConfigFile = None,
    set: Set = (),
) -> None:
    """Show the events of a topic as they come, until Ctrl-C. No group is joined, nothing is committed.

    Parameters
    ----------
    topic
        The topic to read.
    start
        Where to start in each partition: beginning, end, an offset, or -N for the last N.
    partition
        Only this one.
    count_max
        End after so many events.
    follow
        Go on with what is published from now on; else end where the topic ends.
    output
        Text for people, or one line of JSON per event.
    """
    say_once()
    settings = settings_of(bootstrap, config, set)
    asyncio.run(_tail(settings, topic, start, partition, count_max, follow, output))


async def _tail(
    settings: Mapping[str, Any],
    topic: str,
    start: str | int,
    partition: int | None,
    count_max: int | None,
    follow: bool,
    output: Literal["text", "json"],
) -> None:
    from pelton.cli.show import as_json, as_text
    from pelton.kafka.tail import tail as events_of

    show = as_json if output == "json" else as_text
    events = events_of(settings, topic, start=start, partition=partition, count_max=count_max, follow=follow)
    # It is declared as an iterator, and is a generator: one that must be closed for its client to be.
    async with aclosing(cast("AsyncGenerator[Event, None]", events)):
        async for event in events:
            sys.stdout.write(show(event) + "\n")
            sys.stdout.flush()  # whoever reads a pipe wants each event when it comes
