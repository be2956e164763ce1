"""What a config file says, checked: plain frozen values for the server to run by.

Defaults of a subscription are `pelton.subscription`'s; those of the process are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pelton.subscription import Subscription, Target

__all__ = ["Config", "Logging", "ProcessLimits", "Server"]


@dataclass(frozen=True, slots=True)
class Server:
    """Where this process answers. Loopback, so that nothing is exposed unless the config says so."""

    #: `/livez`, `/readyz` and `/metrics`.
    http_host: str = "127.0.0.1"
    #: 0 takes a free port.
    http_port: int = 8360
    #: gRPC health.
    grpc_host: str = "127.0.0.1"
    grpc_port: int = 8361


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """What all subscriptions of the process may hold open together; whichever is reached first pauses."""

    events_max: int = 50_000
    bytes_max: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Logging:
    """How the process logs."""

    #: ``text``, ``json``, or ``auto``: text on a terminal, JSON elsewhere.
    format: str = "auto"
    #: ``debug``, ``info``, ``warning`` or ``error``.
    level: str = "info"


@dataclass(frozen=True, slots=True)
class Config:
    """One config file with its overrides. Secrets in it are references (`pelton.config.secrets`)."""

    #: Client settings for every consumer and producer; `bootstrap.servers` is among them.
    kafka: Mapping[str, str | int | float | bool]
    targets: Mapping[str, Target]
    #: In file order.
    subscriptions: tuple[Subscription, ...]
    server: Server = field(default_factory=Server)
    limits: ProcessLimits = field(default_factory=ProcessLimits)
    logging: Logging = field(default_factory=Logging)
