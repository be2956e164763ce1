"""`pelton publish`: one event from the command line, or a few of the same."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter
from cyclopts.validators import Number

from pelton.cli.bootstrap import Bootstrap, ConfigFile, Set, settings_of
from pelton.cli.quiet import say_once
from pelton.errors import ConfigError, Problem, PublishError

if TYPE_CHECKING:
    from pelton.kafka.publisher import NewEvent

__all__ = ["publish"]

#: Of a value from a file or from standard input: no broker is set up to take more, and a device that never
#: ends must not fill the memory.
VALUE_BYTES_MAX: Final = 64 << 20
#: Handed over at once where many are asked for; their positions are shown after each such batch.
BATCH_EVENTS: Final = 1_000


def publish(
    topic: str,
    value: Annotated[str, Parameter(allow_leading_hyphen=True)] = "-",
    /,
    *,
    key: str | None = None,
    header: Annotated[
        tuple[str, ...], Parameter(name=["--header", "-H"], negative="", show_default=False)
    ] = (),
    type: str | None = None,
    id: str | None = None,
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    tombstone: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    count: Annotated[int, Parameter(validator=Number(gte=1))] = 1,
    bootstrap: Bootstrap = "",
    config: ConfigFile = None,
    set: Set = (),
) -> None:
    """Publish one event, and print its position once the broker has it.

    Parameters
    ----------
    topic
        The topic to write to; it must exist.
    value
        The event's value; - reads it from standard input, @FILE from a file, byte for byte.
    key
        Events of one key stay in order.
    header
        A header as NAME=VALUE; may be given several times.
    type
        CloudEvents type; with a type the event is a CloudEvent.
    id
        CloudEvents id; without one it is made.
    json
        Refuse a value that is not JSON, and say that it is.
    tombstone
        No value at all: it deletes its key from a compacted topic.
    count
        Publish it so many times.
    """
    if id is not None and count > 1:
        raise _wrong("--count", "the same --id more than once would be the same event.", "Leave out one.")
    if tombstone and (json or value != "-"):
        raise _wrong("--tombstone", "a tombstone has no value.", "Leave out the value, and --json.")
    body = None if tombstone else _read(value)
    if json and body is not None:
        _check_json(body)
    headers = [_header(text) for text in header]

    def events() -> Iterator[NewEvent]:
        from pelton.kafka.publisher import NewEvent

        for _ in range(count):
            yield NewEvent(
                topic=topic,
                value=body,
                key=key,
                headers=headers,
                type=type,
                id=id,
                content_type="application/json" if json else None,
            )

    say_once()
    settings = settings_of(bootstrap, config, set)
    _must_be_there(topic, settings)
    asyncio.run(_publish(settings, events()))


def _must_be_there(topic: str, settings: Mapping[str, Any]) -> None:
    """A producer waits for a topic that does not exist, and then says that a message has timed out."""
    from pelton.kafka.settings import bootstrap_of
    from pelton.kafka.topics import partitions_of

    if partitions_of(settings, [topic])[topic] is None:
        raise PublishError(
            f"the topic {topic} is not there at {bootstrap_of(settings)}. Check its name, or create it."
        )


async def _publish(settings: Mapping[str, Any], events: Iterator[NewEvent]) -> None:
    from itertools import islice

    from pelton.kafka.publisher import Publisher

    async with Publisher(settings) as publisher:
        while batch := list(islice(events, BATCH_EVENTS)):
            failed: PublishError | None = None
            for result in await publisher.publish_many(batch):
                if isinstance(result, PublishError):
                    failed = failed or result
                else:
                    position = result.position
                    sys.stdout.write(f"{position.topic}/{position.partition}/{position.offset}\n")
            sys.stdout.flush()
            if failed is not None:
                raise failed


def _read(value: str) -> bytes:
    if value == "-":
        body = sys.stdin.buffer.read(VALUE_BYTES_MAX + 1)
    elif value.startswith("@"):
        try:
            with open(value[1:], "rb") as file:
                body = file.read(VALUE_BYTES_MAX + 1)
        except OSError as error:
            raise _wrong("VALUE", f"{value[1:]} cannot be read: {error.strerror}.", "Name a file.") from None
    else:
        return value.encode("utf-8", "surrogateescape")  # the bytes that stood on the command line
    if len(body) > VALUE_BYTES_MAX:
        raise _wrong("VALUE", f"it is larger than {VALUE_BYTES_MAX >> 20} MiB.", "Publish a reference to it.")
    return body


def _check_json(body: bytes) -> None:
    from json import loads

    try:
        loads(body)
    except (ValueError, RecursionError) as error:
        raise _wrong("VALUE", f"it is not JSON: {error}.", "Mend it, or leave out --json.") from None


def _header(text: str) -> tuple[str, bytes]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise _wrong("--header", f"{text!r} is no header.", "Write it as NAME=VALUE.")
    return name, value.encode("utf-8", "surrogateescape")


def _wrong(where: str, what: str, mend: str) -> ConfigError:
    return ConfigError([Problem(where, what, mend)], source="command line")
