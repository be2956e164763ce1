"""The ack map: whatever was encoded is decoded, and no mutation of the text decodes to anything else."""

from __future__ import annotations

import base64
import contextlib

from hypothesis import given
from hypothesis import strategies as st

from pelton.core import ackmap
from pelton.core.ackmap import TEXT_CHARS_MAX, AckMap, AckMapError, Range, decode, encode
from tests.properties.profile import tried

bases = st.one_of(st.integers(0, 300), st.integers(0, 2**62))


@st.composite
def maps(draw: st.DrawFn) -> tuple[int, list[Range]]:
    """Runs of a few sizes, so that every coding has its turn; as many as fit."""
    base = draw(bases)
    widest = draw(st.sampled_from([2, 5, 200, 20_000, 2_000_000]))
    runs = draw(st.lists(st.tuples(st.integers(1, widest), st.integers(1, widest)), min_size=1, max_size=300))
    ranges: list[Range] = []
    at = base + draw(st.integers(-1, 0))
    for opened, settled in runs:
        ranges.append((at + opened, at + opened + settled))
        at += opened + settled
    return base, ackmap.fitting(base, ranges)


@given(maps())
@tried(150)
def test_what_is_encoded_is_decoded(base_and_ranges: tuple[int, list[Range]]) -> None:
    base, ranges = base_and_ranges
    text = encode(base, ranges)
    assert len(text) <= TEXT_CHARS_MAX
    assert text.isascii()
    assert decode(base, text) == AckMap(ranges)


@given(maps(), st.data())
@tried(100)
def test_wherever_it_is_split_it_is_the_same(
    base_and_ranges: tuple[int, list[Range]], data: st.DataObject
) -> None:
    base, ranges = base_and_ranges
    count = data.draw(st.integers(0, len(ranges)))
    at, runs = base, list[int]()
    for start, end in ranges[:count]:
        runs += (start - at, end - start)
        at = end
    opened = ranges[count][0] - 1 - at if count < len(ranges) else 0
    upper = [(start - at - opened, end - at - opened) for start, end in ranges[count:]]
    if opened < 0 or (upper and upper[-1][1] > ackmap.BITSET_OFFSETS_MAX // 2):
        return
    coded = ackmap.run_lengths(runs)
    if len(coded) < ackmap.PAYLOAD_BYTES_MAX // 3:
        text = ackmap.encode_split(base, coded, opened, ackmap._to_bits(0, upper))
        assert decode(base, text) == AckMap(ranges)


@given(maps(), st.text(max_size=50))
@tried(60)
def test_trailing_text_does_no_harm(base_and_ranges: tuple[int, list[Range]], tail: str) -> None:
    base, ranges = base_and_ranges
    assert decode(base, encode(base, ranges) + tail) == AckMap(ranges)


@given(maps(), bases)
@tried(60)
def test_beside_another_offset_it_is_refused(base_and_ranges: tuple[int, list[Range]], other: int) -> None:
    base, ranges = base_and_ranges
    if other == base:
        return
    with contextlib.suppress(AckMapError):
        decode(other, encode(base, ranges))
        raise AssertionError("decoded beside another offset")


@given(maps(), st.data())
@tried(150)
def test_a_mutated_text_fails_or_says_the_same(
    base_and_ranges: tuple[int, list[Range]], data: st.DataObject
) -> None:
    base, ranges = base_and_ranges
    text = encode(base, ranges)
    alphabet = st.characters(min_codepoint=32, max_codepoint=126)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        until = data.draw(st.integers(at, min(len(text), at + 6)))
        text = text[:at] + data.draw(st.text(alphabet, max_size=6)) + text[until:]
    if not text:
        return
    with contextlib.suppress(AckMapError):
        assert decode(base, text) == AckMap(ranges)


@given(bases, st.binary(max_size=400))
@tried(150)
def test_foreign_bytes_are_refused(base: int, data: bytes) -> None:
    text = base64.b64encode(data).decode()
    if text:
        with contextlib.suppress(AckMapError):
            decode(base, text)
            raise AssertionError("foreign bytes were read as a map")


@given(st.integers(1, 4), bases, st.binary(max_size=600))
@tried(150)
def test_whatever_a_forger_writes_is_refused_or_is_a_map(kind: int, base: int, payload: bytes) -> None:
    head = bytes((1, kind)) + len(payload).to_bytes(2, "big")
    text = base64.b64encode(
        head + ackmap._checksum(kind, base, payload).to_bytes(4, "big") + payload
    ).decode()
    with contextlib.suppress(AckMapError):
        read = decode(base, text)
        at = base - 1
        for start, end in read.ranges:
            # Ascending, not empty, not adjacent, none below the committed offset.
            assert at < start < end
            at = end
