"""Ports on the loopback interface: two that are free, or whether a chosen one is."""

from __future__ import annotations

import contextlib
import errno
import socket

from pelton.errors import LocalKafkaError
from pelton.local.properties import HOST

__all__ = ["check_free", "free_ports"]


def free_ports(count: int) -> list[int]:
    """Different ports that nobody has now; another process may still be faster than whom they are for."""
    with contextlib.ExitStack() as stack:
        # All are held until the last is found, so that no two are the same.
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held in sockets:
            held.bind((HOST, 0))
        return [int(held.getsockname()[1]) for held in sockets]


def check_free(port: int) -> None:
    """Refuse a port that another process has, in one sentence; Kafka itself would take forty lines."""
    with socket.socket() as trial:
        # As Kafka does it: connections of the last run that still linger are no obstacle.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except PermissionError as error:
            raise LocalKafkaError(f"port {port} needs root's rights; choose one from 1024 on") from error
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise LocalKafkaError(f"cannot use port {port} on {HOST}: {error.strerror}") from error
            raise LocalKafkaError(
                f"port {port} on {HOST} is taken by another process, which"
                f" `ss -ltnp 'sport = :{port}'` or `lsof -i :{port}` names; end it, or choose another port"
            ) from error
