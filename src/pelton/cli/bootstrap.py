"""Which Kafka a command talks to, and how: what its options say, a configuration file, or the local one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pelton.errors import ConfigError, LocalKafkaError, Problem

__all__ = ["Bootstrap", "ConfigFile", "Set", "bootstrap_of", "settings_of"]

VARIABLE = "PELTON_BOOTSTRAP"

Bootstrap = Annotated[
    str,
    Parameter(
        help=f"Kafka's address, host:port; else {VARIABLE}, else the one of `pelton kafka`.",
        show_default=False,
    ),
]

ConfigFile = Annotated[
    Path | None,
    Parameter(
        name=["--config", "-c"],
        help="A configuration file whose section `kafka` says where Kafka is and how to be let in.",
        show_default=False,
    ),
]
Set = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set",
        help="A Kafka client setting as NAME=VALUE, over those of the file; may be given several times. "
        "Secrets by reference: --set 'sasl.password=${env:NAME}'.",
        negative="",
        show_default=False,
    ),
]


def settings_of(bootstrap: str, config: Path | None, sets: tuple[str, ...]) -> dict[str, Any]:
    """The client's settings, its secrets in them: for the client alone."""
    if config is None and not sets:
        return {"bootstrap.servers": bootstrap_of(bootstrap)}
    # Checks of the file's kind take a tenth of a second to import.
    from pelton.config import secrets
    from pelton.config.load import load_kafka

    given: dict[str, str] = {}
    for text in sets:
        name, equals, value = text.partition("=")
        if not name or not equals or not value:
            # What was given may be a secret, so it is not shown.
            problem = Problem("--set", "one of them is no setting.", "Write it as NAME=VALUE.")
            raise ConfigError([problem], source="command line")
        given[name] = value
    if bootstrap or (config is None and "bootstrap.servers" not in given):
        given["bootstrap.servers"] = bootstrap_of(bootstrap)
    return dict(secrets.resolve(load_kafka(config, os.environ, given), os.environ))


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
