"""How the values of the shape are read and published: a reader of ours, and its form in JSON Schema.

Importing this imports pydantic. The readers that need no more than the value are `values.py`; which keys
there are is `schema.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, PlainValidator, ValidationInfo, WithJsonSchema

from pelton.config import address, passthrough, secrets, values
from pelton.config.problems import Flaw, nearest, shown
from pelton.core.outcome import Status
from pelton.subscription import Secret

__all__ = [
    "BYTES",
    "EVENTS",
    "MAPPING",
    "PLAIN",
    "Address",
    "Context",
    "Endpoint",
    "Expression",
    "FieldPath",
    "FilePath",
    "Flag",
    "FolderPath",
    "Group",
    "Header",
    "KafkaSettings",
    "Method",
    "Name",
    "ParameterName",
    "SecretText",
    "StatusName",
    "TargetName",
    "Text",
    "Topic",
    "count",
    "duration",
    "form",
    "is_mapping",
    "listed",
    "mapped",
    "section",
    "size",
    "word",
    "words",
]

_DURATION_FORM = r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$"


@dataclass(frozen=True, slots=True)
class Context:
    """What a value's reader must know besides the value."""

    #: Paths in the file are taken from here.
    folder: Path
    environ: Mapping[str, str]
    #: Names under `targets:`, sound or not.
    targets: tuple[str, ...]


def _context(info: ValidationInfo) -> Context:
    assert isinstance(info.context, Context)
    return info.context


def form(schema_type: str, **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": schema_type, **more})


def _file(value: object, info: ValidationInfo) -> str:
    """The absolute path of a file that is there."""
    written = values.text(value)
    path = _context(info).folder / written
    try:
        if path.is_file():
            return str(path)
        wrong = "is a folder, and a file is wanted" if path.is_dir() else "does not exist"
    except (OSError, ValueError):
        wrong = "cannot be the path of a file"
    raise Flaw(f"{shown(written)} {wrong}.", f"Paths are taken from {_context(info).folder}.")


def _folder(value: object, info: ValidationInfo) -> str:
    written = values.text(value)
    path = _context(info).folder / written
    try:
        if path.is_dir():
            return str(path)
    except (OSError, ValueError):
        pass
    raise Flaw(f"{shown(written)} is no folder.", f"Paths are taken from {_context(info).folder}.")


def _target_name(value: object, info: ValidationInfo) -> str:
    written = values.text(value)
    known = _context(info).targets
    if written in known or not known:
        return written  # Without targets there is one problem, and not one per subscription.
    listed = ", ".join(known[:8])
    hint = nearest(written, known) or f"The targets are: {listed}."
    raise Flaw(f"names the target {shown(written)}, which is not declared.", hint)


def _secret(value: object, info: ValidationInfo) -> Secret:
    secret = secrets.parse(value)
    context = _context(info)
    anchored = secrets.anchor(str(secret), context.folder)
    secrets.check(anchored, context.environ)
    return secrets.parse(anchored)


def _setting(value: object, info: ValidationInfo) -> str | int | float | bool:
    read = passthrough.setting_value(value)
    if isinstance(read, str) and "${" in read:
        context = _context(info)
        read = secrets.anchor(read, context.folder)
        secrets.check(read, context.environ)
    return read


def listed(what: str, most: int) -> BeforeValidator:
    """A list of at least one and at most so many, none of them twice."""

    def read(value: object) -> object:
        if isinstance(value, str) and value:
            raise Flaw("is one value, and a list is wanted.", f"Write [{value}].")
        if not isinstance(value, list):
            raise Flaw(f"is {shown(value)}, and a list is wanted.", f"Write [{what}].")
        if not value:
            raise Flaw("is an empty list.", f"List at least one {what}, or remove the key.")
        if len(value) > most:
            raise Flaw(f"lists {len(value)}, more than {most}.", "List fewer.")
        seen: set[str] = set()
        for item in value:
            if isinstance(item, str) and item in seen:
                raise Flaw(f"lists {shown(item)} twice.", "Keep one of them.")
            if isinstance(item, str):
                seen.add(item)
        return value

    return BeforeValidator(read)


def mapped(what: str, most: int) -> BeforeValidator:
    """A mapping of at least one and at most so many entries."""

    def read(value: object) -> object:
        if not isinstance(value, dict):
            raise Flaw(f"is {shown(value)}, and a mapping is wanted.", f"Write {what} below it.")
        if not value:
            raise Flaw("is an empty mapping.", f"Write {what} in it, or remove the key.")
        if len(value) > most:
            raise Flaw(f"has {len(value)} entries, more than {most}.", "Write fewer.")
        return value

    return BeforeValidator(read)


def section(hint: str = "Write its options below it, indented.") -> BeforeValidator:
    """A mapping with keys of our own; an empty `tls:` must not pass for an absent one."""

    def read(value: object) -> object:
        if not isinstance(value, (dict, BaseModel)):
            raise Flaw(f"is {shown(value)}, and a mapping is wanted.", hint)
        return value

    return BeforeValidator(read)


def word(*options: str) -> tuple[PlainValidator, WithJsonSchema]:
    """One of a few words."""
    return PlainValidator(values.choice(options)), form("string", enum=list(options))


def words(options: type[Enum], unbuilt: tuple[str, ...] = ()) -> tuple[PlainValidator, WithJsonSchema]:
    """The values of an Enum, as words."""
    names: list[str] = [member.value for member in options]
    word = values.choice(names, unbuilt)
    return PlainValidator(lambda value: options(word(value))), form("string", enum=names)


def is_mapping(value: object) -> str:
    return MAPPING if isinstance(value, dict) else PLAIN


#: Tags of the values that are one thing or a mapping. No key of a file can be spelt so by mistake, which is
#: how `validate` knows them from steps of a path.
MAPPING = "<mapping>"
PLAIN = "<plain>"


def duration(least_ms: float, most_ms: float) -> tuple[PlainValidator, WithJsonSchema]:
    return PlainValidator(values.duration(least_ms, most_ms)), form("string", pattern=_DURATION_FORM)


def count(least: int, most: int) -> tuple[PlainValidator, WithJsonSchema]:
    return PlainValidator(values.count(least, most)), form("integer", minimum=least, maximum=most)


def size(least: int, most: int) -> tuple[PlainValidator, WithJsonSchema]:
    form = WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": least, "maximum": most},
                {"type": "string", "pattern": "^[0-9]+(KiB|MiB|GiB|KB|MB|GB|B)?$"},
            ]
        }
    )
    return PlainValidator(values.size(least, most)), form


