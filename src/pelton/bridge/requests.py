"""What is sent for one subscription: its filter, its parameters, its request and its metadata as one.

Made once at start, when all that can be wrong with them is known; what is left is an event's own fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor

from pelton.core.delivery import Delivery
from pelton.errors import ConfigError, Problem
from pelton.event import Event
from pelton.request.build import Builder, RequestBuilder
from pelton.request.filter import Filter
from pelton.request.handler import HandlerRequestBuilder
from pelton.request.parameters import Parameters
from pelton.rpc.metadata import CallMetadata
from pelton.rpc.transport import Metadata
from pelton.subscription import DeliveryMode, Subscription

__all__ = ["SubscriptionRequests", "prepare"]


@dataclass(frozen=True, slots=True)
class SubscriptionRequests:
    """See `pelton.bridge.pump.Requests`."""

    filter: Filter | None
    parameters: Parameters
    builder: Builder
    #: None in stream mode: a delivery within a stream has no metadata of its own.
    metadata: CallMetadata | None

    def accepts(self, event: Event) -> bool:
        return self.filter is None or self.filter.accepts(event)

    def build(self, delivery: Delivery) -> tuple[bytes, Metadata]:
        parameters = self.parameters.of(delivery)
        body = self.builder.build(delivery, parameters)
        return body, () if self.metadata is None else self.metadata.of(delivery, parameters)


def prepare(
    subscription: Subscription, input_type: Descriptor | None, wall_ms_of: Callable[[float], float]
) -> SubscriptionRequests:
    """Compile everything; ConfigError with every problem there is.

    `input_type` is the method's request type where a mapping needs it.
    """
    path = f"subscriptions.{subscription.name}"
    problems: list[Problem] = []
    parameters: Parameters | None = None
    filter_: Filter | None = None
    builder: Builder | None = None
    try:
        parameters = Parameters(subscription)
    except ConfigError as error:
        problems += error.problems
    if subscription.filter is not None and parameters is not None:
        try:
            filter_ = Filter(
                subscription.filter, parameters.constants, path=f"{path}.filter", line=subscription.line
            )
        except ConfigError as error:
            problems += error.problems
    try:
        if subscription.mode is DeliveryMode.UNARY:
            builder = RequestBuilder(subscription, input_type)
        else:
            builder = HandlerRequestBuilder(subscription, wall_ms_of)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems, source=path)
    assert parameters is not None
    assert builder is not None
    metadata = None if subscription.mode is DeliveryMode.STREAM else CallMetadata(subscription)
    return SubscriptionRequests(filter_, parameters, builder, metadata)
