"""The subscription's parameters for one delivery: names and texts.

Constants are made once and shared. How parameters reach the target is for those who send: `build.py`,
`handler.py`, and the call's metadata.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pelton.core.delivery import Delivery
from pelton.errors import ConfigError, Problem, RequestError
from pelton.request.expression import ExpressionError, compile_expression
from pelton.request.variables import Kind, Reader
from pelton.subscription import Subscription

__all__ = ["Parameters"]


class Parameters:
    """Checked at construction, all mistakes at once; then a mapping per delivery."""

    def __init__(self, subscription: Subscription) -> None:
        #: What is the same for all: the part that a filter may use, and that a stream says once in a batch.
        self.constants: Mapping[str, str]
        #: The names of those that differ from event to event, in their order.
        self.computed: tuple[str, ...]
        constants = {p.name: p.constant for p in subscription.parameters if p.constant is not None}
        computed: list[tuple[str, Reader]] = []
        problems: list[Problem] = []
        for parameter in subscription.parameters:
            if parameter.expression is None:
                continue
            path = f"subscriptions.{subscription.name}.parameters.{parameter.name}"
            try:
                expression = compile_expression(parameter.expression, constants)
            except ExpressionError as error:
                problems.append(Problem(path, error.message, error.mend, parameter.line))
                continue
            if expression.kind in (Kind.LIST, Kind.MAP):
                mend = "Pick one entry of it."
                problems.append(
                    Problem(path, f"gives a {expression.kind.value}, not a text", mend, parameter.line)
                )
                continue
            computed.append((parameter.name, expression.read))
        if problems:
            raise ConfigError(problems, source=f"subscriptions.{subscription.name}")
        self.constants = constants
        self.computed = tuple(name for name, _ in computed)
        self._reads = tuple(computed)

    @property
    def names(self) -> tuple[str, ...]:
        """All names that an expression may use."""
        return (*self.constants, *self.computed)

    def of(self, delivery: Delivery) -> Mapping[str, str]:
        """The parameters of this attempt. Shared when nothing is computed: not to be changed."""
        if not self._reads:
            return self.constants
        parameters = dict(self.constants)
        event = delivery.event
        for name, read in self._reads:
            try:
                value = read(event, delivery, self.constants)
                if value is not None:
                    parameters[name] = _text(value)
            except RequestError as error:
                raise RequestError(f"parameter {name}: {error}") from None
            except _NotText as error:
                where = f"event {event.topic}/{event.partition}/{event.offset}"
                raise RequestError(f"parameter {name}: {error} ({where})") from None
        return parameters


class _NotText(Exception):
    """A value has no one way to be written."""


def _text(value: Any) -> str:
    """One way to write each value, the same on every machine and at every attempt."""
    kind = type(value)
    if kind is str:
        return str(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is int:
        return str(value)
    if kind is float:
        if not math.isfinite(value):
            raise _NotText("the number is not finite")
        return repr(value)
    if kind is datetime:
        return str(value.astimezone(UTC).replace(tzinfo=None).isoformat()) + "Z"
    if kind is timedelta:
        micros = value // timedelta(microseconds=1)
        seconds, rest = divmod(abs(micros), 1_000_000)
        return f"{'-' if micros < 0 else ''}{seconds}" + (f".{rest:06d}".rstrip("0") if rest else "") + "s"
    if kind is bytes:
        try:
            return str(value.decode())
        except UnicodeDecodeError:
            raise _NotText("the bytes are not UTF-8 text") from None
    raise _NotText(f"a {'list' if kind is list else 'map'} is not a text")
