"""How much a consumer reads ahead, and how soon: its client's queue, fetch and batch, in bytes and events.

All of it is in memory beside what is open, and each subscription has its own. So it is cut from the process's
bound (`limits.bytes`), in equal parts, and what is open and what is read ahead keep to one sum:

    limits.bytes x (1.5 open, the reserve included + 0.5 queues + 0.5 a fetch each + 0.375 batches)

A fetch is counted as it comes over the wire, and batches are often packed: the client unpacks all of it at
once, whatever that makes of it. So a fetch is small: packed 16 : 1, it is still what the sum has for it.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["BATCH_EVENTS_MAX", "FETCH_WAIT_MS_MAX", "Batches", "prefetch_bytes", "prefetch_settings"]

#: All clients' queues together may hold this part of the process's bound.
PREFETCH_SHARE: Final = 0.5
#: Beyond this a longer queue does not make one consumer faster; below that it could not hold one fetch.
PREFETCH_BYTES_MAX: Final = 16 << 20
PREFETCH_BYTES_MIN: Final = 256 << 10
#: A fetch is this part of the queue: what it is unpacked to, packed so well, is what a queue holds.
PACKED_TIMES: Final = 16
#: Beyond this a larger fetch does not make one consumer faster, and packed 255 : 1, which is the most that
#: lz4 does, it would be more than a process may have; below that even small batches come one by one.
FETCH_BYTES_MAX: Final = 512 << 10
FETCH_BYTES_MIN: Final = 64 << 10
#: How long a fetch that finds nothing waits at the broker. The client has one out at a time: a partition that
#: is resumed meanwhile, or alone has anything left, waits for it. Where many consumers share the process it
#: is longer, or all that have nothing to read would ask their brokers a thousand times a second.
FETCH_WAIT_MS_MIN: Final = 25
FETCH_WAIT_MS_MAX: Final = 100
#: The client refuses fetches that are smaller than this setting, which is else for producers alone. A broker
#: sends a whole batch, however large, where it is the first one.
_MESSAGE_BYTES_MAX: Final = 1_000

#: Large enough that a crossing costs little per event, small enough that a pause takes hold soon.
BATCH_EVENTS_MAX: Final = 500
#: A batch is at most this part of the queue.
BATCH_SHARE: Final = 0.25
BATCH_BYTES_MAX: Final = 1 << 20


def prefetch_bytes(process_bytes_max: int, sharers: int) -> int:
    """What one of `sharers` consumers may have in its client's queue."""
    share = int(process_bytes_max * PREFETCH_SHARE / sharers)
    return max(PREFETCH_BYTES_MIN, min(PREFETCH_BYTES_MAX, share))


def prefetch_settings(bytes_max: int) -> dict[str, Any]:
    """The client's names for it. A fetch is asked for while the queue has room for any: it comes on top."""
    fetch_bytes = max(FETCH_BYTES_MIN, min(FETCH_BYTES_MAX, bytes_max // PACKED_TIMES))
    wait_ms = FETCH_WAIT_MS_MIN * PREFETCH_BYTES_MAX // bytes_max
    return {
        "fetch.wait.max.ms": max(FETCH_WAIT_MS_MIN, min(FETCH_WAIT_MS_MAX, wait_ms)),
        "queued.max.messages.kbytes": bytes_max >> 10,
        "fetch.max.bytes": fetch_bytes,
        "fetch.message.max.bytes": fetch_bytes,
        "message.max.bytes": _MESSAGE_BYTES_MAX,
    }


class Batches:
    """How many records to take at once, by what the last ones weighed."""

    __slots__ = ("_bytes_max", "_mean_bytes")

    def __init__(self, prefetch_bytes_max: int) -> None:
        self._bytes_max = min(BATCH_BYTES_MAX, int(prefetch_bytes_max * BATCH_SHARE))
        self._mean_bytes = 0.0

    def more(self, first_bytes: int) -> int:
        """After a first one of `first_bytes`: how many more. A single record may be larger than a batch."""
        expected = max(first_bytes, self._mean_bytes, 1.0)
        return min(BATCH_EVENTS_MAX - 1, max(0, int(self._bytes_max / expected) - 1))

    @property
    def large(self) -> bool:
        """A single record is more than a batch should be: then no other one is taken beside it."""
        return self._mean_bytes > self._bytes_max

    def took(self, events: int, size_bytes: int) -> None:
        self._mean_bytes = size_bytes / events
