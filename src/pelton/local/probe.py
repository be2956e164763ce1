"""One question to the broker, on a plain socket: do you serve yet?

A port that accepts says little: the broker listens well before it answers. So this sends a small real request
and asks for the coordinator of some group. An answer without an error means that the broker is registered and
that the topic groups live in exists; asking is also what makes Kafka create it, 0.3 s that would else become
3 s for the first consumer. No Kafka client is involved.
"""

from __future__ import annotations

import socket
import struct

__all__ = ["serves"]

FIND_COORDINATOR = 10
#: The last version without compact encodings; every Kafka since 2.0 speaks it.
FIND_COORDINATOR_VERSION = 2
OF_A_GROUP = 0
CLIENT = b"pelton-local"
#: An answer takes about 50 bytes; more means that something else listens there.
REPLY_BYTES_MAX = 4096
#: Correlation id, throttle time, error code.
REPLY_HEAD = struct.Struct(">iih")


def serves(host: str, port: int, *, timeout_s: float) -> bool:
    """True once a broker there serves clients and groups; anything else is False, never an error."""
    header = struct.pack(">hhih", FIND_COORDINATOR, FIND_COORDINATOR_VERSION, 1, len(CLIENT)) + CLIENT
    request = header + struct.pack(">h", len(CLIENT)) + CLIENT + struct.pack(">b", OF_A_GROUP)
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            (size,) = struct.unpack(">i", read(connection, 4))
            if not REPLY_HEAD.size <= size <= REPLY_BYTES_MAX:
                return False
            correlation, _throttle, error = REPLY_HEAD.unpack_from(read(connection, size))
    except (OSError, EOFError):
        return False
    return bool(correlation == 1 and error == 0)


def read(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes."""
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data
