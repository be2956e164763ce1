"""From a value to a field of a message: what fits, what is converted, what is refused.

Everything that can be known of a field is decided once, here; per event a prepared `Write` is called. Where
the values come from is `expression.py`, which fields are written is `build.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from pelton.request.expression import nearest
from pelton.request.variables import Kind

__all__ = ["Mismatch", "Write", "Writers", "kinds_of", "type_name"]

Write = Callable[[Message, Any], None]
_Convert = Callable[[Any], Any]


class Mismatch(Exception):
    """A value does not fit a field. Quotes no value; `mend` may, and is for values from the configuration."""

    def __init__(self, message: str, mend: str = "") -> None:
        super().__init__(message)
        self.mend = mend


_F = FieldDescriptor
_INTS = {
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
_NAMES = {
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
_WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
#: Beyond it a double no longer tells neighbouring integers apart.
_EXACT_MAX = 1 << 53
_FLOAT_MAX = 3.4028234663852886e38
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def type_name(field: FieldDescriptor) -> str:
    """As a `.proto` file writes it."""
    if _is_map(field):
        entry = _message_of(field).fields_by_name
        return f"map<{type_name(entry['key'])}, {type_name(entry['value'])}>"
    name = _NAMES.get(field.type) or (field.enum_type or _message_of(field)).full_name
    return f"repeated {name}" if field.is_repeated else name


def kinds_of(field: FieldDescriptor) -> frozenset[Kind]:
    """What may be assigned to the field; `Kind.DYN` is seen when the event is."""
    if _is_map(field):
        return frozenset((Kind.MAP,))
    if field.is_repeated:
        return frozenset((Kind.LIST,))
    return _kinds_of_one(field)


def _kinds_of_one(field: FieldDescriptor) -> frozenset[Kind]:
    if field.type in _INTS:
        return frozenset((Kind.INT, Kind.UINT))
    if field.type in (_F.TYPE_DOUBLE, _F.TYPE_FLOAT):
        return frozenset((Kind.DOUBLE, Kind.INT, Kind.UINT))
    if field.type == _F.TYPE_ENUM:
        return frozenset((Kind.STRING, Kind.INT, Kind.UINT))
    simple = {_F.TYPE_BOOL: Kind.BOOL, _F.TYPE_STRING: Kind.STRING, _F.TYPE_BYTES: Kind.BYTES}.get(field.type)
    if simple is not None:
        return frozenset((simple,))
    descriptor = _message_of(field)
    if descriptor.full_name in _WRAPPERS:
        return _kinds_of_one(descriptor.fields_by_name["value"])
    if descriptor.full_name == "google.protobuf.Value":
        return frozenset(
            (Kind.NULL, Kind.BOOL, Kind.INT, Kind.UINT, Kind.DOUBLE, Kind.STRING, Kind.LIST, Kind.MAP)
        )
    return frozenset((_KIND_OF_MESSAGE.get(descriptor.full_name, Kind.MAP),))


_KIND_OF_MESSAGE = {
    "google.protobuf.Timestamp": Kind.TIMESTAMP,
    "google.protobuf.Duration": Kind.DURATION,
    "google.protobuf.ListValue": Kind.LIST,
}


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _message_of(field: FieldDescriptor) -> Descriptor:
    assert field.message_type is not None
    return field.message_type


def _called(value: Any) -> str:
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


class Writers:
    """Makes a `Write` per field, and the fillers of messages once per type: types may contain themselves."""

    def __init__(self) -> None:
        self._fillers: dict[str, Write] = {}

    def write(self, field: FieldDescriptor) -> Write:
        """Puts a value, which is not null, into the field."""
        name = field.name
        if _is_map(field):
            return self._write_map(field)
        if field.message_type is not None:
            fill = self._fill(field.message_type)
            if field.is_repeated:

                def write_messages(message: Message, value: Any) -> None:
                    items = getattr(message, name)
                    for item in _list(value):
                        fill(items.add(), item)

                return write_messages

            def write_message(message: Message, value: Any) -> None:
                part = getattr(message, name)
                # Even a part that stays empty is there.
                part.SetInParent()
                fill(part, value)

            return write_message
        convert = _converter(field)
        if field.is_repeated:
            return lambda message, value: getattr(message, name).extend(
                [convert(item) for item in _list(value)]
            )
        return lambda message, value: setattr(message, name, convert(value))

    def write_text(self, field: FieldDescriptor) -> Write:
        """Puts a parameter, which is always a text, into the field: read as what the field holds."""
        if field.is_repeated or _kinds_of_one(field) & {Kind.LIST, Kind.MAP, Kind.TIMESTAMP, Kind.DURATION}:
            return self.write(field)
        holder = field
        if field.message_type is not None:
            holder = field.message_type.fields_by_name["value"]
        parse = _parser(holder)
        write = self.write(field)
        return lambda message, value: write(message, parse(value))

    def _write_map(self, field: FieldDescriptor) -> Write:
        name, entry = field.name, _message_of(field).fields_by_name
        key_of = _key_converter(entry["key"])
        value_field = entry["value"]
        if value_field.message_type is not None:
            fill = self._fill(value_field.message_type)

            def write_messages(message: Message, value: Any) -> None:
                items = getattr(message, name)
                for key, item in _dict(value).items():
                    fill(items[key_of(key)], item)

            return write_messages
        convert = _converter(value_field)

        def write_values(message: Message, value: Any) -> None:
            items = getattr(message, name)
            for key, item in _dict(value).items():
                items[key_of(key)] = convert(item)

        return write_values

    def _fill(self, descriptor: Descriptor) -> Write:
        full_name = descriptor.full_name
        filler = self._fillers.get(full_name)
        if filler is None:
            if full_name in _WRAPPERS:
                filler = self.write(descriptor.fields_by_name["value"])
            else:
                filler = _WELL_KNOWN.get(full_name) or self._fill_by_name(descriptor)
            self._fillers[full_name] = filler
        return filler

    def _fill_by_name(self, descriptor: Descriptor) -> Write:
        """From a map whose names are the message's fields, as proto or as JSON writes them."""
        fields = {field.json_name: field for field in descriptor.fields} | dict(descriptor.fields_by_name)
        writes: dict[str, Write] = {}

        def fill(message: Message, value: Any) -> None:
            for name, item in _dict(value).items():
                if item is None:
                    continue
                write = writes.get(name)
                if write is None:
                    field = fields.get(name)
                    if field is None:
                        raise Mismatch(f"the map has a name that {descriptor.full_name} has no field for")
                    write = writes[name] = self.write(field)
                write(message, item)

        return fill


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise Mismatch(f"takes a list, not {_called(value)}")
    return value


