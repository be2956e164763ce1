"""CloudEvents 1.0 as Kafka headers (binary mode) and as a JSON document (structured mode).

Values in, values out: no client, no clock, no counting. What cannot be decoded raises `NotACloudEvent`,
whose text becomes the event's flaw; `records.py` catches it, so that a bad record is dead-lettered and
never stops a partition. The flaw is logged, so it says what is wrong and quotes nothing of the record.

The Kafka binding says that header values are UTF-8 text as it stands. Percent-encoding belongs to the
HTTP binding: undoing it here would change a subject such as ``100%25``.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from pelton.event import Attributes, Headers
from pelton.nesting import nests_deeper

__all__ = [
    "CONTENT_TYPE",
    "CORE_ATTRIBUTES",
    "STRUCTURED_BYTES_MAX",
    "STRUCTURED_DEPTH_MAX",
    "STRUCTURED_PREFIX",
    "NotACloudEvent",
    "binary_attributes",
    "binary_headers",
    "structured_event",
]

CONTENT_TYPE: Final = "content-type"
#: A content type that starts so says that the value is a whole event, in the format that follows.
STRUCTURED_PREFIX: Final = b"application/cloudevents"
#: A structured event is held twice while it is decoded, as bytes and as objects of up to 20 times their
#: size. 4 MiB is also what a gRPC server takes by default: a larger one could not be delivered anyway.
STRUCTURED_BYTES_MAX: Final = 4 << 20
#: The JSON decoder recurses; data nested deeper than this is an attack or a mistake.
STRUCTURED_DEPTH_MAX: Final = 128

#: RFC 3339's date-time; whether the day exists is `datetime`'s business.
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_ATTRIBUTE_NAME = re.compile(r"[a-z0-9]+")
_REQUIRED: Final = ("id", "source", "type")
#: Attributes with a field of their own; all others are extensions.
CORE_ATTRIBUTES: Final = frozenset(
    {*_REQUIRED, "specversion", "subject", "time", "datacontenttype", "dataschema"}
)


class NotACloudEvent(Exception):
    """The record claims to be a CloudEvent and is not one. Never leaves `pelton.kafka`."""


def binary_attributes(headers: Headers) -> tuple[Attributes, bool]:
    """Attributes of a record that carries `ce_specversion`, and whether its time had to be left out.

    A repeated header counts by its last value, as in the Java client.
    """
    found: dict[str, str] = {}
    content_type = ""
    for name, value in headers:
        is_attribute = name.startswith("ce_")
        if value is None or not (is_attribute or name.lower() == CONTENT_TYPE):
            continue
        try:
            text = value.decode()
        except UnicodeDecodeError:
            _refuse(f"{_named(name[3:], 'ce_') if is_attribute else 'content-type'} is not UTF-8")
        if is_attribute:
            found[name[3:]] = text
        else:
            content_type = text
    found["datacontenttype"] = content_type
    return _attributes(found)


def structured_event(value: bytes, media_type: bytes) -> tuple[Attributes, bytes, bool]:
    """Attributes and data of a JSON-format event, and whether its time had to be left out.

    The Kafka binding knows no batches, and no other format is built.

    JSON data comes out as compact JSON, a JSON string with its quotes, as the format asks for. No data is
    no bytes, not None: such a record is no tombstone.
    """
    if media_type != STRUCTURED_PREFIX + b"+json":
        _refuse("its format is not understood; only application/cloudevents+json is")
    document = _document(value)
    found: dict[str, str] = {}
    for name, member in document.items():
        if member is None or name in ("data", "data_base64"):
            continue
        if not _ATTRIBUTE_NAME.fullmatch(name):
            _refuse("a member's name is no attribute name: a to z and 0 to 9")
        if isinstance(member, bool):
            found[name] = "true" if member else "false"
        elif isinstance(member, (str, int)):
            found[name] = str(member)
        else:
            _refuse(f"{_named(name)} is neither a string, an integer nor a boolean")
    for text in found.values():
        _utf8(text)
    implied_json = "data" in document and "datacontenttype" not in found
    if implied_json:
        found["datacontenttype"] = "application/json"
    attributes, bad_time = _attributes(found)
    return attributes, _data(document, attributes.content_type), bad_time


def binary_headers(attributes: Attributes) -> list[tuple[str, bytes]]:
    """The record headers that carry `attributes`; unset ones are left out."""
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", attributes.id.encode()),
        ("ce_source", attributes.source.encode()),
        ("ce_type", attributes.type.encode()),
    ]
    optional = (
        ("ce_subject", attributes.subject),
        ("ce_time", attributes.time),
        ("ce_dataschema", attributes.schema),
        (CONTENT_TYPE, attributes.content_type),
    )
    headers += [(name, text.encode()) for name, text in optional if text]
    headers += [(f"ce_{name}", text.encode()) for name, text in attributes.extensions.items()]
    return headers


def _attributes(found: Mapping[str, str]) -> tuple[Attributes, bool]:
    version = found.get("specversion", "")
    if version != "1.0":
        _refuse("its specversion is not 1.0, and no other is understood")
    for name in _REQUIRED:
        if not found.get(name):
            _refuse(f"the required attribute {name} is missing")
    time = found.get("time")
    bad_time = time is not None and not _is_time(time)
    return (
        Attributes(
            id=found["id"],
            source=found["source"],
            type=found["type"],
            subject=found.get("subject", ""),
            time=None if bad_time else time,
            content_type=found.get("datacontenttype", ""),
            schema=found.get("dataschema", ""),
            extensions={name: text for name, text in found.items() if name not in CORE_ATTRIBUTES},
        ),
        bad_time,
    )


def _is_time(text: str) -> bool:
    if not _DATE_TIME.fullmatch(text):
        return False
    try:
        # In UTC, too: an offset can move a time at either end out of the years that there are, and then
        # whoever does anything with it fails.
        datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return False
    return True


def _document(value: bytes) -> dict[str, Any]:
    if len(value) > STRUCTURED_BYTES_MAX:
        _refuse(f"{len(value)} bytes are more than the {STRUCTURED_BYTES_MAX} that are decoded")
    if nests_deeper(value, STRUCTURED_DEPTH_MAX):
        _refuse(f"the JSON is nested deeper than {STRUCTURED_DEPTH_MAX}")
    try:
        document = json.loads(value.decode(), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        _refuse(f"the value is not JSON ({error.msg.lower()}, at character {error.pos})")
    except UnicodeDecodeError as error:
        _refuse(f"the value is not UTF-8 (byte {error.start})")
    except ValueError:
        # A constant that only JavaScript knows (NaN), or a number of thousands of digits.
        _refuse("a number in the value is not JSON, or is absurdly long")
    except RecursionError:
        _refuse(f"the JSON is nested deeper than {STRUCTURED_DEPTH_MAX}")
    if not isinstance(document, dict):
        _refuse("the value is not a JSON object")
    return document


def _data(document: Mapping[str, Any], content_type: str) -> bytes:
    if document.get("data_base64") is not None:
        if "data" in document:
            _refuse("it has both data and data_base64")
        encoded = document["data_base64"]
        if not isinstance(encoded, str):
            _refuse("data_base64 is not a string")
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            _refuse("data_base64 is not base64")
    if "data" not in document:
        return b""
    data = document["data"]
    if isinstance(data, str) and not _is_json(content_type):
        return _utf8(data)
    try:
        return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can spell and UTF-8 cannot
        _refuse("it has text that is not Unicode")
    except (ValueError, RecursionError):
        _refuse("its data cannot be written as JSON: a number is out of range, or it is nested too deeply")


def _is_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type.endswith(("/json", "+json"))


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can spell and UTF-8 cannot
        _refuse("it has text that is not Unicode")


def _named(attribute: str, prefix: str = "") -> str:
    """An attribute as a flaw may name it: the ones that everybody has, and no stranger's words."""
    return f"the attribute {prefix}{attribute}" if attribute in CORE_ATTRIBUTES else "an extension attribute"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse(why: str) -> NoReturn:
    raise NotACloudEvent(f"not a CloudEvent: {why}")
