"""What making a request costs, in µs an event: `python bench/micro_request.py`. Asserts nothing."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Run by its path, so that only its own folder is known.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import google.protobuf
from google.protobuf import descriptor_pb2

from pelton.core.delivery import Delivery
from pelton.core.outcome import Outcome, Status
from pelton.event import Attributes, Event
from pelton.request.build import RequestBuilder
from pelton.request.descriptors import method_types, pool_of_files
from pelton.request.expression import compile_expression
from pelton.request.filter import Filter
from pelton.request.handler import HandlerRequestBuilder
from pelton.request.parameters import Parameters
from pelton.subscription import DeliveryMode, Parameter, RequestMapping, Subscription, Target
from pelton.v1 import handler_pb2
from tests.request import making

ROUNDS = 20_000


def measure(name: str, call: Callable[[], object]) -> None:
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(ROUNDS // 5):
            call()
        best = min(best, (time.perf_counter() - start) / (ROUNDS // 5))
    print(f"{name:<62} {best * 1e6:7.2f} µs")


def event_of(value: bytes, attributes: Attributes | None = None) -> Event:
    headers = (("content-type", b"application/json"), ("tenant", b"acme"))
    return Event("orders", 3, 123_456, b"key-17", value, value, headers, 1_700_000_000_123, attributes)


def delivery_of(event: Event) -> Delivery:
    delivery = making.delivery_of(event)
    delivery.first_attempted_ms = 5.0
    return delivery


def subscription_of(fields: dict[str, str], mode: DeliveryMode = DeliveryMode.UNARY) -> Subscription:
    return Subscription(
        "notify",
        ("orders",),
        Target("shop", "127.0.0.1:1"),
        "/shop.v1.EventService/HandleEvent",
        "pelton.notify",
        mode=mode,
        request=RequestMapping(fields),
        parameters=(Parameter("priority", constant="high"),),
    )


def request_type() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="shop.proto", package="shop.v1", syntax="proto3")
    message = file.message_type.add(name="EventRequest")
    for number, name in enumerate(("message", "priority"), start=1):
        message.field.add(name=name, number=number, type=9, label=1)
    service = file.service.add(name="EventService")
    service.method.add(
        name="HandleEvent", input_type=".shop.v1.EventRequest", output_type=".shop.v1.EventRequest"
    )
    return method_types(pool_of_files([file], source="bench"), "/shop.v1.EventService/HandleEvent").input


def naive(delivery: Delivery) -> bytes:
    """The same delivery through protobuf's message, for comparison."""
    event = delivery.event
    message = handler_pb2.Delivery(
        delivery_id=delivery.delivery_id, subscription="notify", attempt=1, fence=7
    )
    made = message.event
    made.id, made.source, made.type, made.content_type = (
        event.id,
        event.source,
        event.type,
        event.content_type,
    )
    made.key, made.value = event.key or b"", event.value or b""
    for name, value in event.headers:
        made.headers.add(name=name, value=value)
    made.position.topic, made.position.partition = event.topic, event.partition
    made.position.offset = event.offset
    made.published.FromMilliseconds(event.published_ms)
    message.first_attempted.FromMilliseconds(5)
    message.parameters["priority"] = "high"
    return message.SerializeToString()


def main() -> None:
    print(
        f"Python {platform.python_version()}, protobuf {google.protobuf.__version__}, {platform.machine()}\n"
    )
    text, small = b"Some event, " * 16, b'{"order": {"id": 17, "total": 9.5}}'
    plain, order = delivery_of(event_of(text)), delivery_of(event_of(small))
    attributes = Attributes(
        "1", "/shop", "order.placed", time="2024-01-02T03:04:05.678Z", extensions={"tp": "00-ab"}
    )
    cloud = delivery_of(event_of(small, attributes))
    parameters = {"priority": "high"}

    paths = "event.text", "event.id", "event.offset", "event.headers.tenant", "params.priority", "delivery.id"
    for path in (*paths, "event.json.order.id"):
        expression = compile_expression(path, parameters)
        delivery = order if "json" in path else plain
        measure(f"path  {path}", lambda e=expression, d=delivery: e.evaluate(d, parameters))  # type: ignore[misc]
    fresh = event_of(small)
    again = compile_expression("event.json.order.id")
    other = compile_expression("event.json")
    blank = delivery_of(event_of(b"1"))
    measure(
        "path  event.json.order.id, decoding 35 bytes each time (and '1')",
        lambda: (other.evaluate(blank, parameters), again.evaluate(delivery_of(fresh), parameters)),
    )
    for cel in ("event.type == 'pelton.record'", "event.offset % 2 == 0", "event.json.order.total > 5.0"):
        expression = compile_expression(cel)
        measure(f"CEL   {cel}", lambda e=expression: e.evaluate(order, parameters))  # type: ignore[misc]
    accepts = Filter("event.type == 'pelton.record' && event.topic == 'orders'").accepts
    measure("filter of two clauses", lambda: accepts(plain.event))

    for fields in (
        {},
        {"message": "event.text", "priority": "params.priority"},
        {"message": "'a ' + event.text"},
    ):
        builder = RequestBuilder(subscription_of(fields), request_type())
        name = f"build {', '.join(fields.values()) or 'raw'}"
        measure(name, lambda b=builder: b.build(plain, parameters))  # type: ignore[misc]
    of = Parameters(subscription_of({})).of
    measure("parameters, constants only", lambda: of(plain))

    for mode in (DeliveryMode.HANDLER, DeliveryMode.STREAM):
        handler = HandlerRequestBuilder(subscription_of({}, mode), lambda ms: ms)
        measure(f"{mode.value}: plain record", lambda h=handler: h.build(plain, parameters))  # type: ignore[misc]
        measure(f"{mode.value}: CloudEvent", lambda h=handler: h.build(cloud, parameters))  # type: ignore[misc]
    cloud.last_failure = Outcome(Status.UNAVAILABLE, "connection refused")
    measure("stream: CloudEvent, second attempt", lambda: handler.build(cloud, parameters))
    measure("protobuf's own message, plain record", lambda: naive(plain))
    assert handler_pb2.Delivery.FromString(handler.build(cloud, parameters)).last_failure.code == 14


if __name__ == "__main__":
    main()
