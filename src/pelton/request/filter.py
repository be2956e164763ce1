"""Which events a subscription wants: one CEL expression over event and constants.

Asked before any delivery exists. What becomes of an event that is not wanted, or over which the filter fails,
is the engine's business.
"""

from __future__ import annotations

from collections.abc import Mapping

from pelton.errors import ConfigError, Problem, RequestError
from pelton.event import Event
from pelton.request.document import refuse
from pelton.request.expression import ExpressionError, compile_expression
from pelton.request.variables import Kind

__all__ = ["Filter"]

_NO_PARAMETERS: Mapping[str, str] = {}


class Filter:
    """Checked at construction: `ConfigError` with `path` and `line` if it can never be true or false."""

    def __init__(
        self,
        text: str,
        constants: Mapping[str, str] = _NO_PARAMETERS,
        *,
        path: str = "filter",
        line: int = 0,
    ) -> None:
        try:
            expression = compile_expression(text, constants, delivery=False)
        except ExpressionError as error:
            raise ConfigError([Problem(path, error.message, error.mend, line)], source=path) from None
        if expression.kind not in (Kind.BOOL, Kind.DYN):
            problem = Problem(
                path,
                f"gives a {expression.kind.value}, not true or false.",
                "Compare it with something.",
                line,
            )
            raise ConfigError([problem], source=path)
        self.text = text
        self._expression = expression
        self._constants = constants

    def accepts(self, event: Event) -> bool:
        """Whether the event is wanted; `RequestError` if it cannot be told, which is the event's fault.

        Null is no answer: a tombstone through a filter that reads the value is an error, not a loss.
        """
        try:
            answer = self._expression.evaluate_event(event, self._constants)
        except RequestError as error:
            raise RequestError(f"filter: {error}") from None
        if type(answer) is not bool:
            refuse(event, f"filter: gives {type(answer).__name__}, not true or false")
        return answer
