"""How the server answers those who watch it, and how it ends when it cannot start."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from confluent_kafka.admin import AdminClient
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pelton.local.broker import LocalKafka
from tests.conformance.authority import Authority
from tests.integration.delivery.processes import DEADLINE_S, ROOT, Pelton, until
from tests.integration.delivery.shop import Shop
from tests.integration.delivery.world import Draft, Log
from tests.kafka_fixtures import CreateTopic
from tests.request.making import METHOD

Write = Callable[..., Path]


@pytest.fixture
def write(kafka: LocalKafka, tmp_path: Path) -> Write:
    """A config, of which each test spoils something."""

    def write(
        topic: str,
        *,
        port: int = 1,
        bootstrap: str = kafka.bootstrap,
        http: str = "127.0.0.1:0",
        grpc: str = "127.0.0.1:0",
        method: str = METHOD,
        field: str = "text",
        filter: str = "true",
    ) -> Path:
        path = tmp_path / "pelton.yaml"
        path.write_text(
            f"""
kafka: {{ bootstrap.servers: "{bootstrap}" }}
server: {{ http: "{http}", grpc: "{grpc}" }}
targets: {{ shop: {{ address: "127.0.0.1:{port}" }} }}
subscriptions:
  probed-{topic[-40:].strip("-")}:
    topics: [{topic}]
    target: shop
    method: {method}
    request: {{ {field}: event.text }}
    filter: "{filter}"
""",
            encoding="utf-8",
        )
        return path

    return write


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.stop()


def check(config: Path) -> tuple[int, str, str]:
    """`pelton serve --check`: exit code, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "pelton", "serve", "-c", str(config), "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def serving(pelton: Pelton, name: str) -> bool:
    """What gRPC health says of a name."""
    with grpc.insecure_channel(pelton.health) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=DEADLINE_S)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def test_a_target_that_comes_late(log: Log, create_topic: CreateTopic, tmp_path: Path, write: Write) -> None:
    """Its types are needed and cannot be asked for: alive, not ready, and ready when it has come."""
    topic = create_topic()
    log.publish(topic, [Draft(b"key", b"text")])
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        config = write(topic, port=port)
        name = f"probed-{topic[-40:].strip('-')}"
        pelton = Pelton(config, tmp_path / "pelton.log")
        try:
            status, why = pelton.get("/readyz")
            assert status == 503
            assert f"127.0.0.1:{port}" in pelton.log(), "whoever reads the log alone must see what is amiss"
            assert name in why
            assert str(port) in why
            assert pelton.get("/livez") == (200, "ok\n")
            assert pelton.metrics().sum("pelton_partitions") == 0
            until(lambda: not serving(pelton, name), "gRPC health to know the subscription")
            assert not serving(pelton, "")
            nobody.close()
            shop = Shop(port)
            until(pelton.ready, "the subscription to be ready")
            until(lambda: serving(pelton, name) and serving(pelton, ""), "gRPC health to say so")
            until(lambda: log.committed(f"pelton.{name}", topic) == {0: 1}, "the event to be delivered")
            pelton.stop()
            shop.stop()
        finally:
            pelton.end()
    assert [request.text for request, _ in shop.requests.values()] == ["text"]


def test_a_target_that_is_not_asked_for_types_and_is_not_there_is_said(
    create_topic: CreateTopic, tmp_path: Path, write: Write
) -> None:
    config = write(create_topic())
    config.write_text(config.read_text().replace("request: { text: event.text }", "request: raw"))
    pelton = Pelton(config, tmp_path / "pelton.log")
    try:
        until(pelton.ready, "the subscription to be ready")
        (line,) = [line for line in pelton.log().splitlines() if "target does not answer" in line]
        assert "127.0.0.1:1" in line
        pelton.stop()
    finally:
        pelton.end()


def test_a_check_that_finds_nothing_wrong(
    kafka: LocalKafka, create_topic: CreateTopic, write: Write, shop: Shop
) -> None:
    topic = create_topic()
    code, out, err = check(write(topic, port=shop.port))
    assert (code, err) == (0, "")
    assert re.search(r": ok \(calls by (aio|native)\)\n$", out)
    # It only looks: the dead-letter topic is made when the server starts.
    topics = AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=DEADLINE_S).topics
    assert not [name for name in topics if name.startswith(f"dlq.probed-{topic[-40:].strip('-')}")]


@pytest.mark.parametrize("mapped", [True, False])
def test_a_check_without_the_target(mapped: bool, create_topic: CreateTopic, write: Write) -> None:
    """A target that is down is no mistake in the file, but neither is it ok, whoever needs its types."""
    config = write(create_topic(), port=1)
    if not mapped:
        config.write_text(config.read_text().replace("request: { text: event.text }", "request: raw"))
    code, out, _ = check(config)
    assert code == 0
    assert "ok" not in out.split()
    assert "not checked" in out
    assert "127.0.0.1:1" in out


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ({"method": "/shop.v1.EventService/Handel"}, "Handel"),
        ({"method": "/shop.v1.EvenService/HandleEvent"}, "EvenService"),
        ({"field": "txet"}, "txet"),
        ({"filter": "event.nonsense"}, "event.nonsense"),
        ({"topic": "no-such-topic"}, "no-such-topic"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_a_check_that_finds_a_mistake(
    spoiled: dict[str, str], said: str, create_topic: CreateTopic, write: Write, shop: Shop
) -> None:
    options = {"topic": create_topic(), **spoiled}
    config = write(**options, port=shop.port)
    code, out, err = check(config)
    assert (code, out) == (2, "")
    assert said in err
    assert str(config) in err
    # The line of the option itself.
    wrong = [number for number, line in enumerate(config.read_text().splitlines(), 1) if said in line]
    assert f"line {wrong[-1]}: " in err
    assert "Traceback" not in err


def test_grpc_writes_no_lines_between_ours(
    create_topic: CreateTopic, write: Write, shop: Shop, tmp_path: Path
) -> None:
    """Its core has much to say of a handshake that fails; the reason stands in our own words."""
    config = write(create_topic(), port=shop.port)
    ca = Authority(tmp_path, "ours").ca
    text = config.read_text()
    config.write_text(
        text.replace(f'"127.0.0.1:{shop.port}" }}', f'"127.0.0.1:{shop.port}", tls: {{ ca: {ca} }} }}')
    )
    assert config.read_text() != text
    code, out, err = check(config)
    assert (code, err) == (0, "")
    assert "handshake failed" in out


def test_a_check_without_kafka(create_topic: CreateTopic, write: Write, shop: Shop) -> None:
    code, out, err = check(write(create_topic(), port=shop.port, bootstrap="127.0.0.1:1"))
    assert (code, out) == (1, "")
    assert "127.0.0.1:1" in err
    assert "Check that Kafka runs there" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("server", ["http", "grpc"])
def test_a_port_that_is_taken(
    server: str, create_topic: CreateTopic, tmp_path: Path, write: Write, shop: Shop
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        pelton = Pelton(write(create_topic(), port=shop.port, **{server: address}), tmp_path / "pelton.log")
        assert pelton.wait() == 2
    assert f"server.{server}: cannot listen on {address}" in pelton.log()
    assert "Traceback" not in pelton.log()
