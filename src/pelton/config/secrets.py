"""Secrets by reference: `${env:NAME}` and `${file:path}`, resolved at the moment of use.

A config holds references only, so that no repr, log or dump of it can show a secret. No message made
here shows one either.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from pelton.config.problems import Flaw
from pelton.errors import ConfigError, Problem
from pelton.subscription import Secret

__all__ = ["SECRET_BYTES_MAX", "anchor", "check", "has_reference", "parse", "read", "references", "resolve"]

#: A token or a PEM key is a few KiB; a path that names something larger names the wrong file.
SECRET_BYTES_MAX = 64 << 10

_OPENING = re.compile(r"\$\{(?=env:|file:)")
_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FORMS = "Write ${env:NAME} or ${file:path}."

Setting = str | int | float | bool


def has_reference(text: str) -> bool:
    """Whether the text means to refer to a secret, well formed or not."""
    return _OPENING.search(text) is not None


def references(text: str) -> tuple[Secret, ...]:
    """Every reference in the text; a `Flaw` if one of them is malformed."""
    found = tuple(_secret(match[1]) for match in _REFERENCE.finditer(text))
    if "${" in _REFERENCE.sub("", text):
        raise Flaw("has a ${ that is not closed.", _FORMS)
    return found


def parse(value: object) -> Secret:
    """The one reference that the whole value is; whatever else it is, it is not shown."""
    if not isinstance(value, str) or not value:
        raise Flaw("must refer to a secret.", _FORMS)
    if not references(value):
        raise Flaw("is a secret in plain sight.", f"Keep it out of the file: {_FORMS[0].lower()}{_FORMS[1:]}")
    match = _REFERENCE.fullmatch(value)
    if match is None:
        raise Flaw("must be one reference and nothing else.", _FORMS)
    return _secret(match[1])


def anchor(text: str, folder: Path) -> str:
    """The text with the paths of its `${file:…}` references taken from `folder`."""

    def absolute(match: re.Match[str]) -> str:
        secret = _secret(match[1])
        return str(Secret("file", str(folder / secret.name)) if secret.kind == "file" else secret)

    return _REFERENCE.sub(absolute, text)


def read(secret: Secret, environ: Mapping[str, str]) -> str:
    """What the reference says now, without a line break at its end; `ConfigError` if it says nothing."""
    try:
        return _read(secret, environ)
    except Flaw as flaw:
        raise ConfigError([Problem(str(secret), flaw.message, flaw.mend)]) from None


def check(text: str, environ: Mapping[str, str]) -> None:
    """A `Flaw` if a reference in the text is malformed or says nothing now."""
    for secret in references(text):
        try:
            _read(secret, environ)
        except Flaw as flaw:
            raise Flaw(f"refers to {secret}, which {flaw.message}", flaw.mend) from None


def resolve(settings: Mapping[str, Setting], environ: Mapping[str, str]) -> dict[str, Setting]:
    """The settings with every reference replaced: for the client that takes them, never for a log."""
    resolved: dict[str, Setting] = {}
    for name, value in settings.items():
        if isinstance(value, str):
            value = _REFERENCE.sub(lambda match: read(_secret(match[1]), environ), value)
        resolved[name] = value
    return resolved


def _secret(inner: str) -> Secret:
    kind, colon, name = inner.partition(":")
    if not colon or kind not in ("env", "file"):
        # What stands in the braces may itself be part of a secret, so it is not shown.
        raise Flaw("has a ${…} that is neither an environment variable nor a file.", _FORMS)
    if kind == "env" and _VARIABLE.fullmatch(name) is None:
        raise Flaw("has a ${env:…} without the name of a variable.", "Write ${env:NAME}.")
    if not name or "\0" in name:
        raise Flaw("has a ${file:…} without a path.", "Write ${file:path}.")
    return Secret(kind, name)


def _read(secret: Secret, environ: Mapping[str, str]) -> str:
    if secret.kind == "env":
        value = environ.get(secret.name)
        if value is None:
            raise Flaw("is not set.", f"Set the variable {secret.name}.")
    else:
        try:
            with open(secret.name, "rb") as file:
                data = file.read(SECRET_BYTES_MAX + 1)
        except OSError as error:
            raise Flaw(
                f"cannot be read: {os.strerror(error.errno) if error.errno else 'unknown error'}.",
                "Name a file that this process may read.",
            ) from None
        if len(data) > SECRET_BYTES_MAX:
            raise Flaw(f"is larger than {SECRET_BYTES_MAX >> 10} KiB.", "Name the file of the secret alone.")
        try:
            value = data.decode()
        except UnicodeDecodeError:
            raise Flaw("is not text.", "Save the secret as text.") from None
    value = value.rstrip("\r\n")
    if not value:
        raise Flaw("is empty.", "Put the secret there.")
    return value
