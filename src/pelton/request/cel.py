"""The port to the CEL library: compile a text against the table of variables, run it over bindings.

The only file that knows `cel_expr_python`, which is imported when the first expression needs it. Seen in
0.1.3 and mended here: a `str` or `bytes` is cut at its first NUL on the way in, a nullable variable cannot be
declared and bound as a plain value, a lone surrogate raises, and messages quote the data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from google.protobuf import timestamp_pb2, wrappers_pb2

from pelton.request.variables import VARIABLES, Kind, Variable

__all__ = ["CelFailure", "CelMistake", "Program", "carry", "carry_document", "compile_cel"]


class CelMistake(Exception):
    """The text cannot be compiled; `line` and `column` count from 1, 0 where none is known."""

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.message, self.line, self.column = message, line, column


class CelFailure(Exception):
    """An evaluation failed. The message quotes no data; `unbound` names the variable that was missing."""

    def __init__(self, message: str, unbound: str | None = None) -> None:
        super().__init__(message)
        self.unbound = unbound


class Program(Protocol):
    """A compiled expression."""

    @property
    def kind(self) -> Kind:
        """What it gives."""
        ...

    def run(self, bindings: Mapping[str, Any]) -> Any:
        """The value over these variables, each made ready by `carry`.

        A variable that is not bound fails only if it is reached.
        """
        ...


def compile_cel(text: str) -> Program:
    """Check the text against the variables' types, then compile it to run."""
    global _library
    if _library is None:
        _library = _Library()
    return _library.compile(text)


_library: _Library | None = None


class _Library:
    """The two environments: one that knows the types, one that takes every value as it comes.

    A nullable string is declared as a wrapper message, which a plain `str` may not be bound to; so the first
    finds the mistakes and the second one runs.
    """

    def __init__(self) -> None:
        try:
            from cel_expr_python import cel  # type: ignore[import-untyped, unused-ignore]
        except ImportError as error:
            raise CelMistake(
                "this expression is more than a plain path and needs CEL, which is not installed; "
                "install pelton[server], or cel-expr-python"
            ) from error
        self._typed = cel.NewEnv(
            variables={name: cel.Type(_declared(row)) for name, row in VARIABLES.items()}
        )
        self._untyped = cel.NewEnv(variables=dict.fromkeys(VARIABLES, cel.Type.DYN))

    def compile(self, text: str) -> Program:
        try:
            checked = self._typed.compile(text)
            kind = _kind_of(checked.return_type().name())
            return _Program(self._untyped.compile(text), kind)
        except RuntimeError as error:
            raise _mistake(str(error)) from None


_DECLARED: Mapping[Kind, str] = {
    Kind.STRING: "string",
    Kind.BYTES: "bytes",
    Kind.INT: "int",
    Kind.TIMESTAMP: "google.protobuf.Timestamp",
    # Entries may be null: a header without a value, a parameter that this event does not have.
    Kind.MAP: "map<string, google.protobuf.StringValue>",
    Kind.DYN: "dyn",
}
_DECLARED_NULLABLE = {Kind.STRING: "google.protobuf.StringValue", Kind.BYTES: "google.protobuf.BytesValue"}


def _declared(row: Variable) -> str:
    return (row.nullable and _DECLARED_NULLABLE.get(row.kind)) or _DECLARED[row.kind]


def _kind_of(name: str) -> Kind:
    try:
        return Kind(name.partition("<")[0].lower())
    except ValueError:
        raise CelMistake(f"the expression gives a {name.lower()}, which no request can hold") from None


class _Program:
    __slots__ = ("_eval", "kind")

    def __init__(self, compiled: Any, kind: Kind) -> None:
        self._eval = compiled.eval
        self.kind = kind

    def run(self, bindings: Mapping[str, Any]) -> Any:
        try:
            result = self._eval(data=bindings)
            if result.type().name() == "ERROR":
                raise _failure(str(result.value()))
            return _outward(result.plain_value())
        except (RuntimeError, UnicodeError, OverflowError, ValueError) as error:
            raise _failure(str(error)) from None


def carry(value: Any) -> Any:
    """As the library takes it: times, and texts with a NUL, as messages, which keep what others lose."""
    kind = type(value)
    if kind is str:
        return value if "\0" not in value else wrappers_pb2.StringValue(value=value)
    if kind is bytes:
        return value if b"\0" not in value else wrappers_pb2.BytesValue(value=value)
    if kind is dict:
        if any("\0" in name for name in value):
            raise CelFailure("a name in the data has a NUL, which CEL cannot hold")
        return {name: carry(item) for name, item in value.items()}
    if kind is list:
        return [carry(item) for item in value]
    if kind is datetime:
        stamp = timestamp_pb2.Timestamp()
        stamp.FromDatetime(value)
        return stamp
    return value


def carry_document(document: Any, source: bytes | None) -> Any:
    """`carry` for a JSON document, which is walked only if its source can have written a NUL at all."""
    return carry(document) if source is not None and b"\\u0000" in source else document


def _outward(value: Any) -> Any:
    kind = type(value)
    if kind is bytearray:
        return bytes(value)
    if kind is list:
        return [_outward(item) for item in value]
    if kind is dict:
        return {name: _outward(item) for name, item in value.items()}
    if kind is datetime and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return value


_MISTAKE = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.*)")
_UNBOUND = re.compile(r'No value with name "([^"]*)" found')
#: Types and operators only.
_OVERLOAD = re.compile(r"No matching overloads found : ([^'\"]{1,120})$")


def _mistake(said: str) -> CelMistake:
    found = _MISTAKE.search(said)
    if found is None:
        if "recursion limit" in said:
            return CelMistake("nested too deeply; say it in two parameters, or with fewer brackets")
        return CelMistake(said.splitlines()[0])
    line, column, message = int(found[1]), int(found[2]), found[3]
    message = message.removesuffix(" [INVALID_ARGUMENT]").replace(" (in container '')", "")
    if "recursion depth" in message:
        message = "too long a chain; at most 32 operators follow one another, so bracket some of them"
    message = message.replace("mismatched input '<EOF>'", "it ends too early,").partition(" expecting {")[0]
    return CelMistake(message.rstrip(","), max(line, 0), max(column, 0))


def _failure(said: str) -> CelFailure:
    unbound = _UNBOUND.search(said)
    if unbound is not None:
        return CelFailure(f"{unbound[1]} cannot be read", unbound[1])
    overload = _OVERLOAD.search(said)
    if overload is not None:
        return CelFailure(f"no such operation on these types: {overload[1]}")
    for sign, message in _SIGNS:
        if sign in said:
            return CelFailure(message)
    return CelFailure("it fails for this event")


#: What the library says, and what may be said of it: its own words may quote the event.
_SIGNS = (
    ("NOT_FOUND", "no such field"),
    ("non-message", "a field is read of a value that has none"),
    ("Iteration budget", "it takes too many steps"),
    ("divide by zero", "divides by zero"),
    ("modulus by zero", "divides by zero"),
    ("overflow", "a number is out of range"),
    ("out of range", "a number is out of range"),
    ("Index error", "a list has no such entry"),
    ("conversion failed", "a text cannot be converted"),
    ("Integer value", "a number is out of range"),
    ("UTF-8", "the bytes are not UTF-8"),
    ("regular expression", "the regular expression is not valid"),
    ("cannot convert", "a text cannot be converted"),
    ("construction from null", "a text has half a surrogate pair"),
)
