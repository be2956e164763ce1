"""How one value is written: durations, sizes, names, choices.

Each reader returns the value or raises a `Flaw`. No pydantic and no files here; what several values mean
together is `declare.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime

from pelton.config.problems import Flaw, nearest, shown
from pelton.core.outcome import Status
from pelton.subscription import Adapt, Start, is_reserved_metadata

__all__ = [
    "METHOD",
    "NAME",
    "PARAMETER_NAME",
    "backoff",
    "choice",
    "constant",
    "count",
    "duration",
    "expression",
    "field_path",
    "flag",
    "format_duration",
    "format_size",
    "group",
    "header",
    "listen",
    "matching",
    "method",
    "size",
    "start",
    "status",
    "text",
    "topic",
]

NAME = r"[a-z][a-z0-9-]{0,62}"
PARAMETER_NAME = r"[a-z][a-z0-9_-]{0,62}"
METHOD = r"/[A-Za-z_][A-Za-z0-9_.]*/[A-Za-z_][A-Za-z0-9_]*"

#: Kafka's own bound for the name of a topic.
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_UNIT_MS = {"ms": 1.0, "s": 1_000.0, "m": 60_000.0, "h": 3_600_000.0, "d": 86_400_000.0}
_SIZE = re.compile(r"([0-9]{1,15})(KiB|MiB|GiB|KB|MB|GB|B)?")
_UNIT_BYTES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_HEADER = re.compile(r"[0-9A-Za-z_.-]{1,128}")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")

#: An expression longer than this is a program; it belongs into the target.
_EXPRESSION_CHARS_MAX = 4_096


def text(value: object) -> str:
    """Text; a number or a boolean is refused because its spelling would be lost (`1.10` is 1.1)."""
    if isinstance(value, str):
        if not value:
            raise Flaw("is empty.", "Write a value.")
        return value
    if isinstance(value, (bool, int, float)):
        written = shown(value)
        kind = "true or false" if isinstance(value, bool) else "a number"
        raise Flaw(f"is {kind}, and text is wanted.", f'Quote it: "{written}".')
    raise Flaw(f"is {shown(value)}, and text is wanted.", "Write one value in quotes.")


def constant(value: object) -> str:
    """Text that may also be empty."""
    return "" if value == "" and isinstance(value, str) else text(value)


def flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise Flaw(f"is {shown(value)}.", "Write true or false.")


def count(least: int, most: int) -> Callable[[object], int]:
    """A whole number within bounds."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Flaw(f"is {shown(value)}, not a whole number.", f"Write a number from {least} to {most}.")
        if not least <= value <= most:
            raise Flaw(f"is {value}, out of bounds.", f"Write a number from {least} to {most}.")
        return value

    return read


def format_duration(milliseconds: float) -> str:
    """As a user would write it."""
    for unit in ("d", "h", "m", "s"):
        if milliseconds >= _UNIT_MS[unit] and milliseconds % _UNIT_MS[unit] == 0:
            return f"{milliseconds / _UNIT_MS[unit]:.0f}{unit}"
    return f"{milliseconds:.6f}".rstrip("0").rstrip(".") + "ms"


def duration(least_ms: float, most_ms: float) -> Callable[[object], float]:
    """A number with its unit, in milliseconds."""
    example = "Write a number and its unit (ms, s, m, h or d), such as 10s."

    def read(value: object) -> float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            raise Flaw(
                f"is {shown(value)}, without a unit.", f"Say the unit: {shown(value)}s or {shown(value)}ms."
            )
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise Flaw(f"is {shown(value)}, not a duration.", example)
        milliseconds = float(match[1]) * _UNIT_MS[match[2]]
        if not least_ms <= milliseconds <= most_ms:
            bounds = f"{format_duration(least_ms)} to {format_duration(most_ms)}"
            raise Flaw(f"is {value}, out of bounds.", f"Write a duration from {bounds}.")
        return milliseconds

    return read


