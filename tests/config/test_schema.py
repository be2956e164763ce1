"""The published JSON Schema: it takes what `load` takes, and refuses what it can."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pelton.config.document import parse_document
from pelton.config.outline import Outline
from pelton.config.problems import Problems
from pelton.config.schema import json_schema
from pelton.config.unbuilt import UNBUILT

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.yaml"))

#: Words of JSON Schema that only people read.
SAID_ONLY = {"$defs", "$schema", "description", "title"}


def fits(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """The words of JSON Schema that ours uses; another word is an error, lest it be passed over."""
    for word, wanted in schema.items():
        if word in SAID_ONLY:
            continue
        if not WORDS[word](value, wanted, schema, root):
            return False
    return True


def _is(value: Any, kind: str) -> bool:
    kinds: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
    }
    return isinstance(value, kinds[kind]) and (kind == "boolean" or not isinstance(value, bool))


WORDS: dict[str, Any] = {
    "$ref": lambda value, to, _, root: fits(value, root["$defs"][to.rpartition("/")[2]], root),
    "additionalProperties": lambda value, wanted, schema, root: (
        not isinstance(value, dict)
        or all(
            key in schema.get("properties", ())
            or (wanted is True or (wanted is not False and fits(inner, wanted, root)))
            for key, inner in value.items()
        )
    ),
    "anyOf": lambda value, branches, _, root: any(fits(value, branch, root) for branch in branches),
    "oneOf": lambda value, branches, _, root: sum(fits(value, branch, root) for branch in branches) == 1,
    "enum": lambda value, wanted, *_: value in wanted,
    "items": lambda value, wanted, _, root: (
        not isinstance(value, list) or all(fits(item, wanted, root) for item in value)
    ),
    "maxLength": lambda value, most, *_: not isinstance(value, str) or len(value) <= most,
    "maximum": lambda value, most, *_: not isinstance(value, int) or value <= most,
    "minLength": lambda value, least, *_: not isinstance(value, str) or len(value) >= least,
    "minimum": lambda value, least, *_: not isinstance(value, int) or value >= least,
    "pattern": lambda value, form, *_: not isinstance(value, str) or re.search(form, value) is not None,
    "patternProperties": lambda value, forms, _, root: (
        not isinstance(value, dict)
        or all(
            fits(inner, wanted, root)
            for form, wanted in forms.items()
            for key, inner in value.items()
            if re.search(form, key)
        )
    ),
    "properties": lambda value, wanted, _, root: (
        not isinstance(value, dict)
        or all(fits(inner, wanted[key], root) for key, inner in value.items() if key in wanted)
    ),
    "propertyNames": lambda value, wanted, _, root: (
        not isinstance(value, dict) or all(fits(key, wanted, root) for key in value)
    ),
    "required": lambda value, keys, *_: not isinstance(value, dict) or all(key in value for key in keys),
    "type": lambda value, kinds, *_: any(
        _is(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)
    ),
}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.stem)
def test_the_samples_fit(sample: Path) -> None:
    data = parse_document(sample.read_text(encoding="utf-8"), Problems())
    assert fits(data, json_schema(), json_schema())


@pytest.mark.parametrize(
    "change",
    [
        {"colour": "blue"},
        {"concurrency": 0},
        {"timeout": 10},
        {"timeout": None},
        {"ordering": "keys"},
        {"transport": "tonic"},
        {"retry": {"then_key": "leave"}},
        {"on_status": {"OK": "ack"}},
        {"on_status": {"NOT_FOUND": "maybe"}},
        {"parameters": {"n": 1}},
        {"request": "bytes"},
        {"request": {}, "method": None},
        {"topics": "events"},
        {"intake": {"partition": {"events": "many"}}},
    ],
)
def test_what_does_not_load_does_not_fit(change: dict[str, Any]) -> None:
    data: Any = yaml.safe_load(SAMPLES[-1].read_text(encoding="utf-8"))
    data["subscriptions"]["notify-shop"] |= change
    assert not fits(data, json_schema(), json_schema())


def test_what_is_required() -> None:
    schema = json_schema()
    assert schema["required"] == ["kafka", "targets", "subscriptions"]
    assert schema["properties"]["kafka"]["required"] == ["bootstrap.servers"]


def test_every_option_is_described() -> None:
    schema = json_schema()
    bare = [
        (shape, name)
        for shape, definition in schema["$defs"].items()
        for name, option in definition["properties"].items()
        if "description" not in option and "$ref" not in option
    ]
    assert bare == []


def test_no_option_is_both_built_and_planned() -> None:
    outline = Outline(json_schema())
    for path in UNBUILT:
        parent = outline.find(path[:-1])
        assert parent is not None, path
        assert path[-1] not in parent.keys, path
