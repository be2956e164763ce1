"""Which transport a subscription's calls go through. Nothing here makes calls."""

from __future__ import annotations

from pelton.rpc.aio import AioTransport
from pelton.rpc.channels import Channels
from pelton.rpc.stream import StreamTransport
from pelton.rpc.transport import OnResults, Transport
from pelton.subscription import DeliveryMode, Subscription, TransportChoice

__all__ = ["make_transport"]


def make_transport(subscription: Subscription, channels: Channels, on_results: OnResults) -> Transport:
    """The transport for the subscription's mode; TargetError if the target's credentials cannot be used.

    `auto` means the fastest that is installed, and grpc.aio is the only one there is.
    """
    assert subscription.transport in (TransportChoice.AUTO, TransportChoice.AIO)
    if subscription.mode is DeliveryMode.STREAM:
        return StreamTransport(subscription, channels, on_results)
    return AioTransport(subscription, channels, on_results)
