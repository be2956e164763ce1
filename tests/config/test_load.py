"""Files that load, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pelton.config.document import FILE_BYTES_MAX
from pelton.config.load import load
from pelton.config.outline import Outline
from pelton.config.problems import PROBLEMS_MAX
from pelton.config.schema import json_schema
from pelton.config.settings import Config, Logging, ProcessLimits, Server
from pelton.errors import ConfigError
from pelton.subscription import (
    Adapt,
    DeliveryMode,
    Descriptors,
    Disposition,
    Intake,
    MetadataPolicy,
    OnExhausted,
    Ordering,
    Parameter,
    RequestMapping,
    RetryPolicy,
    Secret,
    Start,
    Subscription,
    Target,
    ThenKey,
    Tier,
    Tls,
    TransportChoice,
)

SAMPLES = Path(__file__).parent / "samples"
ENVIRON = {"KAFKA_PASSWORD": "opensesame", "SHOP_TOKEN": "opensesame"}


def _load(name: str) -> Config:
    return load(SAMPLES / f"{name}.yaml", ENVIRON)


def test_smallest_has_every_default() -> None:
    target = Target("shop", "localhost:50051")
    assert _load("smallest") == Config(
        kafka={"bootstrap.servers": "localhost:9092"},
        targets={"shop": target},
        subscriptions=(
            Subscription(
                name="notify-shop",
                topics=("events",),
                target=target,
                method="/shop.v1.EventService/HandleEvent",
                group="pelton.notify-shop",
                dead_letter_topic="dlq.notify-shop",
                line=6,
            ),
        ),
        server=Server("127.0.0.1", 8360, "127.0.0.1", 8361),
        limits=ProcessLimits(50_000, 64 << 20),
        logging=Logging("auto", "info"),
    )


def test_design_sample() -> None:
    (subscription,) = _load("design").subscriptions
    assert subscription.target.tls == Tls(ca=str(SAMPLES / "certs/ca.pem"))
    assert subscription.target.bearer == Secret("file", str(SAMPLES / "token"))
    assert subscription.request == RequestMapping(
        {"message": "event.text", "priority": "params.priority"}, {"message": 10, "priority": 10}
    )
    assert subscription.parameters == (Parameter("priority", constant="high", line=11),)


def test_full_sample_targets() -> None:
    assert dict(_load("full").targets) == {
        "shop": Target(
            "shop",
            "dns:///shop:50051",
            tls=Tls(
                ca=str(SAMPLES / "certs/ca.pem"),
                cert=str(SAMPLES / "certs/client.pem"),
                key=str(SAMPLES / "certs/client.key"),
                server_name="shop.internal",
            ),
            bearer=Secret("env", "SHOP_TOKEN"),
            max_message_bytes=16 << 20,
            keepalive_time_ms=300_000,
            keepalive_timeout_ms=10_000,
        ),
        "ledger": Target("ledger", "ipv4:192.0.2.7:50051,192.0.2.8:50051", plaintext=True),
        "sidecar": Target("sidecar", "[::1]:50052"),
    }


def test_full_sample_subscriptions() -> None:
    config = _load("full")
    notify, book, audit, mail = config.subscriptions
    assert notify == Subscription(
        name="notify-shop",
        topics=("events", "events.late"),
        target=config.targets["shop"],
        method="/shop.v1.EventService/HandleEvent",
        group="shop-notifier",
        mode=DeliveryMode.UNARY,
        transport=TransportChoice.AIO,
        request=RequestMapping(
            {"message": "event.text", "order.id": "event.json.order.id", "priority": "params.priority"},
            {"message": 29, "order.id": 30, "priority": 31},
        ),
        descriptors=Descriptors(
            proto_files=(str(SAMPLES / "protos/shop.proto"),), proto_paths=(str(SAMPLES / "protos"),)
        ),
        parameters=(
            Parameter("priority", constant="high", line=34),
            Parameter("region", expression='event.headers["region"]', line=35),
            Parameter("note", constant="", line=36),
        ),
        metadata=MetadataPolicy(("x-tenant",), ("priority", "region")),
        filter='event.type == "order.created"',
        concurrency=512,
        adapt=Adapt.OBSERVE,
        rate_per_second=0.025,
        timeout_ms=1_500.0,
        retry=RetryPolicy(
            5,
            50.0,
            30_000.0,
            2 * 86_400_000.0,
            OnExhausted.DEAD_LETTER,
            (
                Tier(60_000.0, "retry.notify-shop.1m"),
                Tier(90_000.0, "retry.notify-shop.90s"),
                Tier(3_600_000.0, "retry.notify-shop.1h"),
            ),
            ThenKey.FOLLOW,
            43_200_000.0,
            500,
        ),
        idempotent=True,
        statuses={
            "NOT_FOUND": Disposition.DROP,
            "ABORTED": Disposition.UNWELL,
            "ALREADY_EXISTS": Disposition.ACK,
        },
        intake=Intake(1_000, 4 << 20, 5_000, 16_000_000, 500, 1 << 20),
        start=Start("timestamp", 1_769_842_800_000),
        drain_timeout_ms=20_000.0,
        dead_letter_topic="shop.dead",
        kafka={"fetch.wait.max.ms": 50},
        line=23,
    )
    assert (book.ordering, book.start, book.retry.on_exhausted) == (
        Ordering.PARTITION,
        Start("latest"),
        OnExhausted.HOLD,
    )
    assert book.request.raw
    assert book.descriptors == Descriptors(descriptor_set=str(SAMPLES / "protos/ledger.binpb"))
    assert (audit.mode, audit.method) == (DeliveryMode.STREAM, "/pelton.v1.EventHandler/HandleStream")
    assert (mail.mode, mail.method) == (DeliveryMode.HANDLER, "/pelton.v1.EventHandler/Handle")


def test_full_sample_process() -> None:
    config = _load("full")
    assert config.server == Server("0.0.0.0", 8360, "::1", 0)
    assert config.limits == ProcessLimits(20_000, 32 << 20)
    assert config.logging == Logging("json", "debug")
    assert config.kafka["sasl.password"] == "${env:KAFKA_PASSWORD}"
    assert config.kafka["max.poll.interval.ms"] == 600_000
    assert config.kafka["socket.keepalive.enable"] is True


def test_full_sample_sets_every_option() -> None:
    data = yaml.safe_load((SAMPLES / "full.yaml").read_text(encoding="utf-8"))
    missing = set(_options(Outline(json_schema()), ())) - set(_written(data, Outline(json_schema()), ()))
    assert missing == set()


def _options(place: Outline, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every option there is, names of the user's own as *."""
    for key in place.keys:
        yield (*path, key)
        inner = place.at(key)
        assert inner is not None
        yield from _options(inner, (*path, key))
    inner = place.at("a-name") if place.is_open else None
    if inner is not None and path != ("kafka",):
        yield from _options(inner, (*path, "*"))


