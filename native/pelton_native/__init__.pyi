"""Unary gRPC calls on a thread of their own.

Loop thread only, and nothing here waits but `Runtime.close`. Made before a fork, everything refuses to work
after it: the thread does not come along.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

__all__ = ["Channel", "Port", "Runtime", "__version__"]

__version__: str

_Acked = TypeVar("_Acked")
_Entries = tuple[tuple[str, str | bytes], ...]

class _Call(Protocol):
    @property
    def delivery(self) -> object: ...
    @property
    def body(self) -> bytes: ...
    @property
    def metadata(self) -> _Entries: ...
    @property
    def common(self) -> _Entries:
        """Beside `metadata`, and the same tuple for many calls."""

    @property
    def timeout_ms(self) -> float: ...

class Channel:
    """The way to one target: its addresses and connections."""

    def close(self, grace_ms: int) -> None:
        """Take no more calls; what is out may end within `grace_ms`. Returns at once; may be called twice."""

    def statistics(self) -> Mapping[str, int]:
        """Counts by name, as `stats.rs` has them."""

class Port:
    """Where the calls of one subscription come and go."""

    def fileno(self) -> int:
        """Readable while results wait."""

    def __len__(self) -> int:
        """Calls that have no result yet."""

    def submit(self, channel: Channel, calls: Sequence[_Call], shared: _Entries) -> None:
        """Start the calls, in this order; all of them bear `shared`, too.

        Each ends in exactly one result of `drain`. RuntimeError if a delivery has a call out already.
        """

    def drain(
        self, acked: _Acked
    ) -> tuple[
        list[tuple[Any, _Acked]],
        list[tuple[Any, int, int, str, bytes, list[tuple[str, str | bytes]]]],
    ]:
        """Results that are ready: plain OKs, and what must be looked at.

        The latter are (delivery, kind, code, message, reply, trailers); `status.rs` has the kinds.
        """

    def cancel(self, deliveries: Iterable[object]) -> None:
        """End the calls of these deliveries now; what has no call out is ignored."""

    def cancel_all(self) -> None:
        """End all calls that are out now."""

    def close(self) -> None:
        """No more calls. May be called twice."""

class Runtime:
    """The thread."""

    def __init__(self) -> None: ...
    def channel(
        self,
        address: str,
        *,
        roots: bytes | None,
        certificate: bytes | None,
        key: bytes | None,
        server_name: str | None,
        keepalive_time_ms: int,
        keepalive_timeout_ms: int,
        connect_timeout_ms: int,
        backoff_min_ms: int,
        backoff_max_ms: int,
        reply_bytes_max: int,
        metadata_bytes_max: int,
    ) -> Channel:
        """ValueError says what is wrong with the address or the certificates. `roots` mean TLS."""

    def port(self, path: str, *, reads_replies: bool, request_bytes_max: int) -> Port:
        """For calls of one method. Without `reads_replies`, what an OK says besides is not looked at."""

    def close(self) -> None:
        """End every call and connection, and the thread. Waits a moment; may be called twice."""
