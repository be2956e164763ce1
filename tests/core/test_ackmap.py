"""The ack map: every coding where it is taken, its budget, and everything that is no map of ours."""

from __future__ import annotations

import base64
import random
import time
import zlib
from collections.abc import Iterable

import pytest

from pelton.core import ackmap
from pelton.core.ackmap import (
    BITSET_OFFSETS_MAX,
    EMPTY,
    PAYLOAD_BYTES_MAX,
    TEXT_CHARS_MAX,
    AckMap,
    AckMapError,
    Range,
    decode,
    encode,
    run_lengths_bytes,
    varint_bytes,
)
from pelton.kafka.topic_ids import tagged

RUN_LENGTHS, BITSET, BITSET_DEFLATED, SPLIT = 1, 2, 3, 4


def raw(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


def coding(text: str) -> int:
    return raw(text)[1]


def forge(base: int, kind: int, payload: bytes, *, version: int = 1) -> str:
    """A text with a checksum that is right, as somebody who knows the format would write it."""
    head = bytes((version, kind))
    checksum = zlib.crc32(payload, zlib.crc32(head + base.to_bytes(8, "big")))
    body = head + len(payload).to_bytes(2, "big") + checksum.to_bytes(4, "big") + payload
    return base64.b64encode(body).rstrip(b"=").decode()


def settled_but(opened: Iterable[int], end: int) -> list[Range]:
    """The ranges of 0 to `end` that are settled where `opened` are not."""
    ranges: list[Range] = []
    at = 0
    for offset in sorted(opened):
        if offset > at:
            ranges.append((at, offset))
        at = offset + 1
    if end > at:
        ranges.append((at, end))
    return ranges


def test_nothing_settled_is_the_empty_text() -> None:
    assert encode(7, []) == ""
    assert decode(7, "") is EMPTY
    assert EMPTY.end == 0
    assert 0 not in EMPTY


@pytest.mark.parametrize("base", [0, 1, 41, 2**31, 2**62])
def test_what_is_encoded_is_decoded(base: int) -> None:
    ranges = [(base + 1, base + 2), (base + 5, base + 300), (base + 301, base + 302)]
    read = decode(base, encode(base, ranges))
    assert read == AckMap(ranges)
    assert hash(read) == hash(AckMap(ranges))
    assert read.end == base + 302
    assert [offset for offset in range(base, base + 10) if offset in read] == [
        base + 1,
        *range(base + 5, base + 10),
    ]
    assert base + 300 not in read
    assert base + 301 in read
    assert base + 302 not in read
    assert base - 1 not in read


def test_a_map_may_begin_at_the_committed_offset() -> None:
    # Right after a restart: what was read back reaches to the very offset that is fetched next.
    assert decode(10, encode(10, [(10, 20)])) == AckMap([(10, 20)])


def test_long_runs_are_told_by_their_lengths() -> None:
    text = encode(0, [(1, 100_000), (100_001, 10_000_000)])
    assert coding(text) == RUN_LENGTHS
    assert len(text) < 30


def test_many_short_runs_are_told_by_bits() -> None:
    chance = random.Random(3)
    ranges = settled_but([0, *(offset for offset in range(1, 4_000) if chance.random() < 0.5)], 4_000)
    text = encode(0, ranges)
    assert coding(text) == BITSET
    assert decode(0, text) == AckMap(ranges)


def test_many_runs_with_a_pattern_are_deflated() -> None:
    ranges = [(at, at + 1) for at in range(1, 20_001, 2)]
    text = encode(0, ranges)
    assert coding(text) == BITSET_DEFLATED
    assert decode(0, text) == AckMap(ranges)
    assert len(text) < 100


def test_run_lengths_are_taken_where_they_are_short_or_the_window_is_wide_and_else_the_smaller_bits() -> None:
    chance = random.Random(5)
    seen = set()
    for share in (0.001, 0.01, 0.1, 0.5, 0.9, 0.999):
        for width in (10, 200, 3_000, 20_000, 100_000):
            opened = [0, *(offset for offset in range(1, width) if chance.random() < share)]
            ranges = settled_but(opened, width)
            runs_bytes = run_lengths_bytes(0, ranges)
            is_narrow = width <= BITSET_OFFSETS_MAX
            if not ranges or not (is_narrow or runs_bytes <= PAYLOAD_BYTES_MAX):
                continue
            text = encode(0, ranges)
            payload_bytes = len(raw(text)) - 8
            if is_narrow and not ackmap.is_short(bytes(runs_bytes)):
                bits = ackmap._to_bits(0, ranges).to_bytes(-(-width // 8), "little")
                assert coding(text) in (BITSET, BITSET_DEFLATED)
                assert payload_bytes <= len(bits)
                assert payload_bytes <= max(512, len(zlib.compress(bits, 1)))
            else:
                assert coding(text) == RUN_LENGTHS
                assert payload_bytes == runs_bytes
            assert decode(0, text) == AckMap(ranges)
            seen.add((coding(text), is_narrow))
    assert seen == {(RUN_LENGTHS, True), (RUN_LENGTHS, False), (BITSET, True), (BITSET_DEFLATED, True)}


def test_the_budget_is_what_the_broker_takes() -> None:
    # 4 096 characters are refused; 13 are the Kafka edge's, and the fullest payload fills the rest exactly.
    assert TEXT_CHARS_MAX + len(tagged("", "abcdefgh1234")) == 4_095
    chance = random.Random(1)
    ranges = settled_but(
        [0, *(o for o in range(1, BITSET_OFFSETS_MAX - 1) if chance.random() < 0.5)], BITSET_OFFSETS_MAX
    )
    text = encode(0, ranges)
    assert coding(text) == BITSET
    assert len(text) == TEXT_CHARS_MAX
    assert len(raw(text)) - 8 == PAYLOAD_BYTES_MAX
    assert decode(0, text) == AckMap(ranges)


def test_more_than_the_budget_is_a_bug_and_never_cut() -> None:
    chance = random.Random(1)
    width = BITSET_OFFSETS_MAX * 2
    ranges = settled_but([0, *(o for o in range(1, width - 1) if chance.random() < 0.5)], width)
    with pytest.raises(AssertionError, match="reservation broken"):
        encode(0, ranges)


def test_one_percent_open_over_106_000_offsets_fits_as_run_lengths() -> None:
    chance = random.Random(3)
    ranges = settled_but([0, *chance.sample(range(1, 106_000), 1_060)], 106_000)
    assert run_lengths_bytes(0, ranges) <= PAYLOAD_BYTES_MAX
    assert decode(0, encode(0, ranges)) == AckMap(ranges)


def test_one_in_two_hundred_open_over_200_000_offsets_fits() -> None:
    chance = random.Random(3)
    ranges = settled_but([0, *chance.sample(range(1, 200_000), 1_000)], 200_000)
    text = encode(0, ranges)
    assert len(text) <= TEXT_CHARS_MAX
    assert decode(0, text) == AckMap(ranges)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 16_383, 16_384, 2**21 - 1, 2**21, 2**40])
def test_run_lengths_are_counted_as_they_are_coded(number: int) -> None:
    ranges = [(number, number + 1), (number + 2, 2 * number + 3)]
    assert run_lengths_bytes(0, ranges) == len(ackmap.run_lengths([number, 1, 1, number + 1]))
    assert varint_bytes(number) == len(ackmap.run_lengths([number, 1])) - 1


@pytest.mark.parametrize("tail", ["=", "==", "A", "\x00", "\n", "{}", " trailing garbage ☃", "Ag" * 3_000])
def test_what_trails_behind_does_no_harm(tail: str) -> None:
    for ranges in ([(1, 2)], [(1, 300)], [(2, 3), (5, 100_000)]):
        assert decode(0, encode(0, ranges) + tail) == AckMap(ranges)


@pytest.mark.parametrize(
    "text",
    ["x", "=", "====", "committed by another tool", "{}", "☃" * 20, "A" * 11, "A" * 4_000, "\x00" * 20],
)
def test_foreign_text_is_refused(text: str) -> None:
    with pytest.raises(AckMapError):
        decode(0, text)


def test_every_cut_is_refused() -> None:
    for ranges in (
        [(1, 2)],
        [(at, at + 1) for at in range(1, 101, 2)],
        [(at, at + 1) for at in range(1, 2_001, 2)],
    ):
        text = encode(3, [(3 + start, 3 + end) for start, end in ranges])
        for chars in range(1, len(text)):
            with pytest.raises(AckMapError):
                decode(3, text[:chars])


def test_every_flipped_bit_is_refused() -> None:
    text = encode(9, [(10, 12), (20, 5_000)])
    data = raw(text)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(AckMapError):
            decode(9, base64.b64encode(flipped).rstrip(b"=").decode())


def test_a_map_says_nothing_beside_another_offset() -> None:
    text = encode(100, [(102, 110)])
    for base in (0, 99, 101, 102, 2**40):
        with pytest.raises(AckMapError, match="checksum"):
            decode(base, text)


def test_a_later_version_is_refused_by_its_number() -> None:
    with pytest.raises(AckMapError, match="version 2"):
        decode(0, forge(0, RUN_LENGTHS, b"\x01\x01", version=2))


@pytest.mark.parametrize("kind", [0, 5, 255])
def test_an_unknown_coding_is_refused_by_its_number(kind: int) -> None:
    with pytest.raises(AckMapError, match=f"coding {kind}"):
        decode(0, forge(0, kind, b"\x01\x01"))


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "middle"),
        (b"\x01", "middle"),
        (b"\x01\x80", "middle"),
        (b"\x01\x01\x01", "middle"),
        (b"\x01\x00", "settled"),
        (b"\x01\x01\x00\x01", "open"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\x01\x01", "longer"),
        (b"\x01\x80\x80\x80\x80\x80\x80\x7f", "wider"),
        (b"\x01\xff\xff\xff\xff\xff\x3f", "wider"),
    ],
)
def test_forged_run_lengths_are_refused(payload: bytes, why: str) -> None:
    with pytest.raises(AckMapError, match=why):
        decode(0, forge(0, RUN_LENGTHS, payload))


