"""The event's value as text and as JSON, within bounds that are checked before anything is decoded.

Only decoding lives here: which part of a document is wanted is `variables.py` and `expression.py`.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from pelton.errors import RequestError
from pelton.event import Event
from pelton.nesting import nests_deeper

__all__ = ["JSON_BYTES_MAX", "JSON_DEPTH_MAX", "document_of", "refuse", "text_of"]

#: The largest value decoded as JSON: eight times Kafka's default record limit. A document takes about ten
#: times its size in memory, once per process, which the process's limits do not count.
JSON_BYTES_MAX = 8 << 20

#: The deepest nesting: what protobuf's own parsers accept. Deeper ones are attacks or mistakes, and
#: everything behind (CEL, messages in messages) recurses.
JSON_DEPTH_MAX = 100


def refuse(event: Event, reason: str) -> NoReturn:
    """The event is at fault: say why and where it stands, and nothing of what it says."""
    raise RequestError(f"{reason} (event {event.topic}/{event.partition}/{event.offset})")


def text_of(event: Event) -> str | None:
    """The value as UTF-8 text; None for a tombstone."""
    value = event.value
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        refuse(event, f"event.text: the value is not UTF-8 (byte {error.start})")


def document_of(event: Event) -> Any:
    """The value as JSON; None for a tombstone, and for the document `null`.

    The last one is remembered, so that an event whose fields are read one by one is decoded once. One event
    is all that is ever held, and nobody may change the document.
    """
    global _last
    event_of_last, document = _last
    if event_of_last is not event:
        document = _decode(event)
        _last = (event, document)
    return document


_last: tuple[Event | None, Any] = (None, None)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def _decode(event: Event) -> Any:
    value = event.value
    if value is None:
        return None
    if len(value) > JSON_BYTES_MAX:
        refuse(event, f"event.json: the value has {len(value)} bytes, more than {JSON_BYTES_MAX}")
    if nests_deeper(value, JSON_DEPTH_MAX):
        refuse(event, f"event.json: the value is nested deeper than {JSON_DEPTH_MAX}")
    try:
        text = value.decode()
        document = _decoder.decode(text)
        if "\\ud" in text or "\\uD" in text:
            # A lone surrogate may be written in JSON; no string field and no CEL string can hold it.
            json.dumps(document, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        refuse(event, f"event.json: the value is not JSON ({error.msg.lower()}, at character {error.pos})")
    except UnicodeDecodeError as error:
        refuse(event, f"event.json: the value is not UTF-8 (byte {error.start})")
    except UnicodeEncodeError:
        refuse(event, "event.json: a string has half a surrogate pair")
    except ValueError:
        # A constant that only JavaScript knows (NaN), or a number of thousands of digits.
        refuse(event, "event.json: a number in the value is not JSON, or is absurdly long")
    except RecursionError:
        refuse(event, f"event.json: the value is nested deeper than {JSON_DEPTH_MAX}")
    return document
