"""A server's certificates, replaced while it serves."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from pathlib import Path

import pytest

from pelton import App
from pelton.errors import HandlerError
from pelton.sdk import certificates as module
from pelton.sdk.certificates import Certificates
from pelton.sdk.serve import Server, Tls
from tests.conformance.authority import Authority, Pair


def put(pair: Pair, folder: Path) -> None:
    shutil.copy(pair.key, folder / "key.pem")
    shutil.copy(pair.cert, folder / "cert.pem")


async def serves(pair: Pair, port: int) -> bool:
    """Whether a new connection is shown this certificate."""
    shown = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
    return shown.encode() == pair.contents()[1]


async def test_a_new_certificate_is_served_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECK_INTERVAL_S", 0.0)
    authority = Authority(tmp_path, "ours")
    first, second = authority.issue("127.0.0.1"), authority.issue("127.0.0.1")
    put(first, tmp_path)
    app = App("rotating")

    @app.handler
    async def take(value: bytes) -> None:
        """Takes everything."""

    async with Server(app, "127.0.0.1:0", tls=Tls(tmp_path / "cert.pem", tmp_path / "key.pem")) as server:
        assert await serves(first, server.port)
        # In the middle of a rotation: a key without its certificate is no pair yet.
        shutil.copy(second.key, tmp_path / "key.pem")
        assert await serves(first, server.port)
        shutil.move(tmp_path / "cert.pem", tmp_path / "away.pem")
        assert await serves(first, server.port)
        shutil.copy(second.cert, tmp_path / "cert.pem")
        assert await serves(second, server.port)
        assert await serves(second, server.port)


def test_files_are_looked_at_once_in_a_while(tmp_path: Path) -> None:
    now = [0.0]
    authority = Authority(tmp_path, "ours")
    put(authority.issue("a"), tmp_path)
    held = Certificates(tmp_path / "cert.pem", tmp_path / "key.pem", authority.ca, clock=lambda: now[0])
    assert held.pems.client_ca == authority.roots()
    second = authority.issue("a")
    put(second, tmp_path)
    assert held.changed() is None
    now[0] += module.CHECK_INTERVAL_S
    changed = held.changed()
    assert changed is not None
    assert changed.certificate == Path(second.cert).read_bytes()
    now[0] += module.CHECK_INTERVAL_S
    assert held.changed() is None


@pytest.mark.parametrize("wrong", ["cert.pem", "key.pem", "ca.pem"])
def test_what_cannot_be_used_is_said_at_the_start(wrong: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    put(authority.issue("a"), tmp_path)
    (tmp_path / wrong).write_text("nonsense")
    with pytest.raises(HandlerError, match=rf"TLS: .*{wrong}"):
        Certificates(tmp_path / "cert.pem", tmp_path / "key.pem", authority.ca)
