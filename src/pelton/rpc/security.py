"""What a target may be told and by whom: TLS and client certificates, bearer tokens, plaintext.

Secrets are read here, from where their references point, and are never logged, compared in messages or
kept anywhere else. Nothing here connects; `channels.py` does.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from pelton.errors import TargetError
from pelton.rpc.transport import Metadata
from pelton.subscription import Secret, Target, Tls

__all__ = ["Bearer", "Certificates", "Pem", "check_target", "is_loopback"]

#: A token beyond this would not fit into the metadata that servers take.
_TOKEN_BYTES_MAX = 8 << 10
#: A bundle of every public CA is about 250 KiB.
_PEM_BYTES_MAX = 4 << 20
#: Where systems keep their bundle of public CAs: Debian, Fedora, BSD and macOS.
_SYSTEM_ROOTS = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)
#: How often the files of tokens and certificates are looked at, at most: a rotation is noticed within this.
CHECK_INTERVAL_S = 1.0

#: What tells a file from its successor, whether it was written in place or moved there.
_Stamp = tuple[tuple[int, int, int], ...]


def is_loopback(address: str) -> bool:
    """Whether a gRPC address can only ever mean this computer. What cannot be told is not loopback."""
    scheme, separator, rest = address.partition(":")
    scheme = scheme.lower()
    if scheme in ("unix", "unix-abstract") and separator:
        return True
    if scheme == "dns" and separator:
        if rest.startswith("//"):
            # dns://<server to ask>/<name>: a name that somebody else's server resolves may be anything.
            authority, slash, rest = rest[2:].partition("/")
            if authority or not slash:
                return False
        endpoints = [rest]
    elif scheme in ("ipv4", "ipv6") and separator:
        endpoints = rest.removeprefix("///").split(",")
    else:
        endpoints = [address]
    return all(_is_loopback_host(_host_of(endpoint)) for endpoint in endpoints)


def _host_of(endpoint: str) -> str:
    if endpoint.startswith("["):
        return endpoint[1:].partition("]")[0]
    # More than one colon without brackets: an IPv6 address with no port.
    return endpoint if endpoint.count(":") > 1 else endpoint.partition(":")[0]


def _is_loopback_host(host: str) -> bool:
    if host.lower().removesuffix(".") == "localhost":
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


def check_target(target: Target) -> None:
    """Refuse a target whose events, or token, would cross a network unprotected without being asked to."""
    if target.tls is not None:
        if (target.tls.cert is None) != (target.tls.key is None):
            raise TargetError(
                f"target {target.name}: tls.cert and tls.key come together; give both or neither."
            )
        return
    if target.plaintext or is_loopback(target.address):
        return
    what = "its bearer token and every event" if target.bearer is not None else "every event"
    raise TargetError(
        f"target {target.name}: {target.address} is not this computer, and without TLS {what} would cross "
        "the network readable by anyone on the way. Give the target `tls:`, or say `plaintext: true` if "
        "something else protects the way."
    )


def _stamp(paths: tuple[str, ...]) -> _Stamp:
    stats = [os.stat(path) for path in paths]
    return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in stats)


def _read(path: str, what: str, bytes_max: int) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(bytes_max + 1)
    except OSError as error:
        raise TargetError(f"{what}: cannot read {path}: {error.strerror or error}.") from error
    if len(content) > bytes_max:
        raise TargetError(f"{what}: {path} is larger than {bytes_max} bytes; is it the right file?")
    return content


class Bearer:
    """The `authorization` entry of a target's calls, read again when its file changes.

    A file that cannot be read any more keeps the last token in use: a rotation replaces the file, and a
    moment without one must not fail calls that the old token still carries. The target has the last word.
    """

    def __init__(
        self, secret: Secret, target_name: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._secret = secret
        self._where = f"target {target_name}: auth.bearer {secret}"
        self._clock = clock
        self._stamp: _Stamp = ()
        self._checked_s = clock()
        self._metadata = self._load()

    def metadata(self) -> Metadata:
        """One entry, to be added to a call's own. Cheap: looks at the file at most once a second."""
        if self._secret.kind == "file":
            now = self._clock()
            if now - self._checked_s >= CHECK_INTERVAL_S:
                self._checked_s = now
                self._look()
        return self._metadata

    def _look(self) -> None:
        try:
            if _stamp((self._secret.name,)) != self._stamp:
                self._metadata = self._load()
        except (OSError, TargetError):
            return

    def _load(self) -> Metadata:
        if self._secret.kind == "file":
            # The stamp before the content: a change in between is then seen as one more change.
            try:
                self._stamp = _stamp((self._secret.name,))
            except OSError as error:
                raise TargetError(f"{self._where}: cannot be read: {error.strerror or error}.") from error
            raw = _read(self._secret.name, self._where, _TOKEN_BYTES_MAX)
        elif self._secret.kind == "env":
            value = os.environ.get(self._secret.name)
            if value is None:
                raise TargetError(f"{self._where}: the environment has no variable of that name; set it.")
            raw = value.encode("utf-8", "surrogateescape")
        else:
            raise TargetError(f"{self._where}: a secret comes from ${{env:NAME}} or ${{file:path}}.")
        token = raw.strip()
        # Never the token itself in a message.
        if not token or len(token) > _TOKEN_BYTES_MAX:
            raise TargetError(f"{self._where}: is empty or larger than {_TOKEN_BYTES_MAX} bytes.")
        text = token.decode("ascii", "replace")
        if not text.isascii() or not text.isprintable():
            raise TargetError(
                f"{self._where}: holds characters that no header may carry; it must be one line of ASCII."
            )
        return (("authorization", f"Bearer {text}"),)

    def __repr__(self) -> str:
        return f"<Bearer {self._secret}>"