def _written(value: Any, place: Outline | None, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if not isinstance(value, dict) or place is None:
        return
    for key, inner in value.items():
        step = key if key in place.keys else "*"
        yield (*path, step)
        yield from _written(inner, place.at(key), (*path, step))


def test_no_secret_in_what_is_shown_of_a_config() -> None:
    assert "opensesame" not in repr(_load("full"))
    assert "opensesame" not in str(_load("full"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"pelton\.yaml: 1 problem\n  the file: cannot be read: No such file"
    ):
        load(tmp_path / "pelton.yaml", {})


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the file: cannot be read: Is a directory"):
        load(tmp_path, {})


def test_a_file_too_large(tmp_path: Path) -> None:
    path = tmp_path / "pelton.yaml"
    path.write_bytes(b"#" * (FILE_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="the file: is larger than 512 KiB"):
        load(path, {})


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "pelton.yaml"
    path.write_bytes(b"kafka:\n  client.id: \xff\n")
    with pytest.raises(ConfigError, match="line 2: the file: is not UTF-8 text"):
        load(path, {})


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "pelton.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + (SAMPLES / "smallest.yaml").read_bytes())
    assert load(path, {}) == _load("smallest")


def test_a_relative_path_to_the_file_still_anchors_the_paths_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SAMPLES)
    assert load(Path("full.yaml"), ENVIRON) == _load("full")


def test_a_thousand_mistakes_are_not_all_shown(tmp_path: Path) -> None:
    path = tmp_path / "pelton.yaml"
    unknown = "".join(f"key{number}: 1\n" for number in range(1_000))
    path.write_text((SAMPLES / "smallest.yaml").read_text(encoding="utf-8") + unknown, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert len(caught.value.problems) == PROBLEMS_MAX + 1
    assert "900 more problems" in caught.value.problems[-1].message


def test_an_unsound_target_hides_no_mistake_of_its_subscription(tmp_path: Path) -> None:
    path = tmp_path / "pelton.yaml"
    text = (SAMPLES / "smallest.yaml").read_text(encoding="utf-8").replace("localhost:50051", "nowhere")
    path.write_text(text + "    timeout: 30s\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert [problem.path for problem in caught.value.problems] == [
        "targets.shop.address",
        "subscriptions.notify-shop.timeout",
    ]


def test_sound_values_are_what_the_declarations_default_to(tmp_path: Path) -> None:
    """Defaults have one home: spelling them out changes nothing."""
    path = tmp_path / "pelton.yaml"
    spelt = """    delivery: unary
    request: raw
    ordering: key
    concurrency: 256
    timeout: 10s
    retry: { attempts: 8, backoff: 100ms..1m, give_up_after: 24h, on_exhausted: dead_letter }
    idempotent: false
    start: earliest
    drain_timeout: 15s
    transport: auto
    intake:
      partition: { events: 2000, bytes: 8MiB }
      subscription: { events: 10000, bytes: 32MiB }
      parked: { events: 1000, bytes: 8MiB }
"""
    path.write_text((SAMPLES / "smallest.yaml").read_text(encoding="utf-8") + spelt, encoding="utf-8")
    (subscription,) = load(path, {}).subscriptions
    assert subscription == replace(_load("smallest").subscriptions[0])