EVENTS = count(1, 1_000_000)
BYTES = size(1 << 10, 64 << 30)
_TEXT = form("string", minLength=1)

Address = Annotated[str, PlainValidator(address.address), _TEXT]
Topic = Annotated[str, PlainValidator(values.topic), _TEXT]
Group = Annotated[str, PlainValidator(values.group), _TEXT]
Header = Annotated[str, PlainValidator(values.header), _TEXT]
FieldPath = Annotated[str, PlainValidator(values.field_path), _TEXT]
TargetName = Annotated[str, PlainValidator(_target_name), _TEXT]
Method = Annotated[str, PlainValidator(values.method), form("string", pattern=f"^{values.METHOD}$")]
Text = Annotated[str, PlainValidator(values.text), _TEXT]
Flag = Annotated[bool, PlainValidator(values.flag), form("boolean")]
Expression = Annotated[str, PlainValidator(values.expression), _TEXT]
FilePath = Annotated[str, PlainValidator(_file), _TEXT]
FolderPath = Annotated[str, PlainValidator(_folder), _TEXT]
SecretText = Annotated[Secret, PlainValidator(_secret), form("string", pattern=r"^\$\{(env|file):[^{}]+\}$")]
Name = Annotated[
    str,
    PlainValidator(
        values.matching(
            values.NAME, "name", "Use small letters, digits and hyphens, a letter first, at most 63."
        )
    ),
    form("string", pattern=f"^{values.NAME}$"),
]
ParameterName = Annotated[
    str,
    PlainValidator(
        values.matching(
            values.PARAMETER_NAME,
            "name of a parameter",
            "Use small letters, digits, hyphens and underscores, a letter first, at most 63.",
        )
    ),
    form("string", pattern=f"^{values.PARAMETER_NAME}$"),
]
StatusName = Annotated[
    str,
    PlainValidator(values.status),
    form("string", enum=[status.name for status in Status if status is not Status.OK]),
]
Endpoint = Annotated[tuple[str, int], PlainValidator(values.listen), form("string", pattern="^.+:[0-9]+$")]
KafkaSettings = Annotated[
    dict[
        Annotated[str, PlainValidator(passthrough.setting_name), _TEXT],
        Annotated[
            str | int | float | bool,
            PlainValidator(_setting),
            WithJsonSchema({"type": ["string", "number", "boolean"]}),
        ],
    ],
    section("Write Kafka client settings below it."),
]
