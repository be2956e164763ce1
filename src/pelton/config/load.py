"""A file and an environment to a `Config`, or to a `ConfigError` with every mistake at once.

The order: text, values with their lines, overrides, each value by itself, values against each other.
Each step goes on past the mistakes of the one before; the last one stops.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pelton.config.document import Value, parse_document, read_text
from pelton.config.problems import Problems
from pelton.config.settings import Config, Logging, ProcessLimits

__all__ = ["load"]


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """The config in the file, with the variables of `environ` laid over it."""
    problems = Problems()
    text = read_text(path, problems)
    data = None if text is None else parse_document(text, problems)
    config = None if data is None else _read(data, path.absolute().parent, environ, problems)
    if config is None or problems:
        raise problems.error(str(path))
    return config


def _read(
    data: dict[str, Value], folder: Path, environ: Mapping[str, str], problems: Problems
) -> Config | None:
    """The config, or None where a mistake keeps a part of it from being made."""
    # pydantic takes a tenth of a second to import, which `pelton --help` must not pay.
    from pelton.config import declare, fields, overrides, schema, validate
    from pelton.config.outline import Outline

    outline = Outline(schema.json_schema())
    overrides.apply_overrides(data, environ, outline, problems)
    context = fields.Context(folder, environ, tuple(_mapping(data.get("targets"))))
    whole = validate.check_shape(data, context, outline, problems)
    sound = whole or validate.sound_parts(data, context)

    kafka = sound.kafka
    declare.check_kafka(_mapping(data.get("kafka")), {}, ("kafka",), problems)
    targets = {name: declare.declare_target(name, shape, problems) for name, shape in sound.targets.items()}
    subscriptions = [
        declare.declare_subscription(name, shape, targets, kafka, problems)
        for name, shape in sound.subscriptions.items()
    ]
    for name, raw in _mapping(data.get("subscriptions")).items():
        path = ("subscriptions", name)
        if isinstance(raw, dict):
            declare.check_method(raw, path, problems)
            declare.check_kafka(
                _mapping(raw.get("kafka")), _mapping(data.get("kafka")), (*path, "kafka"), problems
            )
    declare.check_groups(
        {name: shape.group or f"pelton.{name}" for name, shape in sound.subscriptions.items()}, problems
    )
    server = declare.declare_server(sound.server, problems)
    if whole is None:
        return None
    return Config(
        kafka=kafka,
        targets=targets,
        subscriptions=tuple(subscription for subscription in subscriptions if subscription is not None),
        server=server,
        limits=ProcessLimits(whole.limits.events, whole.limits.bytes),
        logging=Logging(whole.logging.format, whole.logging.level),
    )


def _mapping(value: Value) -> dict[str, Value]:
    return value if isinstance(value, dict) else {}
