"""The request of a unary method, for each attempt: the record's own bytes, or fields mapped into a message.

All that can be wrong with a mapping is found at construction, all at once, with lines. What is left for run
time is the event's fault: `RequestError`. Values into fields is `fields.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import EncodeError, Message

from pelton.core.delivery import Delivery
from pelton.errors import ConfigError, Problem, RequestError
from pelton.request.document import refuse
from pelton.request.expression import Expression, ExpressionError, compile_expression, nearest
from pelton.request.fields import Write, Writers, kinds_of, type_name
from pelton.request.scalars import Mismatch
from pelton.request.variables import Kind, Reader
from pelton.subscription import Subscription

__all__ = ["Builder", "RequestBuilder"]


class Builder(Protocol):
    """Makes the body of one attempt's call."""

    def build(self, delivery: Delivery, parameters: Mapping[str, str]) -> bytes:
        """The serialised request; `RequestError` if this event can have none."""
        ...


class RequestBuilder:
    """Of a `unary` subscription. `ConfigError` carries every mistake of its mapping.

    One message is used over and over: not for two threads at once.
    """

    def __init__(self, subscription: Subscription, input_type: Descriptor | None = None) -> None:
        self._steps: tuple[tuple[str, Reader, Write], ...] = ()
        mapping = subscription.request
        if mapping.raw:
            return
        assert input_type is not None, "a mapping is checked against the method's request type"
        self._message: Message = message_factory.GetMessageClass(input_type)()
        checker = _Checker(subscription, input_type, self._message)
        self._steps = tuple(step for step in map(checker.step, mapping.fields) if step is not None)
        if checker.problems:
            raise ConfigError(checker.problems, source=f"subscriptions.{subscription.name}")

    def build(self, delivery: Delivery, parameters: Mapping[str, str]) -> bytes:
        event = delivery.event
        if not self._steps:
            return event.record_value or b""
        message = self._message
        message.Clear()
        field = ""
        try:
            for field, read, write in self._steps:  # noqa: B007 - named in the messages below
                value = read(event, delivery, parameters)
                if value is not None:
                    write(message, value)
            return message.SerializeToString()
        except RequestError as error:
            raise RequestError(f"request field {field}: {error}") from None
        except Mismatch as error:
            refuse(event, f"request field {field}: {error}")
        except UnicodeEncodeError:
            refuse(event, f"request field {field}: a text has half a surrogate pair")
        except (TypeError, ValueError, RecursionError) as error:
            # Protobuf found what the checks before it did not.
            refuse(event, f"request field {field}: protobuf refuses the value ({type(error).__name__})")
        except EncodeError:
            refuse(
                event,
                f"the request lacks a required field of {message.DESCRIPTOR.full_name}, or nests too deeply",
            )


