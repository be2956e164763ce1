"""A function as a handler: what its annotations ask for, read once, and refused at once if it cannot be met.

Every refusal names the function, what is wrong with it and how to mend it: it is read by somebody who has
just written that function.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, get_args

from pelton.errors import HandlerError
from pelton.sdk.context import Context
from pelton.sdk.decode import Decode, UnsupportedType, decoder

__all__ = ["Handler", "Namespace", "handler_of"]

Namespace = Mapping[str, Any]

_TAKES = "Event, bytes, str, Json, a dataclass, a pydantic model or a protobuf message"


@dataclass(frozen=True, slots=True)
class Handler:
    """One registered function."""

    name: str
    is_async: bool
    decode: Decode
    #: With the decoded event and the context; leaves out the context where the function takes none.
    call: Callable[[Any, Context], Any]


def handler_of(function: Callable[..., object], namespace: Namespace) -> Handler:
    """Read the function's signature. Raises HandlerError."""
    # Behind `functools.partial` stands a function, and behind an object that can be called its method.
    bare = function.func if isinstance(function, functools.partial) else function
    code = bare if inspect.isroutine(bare) else type(bare).__call__
    name = f"{bare.__module__}.{getattr(bare, '__qualname__', type(bare).__qualname__)}"
    if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
        raise HandlerError(f"{name}: a handler cannot be a generator; return instead of yield")
    event, context = _parameters(name, _signature(name, function, namespace))
    try:
        decode = decoder(event.annotation)
    except UnsupportedType as error:
        raise HandlerError(f"{name}: parameter {event.name!r}: {error}; annotate it with {_TAKES}") from None
    return Handler(name, inspect.iscoroutinefunction(code), decode, _call(function, event.name, context))


def _call(function: Callable[..., object], event: str, context: str | None) -> Callable[[Any, Context], Any]:
    if context is None:
        return lambda value, _: function(**{event: value})
    return lambda value, about: function(**{event: value, context: about})


def _signature(name: str, function: Callable[..., object], namespace: Namespace) -> inspect.Signature:
    try:
        return inspect.signature(function, locals=dict(namespace), eval_str=True)
    except NameError as error:
        raise HandlerError(
            f"{name}: an annotation names something unknown at run time ({error});"
            " import it outside `if TYPE_CHECKING`, above the handler"
        ) from None
    except Exception as error:
        raise HandlerError(f"{name}: an annotation cannot be read: {error}; write it as a type") from error


def _parameters(name: str, signature: inspect.Signature) -> tuple[Parameter, str | None]:
    """The parameter for the event, and the name of the one for the context."""
    events: list[Parameter] = []
    contexts: list[str] = []
    for parameter in signature.parameters.values():
        hint = parameter.annotation
        if hint is Context or Context in get_args(hint):
            if hint is not Context:
                raise HandlerError(
                    f"{name}: annotate {parameter.name!r} with Context alone; one is always given"
                )
            contexts.append(parameter.name)
        elif parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            continue
        elif parameter.default is Parameter.empty:  # one with a default is the function's own business
            events.append(parameter)
        else:
            continue
        if parameter.kind is Parameter.POSITIONAL_ONLY:
            raise HandlerError(f"{name}: {parameter.name!r} is passed by name; remove the / after it")
    if len(events) != 1:
        found = ", ".join(repr(parameter.name) for parameter in events) or "none"
        raise HandlerError(
            f"{name}: a handler takes one parameter for the event, and may take a Context; found {found}"
        )
    if len(contexts) > 1:
        raise HandlerError(f"{name}: two parameters are annotated with Context; remove one")
    event = events[0]
    if event.annotation is Parameter.empty:
        raise HandlerError(f"{name}: parameter {event.name!r} has no annotation; annotate it with {_TAKES}")
    return event, contexts[0] if contexts else None
