"""How single values are written."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.config import values
from pelton.config.address import address, is_loopback
from pelton.config.passthrough import OWNED, is_secret, setting_name
from pelton.config.problems import Flaw
from pelton.core.outcome import Status

duration = values.duration(1.0, 86_400_000.0)
size = values.size(1, 1 << 40)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1ms", 1.0),
        ("100ms", 100.0),
        ("10s", 10_000.0),
        ("1.5s", 1_500.0),
        ("1m", 60_000.0),
        ("24h", 86_400_000.0),
        ("1d", 86_400_000.0),
    ],
)
def test_durations(text: str, milliseconds: float) -> None:
    assert duration(text) == milliseconds


@pytest.mark.parametrize(
    "value",
    ["", "s", "10", "10 s", "-1s", "1h30m", "10S", "1e3s", "0.5ms", "25h", "٣s", 10, 1.5, True, None, []],
)
def test_no_durations(value: object) -> None:
    with pytest.raises(Flaw):
        duration(value)


@given(st.integers(1, 86_400_000))
def test_a_duration_is_read_as_it_is_shown(milliseconds: int) -> None:
    shown = values.format_duration(float(milliseconds))
    assert duration(shown) == milliseconds


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (1024, 1024),
        ("8", 8),
        ("1024", 1024),
        ("8MiB", 8 << 20),
        ("4MB", 4_000_000),
        ("2KiB", 2048),
        ("1GiB", 1 << 30),
    ],
)
def test_sizes(text: object, number: int) -> None:
    assert size(text) == number


@pytest.mark.parametrize("value", ["", "8mib", "8 MiB", "1.5MiB", "-1", 0, -5, True, 1.5, None])
def test_no_sizes(value: object) -> None:
    with pytest.raises(Flaw):
        size(value)


@given(st.integers(1, 1 << 40))
def test_a_size_is_read_as_it_is_shown(number: int) -> None:
    assert size(values.format_size(number)) == number


def test_backoffs() -> None:
    assert values.backoff("100ms..1m") == (100.0, 60_000.0)
    assert values.backoff("1s..1s") == (1_000.0, 1_000.0)
    for wrong in ("1s", "1s..", "..1s", "1s...2s", "1s-2s", 5, None, "0s..1s", "1s..2d"):
        with pytest.raises(Flaw):
            values.backoff(wrong)


def test_starts() -> None:
    moment = datetime(2026, 1, 31, 7, tzinfo=UTC)
    for text in (
        "2026-01-31T07:00:00Z",
        "2026-01-31t07:00:00z",
        "2026-01-31 08:00:00+01:00",
        "2026-01-31T07:00:00.000Z",
    ):
        assert values.start(text).timestamp_ms == round(moment.timestamp() * 1_000)
    assert (
        values.start("2026-01-31T07:00:00.123456789Z").timestamp_ms == round(moment.timestamp() * 1_000) + 123
    )
    for wrong in (
        "2026-01-31T07:00:00",
        "2026-13-01T00:00:00Z",
        "1969-01-01T00:00:00Z",
        "now",
        5,
        None,
        True,
    ):
        with pytest.raises(Flaw):
            values.start(wrong)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("localhost:50051", True),
        ("127.0.0.1:50051", True),
        ("127.9.9.9:1", True),
        ("[::1]:50051", True),
        ("dns:///localhost:50051", True),
        ("ipv4:127.0.0.1:1,127.0.0.2:1", True),
        ("ipv6:[::1]:50051", True),
        ("ipv4:127.0.0.1:1,192.0.2.1:1", False),
        ("shop:50051", False),
        ("dns:///shop.example.com:443", False),
        ("dns:shop:443", False),
        ("dns://8.8.8.8/shop:443", False),
        ("dns://8.8.8.8:53/shop:443", False),
        ("localhost.example.com:1", False),
        ("0.0.0.0:1", False),
        ("[2001:db8::1]:443", False),
    ],
)
def test_addresses(text: str, loopback: bool) -> None:
    assert address(text) == text
    assert is_loopback(text) is loopback


@pytest.mark.parametrize(
    "text",
    [
        *[
            "shop",
            "shop:",
            ":50051",
            "shop:0",
            "shop:70000",
            "shop:http",
            "shop:٣",
            "dns:///",
            "dns:///shop",
            "dns://shop:1",
            "http://shop:1",
            "unix:/run/x",
            "xds:///shop",
            "foo://shop:1",
            "ipv4:shop:1",
            "ipv4:",
            "ipv6:::1:5",
            "::1:50051",
            "[shop]:1",
            "[::1]",
            "-shop:1",
        ],
        "",
        "sh op:1",
        "a" * 64 + ":1",
    ],
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(Flaw):
        address(text)


def test_listening() -> None:
    assert values.listen("127.0.0.1:8360") == ("127.0.0.1", 8360)
    assert values.listen("[::1]:0") == ("::1", 0)
    assert values.listen("localhost:1") == ("localhost", 1)
    for wrong in (
        8360,
        "8360",
        ":8360",
        "*:8360",
        "::1:8360",
        "host:",
        "host:70000",
        "ho st:1",
        "",
        None,
        True,
    ):
        with pytest.raises(Flaw):
            values.listen(wrong)


def test_every_status_but_ok_may_mean_something_else() -> None:
    for status in Status:
        if status is Status.OK:
            with pytest.raises(Flaw, match="always acks"):
                values.status("OK")
        else:
            assert values.status(status.name) == status.name


def test_headers() -> None:
    for name in ("x-tenant", "X-Tenant", "trace_id", "a.b-bin"):
        assert values.header(name) == name
    for name in (
        "grpc-timeout",
        "Pelton-Topic",
        "ce-id",
        "te",
        "Content-Type",
        ":path",
        "",
        "a b",
        "ü",
        "a" * 129,
    ):
        with pytest.raises(Flaw):
            values.header(name)


def test_kafka_settings() -> None:
    for name in OWNED:
        with pytest.raises(Flaw, match="set by Pelton"):
            setting_name(name)
    assert setting_name("bootstrap.servers") == "bootstrap.servers"
    assert setting_name("ssl_key") == "ssl_key"
    for name in (
        "sasl.password",
        "ssl.key.password",
        "ssl.key.pem",
        "ssl_key",
        "sasl.oauthbearer.client.secret",
    ):
        assert is_secret(name)
    for name in (
        "bootstrap.servers",
        "sasl.username",
        "ssl.key.location",
        "ssl.ca.pem",
        "ssl.certificate.pem",
    ):
        assert not is_secret(name)
