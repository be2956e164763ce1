"""What is sent for one subscription: its filter, its parameters, its request and its metadata as one.

Made once at start, when all that can be wrong with them is known; what is left is an event's own fault.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor import Descriptor

from pelton.core.delivery import Delivery
from pelton.errors import ConfigError, Problem, RequestError
from pelton.event import Event
from pelton.request.build import Builder, RequestBuilder
from pelton.request.filter import Filter
from pelton.request.handler import HandlerRequestBuilder
from pelton.request.parameters import Parameters
from pelton.rpc.metadata import CallMetadata
from pelton.rpc.transport import Metadata
from pelton.subscription import DeliveryMode, Subscription

__all__ = ["SubscriptionRequests", "prepare"]

log = logging.getLogger("pelton.request")


@dataclass(frozen=True, slots=True)
class SubscriptionRequests:
    """See `pelton.bridge.pump.Requests`."""

    filter: Filter | None
    parameters: Parameters
    builder: Builder
    #: None in stream mode: a delivery within a stream has no metadata of its own.
    metadata: CallMetadata | None

    def accepts(self, event: Event) -> bool:
        try:
            return self.filter is None or self.filter.accepts(event)
        except (RequestError, MemoryError):
            raise
        except Exception as error:
            raise _unforeseen(error, event) from error

    def build(self, delivery: Delivery) -> tuple[bytes, Metadata, Metadata]:
        try:
            parameters = self.parameters.of(delivery)
            body = self.builder.build(delivery, parameters)
            common, own = ((), ()) if self.metadata is None else self.metadata.of(delivery, parameters)
            return body, common, own
        except (RequestError, MemoryError):
            raise
        except Exception as error:
            raise _unforeseen(error, delivery.event) from error


def _unforeseen(error: Exception, event: Event) -> RequestError:
    """A bug of ours that one event has found, as that event's failure.

    Nothing but this event's bytes was at work, and nothing has changed: set aside it costs one event. Ending
    the process would cost all of them, since the same event comes again after every start. The error's own
    words may quote the event; where it was raised does not.
    """
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
    log.error("a bug in Pelton: no request for %s/%d/%d: %s", *event.position, where)
    return RequestError(f"a bug in Pelton: {where} ({'/'.join(map(str, event.position))})")


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
                subscription.filter,
                parameters.constants,
                path=f"{path}.filter",
                line=subscription.line_of("filter"),
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
