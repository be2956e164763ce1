"""One value of one scalar type: what protobuf takes of it, and what is refused.

Protobuf's own checks let some through that do not fit (a double too large for a float) and say it in
words that quote the value. Messages, lists and maps are `fields.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from pelton.request.expression import nearest

__all__ = [
    "INT_RANGES",
    "SCALAR_NAMES",
    "Convert",
    "Mismatch",
    "called",
    "converter",
    "key_converter",
    "parser",
]

#: Makes what protobuf takes of a value; `Mismatch` if it does not fit.
Convert = Callable[[Any], Any]


class Mismatch(Exception):
    """A value does not fit a field. Quotes no value; `mend` may, and is for values from the configuration."""

    def __init__(self, message: str, mend: str = "") -> None:
        super().__init__(message)
        self.mend = mend


_F = FieldDescriptor
INT_RANGES = {
    _F.TYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    _F.TYPE_SINT32: (-(1 << 31), (1 << 31) - 1),
    _F.TYPE_SFIXED32: (-(1 << 31), (1 << 31) - 1),
    _F.TYPE_UINT32: (0, (1 << 32) - 1),
    _F.TYPE_FIXED32: (0, (1 << 32) - 1),
    _F.TYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    _F.TYPE_SINT64: (-(1 << 63), (1 << 63) - 1),
    _F.TYPE_SFIXED64: (-(1 << 63), (1 << 63) - 1),
    _F.TYPE_UINT64: (0, (1 << 64) - 1),
    _F.TYPE_FIXED64: (0, (1 << 64) - 1),
}
SCALAR_NAMES = {
    _F.TYPE_DOUBLE: "double",
    _F.TYPE_FLOAT: "float",
    _F.TYPE_BOOL: "bool",
    _F.TYPE_STRING: "string",
    _F.TYPE_BYTES: "bytes",
    _F.TYPE_INT32: "int32",
    _F.TYPE_SINT32: "sint32",
    _F.TYPE_SFIXED32: "sfixed32",
    _F.TYPE_UINT32: "uint32",
    _F.TYPE_FIXED32: "fixed32",
    _F.TYPE_INT64: "int64",
    _F.TYPE_SINT64: "sint64",
    _F.TYPE_SFIXED64: "sfixed64",
    _F.TYPE_UINT64: "uint64",
    _F.TYPE_FIXED64: "fixed64",
}
#: Beyond it a double no longer tells neighbouring integers apart.
_EXACT_MAX = 1 << 53
_FLOAT_MAX = 3.4028234663852886e38


def called(value: Any) -> str:
    """A value's type, in the words of the configuration."""
    names = {
        str: "string",
        bytes: "bytes",
        bool: "bool",
        int: "int",
        float: "double",
        dict: "map",
        list: "list",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)


def converter(field: FieldDescriptor) -> Convert:
    """Makes what protobuf takes of a value that fits; protobuf's own checks let some through that do not."""
    if field.type in INT_RANGES:
        return _int_converter(*INT_RANGES[field.type], SCALAR_NAMES[field.type])
    if field.enum_type is not None:
        return _enum_converter(field.enum_type)
    return {
        _F.TYPE_STRING: _string,
        _F.TYPE_BYTES: _bytes,
        _F.TYPE_BOOL: _bool,
        _F.TYPE_DOUBLE: _double,
        _F.TYPE_FLOAT: _float,
    }[field.type]


def _string(value: Any) -> str:
    if type(value) is str:
        return value
    raise Mismatch(f"takes a string, not {called(value)}")


def _bytes(value: Any) -> bytes:
    if type(value) is bytes:
        return value
    raise Mismatch(f"takes bytes, not {called(value)}")


def _bool(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise Mismatch(f"takes a bool, not {called(value)}")


def _double(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    raise Mismatch(f"takes a number, not {called(value)}")


def _float(value: Any) -> float:
    number = _double(value)
    if _FLOAT_MAX < abs(number) < float("inf"):
        raise Mismatch("the number is out of the range of a float")
    return number


def _int_converter(low: int, high: int, name: str) -> Convert:
    def convert(value: Any) -> int:
        if type(value) is float and value.is_integer() and abs(value) <= _EXACT_MAX:
            # JSON has no integers of its own: 5.0 is 5.
            value = int(value)
        if type(value) is not int:
            raise Mismatch(f"takes an integer, not {called(value)}")
        if not low <= value <= high:
            raise Mismatch(f"the number is out of the range of {name}")
        return value

    return convert


def _enum_converter(enum: EnumDescriptor) -> Convert:
    by_name = {name: value.number for name, value in enum.values_by_name.items()}
    numbers = frozenset(by_name.values())
    integer = _int_converter(*INT_RANGES[_F.TYPE_INT32], "an enum")
    closed = enum.is_closed if hasattr(enum, "is_closed") else False

    def convert(value: Any) -> int:
        if type(value) is str:
            number = by_name.get(value)
            if number is None:
                names = ", ".join(by_name)
                raise Mismatch(
                    f"the text is no value of {enum.full_name}",
                    nearest(value, by_name) or f"Its values: {names}.",
                )
            return number
        number = int(integer(value))
        if closed and number not in numbers:
            raise Mismatch(f"the number is no value of {enum.full_name}")
        return number

    return convert


def key_converter(field: FieldDescriptor) -> Convert:
    """Keys of maps: names in JSON are texts, whatever the map's keys are."""
    if field.type == _F.TYPE_STRING:
        return _string
    parse, convert = parser(field), converter(field)
    return lambda key: convert(parse(key) if type(key) is str else key)


_INTEGER = re.compile(r"-?[0-9]{1,20}")


def parser(field: FieldDescriptor) -> Convert:
    """Reads a text as what the field holds."""
    if field.type in INT_RANGES:
        return _parse_int
    if field.type in (_F.TYPE_DOUBLE, _F.TYPE_FLOAT):
        return _parse_double
    if field.type == _F.TYPE_BOOL:
        return _parse_bool
    if field.type == _F.TYPE_ENUM:
        return lambda text: int(text) if _INTEGER.fullmatch(text) else text
    return lambda text: text


def _parse_int(text: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise Mismatch("the text is no integer")
    return int(text)


def _parse_double(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Mismatch("the text is no number") from None


def _parse_bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise Mismatch("the text is no bool", "Write true or false.")
    return text == "true"
