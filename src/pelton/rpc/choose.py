"""Which transport a subscription's calls go through. Nothing here makes calls."""

from __future__ import annotations

from pelton.errors import TargetError
from pelton.rpc.aio import AioTransport
from pelton.rpc.channels import Channels
from pelton.rpc.native import NativeTransport
from pelton.rpc.native_dial import native_missing, native_refuses
from pelton.rpc.stream import StreamTransport
from pelton.rpc.transport import OnResults, Transport
from pelton.subscription import DeliveryMode, Subscription, TransportChoice

__all__ = ["check_transport", "choose_transport", "make_transport"]


def choose_transport(subscription: Subscription) -> tuple[TransportChoice, str]:
    """What makes the subscription's calls, and why it is not the native one where `auto` would prefer it.

    TargetError where `native` was asked for and cannot be had.
    """
    if subscription.transport is TransportChoice.AIO:
        return TransportChoice.AIO, ""
    if subscription.mode is DeliveryMode.STREAM:
        why = "streams go through grpc.aio"
    else:
        why = native_missing() or native_refuses(subscription.target.address)
    if not why:
        return TransportChoice.NATIVE, ""
    if subscription.transport is TransportChoice.NATIVE:
        raise TargetError(
            f"subscription {subscription.name}: transport: native cannot be used: {why}. "
            "Write `transport: auto` to take grpc.aio where it must be."
        )
    return TransportChoice.AIO, why


async def check_transport(subscription: Subscription, channels: Channels) -> TransportChoice:
    """What will make the calls; TargetError for all that can be known before the first one.

    Of grpc.aio, whoever asks the target for its types finds out the same.
    """
    choice, _ = choose_transport(subscription)
    if choice is TransportChoice.NATIVE:
        await channels.lease_native(subscription.target).release()
    return choice


def make_transport(subscription: Subscription, channels: Channels, on_results: OnResults) -> Transport:
    """The transport for the subscription's mode; TargetError if it cannot be had, or the target's
    credentials cannot be used."""
    choice, _ = choose_transport(subscription)
    if subscription.mode is DeliveryMode.STREAM:
        return StreamTransport(subscription, channels, on_results)
    if choice is TransportChoice.NATIVE:
        return NativeTransport(subscription, channels, on_results)
    return AioTransport(subscription, channels, on_results)
