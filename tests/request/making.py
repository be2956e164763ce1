"""Events, deliveries, subscriptions and a request type to test with."""

from __future__ import annotations

from typing import Any, cast

from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message import Message

from pelton.core.delivery import Delivery, State
from pelton.event import Attributes, Event, Headers, Partition
from pelton.request.descriptors import TypePool, method_types, pool_of_files
from pelton.subscription import DeliveryMode, Parameter, RequestMapping, Subscription, Target
from tests.core.rig import Rig

METHOD = "/shop.v1.EventService/HandleEvent"


def event_of(
    value: bytes | None = b"hello",
    *,
    key: bytes | None = b"k",
    headers: Headers = (),
    attributes: Attributes | None = None,
    published_ms: int = 1_700_000_000_123,
    partition: int = 0,
    offset: int = 0,
) -> Event:
    return Event("events", partition, offset, key, value, value, headers, published_ms, attributes)


def delivery_of(event: Event, *, attempt: int = 1, generation: int = 7) -> Delivery:
    engine = Rig(partition=Partition(event.topic, event.partition), generation=generation).engine
    delivery = Delivery(event, engine, None, event.size_bytes, State.CALLING)
    delivery.attempt = attempt
    return delivery


def subscription_of(
    fields: dict[str, str] | None = None,
    parameters: tuple[Parameter, ...] = (),
    mode: DeliveryMode = DeliveryMode.UNARY,
) -> Subscription:
    fields = fields or {}
    lines = {path: 10 + number for number, path in enumerate(fields)}
    return Subscription(
        "notify",
        ("events",),
        Target("shop", "127.0.0.1:1"),
        METHOD,
        "pelton.notify",
        mode=mode,
        request=RequestMapping(fields, lines),
        parameters=parameters,
    )


_SCALARS = {
    "text": 9, "raw": 12, "flag": 8, "count": 5, "big": 3, "ubig": 4, "ucount": 13, "ratio": 1, "small": 2,
}  # fmt: skip
_WELL_KNOWN = (
    "Timestamp",
    "Duration",
    "StringValue",
    "Int64Value",
    "BoolValue",
    "Struct",
    "Value",
    "ListValue",
)


def shop_file() -> FileDescriptorProto:
    """`shop.v1`: a service of three methods, and a request with a field of every sort."""
    file = FileDescriptorProto(name="shop.proto", package="shop.v1", syntax="proto3")
    file.dependency.extend(
        f"google/protobuf/{name}.proto" for name in ("timestamp", "duration", "wrappers", "struct")
    )
    enum = file.enum_type.add(name="Priority")
    for number, name in enumerate(("PRIORITY_UNSPECIFIED", "LOW", "HIGH")):
        enum.value.add(name=name, number=number)
    file.message_type.add(name="EventReply")
    item = file.message_type.add(name="Item")
    item.field.add(name="sku", number=1, type=9, label=1)
    item.field.add(name="unit_count", json_name="unitCount", number=2, type=5, label=1)
    item.field.add(name="parts", number=3, type=11, label=3, type_name=".shop.v1.Item")
    request = file.message_type.add(name="EventRequest")
    number = 0

    def add(name: str, type_: int, type_name: str = "", label: int = 1) -> FieldDescriptorProto:
        nonlocal number
        number += 1
        return request.field.add(
            name=name,
            number=number,
            type=cast(Any, type_),
            type_name=type_name or None,
            label=cast(Any, label),
        )

    for name, type_ in _SCALARS.items():
        add(name, type_)
        add(f"{name}_list", type_, label=3)
    add("priority", 14, ".shop.v1.Priority")
    add("item", 11, ".shop.v1.Item")
    add("items", 11, ".shop.v1.Item", label=3)
    for known in _WELL_KNOWN:
        add(known.lower(), 11, f".google.protobuf.{known}")
    maybe = add("maybe", 9)
    maybe.proto3_optional = True
    maybe.oneof_index = 0
    request.oneof_decl.add(name="_maybe")
    for name, key_type, value_type in (("labels", 9, 9), ("counts", 5, 3), ("by_sku", 9, 11)):
        entry_name = "".join(part.capitalize() for part in name.split("_")) + "Entry"
        entry = request.nested_type.add(name=entry_name)
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=cast(Any, key_type), label=1)
        entry.field.add(
            name="value",
            number=2,
            type=cast(Any, value_type),
            label=1,
            type_name=".shop.v1.Item" if value_type == 11 else None,
        )
        add(name, 11, f".shop.v1.EventRequest.{entry_name}", label=3)
    service = file.service.add(name="EventService")
    types = {"input_type": ".shop.v1.EventRequest", "output_type": ".shop.v1.EventReply"}
    service.method.add(name="HandleEvent", **types)
    service.method.add(name="Upload", client_streaming=True, **types)
    service.method.add(name="Watch", server_streaming=True, **types)
    return file


def shop() -> TypePool:
    return pool_of_files([shop_file()], source="shop.binpb")


SHOP = shop()
REQUEST = method_types(SHOP, METHOD).input


def parsed(body: bytes) -> Any:
    """The request as the target reads it."""
    message: Message = message_factory.GetMessageClass(REQUEST)()
    message.ParseFromString(body)
    return message
