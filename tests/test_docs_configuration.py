"""docs/configuration.md against the code: every option, its default, bounds and choices, and an example."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel

from pelton.config.document import parse_document
from pelton.config.problems import Problems
from pelton.config.schema import FileShape, json_schema
from pelton.config.values import format_duration, format_size
from pelton.core.outcome import STATUS_TABLE
from pelton.request.variables import VARIABLES
from tests.docs_text import CONFIGURATION, of_language

__all__: list[str] = []


@dataclass(frozen=True, slots=True)
class Option:
    """One key of the config file, as the schema has it."""

    path: str
    schema: Mapping[str, Any]
    required: bool


def options() -> dict[str, Option]:
    """Every key that may stand in a file; `<name>` stands for the user's own."""
    root = json_schema()
    found: dict[str, Option] = {}

    def resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
        if "$ref" in schema:
            named: Mapping[str, Any] = root["$defs"][schema["$ref"].rpartition("/")[2]]
            return named
        return schema

    def walk(schema: Mapping[str, Any], path: str) -> None:
        schema = resolved(schema)
        for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
            walk(branch, path)
        for key, inner in schema.get("properties", {}).items():
            below = f"{path}.{key}" if path else key
            found[below] = Option(below, resolved(inner), key in schema.get("required", ()))
            walk(inner, below)
        for inner in (schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()):
            if isinstance(inner, Mapping):
                below = f"{path}.<name>"
                if "properties" not in resolved(inner):  # else its keys have a section of their own
                    found[below] = Option(below, resolved(inner), False)
                walk(inner, below)

    walk(root, "")
    return found


def defaults() -> dict[str, Any]:
    """What holds where a key is not written, by path."""
    found: dict[str, Any] = {}

    def shape_of(annotation: Any) -> type[BaseModel] | None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
        return next((shape for part in get_args(annotation) if (shape := shape_of(part)) is not None), None)

    def walk(shape: type[BaseModel], path: str) -> None:
        for name, field in shape.model_fields.items():
            key = field.alias or name
            below = f"{path}.{key}" if path else key
            if not field.is_required():
                found[below] = field.get_default(call_default_factory=True)
            inner = shape_of(field.annotation)
            if inner is not None:
                walk(inner, f"{below}.<name>" if "dict[" in str(field.annotation) else below)

    walk(FileShape, "")
    return found


def rows() -> dict[str, tuple[str, str, str]]:
    """Path → type, default and meaning, as the reference has them.

    The title above a table is what its paths begin with.
    """
    found: dict[str, tuple[str, str, str]] = {}
    section = ""
    for line in CONFIGURATION.read_text().splitlines():
        if line.startswith("#"):
            title = re.fullmatch(r"#+ `([\w.<>]+)`", line)
            section = f"{title[1]}." if title else ""
        elif row := re.fullmatch(r"\| `([\w.<>]+)` \| (.+?) \| (.+?) \| (.*?) ?\|", line):
            path = section + row[1]
            assert path not in found, f"{path} is documented twice"
            found[path] = (row[2], row[3], row[4])
    return found


def test_every_option_is_documented_and_no_other() -> None:
    assert set(rows()) == set(options())


def written(value: Any, kind: str) -> str:
    """A default as a user would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if "duration" in kind and isinstance(value, float):
        return format_duration(value)
    if "range" in kind:
        return "..".join(map(format_duration, value))
    if "size" in kind:
        return format_size(value)
    if isinstance(value, tuple):
        return f"{value[0]}:{value[1]}"
    if getattr(value, "at", None):
        return str(value.at)
    return str(getattr(value, "value", value))


def test_every_default_is_the_real_one() -> None:
    wrong = []
    documented = rows()
    for path, option in options().items():
        kind, default, _ = documented[path]
        if option.required:
            wanted = "required"
        elif path.endswith("<name>") or "mapping" in kind or "section" in kind:
            continue
        else:
            value = defaults()[path]
            if value is None or value == []:
                # What stands in for nothing is said in words, unless it is made of the name.
                if default.startswith("`") and "<subscription>" not in default:
                    wrong.append(f"{path}: {default} but there is none")
                continue
            wanted = f"`{written(value, kind)}`"
        if default != wanted:
            wrong.append(f"{path}: {default} is documented, {wanted} is so")
    assert not wrong


def test_every_choice_and_every_bound_is_documented() -> None:
    missing = []
    for path, option in options().items():
        kind, _, meaning = rows()[path]
        words = option.schema.get("enum", ())
        missing += [f"{path}: {word}" for word in words if f"`{word}`" not in kind + meaning]
        if "minimum" in option.schema:
            bounds = f"{option.schema['minimum']:,} to {option.schema['maximum']:,}".replace(",", " ")
            if bounds not in kind:
                missing.append(f"{path}: {bounds}")
    assert not missing


def test_every_option_is_in_an_example() -> None:
    """In one of the file's own samples, each of which `load` has read."""
    shown: set[str] = set()

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                below = f"{path}.{key}".lstrip(".")
                generic = f"{path}.<name>".lstrip(".")
                at = below if below in known else generic
                shown.add(at)
                walk(inner, at)

    known = set(options())
    for block in of_language("yaml"):
        if block.file == CONFIGURATION:
            walk(parse_document(block.text, Problems()), "")
    assert not known - shown


def test_every_variable_of_expressions_is_documented() -> None:
    text = CONFIGURATION.read_text()
    row = r"^\| `((?:event|delivery|params)(?:\.\w+)*)` \| ([\w, ]+) \| .+ \|$"
    listed = re.findall(row, text, re.MULTILINE)
    assert {name: kind.partition(",")[0] for name, kind in listed} == {
        name: variable.kind.value for name, variable in VARIABLES.items()
    }
    assert {name for name, kind in listed if "null" in kind} == {
        name for name, variable in VARIABLES.items() if variable.nullable
    }


def test_the_table_of_statuses_is_the_codes_own() -> None:
    text = CONFIGURATION.read_text()
    documented = {
        status: disposition
        for disposition, statuses in re.findall(r"^\| `(\w+)` \| ([A-Z_, ]+) \| .+ \|$", text, re.MULTILINE)
        for status in statuses.split(", ")
    }
    assert documented == {status.name: disposition.value for status, disposition in STATUS_TABLE.items()}
