"""A text such as `event.json.order.id` compiled to something that reads it from each event.

A plain path becomes direct access; everything else becomes CEL, over the same variables with the same values.
Nothing here knows what the value is for: `fields.py`, `parameters.py` and `filter.py` do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from pelton.core.delivery import Delivery
from pelton.errors import PeltonError, RequestError
from pelton.event import Event
from pelton.request.cel import CelFailure, CelMistake, carry, carry_document, compile_cel
from pelton.request.document import document_of, refuse
from pelton.request.variables import ROOTS, VARIABLES, Kind, Reader, header_of

__all__ = ["EXPRESSION_CHARS_MAX", "Expression", "ExpressionError", "compile_expression", "nearest"]

#: Nobody writes a longer one by hand, and the compiler's work is bounded by it. Evaluation is bounded by the
#: CEL library: 32 levels, 10 000 steps of comprehensions, linear regular expressions.
EXPRESSION_CHARS_MAX = 4096

#: What JSON numbers may be to CEL; a plain path refuses the others as CEL does.
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1

#: Stands in where an event is read before any delivery of it exists: compilation has refused every variable
#: that would look at it.
_NO_DELIVERY = cast(Delivery, None)


class ExpressionError(PeltonError):
    """A text is no expression. Whoever knows the place in the file turns it into a `Problem`."""

    def __init__(self, text: str, message: str, *, mend: str = "", line: int = 0, column: int = 0) -> None:
        self.mend = mend
        where = f" at line {line}, column {column}" if line > 1 else f" at column {column}" if column else ""
        self.message = f"{message}{where}."
        #: Points at the column, in the text itself; empty where no column is known.
        self.caret = ""
        lines = text.splitlines()
        if column and 0 < line <= len(lines):
            self.caret = f"{lines[line - 1]}\n{' ' * (column - 1)}^"
        super().__init__("\n".join(filter(None, (" ".join(filter(None, (self.message, mend))), self.caret))))


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression. `read` is for the hot path; the two methods are for everybody else."""

    text: str
    #: What it gives when it is not null.
    kind: Kind
    read: Reader
    #: The variables it names.
    variables: frozenset[str]
    #: The name, if it is exactly one parameter.
    parameter: str | None = None
    #: The value of an expression that names no variable at all: evaluated once, when it was compiled.
    value: Any = None

    @property
    def constant(self) -> bool:
        """It is the same for every event; `value` has it."""
        return not self.variables

    def evaluate(self, delivery: Delivery, parameters: Mapping[str, str]) -> Any:
        """The value for this attempt; `RequestError` if the event is at fault."""
        return self.read(delivery.event, delivery, parameters)

    def evaluate_event(self, event: Event, parameters: Mapping[str, str]) -> Any:
        """The value of an expression that was compiled with `delivery=False`."""
        return self.read(event, _NO_DELIVERY, parameters)


def compile_expression(text: str, parameters: Collection[str] = (), *, delivery: bool = True) -> Expression:
    """Compile the text, which may use these parameters; `ExpressionError` says what is wrong with it."""
    if len(text) > EXPRESSION_CHARS_MAX:
        raise ExpressionError(text, f"has {len(text)} characters, more than {EXPRESSION_CHARS_MAX}")
    if not text.strip():
        raise ExpressionError(
            text, "is empty", mend="Write a path such as event.text, or \"'a text'\" for a constant."
        )
    uses = list(_uses(text))
    for use in uses:
        _check(text, use, parameters, delivery)
    steps = _plain_path(text)
    if steps is not None:
        return _compile_path(text, uses[0], steps)
    return _compile_cel(text, uses, parameters)


def nearest(name: str, names: Collection[str]) -> str:
    """`Did you mean …?` if one of the names is near, else nothing."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"Did you mean {near[0]}?" if near else ""


class _Use(NamedTuple):
    """One place where a variable is named."""

    #: The row's name.
    variable: str
    #: What follows it, where that is a name written out.
    entry: str | None
    #: The whole of it, or None if it cannot be said: `params[x]`.
    offset: int
    #: It stands right inside `has(…)`.
    tested: bool


_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*)
    |(?P<text>[rRbB]{0,2}(?:\"{3}(?:[^\\]|\\.)*?\"{3}|'{3}(?:[^\\]|\\.)*?'{3}
        |"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>\d[\w.]*)
    |(?P<sign>.)""",
    re.VERBOSE | re.DOTALL,
)