def _dict(value: Any) -> dict[Any, Any]:
    if type(value) is not dict:
        raise Mismatch(f"takes a map, not {_called(value)}")
    return value


def _converter(field: FieldDescriptor) -> _Convert:
    """Makes what protobuf takes of a value that fits; protobuf's own checks let some through that do not."""
    if field.type in _INTS:
        return _int_converter(*_INTS[field.type], _NAMES[field.type])
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
    raise Mismatch(f"takes a string, not {_called(value)}")


def _bytes(value: Any) -> bytes:
    if type(value) is bytes:
        return value
    raise Mismatch(f"takes bytes, not {_called(value)}")


def _bool(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise Mismatch(f"takes a bool, not {_called(value)}")


def _double(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    raise Mismatch(f"takes a number, not {_called(value)}")


def _float(value: Any) -> float:
    number = _double(value)
    if _FLOAT_MAX < abs(number) < float("inf"):
        raise Mismatch("the number is out of the range of a float")
    return number


def _int_converter(low: int, high: int, name: str) -> _Convert:
    def convert(value: Any) -> int:
        if type(value) is float and value.is_integer() and abs(value) <= _EXACT_MAX:
            # JSON has no integers of its own: 5.0 is 5.
            value = int(value)
        if type(value) is not int:
            raise Mismatch(f"takes an integer, not {_called(value)}")
        if not low <= value <= high:
            raise Mismatch(f"the number is out of the range of {name}")
        return value

    return convert


def _enum_converter(enum: EnumDescriptor) -> _Convert:
    by_name = {name: value.number for name, value in enum.values_by_name.items()}
    numbers = frozenset(by_name.values())
    integer = _int_converter(*_INTS[_F.TYPE_INT32], "an enum")
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


def _key_converter(field: FieldDescriptor) -> _Convert:
    """Keys of maps: names in JSON are texts, whatever the map's keys are."""
    if field.type == _F.TYPE_STRING:
        return _string
    parse, convert = _parser(field), _converter(field)
    return lambda key: convert(parse(key) if type(key) is str else key)


_INTEGER = re.compile(r"-?[0-9]{1,20}")


def _parser(field: FieldDescriptor) -> _Convert:
    """Reads a text as what the field holds."""
    if field.type in _INTS:
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


def _fill_timestamp(message: Any, value: Any) -> None:
    if type(value) is not datetime:
        raise Mismatch(f"takes a timestamp, not {_called(value)}", "Write timestamp(…).")
    since = value - _EPOCH
    message.seconds = since.days * 86_400 + since.seconds
    message.nanos = since.microseconds * 1000


def _fill_duration(message: Any, value: Any) -> None:
    if type(value) is not timedelta:
        raise Mismatch(f"takes a duration, not {_called(value)}", "Write duration(…).")
    micros = value // timedelta(microseconds=1)
    seconds, rest = divmod(abs(micros), 1_000_000)
    sign = -1 if micros < 0 else 1
    message.seconds, message.nanos = sign * seconds, sign * rest * 1000


def _fill_value(message: Any, value: Any) -> None:
    kind = type(value)
    if value is None:
        message.null_value = 0
    elif kind is bool:
        message.bool_value = value
    elif kind is str:
        message.string_value = value
    elif kind is int or kind is float:
        message.number_value = value
    elif kind is list:
        message.list_value.SetInParent()
        _fill_list_value(message.list_value, value)
    elif kind is dict:
        message.struct_value.SetInParent()
        _fill_struct(message.struct_value, value)
    else:
        raise Mismatch(f"takes what JSON can say, not {_called(value)}")


def _fill_list_value(message: Any, value: Any) -> None:
    for item in _list(value):
        _fill_value(message.values.add(), item)


def _fill_struct(message: Any, value: Any) -> None:
    for name, item in _dict(value).items():
        _fill_value(message.fields[_string(name)], item)


_WELL_KNOWN: dict[str, Write] = {
    "google.protobuf.Timestamp": _fill_timestamp,
    "google.protobuf.Duration": _fill_duration,
    "google.protobuf.Value": _fill_value,
    "google.protobuf.ListValue": _fill_list_value,
    "google.protobuf.Struct": _fill_struct,
}
