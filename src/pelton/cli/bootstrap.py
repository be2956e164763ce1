"""Which Kafka a command talks to, when it has no configuration file to say so."""

from __future__ import annotations

import os
from typing import Annotated

from cyclopts import Parameter

from pelton.errors import ConfigError, LocalKafkaError, Problem

__all__ = ["Bootstrap", "bootstrap_of"]

VARIABLE = "PELTON_BOOTSTRAP"

Bootstrap = Annotated[
    str,
    Parameter(
        help=f"Kafka's address, host:port; else {VARIABLE}, else the one of `pelton kafka`.",
        show_default=False,
    ),
]


def bootstrap_of(given: str) -> str:
    """What was given, else what the environment says, else the Kafka that runs from this directory."""
    if found := given or os.environ.get(VARIABLE, ""):
        return found
    from pelton.cli.kafka import DIRECTORY
    from pelton.local.broker import LocalKafka

    try:
        return LocalKafka(DIRECTORY).bootstrap
    except LocalKafkaError:
        problem = Problem(
            "--bootstrap",
            f"no Kafka is named, and none runs from {DIRECTORY}.",
            f"Give --bootstrap host:port or set {VARIABLE}, or start one with `pelton kafka start`.",
        )
        raise ConfigError([problem], source="command line") from None