def _uses(text: str) -> Iterator[_Use]:
    """Every place where an expression names one of the roots, outside strings and comments."""
    tokens = [(m.lastgroup, m[0], m.start()) for m in _TOKEN.finditer(text) if m.lastgroup != "skip"]
    tokens += [("sign", "", len(text))] * 4
    for i, (group, token, offset) in enumerate(tokens):
        before = tokens[i - 1][1] if i else ""
        if group != "name" or token not in ROOTS or before == ".":
            continue
        # `event.json` is a row; of `params.priority`, `params` is.
        at, variable = i + 1, token
        if token != "params":
            if tokens[at][1] != "." or tokens[at + 1][0] != "name":
                yield _Use(token, None, offset, False)
                continue
            variable, at = f"{token}.{tokens[at + 1][1]}", at + 2
        entry = None
        if tokens[at][1] == "." and tokens[at + 1][0] == "name" and tokens[at + 2][1] != "(":
            entry = tokens[at + 1][1]
        elif tokens[at][1] == "[" and tokens[at + 1][0] == "text" and tokens[at + 2][1] == "]":
            entry = _unquote(tokens[at + 1][1])
        tested = before == "(" and i > 1 and tokens[i - 2][1] == "has" and tokens[at][1] == ")"
        yield _Use(variable, entry, offset, tested)


def _check(text: str, use: _Use, parameters: Collection[str], delivery: bool) -> None:
    """Refuse what the table does not have, before CEL says it in its own words."""
    line = text.count("\n", 0, use.offset) + 1
    column = use.offset - text.rfind("\n", 0, use.offset)

    def mistake(message: str, mend: str) -> ExpressionError:
        return ExpressionError(text, message, mend=mend, line=line, column=column)

    row = VARIABLES.get(use.variable)
    if row is None:
        root, _, name = use.variable.partition(".")
        names = {row.rpartition(".")[2]: row for row in VARIABLES if row.startswith(f"{root}.")}
        mend = (
            nearest(name, names).replace("mean ", f"mean {root}.")
            or f"There are {', '.join(names.values())}."
        )
        raise mistake(f"no such field: {use.variable}" if name else f"{root} alone is no value", mend)
    if not delivery and use.variable.startswith("delivery."):
        raise mistake(f"{use.variable} does not exist yet when this is asked", "Use event and params only.")
    if use.tested:
        raise mistake(f"has({use.variable}) asks for nothing", f"Write {use.variable} != null.")
    if use.entry is not None and not row.open:
        raise mistake(f"{use.variable} is {_article(row.kind)}: it has no fields", "Use event.json for JSON.")
    if use.variable == "params" and use.entry is not None and use.entry not in parameters:
        known = ", ".join(sorted(parameters)) or "none"
        hint = nearest(use.entry, parameters) or f"Parameters here: {known}."
        raise mistake(f"no such parameter: {use.entry}", hint)


def _article(kind: Kind) -> str:
    return f"an {kind.value}" if kind is Kind.INT else f"a {kind.value}"


