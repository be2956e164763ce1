"""The file's values against the shape, and pydantic's complaints in our words.

Everything of a file is read in one pass; a subscription or target that is sound is handed on even where
another is not, so that what several values mean together is checked too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from pelton.config.document import Value
from pelton.config.fields import MAPPING, PLAIN
from pelton.config.outline import Outline
from pelton.config.overrides import variable_of
from pelton.config.problems import Flaw, Path, Problems, nearest, shown
from pelton.config.schema import FileShape, ServerShape, SubscriptionShape, TargetShape
from pelton.config.secrets import has_reference
from pelton.config.unbuilt import unbuilt

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from pelton.config.fields import Context

__all__ = ["check_shape", "sound_parts"]

Shape = TypeVar("Shape", bound=BaseModel)

#: How to mend a key that is required and not there.
_MISSING: Mapping[str, str] = {
    "kafka": 'Add `kafka: {bootstrap.servers: "localhost:9092"}`.',
    "targets": "Add `targets:` with a name and an address.",
    "subscriptions": "Add `subscriptions:` with a name, topics and a target.",
    "address": 'Add `address: "dns:///<host>:<port>"`.',
    "bearer": 'Add `bearer: "${file:<path>}"`.',
    "topic": "Add `topic: <name>`.",
    "topics": "Add `topics: [<topic>]`.",
    "target": "Add `target: <name>`, one of the names under targets.",
    "from": 'Add `from: "<expression>"`.',
}


def check_shape(
    data: dict[str, Value], context: Context, outline: Outline, problems: Problems, shape: type[Shape]
) -> Shape | None:
    """Add every mistake of the values, each taken by itself; all of `shape` read, if there was none."""
    misplaced = _sweep_references(data, (), problems)
    flawed: set[Path] = set()
    whole: Shape | None = None
    try:
        whole = shape.model_validate(data, context=context)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            path = _path(details["loc"], details["type"])
            flawed.add(path)
            if path not in misplaced:
                _explain(path, details, outline, problems)
    _sweep_empty(data, (), flawed, problems)
    return whole


def sound_parts(data: dict[str, Value], context: Context) -> FileShape:
    """What is sound in a file that is not; `check_shape` has said what is wrong with the rest."""
    kafka = data.get("kafka")
    settings = kafka if isinstance(kafka, dict) else {}
    return FileShape.model_construct(
        kafka={name: value for name, value in settings.items() if isinstance(value, (str, int, float, bool))},
        targets=_each(TargetShape, data.get("targets"), context),
        subscriptions=_each(SubscriptionShape, data.get("subscriptions"), context),
        server=_one(ServerShape, data.get("server"), context) or ServerShape(),
    )


def _each(shape: type[Shape], value: Value, context: Context) -> dict[str, Shape]:
    read = (
        {name: _one(shape, inner, context) for name, inner in value.items()}
        if isinstance(value, dict)
        else {}
    )
    return {name: one for name, one in read.items() if one is not None}


def _one(shape: type[Shape], value: Value, context: Context) -> Shape | None:
    try:
        return shape.model_validate(value, context=context)
    except ValidationError:
        return None


def _path(location: tuple[str | int, ...], kind: str) -> Path:
    """Steps in the file only: pydantic adds a union's branch, and a last `[key]` where a key itself is wrong.

    Where the key is no option, the last step is the key, whatever it looks like.
    """
    if kind != "extra_forbidden" and location and location[-1] == "[key]":
        location = location[:-1]
    last = len(location) - 1
    return tuple(
        step
        for at, step in enumerate(location)
        if step not in (MAPPING, PLAIN) or (kind == "extra_forbidden" and at == last)
    )


def _explain(path: Path, details: ErrorDetails, outline: Outline, problems: Problems) -> None:
    kind = details["type"]
    flaw = details.get("ctx", {}).get("error")
    if isinstance(flaw, Flaw):
        problems.add_flaw(path, flaw)
    elif kind == "missing":
        key = str(path[-1])
        problems.add(path, "is missing.", _MISSING[key])
    elif kind == "extra_forbidden":
        mend = unbuilt(path)
        if mend is not None:
            problems.add(path, "is not built yet.", mend)
            return
        parent = outline.find(path[:-1])
        known = parent.keys if parent is not None else ()
        hint = nearest(str(path[-1]), known)
        problems.add(path, "is not an option.", hint or f"The options here are: {', '.join(known)}.")
    else:
        # A kind of complaint that no reader of ours makes: a list or a mapping in place of the other.
        wanted = {"dict_type": "a mapping", "model_type": "a mapping", "list_type": "a list"}.get(
            kind, "another kind"
        )
        problems.add(path, f"is {shown(details['input'])}, and {wanted} is wanted.", "Check the indentation.")


def _sweep_empty(value: Value, path: Path, flawed: set[Path], problems: Problems) -> None:
    """Keys with nothing behind them that no reader complained of: an empty `filter:` is not no filter."""
    if path in flawed:
        return
    if value is None:
        problems.add(path, "is empty.", "Write its value, or remove the key.")
    for step, inner in _items(value):
        _sweep_empty(inner, (*path, step), flawed, problems)


def _sweep_references(value: Value, path: Path, problems: Problems) -> set[Path]:
    """References where none is read: a `${env:…}` must not be sent to a target as text."""
    found: set[Path] = set()
    if isinstance(value, str) and has_reference(value) and not _takes_reference(path):
        in_list = any(isinstance(step, int) for step in path)
        problems.add(
            path,
            "refers to a variable or a file, and references are read in kafka settings and auth.bearer only.",
            "Write the value." if in_list else f"Write the value, or set {variable_of(path)}.",
        )
        found.add(path)
    for step, inner in _items(value):
        found |= _sweep_references(inner, (*path, step), problems)
    return found


def _items(value: Value) -> Iterable[tuple[str | int, Value]]:
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def _takes_reference(path: Path) -> bool:
    below = path[2:] if path[:1] == ("subscriptions",) else path
    return below[:1] == ("kafka",) or (path[:1] == ("targets",) and path[2:] == ("auth", "bearer"))
