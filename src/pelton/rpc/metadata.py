"""What goes with a call: position, identity and the event's attributes, within what servers take.

Servers refuse metadata above 8 KiB at random and above 16 KiB always, so the budget is decided here, before
the call. So is legality: an entry that gRPC would refuse is encoded, or left out, or was refused at start
(`validate_name`). Names of topics, subscriptions and parameters are legal already: Kafka and the
configuration see to it. Nothing here knows of channels; credentials are added by the transport.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pelton.core.delivery import Delivery
from pelton.event import Event
from pelton.rpc.transport import Metadata
from pelton.subscription import DeliveryMode, Subscription, is_reserved_metadata

__all__ = ["BUDGET_BYTES", "CallMetadata", "size_bytes", "validate_name"]

Entry = tuple[str, str | bytes]

#: Of the 8 KiB that servers take as a rule; the rest is for the call's own headers.
BUDGET_BYTES = 7 << 10
#: What HTTP/2 counts for an entry beyond its name and value.
_ENTRY_BYTES = 32
#: Held back for a bearer token where the target has one; a larger token eats into the 1 KiB above.
_BEARER_BYTES = 2 << 10
#: Up to this the key of a plain event cannot break the budget, whatever the topic's name: not counted.
_KEY_SMALL_BYTES = 1 << 10
#: More than the entries that are never cut can take: a delivery id and a topic of 249 characters each at
#: most beyond their names, and the trace context.
_REQUIRED_BYTES_MAX = 2 << 10
#: W3C's own bound on what must be carried of a tracestate.
_TRACESTATE_CHARS_MAX = 512

_CUT: Entry = ("pelton-metadata-cut", "1")
_TOMBSTONE: Entry = ("pelton-tombstone", "1")
_SPECVERSION: Entry = ("ce-specversion", "1.0")
#: Attempts beyond these are rare (`on_exhausted: hold`), and nothing is kept for them.
_ATTEMPTS_KEPT_MAX = 64

_NAME = re.compile(r"[a-z0-9_.-]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,200})?")
_EXTENSION = re.compile(r"[a-z0-9]{1,64}")
#: CloudEvents' HTTP binding: what must be percent-encoded in an attribute's value.
_CE_ENCODED = re.compile(r'[^!-~]|["%]')
_TEXT_ENCODED = re.compile(rb"[^ -~]|%|^ | $")


def validate_name(name: str) -> str | None:
    """What is wrong with copying the record header `name` into metadata; None where nothing is.

    Metadata names are lower case, so the copy's name is; the record's header is found by its exact name.
    """
    lower = name.lower()
    if not _NAME.fullmatch(lower):
        return f"{name!r} cannot be a metadata name: it takes 1 to 128 letters, digits, '-', '_' and '.'."
    if is_reserved_metadata(lower):
        return f"{name!r} is a reserved metadata name: a record must not set it for the target."
    return None


def size_bytes(entries: Iterable[Entry]) -> int:
    """As servers count: name, value and 32 for each entry; binary values in the base64 they travel in."""
    return sum(map(_entry_bytes, entries))


def _entry_bytes(entry: Entry) -> int:
    name, value = entry
    length = len(value) if isinstance(value, str) else (len(value) + 2) // 3 * 4
    return len(name) + length + _ENTRY_BYTES


class CallMetadata:
    """Makes the metadata of one subscription's calls. What is the same for all is made once, here."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription: Entry = ("pelton-subscription", subscription.name)
        self._budget_bytes = BUDGET_BYTES - (_BEARER_BYTES if subscription.target.bearer is not None else 0)
        #: Record header -> metadata name. The configuration has put each through `validate_name`.
        self._headers = {name: name.lower() for name in subscription.metadata.headers}
        self._parameters = tuple(
            (name, f"pelton-param-{name.lower()}") for name in subscription.metadata.parameters
        )
        self._raw = subscription.mode is DeliveryMode.UNARY and subscription.request.raw
        #: By topic, partition and attempt: what is the same for all such calls. As many as there are
        #: partitions and attempts. First attempts, nearly all, by what the partition's delivery ids begin
        #: with: a text that is there already is looked up quicker.
        self._common: dict[str | tuple[str, int, int], Metadata] = {}

    def of(self, delivery: Delivery, parameters: Mapping[str, str]) -> tuple[Metadata, Metadata]:
        """The entries of one attempt: those that it has in common with others, the same tuple for all of
        them, and its own. `parameters` are its values by name."""
        event = delivery.event
        prefix, attempt, offset = delivery.engine.id_prefix, delivery.attempt, str(event.offset)
        here = event.moved is None
        alike = prefix if here and attempt == 1 else (event.topic, event.partition, attempt)
        common = self._common.get(alike)
        if common is None:
            common = self._in_common(event, attempt)
            if attempt <= _ATTEMPTS_KEPT_MAX:
                self._common[alike] = common
        id_ = prefix + offset if here else delivery.delivery_id
        own: Metadata = (("pelton-delivery-id", id_), ("pelton-offset", offset))
        key = event.key
        if (
            event.attributes is None
            and not event.record_headers
            and not self._parameters
            and event.value is not None
        ):
            if key is None:
                return common, own
            if len(key) <= _KEY_SMALL_BYTES:
                return common, (*own, ("pelton-key-bin", key))
        return common, self._full(own, event, parameters, size_bytes(common))

    def _in_common(self, event: Event, attempt: int) -> Metadata:
        return (
            self._subscription,
            ("pelton-attempt", str(attempt)),
            ("pelton-topic", event.topic),
            ("pelton-partition", str(event.partition)),
        )

    def _full(
        self, own: Metadata, event: Event, parameters: Mapping[str, str], common_bytes: int
    ) -> Metadata:
        """Everything an event may bring along, cut to the budget."""
        kept: list[Entry] = [*own, *_trace(event)]
        if self._raw and event.record_value is None:
            kept.append(_TOMBSTONE)
        # In the order in which they are kept: what stands last goes first when the budget is short, and the
        # subscription's own parameters go last.
        optional: list[Entry] = []
        for name, entry_name in self._parameters:
            value = parameters.get(name)
            if value is not None:
                optional.append((entry_name, _text(value.encode())))
        if event.key is not None:
            optional.append(("pelton-key-bin", event.key))
        if event.attributes is not None:
            optional.extend(_cloud_event(event))
        if self._headers:
            optional.extend(self._listed(event))
        # Almost always there is room for all; this counts a little too much, and costs little.
        rough_bytes = sum([len(name) + len(value) for name, value in optional]) * 4 // 3
        rough_bytes += len(optional) * (_ENTRY_BYTES + 4) + _REQUIRED_BYTES_MAX
        if rough_bytes <= self._budget_bytes:
            return (*kept, *optional)
        free_bytes = self._budget_bytes - common_bytes - size_bytes(kept) - _entry_bytes(_CUT)
        for entry in optional:
            free_bytes -= _entry_bytes(entry)
            if free_bytes < 0:
                kept.append(_CUT)
                break
            kept.append(entry)
        return tuple(kept)

    def _listed(self, event: Event) -> list[Entry]:
        """The listed record headers, in their order in the record, repeats kept; a null value is no entry."""
        found: list[Entry] = []
        left_bytes = BUDGET_BYTES
        for name, value in event.record_headers:
            entry_name = self._headers.get(name)
            if entry_name is not None and value is not None:
                found.append((entry_name, value if entry_name.endswith("-bin") else _text(value)))
                left_bytes -= _ENTRY_BYTES
                if left_bytes < 0:
                    # There is no room for these already, however many thousands follow.
                    break
        return found


