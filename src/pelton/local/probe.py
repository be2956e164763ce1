"""One question to the broker, on a plain socket: do you serve yet?

A port that accepts says little: the broker listens well before it answers. So this sends the smallest real
request, a Metadata request for no topic, and looks for a broker in the reply. No Kafka client is involved.
"""

from __future__ import annotations

import socket
import struct

__all__ = ["serves"]

METADATA = 3
#: The last version without compact encodings that leaves topics uncreated; every Kafka since 1.0 speaks it.
METADATA_VERSION = 4
CLIENT = b"pelton-local"
#: A reply about no topic and one broker takes about 60 bytes; more means that something else listens there.
REPLY_BYTES_MAX = 4096


def serves(host: str, port: int, *, timeout_s: float) -> bool:
    """True once a broker answers there and is registered; anything else is False, never an error."""
    request = struct.pack(">hhih", METADATA, METADATA_VERSION, 1, len(CLIENT)) + CLIENT
    request += struct.pack(">i?", 0, False)
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            (size,) = struct.unpack(">i", read(connection, 4))
            if not 12 <= size <= REPLY_BYTES_MAX:
                return False
            reply = read(connection, size)
    except (OSError, EOFError):
        return False
    # Correlation id, throttle time, then the count of brokers: zero until this one is let in.
    _correlation, _throttle, brokers = struct.unpack_from(">iii", reply)
    return bool(brokers > 0)


def read(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes."""
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data
