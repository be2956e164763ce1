"""Where a target is: the forms of a gRPC name that are taken, and whether it is this computer.

Nothing is resolved or connected here.
"""

from __future__ import annotations

import ipaddress
import re

from pelton.config.problems import Flaw, shown
from pelton.config.values import text

__all__ = ["address", "is_loopback"]

_FORMS = "Write host:port, dns:///host:port, ipv4:address:port or ipv6:[address]:port."
_SCHEME = re.compile(r"([a-z][a-z0-9+-]*):(.*)", re.DOTALL)
_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_HOST_CHARS_MAX = 253

#: What gRPC knows besides, and what people write in its place.
_UNBUILT = frozenset({"unix", "unix-abstract", "vsock", "xds", "google-c2p"})
_URLS = frozenset({"http", "https", "grpc", "grpcs", "tcp", "h2c"})


def address(value: object) -> str:
    """The address as it was written, once every host and port in it is one."""
    written = text(value)
    _endpoints(written)
    return written


def is_loopback(written: str) -> bool:
    """Whether every endpoint of an address that was read is on this computer."""
    return all(_is_loopback_host(host) for host, _ in _endpoints(written))


def _is_loopback_host(host: str) -> bool:
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _endpoints(written: str) -> list[tuple[str, int]]:
    match = _SCHEME.fullmatch(written)
    scheme, rest = (match[1], match[2]) if match else ("", written)
    if scheme in _URLS and rest.startswith("//"):
        bare = rest[2:].rstrip("/")
        raise Flaw(
            f"is {shown(written)}, a URL.", f"Write dns:///{bare}; whether it is TLS is said by `tls`."
        )
    if scheme in _UNBUILT:
        raise Flaw(f"is a {scheme}: address, which is not built yet.", _FORMS)
    if scheme == "dns":
        if rest.startswith("//"):
            authority, slash, name = rest[2:].partition("/")
            if not slash:
                raise Flaw(f"is {shown(written)}, with two slashes.", f"Write dns:///{authority}.")
            if authority:
                _endpoint(authority if ":" in authority else f"{authority}:53", written)
            rest = name
        return [_endpoint(rest, written)]
    if scheme in ("ipv4", "ipv6"):
        endpoints = [_endpoint(part, written) for part in rest.split(",")]
        for host, _ in endpoints:
            _check_ip(host, 4 if scheme == "ipv4" else 6, written)
        return endpoints
    if "://" in written:
        raise Flaw(f"is {shown(written)}, of a form that is not known.", _FORMS)
    return [_endpoint(written, written)]


def _check_ip(host: str, version: int, written: str) -> None:
    try:
        right = ipaddress.ip_address(host).version == version
    except ValueError:
        right = False
    if not right:
        raise Flaw(f"is {shown(written)}, and {shown(host)} is no IPv{version} address.", _FORMS)


def _endpoint(part: str, written: str) -> tuple[str, int]:
    host, colon, port = part.rpartition(":")
    if not colon or part.endswith("]"):
        raise Flaw(f"is {shown(written)}, without a port.", f"Write {written}:<port>.")
    if not port.isascii() or not port.isdigit() or not 1 <= int(port[:6]) <= 65_535:
        raise Flaw(f"is {shown(written)}, and {shown(port)} is no port.", "Write a port from 1 to 65535.")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        _check_ip(host, 6, written)
    elif ":" in host:
        raise Flaw(f"is {shown(written)}, an IPv6 address without brackets.", f"Write [{host}]:{port}.")
    elif len(host) > _HOST_CHARS_MAX or _HOST.fullmatch(host) is None:
        raise Flaw(f"is {shown(written)}, and {shown(host)} is no host.", _FORMS)
    return host, int(port)
