"""A file and an environment to a `Config`, or one section of it; or to a `ConfigError` with every mistake.

The order: text, values with their lines, overrides, each value by itself, values against each other.
Each step goes on past the mistakes of the one before; the last one stops.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from pelton.config.document import Value, parse_document, read_text
from pelton.config.problems import Flaw, Problems
from pelton.config.settings import Config, Logging, ProcessLimits

__all__ = ["load", "load_kafka"]


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """The config in the file, with the variables of `environ` laid over it."""
    problems = Problems()
    text = read_text(path, problems)
    data = None if text is None else parse_document(text, problems)
    config = None if data is None else _read(data, path.absolute().parent, environ, problems)
    if config is None or problems:
        raise problems.error(str(path))
    return config


def load_kafka(
    path: Path | None, environ: Mapping[str, str], given: Mapping[str, str] = MappingProxyType({})
) -> Mapping[str, str | int | float | bool]:
    """The section `kafka` of the file, where there is one, and `given` over it; secrets stay references.

    For commands that talk to Kafka and to nobody else: mistakes elsewhere in the file are not theirs. `given`
    comes from the command line, as `--set NAME=VALUE`; its `${file:...}` are found from where it was typed.
    """
    from pelton.config import declare, fields, overrides, schema, secrets, validate
    from pelton.config.outline import Outline

    problems = Problems()
    text = None if path is None else read_text(path, problems)
    data = {} if text is None else parse_document(text, problems)
    if data is None or problems:
        raise problems.error(str(path))
    section: dict[str, Value] = {"kafka": data.get("kafka") if path is not None else {}}
    outline = Outline(schema.json_schema())
    if path is not None:
        of_kafka = {
            name: text for name, text in environ.items() if name.startswith(f"{overrides.PREFIX}KAFKA__")
        }
        overrides.apply_overrides(section, of_kafka, outline, problems)
    settings = section["kafka"]
    for name, value in given.items():
        problems.places.origins[("kafka", name)] = f"--set {name}"
        if isinstance(settings, dict):
            try:
                settings[name] = secrets.anchor(value, Path.cwd())
            except Flaw:
                settings[name] = value  # said below, with all else
    context = fields.Context(Path.cwd() if path is None else path.absolute().parent, environ, ())
    shape = validate.check_shape(section, context, outline, problems, schema.KafkaShape)
    declare.check_kafka(_mapping(section["kafka"]), {}, ("kafka",), problems)
    if shape is None or problems:
        raise problems.error("command line" if path is None else str(path))
    return shape.kafka


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
    whole = validate.check_shape(data, context, outline, problems, schema.FileShape)
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