def test_a_split_map_is_its_run_lengths_and_its_bits() -> None:
    text = ackmap.encode_split(70, ackmap.run_lengths([1, 300, 2, 4]), 5, 0b1101_0110)
    assert coding(text) == SPLIT
    assert decode(70, text) == AckMap([(71, 371), (373, 377), (383, 385), (386, 387), (388, 390)])
    # Where nothing is below, and where nothing is above.
    assert decode(7, ackmap.encode_split(7, b"", 1_000, 0b10)) == AckMap([(1_008, 1_009)])
    assert coding(ackmap.encode_split(7, b"\x01\x02", 9, 0)) == RUN_LENGTHS
    assert ackmap.encode_split(7, b"", 9, 0) == ""


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "middle"),
        (b"\x80", "middle"),
        (b"\x03\x01\x01", "middle"),
        (b"\x02\x01\x01", "middle"),
        (b"\x01\x01\x00\x02", "middle"),
        (b"\x80\x80\x80\x80\x80\x80\x01", "middle"),
        (b"\x02\x01\x01\x00", "no offset"),
        (b"\x02\x01\x01\x00\x00", "no offset"),
        (b"\x02\x01\x00\x00\x02", "settled"),
        (b"\x02\x01\x01\x00\x01", "open"),
        (b"\x00\xff\xff\xff\xff\xff\x7f\x01", "wider"),
    ],
)
def test_a_forged_split_map_is_refused(payload: bytes, why: str) -> None:
    with pytest.raises(AckMapError, match=why):
        decode(0, forge(0, SPLIT, payload))


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x00" * 500])
def test_a_bitset_without_a_settled_offset_is_refused(payload: bytes) -> None:
    with pytest.raises(AckMapError, match="no offset"):
        decode(0, forge(0, BITSET, payload))