@dataclass(frozen=True, slots=True, repr=False)
class Pem:
    """What a target's TLS files hold. Without `roots`, whoever connects has its own."""

    roots: bytes | None
    cert: bytes | None
    key: bytes | None


class Certificates:
    """A target's TLS files, and the credentials made of them."""

    def __init__(self, tls: Tls, target_name: str) -> None:
        self._tls = tls
        self._where = f"target {target_name}: tls"
        self._paths = tuple(path for path in (tls.ca, tls.cert, tls.key) if path is not None)
        self._stamp: _Stamp = ()

    def changed(self) -> bool:
        """Whether the files differ from those last read. Files missing just now have not changed yet."""
        try:
            return _stamp(self._paths) != self._stamp
        except OSError:
            return False

    def credentials(self) -> grpc.ChannelCredentials:
        """What grpc makes of `read`."""
        pem = self.read()
        return grpc.ssl_channel_credentials(pem.roots, pem.key, pem.cert)

    def read(self) -> Pem:
        """Read the files and check that they can be used; a handshake would say so only later, and worse."""
        tls = self._tls
        try:
            stamp = _stamp(self._paths)
        except OSError as error:
            raise TargetError(
                f"{self._where}: cannot read {error.filename}: {error.strerror or error}."
            ) from error
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        roots = self._roots(context)
        cert = key = None
        if tls.cert is not None and tls.key is not None:
            cert = _read(tls.cert, f"{self._where}.cert", _PEM_BYTES_MAX)
            key = _read(tls.key, f"{self._where}.key", _PEM_BYTES_MAX)
            try:
                context.load_cert_chain(tls.cert, tls.key, password=_no_password)
            except (ssl.SSLError, ValueError) as error:
                raise TargetError(
                    f"{self._where}: {tls.cert} and {tls.key} are not a PEM certificate and its "
                    f"own unencrypted key: {error}."
                ) from error
        self._stamp = stamp
        return Pem(roots, cert, key)

    def _roots(self, context: ssl.SSLContext) -> bytes | None:
        """The CA file's content, or the system's own bundle; None, for grpc's own, where it has none."""
        if self._tls.ca is None:
            # The first is what OpenSSL and SSL_CERT_FILE say; several systems name a file that is not there.
            for system in (ssl.get_default_verify_paths().cafile, *_SYSTEM_ROOTS):
                if system and os.path.exists(system):
                    return _read(system, self._where, _PEM_BYTES_MAX)
            return None
        roots = _read(self._tls.ca, f"{self._where}.ca", _PEM_BYTES_MAX)
        try:
            context.load_verify_locations(cadata=roots.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise TargetError(
                f"{self._where}.ca: {self._tls.ca} holds no PEM certificate: {error}."
            ) from error
        return roots


def _no_password() -> str:
    # Without this OpenSSL would ask for the password on the terminal.
    raise ValueError("the key is encrypted")
