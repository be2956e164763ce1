"""What comes off the wire -> `Outcome`: the one place where gRPC's failures are translated.

Rule 1: an ack is only ever made from an OK whose reply and trailers this side has understood in full.
Rule 2: nothing here decides what an outcome does to an event; it only says what the target, or the way to
it, has said. Rule 3: what grpc tells only by text stands in the two tables below and nowhere else; the
conformance suite checks them on the wire, since a new grpcio may word them anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships no types

from pelton.core.outcome import ACKED, Outcome, Status, Verdict
from pelton.subscription import Disposition
from pelton.v1 import handler_pb2

__all__ = [
    "NO_MESSAGE",
    "VERDICT_TRAILER",
    "illegal",
    "outcome_of_error",
    "outcome_of_ok",
    "outcome_of_reply",
    "outcome_of_settlement",
    "outcome_of_status",
    "outcome_of_stream_end",
    "too_large",
]

VERDICT_TRAILER = "pelton-verdict"
_PUSHBACK_TRAILER = "grpc-retry-pushback-ms"
_DETAILS_TRAILER = "grpc-status-details-bin"
_TRAILERS = frozenset({VERDICT_TRAILER, _PUSHBACK_TRAILER, _DETAILS_TRAILER})

#: gRPC's retry design says of a pushback that is no 32-bit number: as if it were negative.
_PUSHBACK_MS_MAX = (1 << 31) - 1
#: A longer trailer says nothing that can be used; reasons are cut to 1 KiB on the way to the dead letter.
_VERDICT_CHARS_MAX = 4096
_UNIT_MS = {"ms": 1.0, "s": 1_000.0, "m": 60_000.0, "h": 3_600_000.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)")
#: Waits longer than this are not waits but mistakes; the number is far above every `give_up_after`.
_AFTER_MS_MAX = 366 * 24 * 3_600_000.0

#: Written by our own channel when no connection came about, never by a server.
_NO_CONNECTION = re.compile(
    r"(connections to all backends failing|failed to connect to all addresses); last error: "
)
#: A handshake that cannot succeed until somebody changes a certificate, a name or a scheme. A socket that
#: was merely closed is not among them: plaintext to a TLS port and a refused client certificate look the
#: same as a server that restarts; what can be found out about those is `greeting.py`'s.
_TLS_FAILURES = (
    # Untrusted or expired certificate, TLS to a plaintext port.
    re.compile(r"(Tls|Ssl) handshake failed \(TSI_PROTOCOL_FAILURE\)"),
    # The certificate bears another name.
    re.compile(r"Custom verification check failed with error: UNAUTHENTICATED"),
    re.compile(r"Peer name .* is not in peer certificate"),
    # Our own certificate, key or CA cannot be used.
    re.compile(r"Failed to create security handshaker"),
)
#: Of a status's text, where the words below are looked for: they stand at its beginning, and a target that
#: sends 64 KiB must not have us search them from every place.
_SEARCHED_CHARS_MAX = 1024
#: RESOURCE_EXHAUSTED that will be so for ever: a message above somebody's limit. grpc core, grpc-go,
#: grpc-java, grpc-dotnet and grpc-js, in this order; core's "CLIENT:" is a reply larger than we take, and
#: then the target has worked already, so another attempt would only repeat the work.
_TOO_LARGE = (
    re.compile(r"(Received|Sent|Decompressed) message larger than max", re.IGNORECASE),
    re.compile(r"(received message|message after decompression|send message) larger than max", re.IGNORECASE),
    re.compile(r"gRPC message exceeds maximum size"),
    re.compile(r"message exceeds the maximum configured message size"),
)

#: A stream that was reset: `INTERNAL` is then a word of HTTP/2's, the target has said nothing of the event.
#: What a proxy says of a call whose other half broke off, in grpc core's words and in our own transport's.
_RESET = (
    re.compile(r"Stream removed \(RST_STREAM \(Received RST_STREAM with error code \d+\)\)"),
    re.compile(r"\S+ reset the call: [A-Z_]+"),
)

#: What grpc.aio makes of a write to a stream that has ended just now, whatever the end was.
_BROKEN_STREAM = "Internal error from Core"
_RETRY_INFO = "google.rpc.RetryInfo"
_STATUS: dict[int, Status] = {status.value: status for status in Status}
#: Replies that say "ack" and nothing else: nothing at all, and an `Ack` without fields.
_ACK_REPLIES = frozenset({b"", b"\n\x00"})

#: A unary call that ended OK with no message, or with half of one, is no answer that was understood in full;
#: gRPC's cardinality rules make this status of it.
NO_MESSAGE = Outcome(Status.INTERNAL, "the target said OK and sent no whole message")

#: What metadata entries look like when grpc hands them over.
Trailers = Iterable[tuple[str, str | bytes]]


def illegal(what: str) -> Outcome:
    """A call that cannot be made at all, now or later: the event is set aside with the reason."""
    return Outcome(
        Status.INTERNAL, f"the call cannot be made: {what}", disposition=Disposition.DEAD_LETTER, local=True
    )


def too_large(size_bytes: int, max_bytes: int) -> Outcome:
    """A request above the target's limit, found before the call."""
    return Outcome(
        Status.RESOURCE_EXHAUSTED,
        f"the request has {size_bytes} bytes, the target takes at most {max_bytes} (max_message_bytes)",
        disposition=Disposition.DEAD_LETTER,
        local=True,
    )


