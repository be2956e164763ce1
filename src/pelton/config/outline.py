"""Which keys may stand where, read off the published JSON Schema: for hints and for names of variables.

Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pelton.config.problems import Path

__all__ = ["Outline"]


class Outline:
    """The keys at one place of the file."""

    def __init__(self, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> None:
        self._root = schema if root is None else root
        reference = schema.get("$ref")
        if reference is not None:
            schema = self._root["$defs"][reference.rpartition("/")[2]]
        #: A value that is one thing or a mapping is a mapping here.
        for branch in schema.get("anyOf", schema.get("oneOf", ())):
            inner = Outline(branch, self._root)
            if inner.keys or inner.is_open:
                schema = inner._schema
        self._schema: Mapping[str, Any] = schema

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that have a meaning of their own."""
        return tuple(self._schema.get("properties", ()))

    @property
    def is_open(self) -> bool:
        """Whether the keys are the user's own."""
        return bool(self._schema.get("additionalProperties") or self._schema.get("patternProperties"))

    @property
    def names(self) -> tuple[str, ...]:
        """The words that the user's keys are taken from, if they are."""
        return tuple(self._schema.get("propertyNames", {}).get("enum", ()))

    def at(self, step: str | int) -> Outline | None:
        """What may stand below a key; None if nothing may."""
        schema = self._schema.get("properties", {}).get(step)
        if schema is None:
            schema = self._schema.get("additionalProperties") or None
        if schema is None:
            schema = next(iter(self._schema.get("patternProperties", {}).values()), None)
        return Outline(schema, self._root) if isinstance(schema, Mapping) else None

    def find(self, path: Path) -> Outline | None:
        found: Outline | None = self
        for step in path:
            found = found.at(step) if found is not None else None
        return found
