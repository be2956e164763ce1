"""A server's TLS files: read at the start, and again when they have changed. No gRPC here.

A rotation replaces several files, one after the other. Files that do not fit together are not a change yet:
what was read last stays in use, and they are looked at again.
"""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from pelton.errors import HandlerError

__all__ = ["CHECK_INTERVAL_S", "Certificates", "Pems"]

#: How often the files are looked at, at most: a rotation is noticed within this.
CHECK_INTERVAL_S: Final = 1.0
#: A bundle of every public CA is about 250 KiB.
PEM_BYTES_MAX: Final = 4 << 20

_log = logging.getLogger("pelton.sdk")


class Pems(NamedTuple):
    """The files' contents."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


class Certificates:
    """Looked at from whichever thread a handshake comes on; each look stands by itself."""

    def __init__(
        self,
        certificate: str | Path,
        key: str | Path,
        client_ca: str | Path | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """HandlerError where they cannot be used."""
        self._paths = (certificate, key) if client_ca is None else (certificate, key, client_ca)
        self._clock = clock
        self._checked_s = clock()
        self._stamp = self._stamp_now()
        self.pems = self._read()

    def changed(self) -> Pems | None:
        """The new contents; None where nothing has changed, or what is there now cannot be used."""
        now = self._clock()
        if now - self._checked_s < CHECK_INTERVAL_S:
            return None
        self._checked_s = now
        try:
            stamp = self._stamp_now()
            if stamp == self._stamp:
                return None
            self.pems = self._read()
        except HandlerError as error:
            _log.warning("certificates changed but cannot be used; the old ones stay in use: %s", error)
            return None
        self._stamp = stamp
        _log.info("certificates changed: new connections get the new ones")
        return self.pems

    def _stamp_now(self) -> tuple[tuple[int, int, int], ...]:
        """What tells a file from its successor, whether it was written in place or moved there."""
        try:
            stats = [os.stat(path) for path in self._paths]
        except OSError as error:
            raise HandlerError(f"TLS: {error.filename} cannot be read: {error.strerror}") from error
        return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in stats)

    def _read(self) -> Pems:
        """Read and tried: gRPC itself would say what is wrong at each handshake, and to nobody."""
        certificate, key, *ca = map(_content, self._paths)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._paths[0], self._paths[1], password=_no_password)
            if ca:
                context.load_verify_locations(cadata=ca[0].decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            names = ", ".join(map(str, self._paths))
            raise HandlerError(
                f"TLS: {names} are not a PEM certificate, its own unencrypted key and, where there is a "
                f"third, the certificates of a CA: {error}"
            ) from error
        return Pems(certificate, key, ca[0] if ca else None)


def _content(path: str | Path) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(PEM_BYTES_MAX + 1)
    except OSError as error:
        raise HandlerError(f"TLS: {path} cannot be read: {error.strerror}") from error
    if len(content) > PEM_BYTES_MAX:
        raise HandlerError(f"TLS: {path} is larger than {PEM_BYTES_MAX} bytes; is it the right file?")
    return content


def _no_password() -> str:
    # Without this OpenSSL would ask for the password on the terminal.
    raise ValueError("the key is encrypted")
