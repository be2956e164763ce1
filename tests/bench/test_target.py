"""The benchmark's Go target: a journal that missed a repeat or a disorder would vouch for a broken Pelton."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from bench.builds import build_target
from bench.processes import Target
from pelton.v1 import event_pb2, handler_pb2
from pelton.v1.handler_pb2_grpc import EventHandlerStub

pytestmark = [pytest.mark.needs_tool("go"), pytest.mark.timeout(300)]

TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_target(tmp_path_factory.mktemp("target"))


@pytest.fixture
def target(binary: Path) -> Iterator[Target]:
    with Target(binary, delay_ms=0, latency=True) as target:
        yield target


def call(target: Target, *events: tuple[int, int, bytes], value: bytes = b"") -> None:
    """Unary calls, one after the other: partition, offset, key."""
    with grpc.insecure_channel(target.address) as channel:
        take: Any = channel.unary_unary("/any.Service/Method")
        for partition, offset, key in events:
            position = (("pelton-partition", str(partition)), ("pelton-offset", str(offset)))
            answer = take(value, metadata=(*position, ("pelton-key-bin", key)), timeout=TIMEOUT_S)
            assert answer == b""


def test_order_and_each_once_has_no_faults(target: Target) -> None:
    call(target, (0, 0, b"a"), (0, 1, b"b"), (0, 2, b"a"), (1, 0, b"a"))
    stats = target.stats()
    assert (stats["calls"], stats["settled"]) == (4, 4)
    assert (stats["repeats"], stats["disorder"], stats["overlaps"]) == (0, 0, 0)
    assert 0 < stats["first_ns"] <= stats["last_ns"] <= time.time_ns()


def test_a_repeat_is_no_disorder(target: Target) -> None:
    call(target, (0, 0, b"a"), (0, 1, b"a"), (0, 0, b"a"))
    stats = target.stats()
    assert (stats["calls"], stats["settled"], stats["repeats"], stats["disorder"]) == (3, 2, 1, 0)


def test_disorder_is_of_one_key_in_one_partition(target: Target) -> None:
    call(target, (0, 5, b"a"), (0, 3, b"b"), (1, 2, b"a"))
    assert target.stats()["disorder"] == 0
    call(target, (0, 4, b"a"))
    assert target.stats()["disorder"] == 1


def test_two_calls_of_a_key_at_once_overlap(binary: Path) -> None:
    with Target(binary, delay_ms=300) as target, ThreadPoolExecutor() as pool:
        list(pool.map(lambda event: call(target, event), [(0, 0, b"a"), (0, 1, b"a"), (0, 2, b"b")]))
        assert target.stats()["overlaps"] == 1


def test_how_late_an_event_is(target: Target) -> None:
    due_ns = time.time_ns() - 5_000_000_000
    call(target, (0, 0, b"a"), value=due_ns.to_bytes(8, "big") + bytes(192))
    [(due, late)] = target.latencies()
    assert due == due_ns
    assert 5_000_000_000 <= late <= time.time_ns() - due_ns


def test_reflection_is_declined_and_not_counted(target: Target) -> None:
    with grpc.insecure_channel(target.address) as channel:
        ask: Any = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as refused:
            list(ask(iter([b""]), timeout=TIMEOUT_S))
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert target.stats()["calls"] == 0


def test_poison_is_refused_each_time_and_never_settled(binary: Path) -> None:
    with Target(binary, delay_ms=0, poison_code=3) as target:
        call(target, (0, 0, b"key-01"))
        for offset in (1, 1, 2):
            with pytest.raises(grpc.RpcError) as refused:
                call(target, (0, offset, b"key-100"))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        last_ns = target.stats()["last_ns"]
        call(target, (0, 3, b"key-01"))
        stats = target.stats()
    assert (stats["calls"], stats["settled"], stats["refused"]) == (5, 2, 3)
    # A repeat is of what was answered well, and so is the last answer.
    assert stats["repeats"] == 0
    assert stats["last_ns"] > last_ns


def test_after_a_mark_the_next_call_is_the_first(target: Target) -> None:
    call(target, (0, 0, b"a"))
    before = target.stats()
    target.mark()
    assert target.stats()["first_ns"] == 0
    call(target, (0, 1, b"a"))
    after = target.stats()
    assert before["last_ns"] <= after["first_ns"] <= after["now_ns"]
    assert (after["calls"], after["settled"]) == (2, 2)


def test_what_each_connection_brought_is_told(target: Target) -> None:
    for value in (bytes(100_000), b""):
        # Channels to one address would else share their connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(target.address, options) as channel:
            take: Any = channel.unary_unary("/any.Service/Method")
            take(value, timeout=TIMEOUT_S)
    large, small = target.stats()["connections"]
    assert large > 100_000 > small > 0


def test_as_many_partitions_as_a_large_topic_has_are_told_apart(target: Target) -> None:
    call(target, (511, 0, b"a"), (512, 0, b"a"), (511, 0, b"a"))
    stats = target.stats()
    assert (stats["settled"], stats["repeats"]) == (2, 1)


def delivery(token: int, offset: int, key: bytes) -> handler_pb2.Delivery:
    position = event_pb2.Position(topic="t", partition=3, offset=offset)
    event = event_pb2.Event(id="t/3/0", key=key, value=(1).to_bytes(8, "big"), position=position)
    return handler_pb2.Delivery(delivery_id=f"s/t/3/{offset}", event=event, attempt=1, token=token)


def test_every_delivery_of_a_stream_is_acked_by_its_token(binary: Path) -> None:
    batches = [
        handler_pb2.DeliveryBatch(
            subscription="s",
            deliveries=[delivery(n + 1, n, b"key-%d" % n) for n in range(begin, begin + 100)],
        )
        for begin in range(0, 1000, 100)
    ]
    with (
        Target(binary, delay_ms=20, latency=True) as target,
        grpc.insecure_channel(target.address) as channel,
    ):
        stub = EventHandlerStub(channel)
        acked: list[int] = []
        begin = time.monotonic()
        for settled in stub.HandleStream(iter(batches), timeout=TIMEOUT_S):
            assert not settled.settlements
            acked.extend(settled.acked)
        assert time.monotonic() - begin >= 0.02
        assert acked == list(range(1, 1001))
        stats = target.stats()
        assert (stats["calls"], stats["settled"], stats["repeats"]) == (1000, 1000, 0)
        assert (stats["disorder"], stats["overlaps"]) == (0, 0)
        assert [due for due, _ in target.latencies()] == [1] * 1000


def test_poison_in_a_stream_is_settled_with_its_code(binary: Path) -> None:
    batch = handler_pb2.DeliveryBatch(
        deliveries=[delivery(n + 1, n, b"key-%03d" % n) for n in range(98, 103)]
    )
    with (
        Target(binary, delay_ms=0, poison_code=2) as target,
        grpc.insecure_channel(target.address) as channel,
    ):
        acked: list[int] = []
        refused: list[tuple[int, int]] = []
        for settled in EventHandlerStub(channel).HandleStream(iter([batch]), timeout=TIMEOUT_S):
            acked.extend(settled.acked)
            refused.extend((one.token, one.code) for one in settled.settlements)
        assert acked == [99, 100, 102, 103]
        assert refused == [(101, 2)]
        assert (target.stats()["settled"], target.stats()["refused"]) == (4, 1)


def test_disorder_and_repeats_in_a_stream_are_seen(target: Target) -> None:
    """Each batch goes when the one before is settled, so that only order and repeats are at fault."""
    settled = threading.Semaphore(0)

    def batches() -> Iterator[handler_pb2.DeliveryBatch]:
        for token, offset in enumerate([7, 6, 7], start=1):
            yield handler_pb2.DeliveryBatch(deliveries=[delivery(token, offset, b"a")])
            assert settled.acquire(timeout=TIMEOUT_S)

    with grpc.insecure_channel(target.address) as channel:
        acked: list[int] = []
        for settlement in EventHandlerStub(channel).HandleStream(batches(), timeout=TIMEOUT_S):
            acked.extend(settlement.acked)
            settled.release()
    assert acked == [1, 2, 3]
    stats = target.stats()
    assert (stats["calls"], stats["settled"]) == (3, 2)
    assert (stats["repeats"], stats["disorder"], stats["overlaps"]) == (1, 1, 0)
