"""An event for a person's terminal, or for another program: text or one line of JSON.

An event's bytes are a stranger's: nothing in them may move the cursor, change colours or set a title, so
what is not printable is escaped. Text shows the beginning of what is long; JSON shows everything.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

from pelton.event import Event

__all__ = ["as_json", "as_text", "safe"]

#: Of one value or header in text: some screens full. Who wants it all takes JSON.
SHOWN_BYTES_MAX = 4_096


def as_text(event: Event) -> str:
    """Position, time, type and key in the first line; then headers, then the value, indented."""
    head = [f"{event.topic}/{event.partition}/{event.offset}"]
    if event.published_ms >= 0:
        head.append(_time(event.published_ms))
    if event.attributes is not None:
        head.append(safe(event.type.encode()))
    head.append("no key" if event.key is None else f"key {safe(event.key)}")
    lines = ["  ".join(head)]
    for name, value in event.record_headers:
        lines.append(f"    {safe(name.encode())}: {'(null)' if value is None else safe(value)}")
    if event.record_value is None:
        lines.append("  (no value: a tombstone)")
    else:
        # Line breaks and tabs are what makes a value readable, and they move nothing but the next line.
        lines += [f"  {line}" for line in safe(event.record_value, keep="\n\t").split("\n")]
    if event.flaw is not None:
        lines.append(f"  (cannot be delivered: {safe(event.flaw.encode())})")
    return "\n".join(lines)


def safe(raw: bytes, keep: str = "") -> str:
    """The bytes as text where they are UTF-8, with what is not printable escaped, except `keep`."""
    shown = raw[:SHOWN_BYTES_MAX]
    more = f" … ({len(raw)} bytes)" if len(raw) > len(shown) else ""
    if more:  # not in the middle of a character
        shown = shown[: len(shown) - _partial_bytes(shown)]
    try:
        text = shown.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in shown) + more
    if text.isprintable():
        return text + more
    escaped = (
        character
        if character.isprintable() or character in keep
        else character.encode("unicode_escape").decode()
        for character in text
    )
    return "".join(escaped) + more


def _partial_bytes(cut: bytes) -> int:
    """How many bytes at the end begin a character that was cut."""
    for back in range(1, min(4, len(cut)) + 1):
        byte = cut[-back]
        if byte >= 0xC0:
            wanted = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if wanted > back else 0
        if byte < 0x80:
            return 0
    return 0


def as_json(event: Event) -> str:
    """One line; bytes are text where they are UTF-8 and `{"base64": …}` where they are not."""
    shown: dict[str, Any] = {
        "topic": event.topic,
        "partition": event.partition,
        "offset": event.offset,
        "published": _time(event.published_ms) if event.published_ms >= 0 else None,
        "key": _json_bytes(event.key),
        "value": _json_bytes(event.record_value),
        "headers": [[name, _json_bytes(value)] for name, value in event.record_headers],
    }
    if event.flaw is not None:
        shown["flaw"] = event.flaw
    return json.dumps(shown)


def _json_bytes(raw: bytes | None) -> str | dict[str, str] | None:
    if raw is None:
        return None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def _time(published_ms: int) -> str:
    try:
        at = datetime.fromtimestamp(published_ms / 1_000, UTC)
    except (ValueError, OverflowError):  # beyond the year 9999: the broker keeps whatever a client writes
        return f"{published_ms} ms"
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
