"""`pelton release`: keys that are followed into the dead letters, and letting one go on."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from pelton.cli.bootstrap import Bootstrap, ConfigFile, Set, settings_of
from pelton.cli.quiet import say_once

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pelton.kafka.releasing import DeadKey

__all__ = ["release"]


def release(
    subscription: str,
    /,
    *,
    key: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    hex: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    bootstrap: Bootstrap = "",
    config: ConfigFile = None,
    set: Set = (),
) -> int:
    """Let a key go on whose events follow a dead letter; without a key, show which there are.

    With `then_key: follow` the later events of a key that was dead-lettered follow it. Deal with them, then
    release their key: its next event is called again. Exit code 1 if the key follows nothing.

    Parameters
    ----------
    subscription
        The subscription's name.
    key
        The key to release, in every partition in which it is followed.
    hex
        The key is given, and shown, as hexadecimal digits.
    """
    say_once()
    settings = settings_of(bootstrap, config, set)
    wanted = None if key is None else _bytes(key, is_hex=hex)
    return asyncio.run(_release(settings, subscription, wanted, is_hex=hex))


def _bytes(key: str, *, is_hex: bool) -> bytes:
    from pelton.errors import ConfigError, Problem

    try:
        return bytes.fromhex(key) if is_hex else key.encode()
    except ValueError as error:
        problem = Problem(
            "--key", "these are no hexadecimal digits.", "Write two for each byte, such as 0aff."
        )
        raise ConfigError([problem], source="command line") from error


async def _release(settings: Mapping[str, Any], subscription: str, key: bytes | None, *, is_hex: bool) -> int:
    from pelton.kafka.releasing import dead_keys, release

    found = await dead_keys(settings, subscription)
    if key is None:
        for dead in found:
            sys.stdout.write(_line(dead, is_hex=is_hex) + "\n")
        return 0
    wanted = [dead for dead in found if dead.key == key]
    await release(settings, subscription, wanted)
    for dead in wanted:
        sys.stdout.write(f"released {_line(dead, is_hex=is_hex)}\n")
    if not wanted:
        sys.stderr.write(f"pelton: {subscription} follows no such key into the dead letters\n")
    return 0 if wanted else 1


def _line(dead: DeadKey, *, is_hex: bool) -> str:
    from pelton.cli.show import safe

    moment = datetime.fromtimestamp(dead.at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    place = f"{safe(dead.topic.encode())}/{dead.partition}  {moment.replace('+00:00', 'Z')}"
    key = dead.key.hex() if is_hex else safe(dead.key)
    return f"{place}  key {key}  after {safe(dead.leader.encode())}"