class _Checker:
    """Turns the lines of one mapping into steps, and collects what is wrong with them."""

    def __init__(self, subscription: Subscription, input_type: Descriptor, scratch: Message) -> None:
        self.problems: list[Problem] = []
        self._path = f"subscriptions.{subscription.name}.request"
        self._mapping = subscription.request
        self._input_type = input_type
        self._scratch = scratch
        self._names = tuple(parameter.name for parameter in subscription.parameters)
        self._constants = {p.name: p.constant for p in subscription.parameters if p.constant is not None}
        self._writers = Writers()

    def step(self, path: str) -> tuple[str, Reader, Write] | None:
        parents, field = self._find(path)
        if field is None:
            return None
        for other in self._mapping.fields:
            if path.startswith(f"{other}."):
                self._problem(path, f"{other} is mapped as a whole, too.", "Map one of them.")
                return None
        try:
            expression = compile_expression(self._mapping.fields[path], self._names)
        except ExpressionError as error:
            self._problem(path, error.message, error.mend)
            return None
        if expression.parameter is None and not self._fits(path, expression, field):
            return None
        make = self._writers.write_text if expression.parameter is not None else self._writers.write
        write = _below(parents, make(field))
        return self._constant(path, expression, field, write)

    def _problem(self, path: str, message: str, mend: str = "") -> None:
        self.problems.append(Problem(f"{self._path}.{path}", message, mend, self._mapping.lines.get(path, 0)))

    def _find(self, path: str) -> tuple[tuple[str, ...], FieldDescriptor | None]:
        """The field at a dotted path, and the names of the messages above it."""
        descriptor = self._input_type
        *parents, last = path.split(".")
        for at, name in enumerate(parents):
            field = self._field(path, descriptor, name)
            if field is None:
                return (), None
            if field.message_type is None or field.is_repeated:
                whole = ".".join(parents[: at + 1])
                self._problem(
                    path, f"{whole} is {type_name(field)}: it has no field {path[len(whole) + 1 :]}."
                )
                return (), None
            descriptor = field.message_type
        return tuple(parents), self._field(path, descriptor, last)

    def _field(self, path: str, descriptor: Descriptor, name: str) -> FieldDescriptor | None:
        fields = descriptor.fields_by_name
        if name in fields:
            return fields[name]
        by_json_name = {field.json_name: field.name for field in descriptor.fields}
        if name in by_json_name:
            mend = f"Did you mean {by_json_name[name]}?"
        else:
            mend = nearest(name, fields) or f"Its fields: {', '.join(fields) or 'none'}."
        self._problem(path, f"{descriptor.full_name} has no field {name}.", mend)
        return None

    def _fits(self, path: str, expression: Expression, field: FieldDescriptor) -> bool:
        takes = kinds_of(field)
        if expression.kind is Kind.DYN or expression.kind in takes:
            return True
        if expression.kind is Kind.NULL:
            self._problem(path, "is always null.", "Leave the field out.")
            return False
        mend = next((mend for kind, mend in _MENDS.items() if kind in takes), "")
        gives = f"gives {expression.kind.value}"
        self._problem(path, f"the field is {type_name(field)}, the expression {gives}.", mend)
        return False

    def _constant(
        self, path: str, expression: Expression, field: FieldDescriptor, write: Write
    ) -> tuple[str, Reader, Write] | None:
        """The step; what never changes is tried now, and what fails now would fail for every event."""
        if expression.parameter in self._constants:
            value = self._constants[expression.parameter or ""]
        elif expression.constant:
            value = expression.value
            if value is None:
                return None
        else:
            return path, expression.read, write
        try:
            write(self._scratch, value)
            self._scratch.Clear()
        except (Mismatch, TypeError, ValueError) as error:
            said = str(error) if isinstance(error, Mismatch) else "protobuf refuses the value"
            mend = error.mend if isinstance(error, Mismatch) else ""
            self._problem(path, f"the field is {type_name(field)}: {said}.", mend)
            return None
        return path, lambda event, delivery, parameters: value, write


#: The first that the field takes.
_MENDS = {
    Kind.STRING: "Write string(…), or event.text for bytes.",
    Kind.BYTES: "Write bytes(…).",
    Kind.DOUBLE: "Write double(…).",
    Kind.INT: "Write int(…).",
    Kind.BOOL: "Write a comparison, such as … == 'true'.",
    Kind.TIMESTAMP: "Write timestamp(…).",
    Kind.DURATION: "Write duration(…).",
    Kind.LIST: "Write a list: […].",
    Kind.MAP: "Map its fields one by one, or a map whose names are its fields.",
}


def _below(parents: tuple[str, ...], write: Write) -> Write:
    """`write`, in the message that the names lead to."""
    if not parents:
        return write
    if len(parents) == 1:
        parent = parents[0]
        return lambda message, value: write(getattr(message, parent), value)

    def write_below(message: Message, value: object) -> None:
        for name in parents:
            message = getattr(message, name)
        write(message, value)

    return write_below
