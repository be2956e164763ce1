"""From an event to the argument that a handler's annotation asks for.

The annotation is read once, at registration; what cannot be decoded into is refused there. An event that
does not decode is `Undecodable`, which the caller answers with INVALID_ARGUMENT: it will not get better.

A tombstone (an event without a value) only reaches handlers whose annotation allows None, and those that take
the whole `Event`: to anybody else an absent value and an empty one would look the same.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin

from google.protobuf.message import DecodeError, Message

from pelton.event import Event
from pelton.sdk.structure import Mismatch, UnsupportedType, converter

__all__ = ["Decode", "Json", "Undecodable", "UnsupportedType", "decoder"]

#: Any JSON value; null and a tombstone are both None.
Json = dict[str, Any] | list[Any] | str | int | float | bool | None

Decode = Callable[[Event], Any]


class Undecodable(Exception):
    """The event is not what the handler takes; the message says why."""


def decoder(hint: Any) -> Decode:
    """How to make the argument for a parameter annotated with `hint`.

    Raises UnsupportedType where no event could ever be turned into one.
    """
    if hint is Event:
        return lambda event: event
    wanted, takes_none = _without_none(hint)
    of_value = _of_value(wanted)

    def decode(event: Event) -> Any:
        value = event.value
        if value is None:
            if takes_none:
                return None
            raise Undecodable("the event is a tombstone (no value), and the handler does not take None")
        return of_value(value)

    return decode


def _without_none(hint: Any) -> tuple[Any, bool]:
    """The annotation without None, and whether None was in it."""
    if hint == Json:
        return hint, True
    if get_origin(hint) in (Union, types.UnionType):
        parts = get_args(hint)
        rest = tuple(part for part in parts if part is not type(None))
        if len(rest) < len(parts):
            return Union[rest], True  # noqa: UP007 - made at run time, from a tuple
    return hint, False


def _of_value(hint: Any) -> Callable[[bytes], Any]:
    if hint is bytes:
        return bytes
    if hint is str:
        return _text
    if isinstance(hint, type) and issubclass(hint, Message):
        return _message(hint)
    if isinstance(hint, type) and hasattr(hint, "model_validate_json"):
        return _model(hint)
    if hint in (bytearray, memoryview, object, Any):
        raise UnsupportedType(f"{getattr(hint, '__name__', hint)} does not say how to decode an event")
    if hint == Json:
        return _json
    convert = converter(hint)

    def of_json(value: bytes) -> Any:
        try:
            return convert(_json(value))
        except Mismatch as miss:
            raise Undecodable(f"the event's value is not a {_name(hint)}: {miss}") from None
        except (TypeError, ValueError) as error:  # the dataclass's own __post_init__
            raise Undecodable(f"the event's value is not a {_name(hint)}: {error}") from error

    return of_json


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Undecodable(f"the event's value is not UTF-8 text: byte {error.start} is not") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _json(value: bytes) -> Any:
    try:
        return json.loads(_text(value), parse_constant=_no_constant)
    except RecursionError:
        raise Undecodable("the event's value is JSON nested too deeply") from None
    except ValueError as error:
        raise Undecodable(f"the event's value is not JSON: {error}") from None


def _message(of: type[Message]) -> Callable[[bytes], Any]:
    def decode(value: bytes) -> Any:
        try:
            return of.FromString(value)
        except DecodeError:
            raise Undecodable(f"the event's value is not a {of.DESCRIPTOR.full_name}") from None

    return decode


def _model(of: Any) -> Callable[[bytes], Any]:
    """Pydantic's own way; the library is not imported here, its class is in the caller's hand."""

    def decode(value: bytes) -> Any:
        try:
            return of.model_validate_json(value)
        except ValueError as error:  # pydantic.ValidationError is one
            raise Undecodable(f"the event's value is not a {of.__name__}: {_first_line(error)}") from None

    return decode


def _first_line(error: ValueError) -> str:
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return str(error)
    problems: Any = errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, p['loc'])) or 'the value'}: {p['msg']}" for p in problems[:3])