_PATH = re.compile(
    r"(?P<root>event|delivery|params)(?P<steps>(?:\.[A-Za-z_]\w*|\[\d{1,9}\]|\[\"[^\"\\]*\"\]|\['[^'\\]*'\])+)"
)
_STEP = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+)\]|\[([\"'])(.*?)\3\]", re.ASCII)

Step = str | int


def _plain_path(text: str) -> tuple[Step, ...] | None:
    """The steps after the root, or None if this is for CEL."""
    found = _PATH.fullmatch(text.strip())
    if found is None:
        return None
    return tuple(
        int(m[2]) if m[2] is not None else m[1] if m[1] is not None else m[4]
        for m in _STEP.finditer(found["steps"])
    )


def _unquote(token: str) -> str | None:
    """What a quoted token says; None if that takes more than taking off the quotes."""
    plain = re.fullmatch(r"\"([^\"\\]*)\"|'([^'\\]*)'", token)
    return None if plain is None else plain[1] if plain[1] is not None else plain[2]


def _compile_path(text: str, use: _Use, steps: tuple[Step, ...]) -> Expression:
    row = VARIABLES[use.variable]
    variables = frozenset((row.name,))
    if use.variable != "params":
        steps = steps[1:]
    if not steps:
        return Expression(text, row.kind, row.read, variables)
    if use.variable == "event.json":
        return Expression(text, Kind.DYN, _document_reader(text.strip(), steps), variables)
    name, *further = steps
    if further or isinstance(name, int):
        raise ExpressionError(text, f"{row.name} has texts, found by their names; they have no fields")
    if use.variable == "params":
        return Expression(text, Kind.STRING, lambda e, d, p: p.get(name), variables, parameter=name)
    if use.variable == "event.headers":
        return Expression(text, Kind.STRING, lambda e, d, p: header_of(e, name), variables)
    return Expression(text, Kind.STRING, _attribute_reader(name), variables)


def _attribute_reader(name: str) -> Reader:
    def read(event: Event, delivery: Delivery, parameters: Mapping[str, str]) -> str:
        try:
            return event.extensions[name]
        except KeyError:
            refuse(event, f"event.attributes.{name}: no such attribute")

    return read


def _document_reader(path: str, steps: tuple[Step, ...]) -> Reader:
    # A list takes numbers, a dict takes names, and nothing else in a document has parts.
    typed_steps: list[tuple[Any, Any]] = [(step, dict if isinstance(step, str) else list) for step in steps]

    def read(event: Event, delivery: Delivery, parameters: Mapping[str, str]) -> Any:
        if event.value is None:
            return None
        value = document_of(event)
        try:
            for step, container in typed_steps:
                if type(value) is not container:
                    raise LookupError
                value = value[step]
        except LookupError:
            refuse(event, f"{path}: no such field")
        if type(value) is int and not _INT_MIN <= value <= _INT_MAX:
            refuse(event, f"{path}: the number has more than 64 bits")
        return value

    return read


#: What reads the event's value, and is null for a tombstone.
_OF_VALUE = frozenset(("event.value", "event.text", "event.json"))


def _compile_cel(text: str, uses: list[_Use], parameters: Collection[str]) -> Expression:
    try:
        program = compile_cel(text)
    except CelMistake as mistake:
        raise _explained(text, mistake) from None
    variables = frozenset(use.variable for use in uses)
    if not variables:
        try:
            value = program.run({})
        except CelFailure as failure:
            raise ExpressionError(text, f"fails, whatever the event: {failure}") from None
        return Expression(text, program.kind, lambda e, d, p: value, variables, value=value)
    reads = tuple((name, VARIABLES[name].read) for name in sorted(variables - {"params", "event.json"}))
    document, of_value = "event.json" in variables, bool(variables & _OF_VALUE)
    # All of them where one is looked up by a computed name.
    entries = {use.entry for use in uses if use.variable == "params"}
    names = tuple(parameters) if None in entries else tuple(entry for entry in entries if entry is not None)

    def read(event: Event, delivery: Delivery, parameters: Mapping[str, str]) -> Any:
        bindings: dict[str, Any] = {}
        failures: dict[str, RequestError] = {}
        for name, read_one in reads:
            # What cannot be read is left out, and fails only if the expression gets there:
            # `event.type == 'order' && event.json.total > 5` is no error for a picture.
            try:
                bindings[name] = carry(read_one(event, delivery, parameters))
            except RequestError as error:
                failures[name] = error
        try:
            if document:
                try:
                    bindings["event.json"] = carry_document(document_of(event), event.value)
                except RequestError as error:
                    failures["event.json"] = error
            if names:
                bindings["params"] = carry({name: parameters.get(name) for name in names})
            return program.run(bindings)
        except CelFailure as failure:
            if of_value and event.value is None:
                # A tombstone has no value to compute with: null, as for a plain path.
                return None
            if failure.unbound in failures:
                raise failures[failure.unbound] from None
            refuse(event, f"{_shortened(text)}: {failure}")

    return Expression(text, program.kind, read, variables)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."


_UNDECLARED = re.compile(r"undeclared reference to '([\w.]+)'")
_MENDS = (
    ("no matching overload for '_?_:_'", "Both branches must be of one type; write dyn(null) for null."),
    ("no matching overload", "Convert one side: string(…), int(…), double(…), bytes(…), timestamp(…)."),
    ("Syntax error", "A text stands in quotes: 'high'."),
)


def _explained(text: str, mistake: CelMistake) -> ExpressionError:
    """The library's mistake in our words, with what would mend it."""
    line, column, mend = mistake.line, mistake.column, ""
    undeclared = _UNDECLARED.search(mistake.message)
    if undeclared is not None:
        name = undeclared[1]
        message = f"nothing is called {name}"
        mend = nearest(name, VARIABLES) or f"There are {', '.join(ROOTS)}; a text stands in quotes: '{name}'."
        # The library points at the dot, or at the bracket of a call.
        if line and (found := text.splitlines()[line - 1].rfind(name.partition(".")[0], 0, column)) >= 0:
            column = found + 1
    else:
        message = mistake.message
        mend = next((mend for sign, mend in _MENDS if sign in message), "")
    return ExpressionError(text, message, mend=mend, line=line, column=column)