@pytest.mark.parametrize(
    "payload", [b"", b"not deflated", zlib.compress(b"\xff" * 100)[:-1], zlib.compress(b"\x01") + b"more"]
)
def test_what_does_not_inflate_is_refused(payload: bytes) -> None:
    with pytest.raises(AckMapError, match=r"inflate|deflated"):
        decode(0, forge(0, BITSET_DEFLATED, payload))


def test_a_bomb_is_refused_before_it_inflates() -> None:
    bomb = zlib.compress(b"\x55" * (8 << 20))
    with pytest.raises(AckMapError, match="more than any map"):
        decode(0, forge(0, BITSET_DEFLATED, bomb))


@pytest.mark.parametrize("kind", [BITSET, BITSET_DEFLATED])
def test_the_worst_bitset_there_is_takes_no_time(kind: int) -> None:
    # Every second offset of the widest window: it once took minutes, by shifting one big number along.
    bits = b"\x55" * (1 << 15)
    started = time.perf_counter()
    read = decode(0, forge(0, kind, zlib.compress(bits) if kind == BITSET_DEFLATED else bits))
    assert len(read.ranges) == 1 << 17
    assert time.perf_counter() - started < 10


def test_as_many_as_fit_are_the_lowest() -> None:
    few = [(1, 2), (1_000_000, 1_000_001)]
    assert ackmap.fitting(0, few) == few
    # Two long varints each, so that some 500 of them fit.
    many = [(at * 100_000, at * 100_000 + 20_000) for at in range(1, 1_000)]
    kept = ackmap.fitting(0, many)
    assert kept == many[: len(kept)]
    assert run_lengths_bytes(0, kept) <= PAYLOAD_BYTES_MAX < run_lengths_bytes(0, many[: len(kept) + 1])
    # A window that is narrow enough fits as bits, whatever its runs.
    narrow = [(at, at + 1) for at in range(1, BITSET_OFFSETS_MAX, 2)]
    assert ackmap.fitting(0, narrow) == narrow


def test_it_shows_what_it_holds() -> None:
    assert repr(AckMap([(1, 2)])) == "AckMap([(1, 2)])"
    assert AckMap([(1, 2)]) != [(1, 2)]
