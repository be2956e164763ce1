"""Where things stand in the file, and the mistakes found so far.

Every reader adds to one `Problems` and goes on, so that a user sees all mistakes at once, in file order.
What is a mistake is decided elsewhere.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from pelton.errors import ConfigError, Problem

__all__ = ["FILE", "PROBLEMS_MAX", "Flaw", "Path", "Places", "Problems", "dotted", "nearest", "shown"]

#: Steps from the top of the file to a value: keys, and indexes of lists.
Path = tuple[str | int, ...]

#: What a problem of the whole file is filed under.
FILE = "the file"

#: A file that is not a config at all can be wrong in thousands of places; nobody reads that many.
PROBLEMS_MAX = 100

#: Longer values are cut where a message shows them.
_SHOWN_MAX = 48


class Flaw(ValueError):
    """What is wrong with one value, and how to mend it; where it stands is added by whoever catches it."""

    def __init__(self, message: str, mend: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend


@dataclass(slots=True)
class Places:
    """Line and column of every key and list item, and the variables that replaced some of them."""

    marks: dict[Path, tuple[int, int]] = field(default_factory=dict)
    #: Path -> name of the environment variable that set it.
    origins: dict[Path, str] = field(default_factory=dict)

    def origin(self, path: Path) -> str | None:
        """The variable that set this value or something around it."""
        for length in range(len(path), 0, -1):
            name = self.origins.get(path[:length])
            if name is not None:
                return name
        return None

    def mark(self, path: Path) -> tuple[int, int]:
        """Line and column of the value or of the nearest thing around it; (0, 0) where there is none."""
        for length in range(len(path), 0, -1):
            mark = self.marks.get(path[:length])
            if mark is not None:
                return mark
        return (0, 0)

    def line(self, path: Path) -> int:
        return 0 if self.origin(path) else self.mark(path)[0]


class Problems:
    """The mistakes of one file; adding one never stops the reading."""

    def __init__(self) -> None:
        self.places = Places()
        self._found: list[tuple[tuple[int, int], Problem]] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, path: Path, message: str, mend: str = "") -> None:
        """A mistake at a value of the file, or of the variable that replaced it."""
        variable = self.places.origin(path)
        if variable is not None:
            self.add_variable(variable, message, mend)
            return
        mark = self.places.mark(path)
        self._found.append((mark, Problem(dotted(path) or FILE, message, mend, mark[0])))

    def add_flaw(self, path: Path, flaw: Flaw) -> None:
        self.add(path, flaw.message, flaw.mend)

    def add_text(self, line: int, message: str, mend: str = "", *, path: Path = (), column: int = 0) -> None:
        """A mistake in the text itself, before there are values."""
        self._found.append(((line, column), Problem(dotted(path) or FILE, message, mend, line)))

    def add_variable(self, name: str, message: str, mend: str = "") -> None:
        """A mistake of an environment variable; these come after those of the file."""
        self._found.append(((1 << 62, 0), Problem(name, message, mend)))

    def error(self, source: str) -> ConfigError:
        """All of them, in file order, each one once."""
        ordered = list(
            dict.fromkeys(problem for _, problem in sorted(self._found, key=lambda found: found[0]))
        )
        if len(ordered) > PROBLEMS_MAX:
            rest = len(ordered) - PROBLEMS_MAX
            ordered[PROBLEMS_MAX:] = [Problem(FILE, f"has {rest} more problems, not shown.")]
        return ConfigError(ordered, source=source)


def dotted(path: Path) -> str:
    """`subscriptions.notify.topics[0]`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def nearest(name: str, known: Iterable[str]) -> str:
    """`Did you mean ...?` for the nearest known name, or nothing."""
    by_lower = {item.lower(): item for item in known}
    close = difflib.get_close_matches(name.lower()[:64], by_lower, n=1, cutoff=0.6)
    return f"Did you mean {by_lower[close[0]]}?" if close else ""


def shown(value: object) -> str:
    """A value as a message shows it; never used for one that may be a secret."""
    if value is None:
        return "empty"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if len(text) > _SHOWN_MAX:
        text = text[: _SHOWN_MAX - 1] + "…"
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str) else text
