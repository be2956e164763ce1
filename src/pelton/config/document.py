"""YAML text to plain values, with the line of each.

Read from the parser's events, not composed by the library: so depth is bounded, a repeated key is a
mistake and not the last one's win, and a scalar is what YAML 1.2 says it is (`on`, `yes` and `010` are
text). What a key means is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import NoReturn

import yaml

from pelton.config.problems import Path, Problems

__all__ = ["DEPTH_MAX", "FILE_BYTES_MAX", "Value", "parse_document", "parse_value", "read_text"]

#: Read in about 1.5 s; a start that takes much longer is no start. 250 subscriptions fit, and a
#: subscription with every option set is 1 KiB.
FILE_BYTES_MAX = 512 << 10

#: The deepest option of ours is six levels down; what is deeper is a mistake or an attack on the stack.
DEPTH_MAX = 16

Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]

_STRING_TAG = "tag:yaml.org,2002:str"
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_GROUPED = re.compile(r"[-+]?[1-9][0-9]{0,2}(?:_[0-9]{3}){1,5}")
_FLOAT = re.compile(r"[-+]?(?:[0-9]{1,18}\.[0-9]{0,18}|\.[0-9]{1,18})(?:[eE][-+]?[0-9]{1,2})?")


class _Unreadable(Exception):
    """The text cannot be read any further; the problem has been added."""


def read_text(path: FilePath, problems: Problems) -> str | None:
    """The file's text, or None and a problem."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problems.add_text(0, f"cannot be read: {reason}.", "Name a file that exists and may be read.")
        return None
    if len(data) > FILE_BYTES_MAX:
        problems.add_text(
            0,
            f"is larger than {FILE_BYTES_MAX >> 10} KiB.",
            "Split the subscriptions over several files, one server each.",
        )
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.add_text(line, "is not UTF-8 text.", "Save it as UTF-8.")
        return None


def parse_document(text: str, problems: Problems) -> dict[str, Value] | None:
    """The file's top mapping, its marks kept in `problems.places`; None if there is nothing to read on."""
    if not text.strip():
        problems.add_text(0, "is empty.", "Start with the sections kafka, targets and subscriptions.")
        return None
    value = _Reader(text, problems, marks=True).read()
    if value is None or isinstance(value, dict):
        if value is None and not problems:
            problems.add_text(
                0, "has no content.", "Start with the sections kafka, targets and subscriptions."
            )
        return value
    problems.add_text(
        1, "must be a mapping at the top.", "Start with the sections kafka, targets and subscriptions."
    )
    return None


def parse_value(text: str, problems: Problems) -> Value:
    """One value as YAML, as a variable holds it; the problems are those of this text."""
    return _Reader(text, problems, marks=False).read()


class _Reader:
    """One pass over the events of one text."""

    def __init__(self, text: str, problems: Problems, *, marks: bool) -> None:
        self._text = text
        self._problems = problems
        self._marks = problems.places.marks if marks else None
        self._events: Iterator[yaml.Event] = iter(())

    def read(self) -> Value:
        try:
            self._events = yaml.parse(self._text, Loader=yaml.SafeLoader)
            return self._document()
        except _Unreadable:
            return None
        except yaml.MarkedYAMLError as error:
            self._syntax(error)
        except yaml.reader.ReaderError as error:
            line = self._text.count("\n", 0, error.position) + 1
            self._problems.add_text(
                line,
                "holds a character that YAML does not allow.",
                "Remove it, or write it as an escape in quotes.",
            )
        except (ValueError, OverflowError):
            # PyYAML turns `\UFFFFFFFF` in quotes into chr() of what is no character, and says no line.
            self._problems.add_text(0, "holds an escape that names no character.", "Remove it.")
        return None

    def _syntax(self, error: yaml.MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        what = (error.problem or "it ends too early").removeprefix("found ")
        mend = "Check the indentation, the quotes and the brackets up to this line."
        if "'\\t'" in what:
            what, mend = "a tab where only spaces may stand", "Indent with spaces."
        elif "mapping values are not allowed" in what:
            what, mend = "a second colon in one value", "Put the value in quotes, or start a new line."
        self._problems.add_text(mark.line + 1 if mark else 0, f"is not YAML here: {what}.", mend)

    def _document(self) -> Value:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), ())
        next(self._events)  # the document's end
        following = next(self._events)
        if not isinstance(following, yaml.StreamEndEvent):
            self._stop(
                following, (), "has a second document.", "Keep one document: remove what follows the ---."
            )
        return value

    def _value(self, event: yaml.Event, path: Path) -> Value:
        if isinstance(event, yaml.AliasEvent):
            self._stop(event, path, "is an alias, which is not read.", "Write the value out.")
        if len(path) > DEPTH_MAX:
            self._stop(event, path[:3], f"is nested deeper than {DEPTH_MAX} levels.", "Remove levels.")
        if isinstance(event, yaml.MappingStartEvent):
            self._refuse_tag(event, path)
            return self._mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            self._refuse_tag(event, path)
            return self._sequence(path)
        assert isinstance(event, yaml.ScalarEvent)
        text = self._scalar_text(event, path)
        if event.style is not None or event.tag == _STRING_TAG:
            return text
        return _plain(text)

    def _mapping(self, path: Path) -> dict[str, Value]:
        values: dict[str, Value] = {}
        first_lines: dict[str, int] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                self._stop(event, path, "has a key that is not text.", "Write keys as plain words.")
            key = self._scalar_text(event, path)
            line, column = _mark(event)
            repeated = key in values
            if repeated:
                self._problems.add_text(
                    line,
                    f"is written twice; the first one is in line {first_lines[key]}.",
                    "Keep one of them.",
                    path=(*path, key),
                    column=column,
                )
            elif self._marks is not None:
                self._marks[(*path, key)] = (line, column)
            value = self._value(next(self._events), (*path, key))
            if not repeated:
                values[key] = value
                first_lines[key] = line
        return values

    def _sequence(self, path: Path) -> list[Value]:
        values: list[Value] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            step = (*path, len(values))
            if self._marks is not None:
                self._marks[step] = _mark(event)
            values.append(self._value(event, step))
        return values

    def _scalar_text(self, event: yaml.ScalarEvent, path: Path) -> str:
        self._refuse_tag(event, path)
        text: str = event.value
        if any("\ud800" <= character <= "\udfff" for character in text):
            self._stop(event, path, "holds half a character (a lone surrogate).", "Remove it.")
        return text

    def _refuse_tag(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, path: Path) -> None:
        if event.tag not in (None, "!", _STRING_TAG):
            self._stop(event, path, "has a YAML tag, which is not read.", "Remove what starts with !.")

    def _stop(self, event: yaml.Event, path: Path, message: str, mend: str) -> NoReturn:
        line, column = _mark(event)
        self._problems.add_text(line, message, mend, path=path, column=column)
        raise _Unreadable


def _mark(event: yaml.Event) -> tuple[int, int]:
    """Line, counted from 1, and column; every event that the parser makes has them."""
    assert event.start_mark is not None
    return event.start_mark.line + 1, event.start_mark.column


def _plain(text: str) -> Value:
    """What an unquoted scalar is: YAML 1.2's core schema, and `50_000` for a number that people read."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    if _INTEGER.fullmatch(text) or _GROUPED.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
