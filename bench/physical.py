"""What this computer can do at all, measured in the same run: the floor that every bridge stands on.

Plain sockets over loopback, one thread at each end, nothing parsed and nothing kept. The kernel does the
work, and Python lets go of its lock meanwhile.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import dataclass

__all__ = ["Floor", "measure"]

SECONDS = 1.0
#: As large as a fetch, and as small as a call.
BULK_BYTES = 1 << 20
MESSAGE_BYTES = 300


@dataclass(frozen=True, slots=True)
class Floor:
    """Of one connection over loopback."""

    cores: int
    #: Megabytes a second one way.
    copied_mb_per_s: float
    #: CPU of both ends together for one small message, a send and a receive of its own, in microseconds.
    message_us: float


def measure() -> Floor:
    copied, _ = _send(BULK_BYTES)
    messages, used_s = _send(MESSAGE_BYTES)
    return Floor(len(os.sched_getaffinity(0)), copied * BULK_BYTES / SECONDS / 1e6, used_s / messages * 1e6)


def _send(size_bytes: int) -> tuple[int, float]:
    """So many sends in `SECONDS`, and the CPU-seconds of both ends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with socket.create_connection(listening.getsockname()) as sender:
            receiver, _ = listening.accept()
            sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            taker = threading.Thread(target=_take, args=(receiver, size_bytes), name="taker")
            taker.start()
            payload = bytes(size_bytes)
            count, used_s = 0, time.process_time()
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                sender.sendall(payload)
                count += 1
            used_s = time.process_time() - used_s
        taker.join()
    return count, used_s


def _take(receiver: socket.socket, size_bytes: int) -> None:
    into = bytearray(size_bytes)
    with receiver:
        while receiver.recv_into(into):
            pass