def _trace(event: Event) -> list[Entry]:
    """The W3C trace context, from a CloudEvent's extensions or the record's headers; nonsense is left out."""
    traceparent = event.extensions.get("traceparent")
    tracestate = event.extensions.get("tracestate", "")
    if traceparent is None:
        for name, value in event.record_headers:
            if value is not None and name == "traceparent":
                traceparent = value.decode("ascii", "replace")
            elif value is not None and name == "tracestate":
                tracestate = value.decode("ascii", "replace")
    if traceparent is None or not _TRACEPARENT.fullmatch(traceparent):
        return []
    entries: list[Entry] = [("traceparent", traceparent)]
    if (
        tracestate
        and len(tracestate) <= _TRACESTATE_CHARS_MAX
        and tracestate.isascii()
        and tracestate.isprintable()
    ):
        entries.append(("tracestate", tracestate))
    return entries


def _cloud_event(event: Event) -> list[Entry]:
    """The attributes as CloudEvents' HTTP binding writes them; the trace context has entries of its own."""
    attributes = event.attributes
    assert attributes is not None
    entries: list[Entry] = [
        _SPECVERSION,
        ("ce-id", _ce(attributes.id)),
        ("ce-source", _ce(attributes.source)),
        ("ce-type", _ce(attributes.type)),
    ]
    for name, value in (
        ("ce-subject", attributes.subject),
        ("ce-time", attributes.time),
        ("ce-datacontenttype", attributes.content_type),
        ("ce-dataschema", attributes.schema),
    ):
        if value:
            entries.append((name, _ce(value)))
    for name, extension in attributes.extensions.items():
        if name not in ("traceparent", "tracestate") and _EXTENSION.fullmatch(name):
            entries.append((f"ce-{name}", _ce(extension)))
    return entries


def _ce(value: str) -> str:
    if len(value) > BUDGET_BYTES:
        # It will be cut as it is; encoding a megabyte first would hold the loop up for a second.
        return value
    return _CE_ENCODED.sub(_percent, value) if _CE_ENCODED.search(value) else value


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))


def _text(value: bytes) -> str:
    """Printable ASCII as it is; else the other bytes, `%` and spaces at the ends percent-encoded.

    So a receiver decodes a value that holds an encoded byte and leaves every other one alone; a header whose
    every byte matters is named `...-bin`.
    """
    if len(value) > BUDGET_BYTES:
        # It will be cut, encoded or not.
        return value.decode("latin-1")
    if value.isascii() and (text := value.decode("ascii")).isprintable() and text == text.strip(" "):
        return text
    return _TEXT_ENCODED.sub(lambda match: b"%%%02X" % match[0][0], value).decode("ascii")