def outcome_of_ok(trailers: Trailers, reply: bytes | None) -> Outcome:
    """A call that ended OK. `reply` is None in unary mode, where a reply means nothing to us.

    A verdict in the reply wins over one in the trailer.
    """
    if reply is not None and reply not in _ACK_REPLIES:
        outcome = outcome_of_reply(reply)
        if outcome is not ACKED:
            return outcome
    for name, _ in trailers:
        if name in _TRAILERS:
            return _with_trailers(ACKED, trailers)
    return ACKED


def outcome_of_error(error: grpc.aio.AioRpcError) -> Outcome:
    """A call that ended with a status other than OK."""
    return outcome_of_status(
        # `value` is (number, text); the stubs do not say so.
        error.code().value[0],
        error.details() or "",
        error.trailing_metadata() or (),
    )


def outcome_of_status(code: int, details: str, trailers: Trailers = ()) -> Outcome:
    """A status other than OK, however it came. A code outside the seventeen is UNKNOWN."""
    status = _STATUS.get(code, Status.UNKNOWN)
    disposition = None
    said = details[:_SEARCHED_CHARS_MAX]
    if status is Status.UNAVAILABLE:
        if _NO_CONNECTION.match(said) and any(failure.search(said) for failure in _TLS_FAILURES):
            disposition = Disposition.MISWIRED
    elif status is Status.RESOURCE_EXHAUSTED and any(text.search(said) for text in _TOO_LARGE):
        disposition = Disposition.DEAD_LETTER
    elif status is Status.INTERNAL and any(text.fullmatch(said) for text in _RESET):
        disposition = Disposition.UNWELL
    outcome = Outcome(status, details, disposition=disposition)
    return _with_trailers(outcome, trailers)


def outcome_of_stream_end(error: grpc.aio.AioRpcError) -> Outcome:
    """The status a stream ended with, for each delivery that was open on it.

    It speaks of the stream, not of any one event, so it sets none of them aside: a status that would
    dead-letter counts as *may fail*, and a verdict among the trailers is not read.
    """
    if error.code() is grpc.StatusCode.INTERNAL and error.details() == _BROKEN_STREAM:
        return Outcome(Status.UNAVAILABLE, "the stream broke while it was written to")
    trailers = tuple(entry for entry in error.trailing_metadata() or () if entry[0] != VERDICT_TRAILER)
    outcome = outcome_of_status(error.code().value[0], error.details() or "", trailers)
    if outcome.status in _EVENT_IS_WRONG or outcome.disposition is Disposition.DEAD_LETTER:
        return Outcome(
            outcome.status,
            f"the stream ended: {outcome.message}",
            retry_after_ms=outcome.retry_after_ms,
            disposition=Disposition.RETRY,
        )
    # A pushback of "never again" is likewise about the stream's own call.
    return Outcome(
        outcome.status,
        outcome.message,
        retry_after_ms=outcome.retry_after_ms,
        disposition=outcome.disposition,
    )


_EVENT_IS_WRONG = frozenset(
    {
        Status.INVALID_ARGUMENT,
        Status.FAILED_PRECONDITION,
        Status.OUT_OF_RANGE,
        Status.NOT_FOUND,
        Status.DATA_LOSS,
        Status.ALREADY_EXISTS,
    }
)


def outcome_of_reply(reply: bytes) -> Outcome:
    """The bytes of a `pelton.v1.Reply`; `ACKED` itself if and only if they ack."""
    try:
        return _outcome_of(handler_pb2.Reply.FromString(reply))
    except DecodeError:
        return Outcome(Status.UNKNOWN, f"the reply ({len(reply)} bytes) is no pelton.v1.Reply")


def outcome_of_settlement(settlement: handler_pb2.Settlement) -> Outcome:
    """One settlement of a stream: its reply wins over its code."""
    if settlement.HasField("reply"):
        return _outcome_of(settlement.reply)
    if settlement.code:
        return outcome_of_status(settlement.code, settlement.message)
    if len(UnknownFieldSet(settlement)):
        return Outcome(Status.UNKNOWN, "the settlement has fields that this version of Pelton does not know")
    return ACKED


