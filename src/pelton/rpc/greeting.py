"""What a port says to a greeting in TLS: found out where gRPC says only that a socket was closed.

A port that wants TLS and is called without, and a server that refuses our certificate, both hang up without
a word, as a server that restarts does. So whoever is hung up on looks: one connection of our own, at most one
in `LOOK_EVERY_S`. Only what is certain is said; all else is as gRPC has it. Nothing here makes calls.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from typing import Any

from pelton.subscription import Target

__all__ = ["LOOK_EVERY_S", "misfit"]

#: A target that is down is looked at so often, at most: once for each of the breaker's slow probes.
LOOK_EVERY_S = 5.0
#: Of connecting, and of each answer.
_ANSWER_TIMEOUT_S = 2.0
#: What HTTP/2 begins with: the preface and empty settings. A server that takes us answers with its own.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"

_WANTS_TLS = "the port speaks TLS, and the target is declared without: give it `tls:`"
_ASKS = "the server asks for a client certificate and hangs up"


async def misfit(target: Target) -> str:
    """Why no connection to the target can come about until somebody changes the configuration; else empty."""
    endpoint = _endpoint(target.address)
    return "" if endpoint is None else await asyncio.to_thread(_greet, target, *endpoint)


def _endpoint(address: str) -> tuple[str, int] | None:
    """The host and port of an address with one of each; there is nothing certain to say of several."""
    rest = address
    for scheme in ("dns:///", "dns:", "ipv4:", "ipv6:"):
        if address.startswith(scheme):
            rest = address.removeprefix(scheme)
            break
    host, colon, port = rest.rpartition(":")
    if not colon or not port.isdigit() or "/" in host or "," in host:
        return None
    return host.strip("[]"), int(port)


def _greet(target: Target, host: str, port: int) -> str:
    """Blocking. Certificates are verified before ours is shown: a stranger gets nothing of us."""
    asked: list[bool] = []

    def note(_connection: Any, direction: str, _version: Any, _content: Any, kind: Any, _data: Any) -> None:
        if direction == "read" and getattr(kind, "name", "") == "CERTIFICATE_REQUEST":
            asked.append(True)

    heard = b""
    try:
        context = _context(target)
        # Nothing public says whether the server asked for a certificate; where this is gone, nothing is said.
        context._msg_callback = note  # type: ignore[attr-defined]
        with _connection(context, host, port, _server_name(target, host)) as secured:
            if target.tls is None:
                return _WANTS_TLS
            secured.sendall(_GREETING)
            heard = secured.recv(1)
    except ssl.SSLCertVerificationError:
        return ""
    except ssl.SSLError as error:
        if target.tls is None:
            # An alert is TLS, whatever it says; anything else is some other protocol.
            return _WANTS_TLS if "ALERT" in (error.reason or "") else ""
    except ConnectionError:
        # Hung up on: within TLS, if it got as far as to ask us for something.
        pass
    except (OSError, ValueError):
        return ""
    if target.tls is None or heard or not asked:
        return ""
    if target.tls.cert is None:
        return f"{_ASKS}: give the target `tls.cert` and `tls.key`"
    return f"{_ASKS}: it does not take the one in tls.cert"


def _connection(context: ssl.SSLContext, host: str, port: int, server_name: str | None) -> ssl.SSLSocket:
    """Connected, with TLS agreed on, at the first of the host's addresses that is not refused.

    Wrapped before it connects: `wrap_socket` of a connection just reset leaves it open (Python 3.11).
    """
    refused = ConnectionRefusedError(f"{host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        secured = context.wrap_socket(socket.socket(family, kind, protocol), server_hostname=server_name)
        try:
            secured.settimeout(_ANSWER_TIMEOUT_S)
            secured.connect(address)
        except ConnectionRefusedError as error:
            secured.close()
            refused = error
        except BaseException:
            secured.close()
            raise
        else:
            return secured
    raise refused


def _context(target: Target) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    tls = target.tls
    if tls is None:
        # Nothing is told to whoever answers, so it does not matter who that is.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if tls.ca is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(tls.ca)
    if tls.cert is not None:
        context.load_cert_chain(tls.cert, tls.key, password=_no_password)
    return context


def _server_name(target: Target, host: str) -> str | None:
    if target.tls is not None:
        return target.tls.server_name or host
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host
    return None


def _no_password() -> str:
    # Without this OpenSSL would ask for the password on the terminal.
    raise ValueError("the key is encrypted")
