"""From a value to a field of a message: what fits, what is converted, what is refused.

Everything that can be known of a field is decided once, here; per event a prepared `Write` is called. Single
values are `scalars.py`; where they come from is `expression.py`, which fields are written is `build.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from pelton.request.scalars import (
    INT_RANGES,
    SCALAR_NAMES,
    Mismatch,
    called,
    converter,
    key_converter,
    parser,
)
from pelton.request.variables import Kind

__all__ = ["STRUCT_DEPTH_MAX", "Write", "Writers", "kinds_of", "type_name"]

Write = Callable[[Message, Any], None]

_F = FieldDescriptor
_WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
#: Each level of a Struct is three of messages, of which every protobuf parser takes 100: the target could not
#: read a deeper one.
STRUCT_DEPTH_MAX = 30
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def type_name(field: FieldDescriptor) -> str:
    """As a `.proto` file writes it."""
    if _is_map(field):
        entry = _message_of(field).fields_by_name
        return f"map<{type_name(entry['key'])}, {type_name(entry['value'])}>"
    name = SCALAR_NAMES.get(field.type) or (field.enum_type or _message_of(field)).full_name
    return f"repeated {name}" if field.is_repeated else name


def kinds_of(field: FieldDescriptor) -> frozenset[Kind]:
    """What may be assigned to the field; `Kind.DYN` is seen when the event is."""
    if _is_map(field):
        return frozenset((Kind.MAP,))
    if field.is_repeated:
        return frozenset((Kind.LIST,))
    return _kinds_of_one(field)


def _kinds_of_one(field: FieldDescriptor) -> frozenset[Kind]:
    if field.type in INT_RANGES:
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
        convert = converter(field)
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
        parse = parser(holder)
        write = self.write(field)
        return lambda message, value: write(message, parse(value))

    def _write_map(self, field: FieldDescriptor) -> Write:
        name, entry = field.name, _message_of(field).fields_by_name
        key_of = key_converter(entry["key"])
        value_field = entry["value"]
        if value_field.message_type is not None:
            fill = self._fill(value_field.message_type)

            def write_messages(message: Message, value: Any) -> None:
                items = getattr(message, name)
                for key, item in _dict(value).items():
                    fill(items[key_of(key)], item)

            return write_messages
        convert = converter(value_field)

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
        raise Mismatch(f"takes a list, not {called(value)}")
    return value


def _dict(value: Any) -> dict[Any, Any]:
    if type(value) is not dict:
        raise Mismatch(f"takes a map, not {called(value)}")
    return value


def _fill_timestamp(message: Any, value: Any) -> None:
    if type(value) is not datetime:
        raise Mismatch(f"takes a timestamp, not {called(value)}", "Write timestamp(…).")
    since = value - _EPOCH
    message.seconds = since.days * 86_400 + since.seconds
    message.nanos = since.microseconds * 1000


def _fill_duration(message: Any, value: Any) -> None:
    if type(value) is not timedelta:
        raise Mismatch(f"takes a duration, not {called(value)}", "Write duration(…).")
    micros = value // timedelta(microseconds=1)
    seconds, rest = divmod(abs(micros), 1_000_000)
    sign = -1 if micros < 0 else 1
    message.seconds, message.nanos = sign * seconds, sign * rest * 1000


def _fill_value(message: Any, value: Any, depth: int = 0) -> None:
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
        _fill_list_value(message.list_value, value, depth)
    elif kind is dict:
        message.struct_value.SetInParent()
        _fill_struct(message.struct_value, value, depth)
    else:
        raise Mismatch(f"takes what JSON can say, not {called(value)}")


def _fill_list_value(message: Any, value: Any, depth: int = 0) -> None:
    _check_depth(depth)
    for item in _list(value):
        _fill_value(message.values.add(), item, depth + 1)


def _fill_struct(message: Any, value: Any, depth: int = 0) -> None:
    _check_depth(depth)
    for name, item in _dict(value).items():
        _fill_value(message.fields[_name(name)], item, depth + 1)


def _name(value: Any) -> str:
    if type(value) is not str:
        raise Mismatch(f"takes names that are strings, not {called(value)}")
    return value


def _check_depth(depth: int) -> None:
    if depth >= STRUCT_DEPTH_MAX:
        raise Mismatch(f"the value is nested deeper than {STRUCT_DEPTH_MAX}")


_WELL_KNOWN: dict[str, Write] = {
    "google.protobuf.Timestamp": _fill_timestamp,
    "google.protobuf.Duration": _fill_duration,
    "google.protobuf.Value": _fill_value,
    "google.protobuf.ListValue": _fill_list_value,
    "google.protobuf.Struct": _fill_struct,
}
