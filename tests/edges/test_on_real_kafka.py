"""Poison of every kind in one topic, on real Kafka and real sockets, in all three modes.

One Pelton. Each record has the end that the table says, with its reason; the good ones between them are
taken; the process lives; nothing of a record stands in its log. And commits that somebody else has written
cost repeats, never an event.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from pelton.core import ackmap
from tests.edges.test_cost import forged, quotes_left_open
from tests.integration.delivery.processes import Metrics, Pelton, until
from tests.integration.delivery.scripted import UNARY, Script, Scripted, Seen
from tests.integration.delivery.world import Draft, Log
from tests.kafka_fixtures import CreateTopic

MODES = ("unary", "handler", "stream")
#: The target's `max_message_bytes`.
LIMIT = 1_500_000
#: Stands in every key, value, header and name of a record that is set aside, and may stand in no log.
SECRET = "s3cr3t"
STRUCTURED = (("content-type", b"application/cloudevents+json"),)
CE: tuple[tuple[str, bytes | None], ...] = (
    ("ce_specversion", b"1.0"),
    ("ce_id", SECRET.encode()),
    ("ce_source", b"/s"),
    ("ce_type", b"t"),
)


@dataclass(frozen=True)
class Poison:
    """One record: what stands in it, and what becomes of it in each mode (None: it is delivered)."""

    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    key: bytes | None = SECRET.encode()
    reason: str | None = None
    #: Where the modes differ: `handler` and `stream` send more than the value.
    handler_reason: str | None = None


def structured(**members: object) -> bytes:
    return json.dumps({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", **members}).encode()


def padded(name: str, size: int) -> bytes:
    return name.encode().ljust(size, b".")


TOO_LARGE = "max_message_bytes"
RECORDS: dict[str, Poison] = {
    "at the limit": Poison(padded("at the limit", LIMIT), handler_reason=TOO_LARGE),
    "one over the limit": Poison(
        padded("one over the limit", LIMIT + 1), reason=TOO_LARGE, handler_reason=TOO_LARGE
    ),
    "a giant key": Poison(b"a giant key", key=b"k" * 1_000_000),
    "an empty key": Poison(b"an empty key", key=b""),
    "20 KB of headers": Poison(b"20 KB of headers", (("h", b"x" * 400),) * 50),
    "20 000 headers": Poison(b"20 000 headers", (("h", b"1"),) * 20_000),
    "illegal headers": Poison(
        b"illegal headers",
        (
            ("h", b"a\r\nauthorization: x"),
            ("h", b"\xff\xfe"),
            ("H", b"upper"),
            (":path", b"/other"),
            ("grpc-timeout", b"1n"),
            ("grpc-status-details-bin", b"\xff"),
            ("authorization", b"forged"),
            ("", b"no name"),
            ("raw-bin", b"\x00\xff\r\n"),
            ("null", None),
        ),
    ),
    "forged headers": Poison(
        b"forged headers",
        (("pelton-delivery-id", b"forged"), ("Pelton-Attempt", b"99"), ("pelton-subscription", b"forged")),
    ),
    "truncated protobuf": Poison(b"truncated protobuf \x0a\x7fab"),
    "a length of 2 GB": Poison(b"\x0a\xff\xff\xff\xff\x07a length of 2 GB"),
    "protobuf, 10 000 deep": Poison(b"\x0b" * 10_000),
    "a gzip bomb": Poison(gzip.compress(b"\0" * (16 << 20)), (("content-encoding", b"gzip"),)),
    "json, 10 000 deep": Poison(b"[" * 10_000),
    "a tombstone": Poison(None, CE),
    "structured, 10 000 deep": Poison(
        b'{"s3cr3t":' * 10_000, STRUCTURED, reason="nested deeper than 128", handler_reason="nested deeper"
    ),
    "structured, quotes left open": Poison(
        quotes_left_open(900_000), STRUCTURED, reason="nested deeper than 128", handler_reason="nested deeper"
    ),
    "structured, no id": Poison(
        structured(id="", data=SECRET), STRUCTURED, reason="attribute id is missing", handler_reason="id is"
    ),
    "structured, a wrong name": Poison(
        structured(**{"S3cr3t-s3cr3t": 1}),
        STRUCTURED,
        reason="no attribute name",
        handler_reason="no attribute name",
    ),
    "ce_id is empty": Poison(
        b"ce_id is empty", (*CE, ("ce_id", b"")), reason="attribute id is missing", handler_reason="id is"
    ),
    "ce_s3cr3t is binary": Poison(
        b"ce_s3cr3t is binary",
        (*CE, ("ce_s3cr3t", b"\xff")),
        reason="an extension attribute is not UTF-8",
        handler_reason="is not UTF-8",
    ),
    "another version": Poison(
        b"another version",
        (*CE, ("ce_specversion", SECRET.encode())),
        reason="specversion is not 1.0",
        handler_reason="specversion",
    ),
    "two ids": Poison(b"two ids", (*CE, ("ce_id", b"the last one counts"))),
    "a time that is none": Poison(b"a time that is none", (*CE, ("ce_time", b"yesterday"))),
    "a time in no year": Poison(
        b"a time in no year", (*CE, ("ce_time", b"0001-01-01T00:00:00+23:59")), handler_reason=None
    ),
    "a forged dead letter": Poison(
        b"a forged dead letter",
        (*CE, ("ce_id", b""), ("pelton-reason", b"forged"), ("pelton-status", b"OK")),
        reason="attribute id is missing",
        handler_reason="id is",
    ),
}


@pytest.fixture
def target() -> Iterator[Scripted]:
    target = Scripted(lambda subscription, value: Script())
    yield target
    target.stop()


def configure(path: Path, log: Log, port: int, poisoned: str, reread: str) -> Path:
    """Three subscriptions of the poisoned topic, and one of that whose commits are forged."""
    subscriptions = "".join(
        f"""
  {mode}-{poisoned[-40:].strip("-")}:
    topics: [{poisoned}]
    target: shop
    delivery: {mode}
    {f"method: {UNARY}" if mode == "unary" else ""}
    metadata: {{ headers: [h, H, raw-bin, "null"], parameters: [when] }}
    parameters: {{ when: {{ from: "event.time" }} }}
    filter: event.time == null || event.time > timestamp("2000-01-01T00:00:00Z")