def backoff(value: object) -> tuple[float, float]:
    """`100ms..1m`: the first wait and the longest, in milliseconds."""
    first, separator, last = value.partition("..") if isinstance(value, str) else ("", "", "")
    if not separator:
        raise Flaw(
            f"is {shown(value)}, not a range.", "Write the first and the longest wait, such as 100ms..1m."
        )
    read = duration(1.0, 86_400_000.0)
    least, most = read(first), read(last)
    if least > most:
        raise Flaw(f"starts above its end: {first} is longer than {last}.", f"Write {last}..{first}.")
    return least, most


_RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)/(s|m|h)")
#: Once an hour, and more than any process makes.
_RATE_MIN = 1.0 / 3_600.0
_RATE_MAX = 1_000_000.0


def rate(value: object) -> float:
    """`500/s`: so many a second, minute or hour, as a number a second."""
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Flaw(f"is {shown(value)}, not a rate.", "Write a number by s, m or h, such as 500/s.")
    per_second = float(match[1]) * 1_000.0 / _UNIT_MS[match[2]]
    if not _RATE_MIN <= per_second <= _RATE_MAX:
        raise Flaw(f"is {value}, out of bounds.", "Write a rate from 1/h to 1000000/s.")
    return per_second


def adapt(value: object) -> Adapt:
    """`true`, `false` or `observe`."""
    if value == "observe":
        return Adapt.OBSERVE
    if isinstance(value, bool):
        return Adapt.ON if value else Adapt.OFF
    raise Flaw(f"is {shown(value)}, not one of true, false, observe.", "Write true, false or observe.")


def format_size(number: int) -> str:
    """As a user would write it."""
    for unit in ("GiB", "MiB", "KiB"):
        if number >= _UNIT_BYTES[unit] and number % _UNIT_BYTES[unit] == 0:
            return f"{number // _UNIT_BYTES[unit]}{unit}"
    return f"{number}B"


def size(least: int, most: int) -> Callable[[object], int]:
    """Bytes: a number, or a number with its unit."""

    def read(value: object) -> int:
        match = _SIZE.fullmatch(str(value)) if isinstance(value, (str, int)) else None
        if match is None or isinstance(value, bool):
            raise Flaw(
                f"is {shown(value)}, not a size.",
                "Write bytes, or a number and KiB, MiB or GiB, such as 8MiB.",
            )
        number = int(match[1]) * _UNIT_BYTES[match[2] or "B"]
        if not least <= number <= most:
            raise Flaw(
                f"is {value}, out of bounds.",
                f"Write {format_size(least)} to {format_size(most)}.",
            )
        return number

    return read


def choice(options: Sequence[str], unbuilt: Sequence[str] = ()) -> Callable[[object], str]:
    """One of a few words; those that are planned are refused as such."""
    listed = ", ".join(options[:-1]) + f" or {options[-1]}" if len(options) > 1 else options[0]

    def read(value: object) -> str:
        if isinstance(value, str) and value in options:
            return value
        if isinstance(value, str) and value in unbuilt:
            raise Flaw(f"is {value}, which is not built yet.", f"Write {listed}.")
        hint = nearest(value, options) if isinstance(value, str) else ""
        raise Flaw(f"is {shown(value)}, which is not known.", hint or f"Write {listed}.")

    return read


def matching(pattern: str, what: str, mend: str) -> Callable[[object], str]:
    """Text of a given form."""
    form = re.compile(pattern)

    def read(value: object) -> str:
        written = text(value)
        if form.fullmatch(written) is None:
            raise Flaw(f"{shown(written)} is no {what}.", mend)
        return written

    return read


def method(value: object) -> str:
    """`/package.Service/Method`."""
    written = text(value)
    if re.fullmatch(METHOD, written):
        return written
    guess = "/" + written.strip("/")
    if guess.count("/") == 1:
        service, _, name = guess[1:].rpartition(".")
        guess = f"/{service}/{name}"
    mend = f"Write {guess}." if re.fullmatch(METHOD, guess) else "Write it as /package.Service/Method."
    raise Flaw(f"is {shown(written)}, not the full name of a method.", mend)


