"""Native channels: the one thread of this process that has them, and how each is made.

The only importer of `pelton_native`, and only once somebody asks for it: it is a wheel of its own, and not
everybody has it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from pelton.errors import TargetError
from pelton.rpc.leases import (
    ANSWER_METADATA_BYTES_MAX,
    CONNECT_TIMEOUT_MS,
    RECONNECT_MAX_MS,
    RECONNECT_MIN_MS,
    REPLY_BYTES_MAX,
    Leased,
)
from pelton.rpc.security import Certificates
from pelton.subscription import Subscription, Target

if TYPE_CHECKING:
    import pelton_native

__all__ = ["NativeDial", "NativeLease", "native_missing", "native_refuses"]

NativeLease = Leased["pelton_native.Channel"]


@cache
def native_missing() -> str:
    """Why there is no native transport in this process; empty where there is one."""
    try:
        import pelton_native
    except ImportError as error:
        return f"pelton_native cannot be imported ({error}); `make native` builds and installs it"
    return "" if pelton_native.__version__ else "pelton_native has no version"


def native_refuses(address: str) -> str:
    """Why the native transport cannot call `address`, though grpc.aio can; empty where it can."""
    if address.startswith("dns://") and not address.startswith("dns:///"):
        return "it asks the system for names, not a name server of the target's own"
    return ""


class NativeDial:
    """Native channels, and the ports that their calls come back to. The thread starts with the first."""

    def __init__(self) -> None:
        self._runtime: pelton_native.Runtime | None = None

    def _started(self) -> pelton_native.Runtime:
        missing = native_missing()
        if missing:
            raise TargetError(f"there is no native transport: {missing}.")
        if self._runtime is None:
            import pelton_native

            self._runtime = pelton_native.Runtime()
        return self._runtime

    def make(self, target: Target, certificates: Certificates | None) -> pelton_native.Channel:
        runtime = self._started()
        pem = None if certificates is None else certificates.read()
        if pem is not None and pem.roots is None:
            raise TargetError(
                f"target {target.name}: tls: this system has no bundle of certificates to trust; give `ca`."
            )
        try:
            return runtime.channel(
                target.address,
                roots=None if pem is None else pem.roots,
                certificate=None if pem is None else pem.cert,
                key=None if pem is None else pem.key,
                server_name=None if target.tls is None else target.tls.server_name,
                keepalive_time_ms=target.keepalive_time_ms,
                keepalive_timeout_ms=target.keepalive_timeout_ms,
                connect_timeout_ms=CONNECT_TIMEOUT_MS,
                backoff_min_ms=RECONNECT_MIN_MS,
                backoff_max_ms=RECONNECT_MAX_MS,
                reply_bytes_max=REPLY_BYTES_MAX,
                metadata_bytes_max=ANSWER_METADATA_BYTES_MAX,
            )
        except ValueError as error:
            raise TargetError(f"target {target.name}: {error}.") from error

    def port(self, subscription: Subscription, *, reads_replies: bool) -> pelton_native.Port:
        """Where one subscription's calls go out and come back."""
        return self._started().port(
            subscription.method,
            reads_replies=reads_replies,
            request_bytes_max=subscription.target.max_message_bytes,
        )

    async def hang_up(self, channel: pelton_native.Channel, grace_s: float) -> None:
        channel.close(int(grace_s * 1_000))

    def close(self) -> None:
        """End the thread, which has said goodbye on every connection then. May be called twice."""
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            runtime.close()
