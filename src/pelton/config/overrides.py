"""Environment variables over the file: `PELTON_SUBSCRIPTIONS__NOTIFY_SHOP__CONCURRENCY=64`.

The rule: `PELTON_`, then the path to the value, its steps joined by two underscores, in capitals, each
character that a variable cannot have (`.` and `-`) as one underscore. The value is YAML. Names of
subscriptions, targets, parameters and fields must be in the file; a Kafka setting need not be, and its
underscores are then dots. What starts with a section and is no such path is a mistake, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pelton.config.document import Value, parse_value
from pelton.config.outline import Outline
from pelton.config.problems import Flaw, Path, Problems, nearest

__all__ = ["PREFIX", "apply_overrides", "variable_of"]

PREFIX = "PELTON_"
_SEPARATOR = "__"

#: Kubernetes sets such variables in every pod for each service; one named `pelton-server` is no override.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)|_PORT(_[0-9]+_(TCP|UDP).*)?$")


def apply_overrides(
    data: dict[str, Value], environ: Mapping[str, str], outline: Outline, problems: Problems
) -> None:
    """Set what the variables say, in the order of their names, and note where it came from."""
    for variable in sorted(environ):
        if not variable.startswith(PREFIX):
            continue
        rest = variable.removeprefix(PREFIX)
        if _SEPARATOR not in rest:
            _refuse_near_miss(variable, rest, outline, problems)
            continue
        try:
            path = _resolve(rest.split(_SEPARATOR), data, outline)
        except Flaw as flaw:
            problems.add_variable(variable, flaw.message, flaw.mend)
            continue
        texts = Problems()
        value = parse_value(environ[variable], texts)
        if texts:
            problems.add_variable(variable, "is not YAML.", "Put the value in quotes.")
        elif _set(data, path, value):
            problems.places.origins[path] = variable


def variable_of(path: Path) -> str:
    """The variable that sets the value at this path; paths through lists have none."""
    return PREFIX + _SEPARATOR.join(_capital(str(step)) for step in path)


def _refuse_near_miss(variable: str, rest: str, outline: Outline, problems: Problems) -> None:
    """`PELTON_KAFKA_BOOTSTRAP_SERVERS` is meant to be an override; `PELTON_HOME` is not."""
    for section in outline.keys:
        capital = _capital(section)
        if rest == capital or (rest.startswith(capital + "_") and not _SERVICE_LINK.search(rest)):
            below = rest.removeprefix(capital).lstrip("_") or "<KEY>"
            problems.add_variable(
                variable,
                "names a section and no value in it: steps are joined by two underscores.",
                f"Did you mean {PREFIX}{capital}{_SEPARATOR}{below}?",
            )
            return


def _resolve(steps: list[str], data: Value, outline: Outline) -> Path:
    """The path in the file that the steps spell."""
    path: Path = ()
    place: Outline | None = outline
    at: Value = data
    for index, step in enumerate(steps):
        spelt = PREFIX + "".join(part + _SEPARATOR for part in steps[:index])
        if place is None or not (place.keys or place.is_open):
            raise Flaw("goes deeper than the file does.", f"Did you mean {spelt.removesuffix(_SEPARATOR)}?")
        present = tuple(at) if isinstance(at, dict) and place.is_open else ()
        known = dict.fromkeys((*place.keys, *place.names, *present))
        spelling = [key for key in known if _capital(key) == step]
        if len(spelling) > 1:
            raise Flaw(f"could mean {' or '.join(spelling)}.", "Change the file instead.")
        if spelling:
            key = spelling[0]
        elif path and path[-1] == "kafka" and re.fullmatch(r"[A-Z][A-Z0-9_]*", step):
            key = step.lower().replace("_", ".")
        else:
            hint = nearest(step, (_capital(key) for key in known))
            mend = (
                hint.replace("mean ", f"mean {spelt}", 1)
                if hint
                else f"The names here are: {', '.join(known)}."
            )
            raise Flaw(f"names nothing in the file: {step} is not known.", mend)
        path = (*path, key)
        place = place.at(key)
        at = at.get(key) if isinstance(at, dict) else None
    return path


def _set(data: dict[str, Value], path: Path, value: Value) -> bool:
    """Put the value there, making the mappings on the way; False where the file has something else."""
    at = data
    for step in path[:-1]:
        inner = at.setdefault(str(step), {})
        if not isinstance(inner, dict):
            return False
        at = inner
    at[str(path[-1])] = value
    return True


def _capital(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", key).upper()