def topic(value: object) -> str:
    written = text(value)
    if written.startswith("^"):
        raise Flaw("is a pattern, and patterns are not built yet.", "List the topics by name.")
    if _TOPIC.fullmatch(written) is None or written in (".", ".."):
        raise Flaw(
            f"{shown(written)} is no topic name.",
            "Use letters, digits, dots, underscores and hyphens, at most 249.",
        )
    return written


def group(value: object) -> str:
    written = text(value)
    if len(written) > 255 or not written.isprintable() or " " in written:
        raise Flaw(f"{shown(written)} is no group name.", "Use at most 255 visible characters.")
    return written


def expression(value: object) -> str:
    """An expression's text; whether it is one is known where requests are built."""
    if isinstance(value, dict):
        raise Flaw("is a mapping, and an expression is wanted.", 'Write nested fields as a path: "order.id".')
    written = text(value)
    if not written.strip():
        raise Flaw("is empty.", "Write an expression, such as event.text.")
    if len(written) > _EXPRESSION_CHARS_MAX:
        raise Flaw(f"is longer than {_EXPRESSION_CHARS_MAX} characters.", "Do this work in the target.")
    return written


def field_path(value: object) -> str:
    """A field of the request message, nested ones as a path."""
    written = text(value)
    if _FIELD.fullmatch(written) is None:
        raise Flaw("is no field of a message.", 'Write field names, nested ones as a path: "order.id".')
    return written


def header(value: object) -> str:
    """A record header that may go along as gRPC metadata."""
    written = text(value)
    lower = written.lower()
    if is_reserved_metadata(lower):
        raise Flaw(f"{shown(written)} is reserved on a call.", "Take it off the list.")
    if _HEADER.fullmatch(written) is None:
        raise Flaw(
            f"{shown(written)} cannot be the name of gRPC metadata.",
            "Only letters, digits, hyphens, dots and underscores may go along; pass others by a parameter.",
        )
    return written


def listen(value: object) -> tuple[str, int]:
    """`host:port` to listen on; port 0 takes a free one."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise Flaw(
            f"is {value}, without a host.", f"Write 127.0.0.1:{value}, or 0.0.0.0:{value} for all interfaces."
        )
    written = text(value)
    host, _, port = written.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port[:6]) > 65_535:
        raise Flaw(f"is {shown(written)}, not host:port.", "Write it as 127.0.0.1:8360.")
    if not host or host == "*":
        raise Flaw(
            f"is {shown(written)}, without a host.",
            f"Write 127.0.0.1:{port}, or 0.0.0.0:{port} for all interfaces.",
        )
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if ":" in bare and bare == host:
        raise Flaw(f"is {shown(written)}, an IPv6 address without brackets.", f"Write [{host}]:{port}.")
    if not re.fullmatch(r"[0-9A-Za-z.:_-]+", bare):
        raise Flaw(f"is {shown(written)}, not host:port.", "Write it as 127.0.0.1:8360.")
    return bare, int(port)


def status(value: object) -> str:
    """A status whose meaning may be changed."""
    if value == "OK":
        raise Flaw("is OK, which always acks.", "A target that wants something else answers with a verdict.")
    return choice([member.name for member in Status if member is not Status.OK])(value)


def start(value: object) -> Start:
    """`earliest`, `latest` or a time with its zone."""
    if value in ("earliest", "latest"):
        return Start(str(value))
    mend = "Write earliest, latest or a time with its zone, such as 2026-01-31T08:00:00Z."
    if not isinstance(value, str):
        raise Flaw(f"is {shown(value)}.", mend)
    if _TIMESTAMP.fullmatch(value) is None:
        raise Flaw(
            f"is {shown(value)}, neither a known place nor a time.",
            nearest(value, ("earliest", "latest")) or mend,
        )
    try:
        moment = datetime.fromisoformat(value.upper())
        milliseconds = math.floor(moment.timestamp() * 1_000)
    except (ValueError, OverflowError):
        raise Flaw(f"is {shown(value)}, a time that does not exist.", mend) from None
    if milliseconds < 0:
        raise Flaw(f"is {shown(value)}, before 1970.", "Write earliest.")
    return Start("timestamp", milliseconds)
