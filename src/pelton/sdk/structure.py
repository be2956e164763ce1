"""A JSON value into the type that a handler asked for: dataclasses and what they are made of.

The type is compiled once, when the handler is registered; a type that cannot be made from JSON is found out
then and not by the first event. Strict on purpose: "1" is no number and 1 is no text, because a handler that
gets a guess acts on it. Fields that the type does not know are ignored, so that publishers may add some.

Reading bytes is `decode.py`. Pydantic models bring their own conversion and never come here.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["Convert", "Mismatch", "UnsupportedType", "converter"]

Convert = Callable[[Any], Any]


class UnsupportedType(Exception):
    """The type cannot be made from JSON. Raised at registration, with the reason."""


class Mismatch(Exception):
    """A value is not what its type asks for; says where in the event."""

    def __init__(self, wanted: str, got: object) -> None:
        super().__init__(wanted, got)
        self.wanted = wanted
        self.got = got
        #: From the outside in.
        self.path: list[str] = []

    def __str__(self) -> str:
        where = "".join(self.path).lstrip(".") or "the value"
        return f"{where} must be {self.wanted}, not {_kind(self.got)}"


class _Missing:
    """Stands for a required field that is not there."""


_MISSING = _Missing()

_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (int, "a whole number"),
    (float, "a number"),
    (str, "text"),
    (dict, "an object"),
    (list, "an array"),
    (type(None), "null"),
    (_Missing, "missing"),
)


def _kind(value: object) -> str:
    return next((name for of, name in _KINDS if isinstance(value, of)), type(value).__name__)


def converter(hint: Any) -> Convert:
    """How to make a `hint` from a JSON value.

    Raises UnsupportedType, with the part of the type that is at fault.
    """
    return _compile(hint, {})


def _compile(hint: Any, under_way: dict[type, list[Convert]]) -> Convert:
    if hint is Any or hint is object:
        return lambda value: value
    if hint is None or hint is type(None):
        return _exactly(type(None), "null")
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _union([_compile(part, under_way) for part in arguments])
    if origin is Literal:
        return _literal(arguments)
    if hint in (list, tuple) or origin in (list, tuple, Sequence):
        return _array(hint, origin or hint, arguments, under_way)
    if hint is dict or origin in (dict, Mapping):
        return _object(hint, arguments, under_way)
    if isinstance(hint, type):
        if hint is bool:
            return _exactly(bool, "true or false")
        if hint is int:
            return _exactly(int, "a whole number")
        if hint is str:
            return _exactly(str, "text")
        if hint is float:
            return _number
        if hint is datetime:
            return _time
        if issubclass(hint, Enum):
            return _enum(hint)
        if dataclasses.is_dataclass(hint):
            return _dataclass(hint, under_way)
    raise UnsupportedType(f"{_name(hint)} cannot be made from JSON")


def _name(hint: Any) -> str:
    return hint.__qualname__ if isinstance(hint, type) else str(hint)


def _exactly(of: type, wanted: str) -> Convert:
    def convert(value: Any) -> Any:
        if type(value) is not of:  # `type`, because True is an int to isinstance
            raise Mismatch(wanted, value)
        return value

    return convert


def _number(value: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise Mismatch("a number", value)
    try:
        return float(value)
    except OverflowError:
        raise Mismatch("a number that a float can hold", value) from None


def _time(value: Any) -> datetime:
    if type(value) is str:
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass
    raise Mismatch("a time such as 2026-11-23T09:00:00Z", value)


def _enum(of: type[Enum]) -> Convert:
    members = {(type(member.value), member.value): member for member in of}
    wanted = "one of " + ", ".join(repr(member.value) for member in of)

    def convert(value: Any) -> Any:
        if isinstance(value, (str, int, float, bool)) and (type(value), value) in members:
            return members[type(value), value]
        raise Mismatch(wanted, value)

    return convert


def _literal(values: tuple[Any, ...]) -> Convert:
    known = {(type(value), value) for value in values}
    wanted = "one of " + ", ".join(map(repr, values))

    def convert(value: Any) -> Any:
        if isinstance(value, (str, int, bool, type(None))) and (type(value), value) in known:
            return value
        raise Mismatch(wanted, value)

    return convert


def _union(parts: list[Convert]) -> Convert:
    """The first part that fits, in the order they are written."""

    def convert(value: Any) -> Any:
        misses: list[Mismatch] = []
        for part in parts:
            try:
                return part(value)
            except Mismatch as miss:
                misses.append(miss)
        deepest = max(misses, key=lambda miss: len(miss.path))
        if deepest.path:  # it got furthest into the value: the likeliest one to have been meant
            raise deepest
        raise Mismatch(" or ".join(dict.fromkeys(miss.wanted for miss in misses)), value)

    return convert


def _array(hint: Any, kind: Any, arguments: tuple[Any, ...], under_way: dict[type, list[Convert]]) -> Convert:
    is_tuple = kind is tuple
    if is_tuple and arguments and (len(arguments) != 2 or arguments[1] is not Ellipsis):
        raise UnsupportedType(f"{_name(hint)} cannot be made from JSON (tuple[X, ...] can)")
    item = _compile(arguments[0] if arguments else Any, under_way)

    def convert(value: Any) -> Any:
        if type(value) is not list:
            raise Mismatch("an array", value)
        items = []
        for index, element in enumerate(value):
            try:
                items.append(item(element))
            except Mismatch as miss:
                miss.path.insert(0, f"[{index}]")
                raise
        return tuple(items) if is_tuple else items

    return convert


def _object(hint: Any, arguments: tuple[Any, ...], under_way: dict[type, list[Convert]]) -> Convert:
    if arguments and arguments[0] not in (str, Any):
        raise UnsupportedType(f"{_name(hint)} cannot be made from JSON (the names in an object are text)")
    item = _compile(arguments[1] if arguments else Any, under_way)

    def convert(value: Any) -> Any:
        if type(value) is not dict:
            raise Mismatch("an object", value)
        items = {}
        for name, element in value.items():
            try:
                items[name] = item(element)
            except Mismatch as miss:
                miss.path.insert(0, f".{name}")
                raise
        return items

    return convert


def _dataclass(of: Any, under_way: dict[type, list[Convert]]) -> Convert:
    if of in under_way:  # a type that contains itself: what stands in the list later is looked up per value
        itself = under_way[of]
        return lambda value: itself[0](value)
    under_way[of] = []
    try:
        hints = get_type_hints(of)
    except NameError as error:
        raise UnsupportedType(f"a field of {_name(of)} has a type unknown at run time: {error}") from error
    fields: list[tuple[str, Convert, bool]] = []
    for field in dataclasses.fields(of):
        if not field.init:
            continue
        try:
            convert_field = _compile(hints[field.name], under_way)
        except UnsupportedType as error:
            raise UnsupportedType(f"{_name(of)}.{field.name}: {error}") from None
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        fields.append((field.name, convert_field, required))

    def convert(value: Any) -> Any:
        if type(value) is not dict:
            raise Mismatch("an object", value)
        arguments = {}
        for name, convert_field, required in fields:
            element = value.get(name, _MISSING)
            try:
                if element is not _MISSING:
                    arguments[name] = convert_field(element)
                elif required:
                    raise Mismatch("given", _MISSING)
            except Mismatch as miss:
                miss.path.insert(0, f".{name}")
                raise
        return of(**arguments)

    under_way[of].append(convert)
    return convert