def _outcome_of(reply: handler_pb2.Reply) -> Outcome:
    if len(UnknownFieldSet(reply)):
        return Outcome(Status.UNKNOWN, "the reply has fields that this version of Pelton does not know")
    said: Literal["ack", "retry", "drop", "dead_letter"] | None = reply.WhichOneof("verdict")
    match said:
        case None | "ack":
            return ACKED
        case "retry":
            after = reply.retry.after if reply.retry.HasField("after") else None
            return Outcome(
                Status.OK,
                reply.retry.reason,
                verdict=Verdict.RETRY,
                retry_after_ms=None if after is None else _wait_ms(after.seconds, after.nanos),
            )
        case "drop":
            return Outcome(Status.OK, reply.drop.reason, verdict=Verdict.DROP)
        case "dead_letter":
            return Outcome(Status.OK, reply.dead_letter.reason, verdict=Verdict.DEAD_LETTER)


def _with_trailers(outcome: Outcome, trailers: Trailers) -> Outcome:
    """`outcome` and what the trailers add: verdict, pushback, RetryInfo. A pushback wins over RetryInfo."""
    verdicts: list[str | bytes] = []
    pushback: str | bytes | None = None
    details: str | bytes | None = None
    for name, value in trailers:
        if name == VERDICT_TRAILER:
            verdicts.append(value)
        elif name == _PUSHBACK_TRAILER:
            pushback = value
        elif name == _DETAILS_TRAILER:
            details = value
    if not verdicts and pushback is None and details is None:
        return outcome
    message, verdict, after_ms = outcome.message, outcome.verdict, None
    if verdicts:
        read = _read_verdict(verdicts)
        if read is None:
            return Outcome(Status.UNKNOWN, f"{VERDICT_TRAILER} is not understood: {str(verdicts)[:200]}")
        verdict, after_ms, reason = read
        message = reason or message
        if verdict is Verdict.ACK and outcome.status is Status.OK:
            return ACKED
    final = False
    if pushback is not None:
        pushback_ms = _read_pushback(pushback)
        final = pushback_ms is None
        after_ms = pushback_ms if after_ms is None else after_ms
    elif details is not None and after_ms is None:
        after_ms = _read_retry_info(details)
    if outcome is ACKED and verdict is None:
        # A wait asked for along with an OK asks for nothing.
        return ACKED
    return Outcome(
        outcome.status,
        message,
        verdict=verdict,
        retry_after_ms=after_ms,
        final=final,
        disposition=outcome.disposition,
    )


def _read_verdict(values: list[str | bytes]) -> tuple[Verdict, float | None, str] | None:
    """`ack`, `drop`, `retry[;after=2s]`, `dead-letter[;reason=...]`; None for all else, or two that differ.

    A reason is the rest of the value, so it may hold semicolons; `retry` and `drop` may give one too.
    """
    value = values[0]
    if (
        any(other != value for other in values)
        or not isinstance(value, str)
        or len(value) > _VERDICT_CHARS_MAX
    ):
        return None
    word, _, rest = value.partition(";")
    try:
        verdict = Verdict(word.strip())
    except ValueError:
        return None
    after_ms: float | None = None
    reason = ""
    while rest:
        name, separator, rest = rest.partition("=")
        name = name.strip()
        if not separator:
            return None
        if name == "reason" and verdict is not Verdict.ACK:
            reason, rest = rest.strip(), ""
        elif name == "after" and verdict is Verdict.RETRY and after_ms is None:
            text, _, rest = rest.partition(";")
            after_ms = _duration_ms(text.strip())
            if after_ms is None:
                return None
        else:
            return None
    return verdict, after_ms, reason


def _duration_ms(text: str) -> float | None:
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    wait_ms = float(match[1]) * _UNIT_MS[match[2]]
    return wait_ms if wait_ms <= _AFTER_MS_MAX else None


def _read_pushback(value: str | bytes) -> float | None:
    """Milliseconds to wait; None for "no further attempt", which negative and unreadable both mean."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 10:
        wait_ms = int(value)
        if wait_ms <= _PUSHBACK_MS_MAX:
            return float(wait_ms)
    return None


def _read_retry_info(details: str | bytes) -> float | None:
    """The `RetryInfo` among the status's details, None without one. What cannot be read advises nothing."""
    if isinstance(details, str):
        return None
    try:
        for detail in status_pb2.Status.FromString(details).details:
            if detail.TypeName() == _RETRY_INFO:
                info = error_details_pb2.RetryInfo.FromString(detail.value)
                return _wait_ms(info.retry_delay.seconds, info.retry_delay.nanos)
    except DecodeError:
        pass
    return None


def _wait_ms(seconds: int, nanos: int) -> float | None:
    """A protobuf Duration as milliseconds; one that is negative or beyond reason asks for nothing."""
    wait_ms = seconds * 1_000.0 + nanos / 1e6
    return wait_ms if 0.0 <= wait_ms <= _AFTER_MS_MAX else None
