"""Credentials: which addresses are loopback, what is refused, and files that are read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelton.errors import TargetError
from pelton.rpc.security import Bearer, Certificates, check_target, is_loopback
from pelton.subscription import Secret, Target, Tls


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:50051",
        "127.200.3.4:1",
        "[::1]:50051",
        "::1",
        "[::ffff:127.0.0.1]:1",
        "localhost:50051",
        "LocalHost.:50051",
        "localhost",
        "dns:localhost:50051",
        "dns:///localhost:50051",
        "dns:///127.0.0.1:50051",
        "ipv4:127.0.0.1:1,127.0.0.2:2",
        "ipv6:[::1]:1",
        "unix:/run/shop.sock",
        "unix:///run/shop.sock",
        "unix-abstract:shop",
    ],
)
def test_loopback(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address",
    [
        "shop:50051",
        "192.0.2.1:1",
        "0.0.0.0:1",
        "128.0.0.1:1",
        "[::]:1",
        "[2001:db8::1]:1",
        "[::ffff:192.0.2.1]:1",
        "dns:///shop:50051",
        "dns://8.8.8.8/localhost:50051",
        "dns://localhost:50051",
        "ipv4:127.0.0.1:1,192.0.2.1:2",
        "localhost.example:1",
        "127.0.0.1.example:1",
        "127.1:1",
        "notlocalhost:1",
        "xds:///localhost:1",
        "",
        "unix",
    ],
)
def test_not_loopback(address: str) -> None:
    assert not is_loopback(address)


def test_half_a_pair_is_refused() -> None:
    with pytest.raises(TargetError, match="both or neither"):
        check_target(Target("shop", "shop:1", tls=Tls(cert="c.pem")))
    check_target(Target("shop", "shop:1", tls=Tls()))


def test_bearer_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", " secret-1\n")
    bearer = Bearer(Secret("env", "SHOP_TOKEN"), "shop")
    assert bearer.metadata() == (("authorization", "Bearer secret-1"),)
    assert "secret-1" not in repr(bearer)


def test_bearer_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "token"
    file.write_text("one\n")
    bearer = Bearer(Secret("file", str(file)), "shop", clock=clock)
    file.write_text("another")
    assert bearer.metadata() == (("authorization", "Bearer one"),), "looked at once a second at most"
    clock.now_s = 1.0
    assert bearer.metadata() == (("authorization", "Bearer another"),)
    # A replacement that is moved into place, of the same size.
    (tmp_path / "new").write_text("ANOTHER")
    (tmp_path / "new").rename(file)
    clock.now_s = 2.0
    assert bearer.metadata() == (("authorization", "Bearer ANOTHER"),)
    # Gone, and then empty: the last one stays in use.
    file.unlink()
    clock.now_s = 3.0
    assert bearer.metadata() == (("authorization", "Bearer ANOTHER"),)
    file.write_text("")
    clock.now_s = 4.0
    assert bearer.metadata() == (("authorization", "Bearer ANOTHER"),)
    file.write_text("last")
    clock.now_s = 5.0
    assert bearer.metadata() == (("authorization", "Bearer last"),)


@pytest.mark.parametrize("content", [b"", b" \n", b"hidden\nhidden", b"hid\xffden", b"hidden" * 2_000])
def test_tokens_that_cannot_be_sent(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(TargetError, match=r"auth\.bearer") as refused:
        Bearer(Secret("file", str(file)), "shop")
    assert "hid" not in str(refused.value), "a secret is never told"
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "secret", [Secret("env", "PELTON_NOT_SET"), Secret("file", "/no/such"), Secret("vault", "x")]
)
def test_tokens_that_are_not_there(secret: Secret) -> None:
    with pytest.raises(TargetError, match=r"\$\{"):
        Bearer(secret, "shop")


def test_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    for tls, says in (
        (Tls(ca=str(tmp_path / "none.pem")), "cannot read"),
        (Tls(ca=str(junk)), "no PEM certificate"),
        (Tls(cert=str(junk), key=str(junk)), "not a PEM certificate"),
    ):
        with pytest.raises(TargetError, match=says) as refused:
            Certificates(tls, "shop").credentials()
        assert "shop" in str(refused.value)


def test_the_system_s_own_authorities() -> None:
    certificates = Certificates(Tls(), "shop")
    assert certificates.credentials() is not None
    assert not certificates.changed()
