"""Options that are planned and not built: refused by name, so that nobody believes they work.

A line leaves this table in the change that builds its option.
"""

from __future__ import annotations

from collections.abc import Mapping

from pelton.config.problems import Path

__all__ = ["UNBUILT", "unbuilt"]

_REMOVE = "Remove it."

#: Path, with * for any name -> what to do for now.
UNBUILT: Mapping[tuple[str, ...], str] = {
    ("admin",): _REMOVE,
    ("dashboard",): "Use /metrics of the server.",
    ("publisher",): "Publish with pelton.Publisher or any Kafka client.",
    ("schema_registry",): _REMOVE,
    ("tracing",): _REMOVE,
    ("workers",): "Start one process per slot; they share the consumer group.",
    ("kafka", "schema.registry.url"): _REMOVE,
    ("server", "auth"): "Keep the server on loopback.",
    ("server", "tls"): "Keep the server on loopback.",
    ("server", "workers"): "Start one process per slot; they share the consumer group.",
    (
        "targets",
        "*",
        "adaptive_concurrency",
    ): "Write `concurrency: {max: 256, adapt: true}` on the subscription.",
    ("targets", "*", "breaker"): _REMOVE,
    ("targets", "*", "compression"): _REMOVE,
    ("targets", "*", "rate_limit"): "Write `rate` on the subscription.",
    ("targets", "*", "auth", "basic"): "Use `bearer`.",
    ("targets", "*", "auth", "oauth2"): "Use `bearer` with a file that is kept fresh.",
    ("subscriptions", "*", "batch"): "Use `delivery: stream`, which sends batches.",
    ("subscriptions", "*", "schema"): _REMOVE,
    ("subscriptions", "*", "schema_registry"): _REMOVE,
    ("subscriptions", "*", "validate"): _REMOVE,
    ("subscriptions", "*", "workers"): "Start one process per slot; they share the consumer group.",
    ("subscriptions", "*", "dead_letters", "retention"): "Set it on the topic.",
    ("subscriptions", "*", "retry", "budget"): "There is one, always, and it has no options.",
}


def unbuilt(path: Path) -> str | None:
    """What to do for now, if the option is planned; None if nobody plans it."""
    for pattern, mend in UNBUILT.items():
        if len(pattern) == len(path) and all(
            part in ("*", step) for part, step in zip(pattern, path, strict=True)
        ):
            return mend
    return None
