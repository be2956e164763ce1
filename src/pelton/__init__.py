"""Kafka events in, gRPC calls out.

The public surface, and nothing else. Every name is loaded when it is first used: importing `pelton` imports
neither gRPC nor a Kafka client, and a service that only handles events never needs the latter installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pelton.errors import PeltonError, PublishError
    from pelton.event import Event
    from pelton.kafka.publisher import NewEvent, Publisher
    from pelton.sdk.app import App
    from pelton.sdk.context import Context
    from pelton.sdk.decode import Json
    from pelton.sdk.replies import DeadLetter, Drop, Retry

__all__ = [
    "App",
    "Context",
    "DeadLetter",
    "Drop",
    "Event",
    "Json",
    "NewEvent",
    "PeltonError",
    "PublishError",
    "Publisher",
    "Retry",
    "__version__",
]

__version__ = "0.1.0"

_HOME = {
    "App": "pelton.sdk.app",
    "Context": "pelton.sdk.context",
    "DeadLetter": "pelton.sdk.replies",
    "Drop": "pelton.sdk.replies",
    "Event": "pelton.event",
    "Json": "pelton.sdk.decode",
    "NewEvent": "pelton.kafka.publisher",
    "PeltonError": "pelton.errors",
    "PublishError": "pelton.errors",
    "Publisher": "pelton.kafka.publisher",
    "Retry": "pelton.sdk.replies",
}


def _load(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'pelton' has no attribute {name!r}")
    try:
        module = import_module(home)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "confluent_kafka":
            raise
        raise ImportError(
            f"pelton.{name} needs the Kafka client, which is not installed: pip install 'pelton[kafka]'",
            name=error.name,
        ) from error
    value = getattr(module, name)
    globals()[name] = value  # the next access does not come here
    return value


if not TYPE_CHECKING:  # to a type checker every name would be there, the misspelt ones too
    __getattr__ = _load


def __dir__() -> list[str]:
    return sorted(__all__)