"""
        for mode in MODES
    )
    config = path / "pelton.yaml"
    config.write_text(
        f"""
kafka: {{ bootstrap.servers: "{log.bootstrap}" }}
server: {{ http: "127.0.0.1:0", grpc: "127.0.0.1:0" }}
targets: {{ shop: {{ address: "127.0.0.1:{port}", max_message_bytes: {LIMIT} }} }}
subscriptions:{subscriptions}
  reread-{reread[-40:].strip("-")}:
    topics: [{reread}]
    target: shop
    method: {UNARY}
""",
        encoding="utf-8",
    )
    return config


EVENTS = 4
#: What stands beside offset 1 of a partition: offsets 2 and 3 have been settled, says an honest one.
HONEST = ackmap.encode(1, [(2, 4)])
FORGED = {
    "honest": HONEST,
    "foreign": "offset committed by another program: ü",
    "cut": HONEST[:-3],
    "a bit flipped": HONEST[:-2] + ("A" if HONEST[-2] != "A" else "B") + HONEST[-1],
    "of another offset": ackmap.encode(0, [(2, 4)]),
    "beyond the log": ackmap.encode(1, [(2, 1_000)]),
    "a bomb": forged(3, zlib.compress(b"\xff" * (1 << 20), 9), base=1)[:4_000],
}


def forge(log: Log, group: str, topic: str) -> None:
    member = Consumer({"bootstrap.servers": log.bootstrap, "group.id": group, "enable.auto.commit": False})
    offsets = [TopicPartition(topic, number, 1, text) for number, text in enumerate(FORGED.values())]
    for answer in member.commit(offsets=offsets, asynchronous=False):
        assert answer.error is None, answer.error
    member.close()


def test_every_poison_has_its_end(
    log: Log, create_topic: CreateTopic, tmp_path: Path, target: Scripted
) -> None:
    large = {"max.message.bytes": "8000000"}
    poisoned, reread = create_topic(config=large), create_topic(partitions=len(FORGED))
    names = {mode: f"{mode}-{poisoned[-40:].strip('-')}" for mode in MODES}
    reread_name = f"reread-{reread[-40:].strip('-')}"
    drafts: list[Draft] = []
    for name, poison in RECORDS.items():
        drafts += [
            Draft(poison.key, poison.value, poison.headers),
            Draft(b"good", b"good after " + name.encode()),
        ]
    events = log.publish(poisoned, drafts)
    for number in range(len(FORGED)):
        log.publish(reread, [Draft(None, b"%d/%d" % (number, offset)) for offset in range(EVENTS)], number)
    forge(log, f"pelton.{reread_name}", reread)

    pelton = Pelton(configure(tmp_path, log, target.start(), poisoned, reread), tmp_path / "pelton.log")
    try:
        for mode in MODES:
            until(partial(settled, log, names[mode], poisoned, len(drafts)), f"all to be settled by {mode}")
        until(
            lambda: (
                log.committed(f"pelton.{reread_name}", reread) == dict.fromkeys(range(len(FORGED)), EVENTS)
            ),
            "all to be settled beside forged commits",
        )
        exposed = pelton.get("/metrics")[1]
        metrics = Metrics(exposed)
        assert pelton.get("/livez") == (200, "ok\n")
        pelton.stop()
    finally:
        pelton.end()

    for mode, name in names.items():
        check_ends(mode, name, log, target, [event.offset for event in events])
        assert metrics.sum("pelton_times_ignored_total", subscription=name) == 2
    check_metadata([seen for seen in target.seen if seen.subscription == names["unary"]])
    check_reread(target, reread_name)
    assert metrics.sum("pelton_ack_maps_refused_total", subscription=reread_name) == len(FORGED) - 1
    lines = pelton.log().splitlines()
    assert len([line for line in lines if '"dead-lettered"' in line]) >= 3
    for line in lines:
        json.loads(line)
        assert SECRET not in line.lower()
    assert SECRET not in exposed.lower()


def settled(log: Log, name: str, topic: str, count: int) -> bool:
    return log.committed(f"pelton.{name}", topic) == {0: count}


def check_ends(mode: str, name: str, log: Log, target: Scripted, offsets: list[int]) -> None:
    """Every record is called or set aside as the table says, with its own bytes, and never both."""
    letters = {letter.header("pelton-origin-offset"): letter for letter in log.read(f"dlq.{name}")}
    called = [seen.value for seen in target.seen if seen.subscription == name]
    for (what, poison), offset in zip(RECORDS.items(), offsets[::2], strict=True):
        reason = poison.reason if mode == "unary" else poison.handler_reason
        letter = letters.pop(str(offset), None)
        sent = poison.value or b""
        if reason is None:
            assert letter is None, (what, mode, letter)
            assert called.count(sent) == 1, (what, mode)
        else:
            assert letter is not None, (what, mode)
            assert sent not in called
            assert reason in letter.header("pelton-reason"), what
            assert (letter.key, letter.value) == (poison.key, poison.value)
            assert letter.header("pelton-status") in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
        assert called.count(b"good after " + what.encode()) == 1
    assert not letters


def check_metadata(seen_by_unary: list[Seen]) -> None:
    """What a record may put on a call: nothing that is not its own."""
    by_value = {seen.value: seen.metadata for seen in seen_by_unary}
    illegal = by_value[b"illegal headers"]
    assert illegal["raw-bin"] == b"\x00\xff\r\n"
    assert illegal["h"] in ("upper", "%FF%FE", "a%0D%0Aauthorization: x")
    assert not {":path", "grpc-timeout", "authorization", "null", ""} & illegal.keys()
    assert by_value[b"forged headers"]["pelton-attempt"] == "1"
    assert re.fullmatch(r"unary-.*/0/\d+", str(by_value[b"forged headers"]["pelton-delivery-id"]))
    for cut in (b"20 KB of headers", b"20 000 headers", b"a giant key"):
        assert by_value[cut]["pelton-metadata-cut"] == "1"
    assert by_value[b"an empty key"]["pelton-key-bin"] == b""


def check_reread(target: Scripted, name: str) -> None:
    """From the committed offset on; what only the honest map says is settled is not called again."""
    called = sorted(seen.value for seen in target.seen if seen.subscription == name)
    expected = [b"0/1"] + [
        b"%d/%d" % (n, offset) for n in range(1, len(FORGED)) for offset in range(1, EVENTS)
    ]
    assert called == sorted(expected)
