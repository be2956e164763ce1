"""What every check of the auditor's ends in when it fails."""

from __future__ import annotations

__all__ = ["Violation", "check"]


class Violation(Exception):
    """Something that must never happen has happened."""


def check(condition: bool, what: str, *about: object) -> None:
    if not condition:
        raise Violation(": ".join((what, *map(str, about))))
