"""What the target says, in every mode and on the wire: one table of what must come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships no types

from pelton.core.outcome import ACKED, STATUS_TABLE, Outcome, Status, Verdict, disposition_of
from pelton.subscription import DeliveryMode, Disposition
from pelton.v1 import handler_pb2
from tests.conformance.driver import Driver
from tests.conformance.target import Script, ScriptedTarget

UNARY, HANDLER, STREAM = DeliveryMode.UNARY, DeliveryMode.HANDLER, DeliveryMode.STREAM
BY_TRAILER = (UNARY, HANDLER)
BY_REPLY = (HANDLER, STREAM)
EVERY = (UNARY, HANDLER, STREAM)


@dataclass(frozen=True)
class Case:
    name: str
    script: Script
    expected: Outcome
    modes: tuple[DeliveryMode, ...] = EVERY
    #: Compare the message by "is part of".
    loosely: bool = False


def trailer(*values: str) -> tuple[tuple[str, str | bytes], ...]:
    return tuple(("pelton-verdict", value) for value in values)


def reply(**fields: object) -> bytes:
    return handler_pb2.Reply(**fields).SerializeToString()  # type: ignore[arg-type]


def retry_info(seconds: int, nanos: int = 0) -> tuple[tuple[str, str | bytes], ...]:
    info = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=seconds, nanos=nanos))
    packed = Any()
    packed.Pack(info)
    content = status_pb2.Status(code=14, details=[packed]).SerializeToString()
    assert isinstance(content, bytes)
    return (("grpc-status-details-bin", content),)


def unknown(message: str) -> Outcome:
    return Outcome(Status.UNKNOWN, message)


PUSHBACK = "grpc-retry-pushback-ms"

CASES = [
    Case("ok", Script(), ACKED),
    *(
        Case(f"status {code.name}", Script(code=code, message="said so"), Outcome(code, "said so"))
        for code in Status
        if code
    ),
    Case(
        "a stack trace for a message",
        Script(code=3, message="at line 1\n" * 2_000),
        Outcome(Status.INVALID_ARGUMENT, "at line 1\n" * 2_000),
        BY_TRAILER,
    ),
    Case(
        "their limit, grpc-go's words",
        Script(code=8, message="grpc: received message larger than max (5242880 vs. 4194304)"),
        Outcome(
            Status.RESOURCE_EXHAUSTED,
            "grpc: received message larger than max (5242880 vs. 4194304)",
            disposition=Disposition.DEAD_LETTER,
        ),
    ),
    Case(
        "their limit, grpc-java's words",
        Script(code=8, message="gRPC message exceeds maximum size 4194304: 5242880"),
        Outcome(
            Status.RESOURCE_EXHAUSTED,
            "gRPC message exceeds maximum size 4194304: 5242880",
            disposition=Disposition.DEAD_LETTER,
        ),
    ),
    Case(
        "a quota that speaks of messages",
        Script(code=8, message="too many messages"),
        Outcome(Status.RESOURCE_EXHAUSTED, "too many messages"),
    ),
    Case(
        "a target that talks of TLS as if it were we",
        Script(code=14, message="backend: Tls handshake failed (TSI_PROTOCOL_FAILURE)"),
        Outcome(Status.UNAVAILABLE, "backend: Tls handshake failed (TSI_PROTOCOL_FAILURE)"),
    ),
    # --- the verdict in a trailer
    Case("trailer ack", Script(trailers=trailer("ack")), ACKED, BY_TRAILER),
    Case(
        "trailer ack over an error",
        Script(code=13, message="done anyway", trailers=trailer("ack")),
        Outcome(Status.INTERNAL, "done anyway", verdict=Verdict.ACK),
        BY_TRAILER,
    ),
    Case(
        "trailer retry",
        Script(trailers=trailer("retry")),
        Outcome(Status.OK, verdict=Verdict.RETRY),
        BY_TRAILER,
    ),
    Case(
        "trailer retry after",
        Script(code=3, trailers=trailer("retry;after=2s")),
        Outcome(Status.INVALID_ARGUMENT, verdict=Verdict.RETRY, retry_after_ms=2_000.0),
        BY_TRAILER,
    ),
    Case(
        "trailer drop", Script(trailers=trailer("drop")), Outcome(Status.OK, verdict=Verdict.DROP), BY_TRAILER
    ),
    Case(
        "trailer dead-letter with a reason",
        Script(trailers=trailer("dead-letter;reason=no such order; gone")),
        Outcome(Status.OK, "no such order; gone", verdict=Verdict.DEAD_LETTER),
        BY_TRAILER,
    ),
    *(
        Case(
            f"trailer not understood: {value}",
            Script(trailers=trailer(value)),
            unknown("pelton-verdict"),
            BY_TRAILER,
            True,
        )
        for value in ("acks", "ACK", "", "ack;after=2s", "retry;after=soon", "retry;after=-2s", "retry;in=2s")
    ),
    Case(
        "two trailers that differ",
        Script(trailers=trailer("ack", "drop")),
        unknown("pelton-verdict"),
        BY_TRAILER,
        True,
    ),
    Case("two trailers that agree", Script(trailers=trailer("ack", "ack")), ACKED, BY_TRAILER),
    # --- when to come again
    Case(
        "pushback",
        Script(code=14, trailers=((PUSHBACK, "250"),)),
        Outcome(Status.UNAVAILABLE, retry_after_ms=250.0),
        BY_TRAILER,
    ),
    Case(
        "pushback of nothing",
        Script(code=14, trailers=((PUSHBACK, "0"),)),
        Outcome(Status.UNAVAILABLE, retry_after_ms=0.0),
        BY_TRAILER,
    ),
    *(
        Case(
            f"pushback {value}",
            Script(code=14, trailers=((PUSHBACK, value),)),
            Outcome(Status.UNAVAILABLE, final=True),
            BY_TRAILER,
        )
        for value in ("-1", "soon", "99999999999")
    ),
    Case("pushback on an OK", Script(trailers=((PUSHBACK, "-1"),)), ACKED, BY_TRAILER),
    Case(
        "RetryInfo",
        Script(code=14, trailers=retry_info(1, 500_000_000)),
        Outcome(Status.UNAVAILABLE, retry_after_ms=1_500.0),
        BY_TRAILER,
    ),
    Case(
        "RetryInfo below zero",
        Script(code=14, trailers=retry_info(-1)),
        Outcome(Status.UNAVAILABLE),
        BY_TRAILER,
    ),
    Case(
        "details that are none",
        Script(code=14, trailers=(("grpc-status-details-bin", b"\xff\xff"),)),
        Outcome(Status.UNAVAILABLE),
        BY_TRAILER,
    ),
    Case(
        "pushback and RetryInfo",
        Script(code=14, trailers=((PUSHBACK, "7"), *retry_info(1))),
        Outcome(Status.UNAVAILABLE, retry_after_ms=7.0),
        BY_TRAILER,
    ),
    # --- the verdict in a reply
    Case("reply ack", Script(reply=reply(ack=handler_pb2.Ack())), ACKED, BY_REPLY),
    Case(
        "reply retry",
        Script(reply=reply(retry=handler_pb2.Retry(after=Duration(seconds=3), reason="busy"))),
        Outcome(Status.OK, "busy", verdict=Verdict.RETRY, retry_after_ms=3_000.0),
        BY_REPLY,
    ),
    Case(
        "reply retry at once",
        Script(reply=reply(retry=handler_pb2.Retry())),
        Outcome(Status.OK, verdict=Verdict.RETRY),
        BY_REPLY,
    ),
    Case(
        "reply retry in the past",
        Script(reply=reply(retry=handler_pb2.Retry(after=Duration(seconds=-3)))),
        Outcome(Status.OK, verdict=Verdict.RETRY),
        BY_REPLY,
    ),
    Case(
        "reply drop",
        Script(reply=reply(drop=handler_pb2.Drop(reason="old"))),
        Outcome(Status.OK, "old", verdict=Verdict.DROP),
        BY_REPLY,
    ),
    Case(
        "reply dead letter",
        Script(reply=reply(dead_letter=handler_pb2.DeadLetter(reason="bad"))),
        Outcome(Status.OK, "bad", verdict=Verdict.DEAD_LETTER),
        BY_REPLY,
    ),
    # Field 9, a verdict of a later version; alone, and beside an ack.
    Case("reply not known", Script(reply=b"\x4a\x00"), unknown("does not know"), BY_REPLY, True),
    Case("reply ack and more", Script(reply=b"\x0a\x00\x4a\x00"), unknown("does not know"), BY_REPLY, True),
    Case(
        "reply wins over the trailer",
        Script(reply=reply(drop=handler_pb2.Drop()), trailers=trailer("ack")),
        Outcome(Status.OK, verdict=Verdict.DROP),
        (HANDLER,),
    ),
    Case(
        "reply that is none", Script(reply=b"\xff\xff\xff"), unknown("no pelton.v1.Reply"), (HANDLER,), True
    ),
    Case(
        "reply wins over the code",
        Script(code=3, message="wrong", reply=reply(retry=handler_pb2.Retry(reason="no, again"))),
        Outcome(Status.OK, "no, again", verdict=Verdict.RETRY),
        (STREAM,),
    ),
    Case("a code that is none", Script(code=99, message="?"), Outcome(Status.UNKNOWN, "?"), (STREAM,)),
    Case("a code below zero", Script(code=-1), Outcome(Status.UNKNOWN), (STREAM,)),
    # An answer in unary mode is not ours to read.
    Case("an answer of any kind", Script(answer_bytes=1_000), ACKED, (UNARY,)),
]


@pytest.mark.parametrize(
    ("mode", "case"),
    [pytest.param(mode, case, id=f"{mode.value}-{case.name}") for case in CASES for mode in case.modes],
)
async def test_outcome(case: Case, target: ScriptedTarget, drive: Callable[..., Driver]) -> None:
    target.scripts["it"] = case.script
    driver = drive(await target.start())
    outcome = await driver.call("it")
    if case.loosely:
        assert case.expected.message in outcome.message
        outcome = replace(outcome, message=case.expected.message)
    assert outcome == case.expected
    if case.expected is ACKED:
        assert outcome is ACKED, "the common outcome is shared"
    # And the target is called again without trouble: none of this breaks the connection.
    assert await driver.call("next") is ACKED
    assert [seen.name for seen in target.seen] == ["it", "next"], "nothing below the engine calls again"
    assert target.seen[0].metadata["pelton-subscription"] == "notify-shop"
    if driver.mode is not STREAM:
        assert target.seen[0].metadata["pelton-delivery-id"] == "notify-shop/events/0/0"
        assert target.seen[0].metadata["pelton-key-bin"] == b"key"


def test_every_status_has_its_disposition() -> None:
    assert {disposition_of(Outcome(code), STATUS_TABLE) for code in Status} == set(Disposition) - {
        Disposition.DROP
    }
