"""The ack map: which offsets above the committed one are settled, as text that fits into a commit.

A broker keeps at most 4 096 characters of metadata beside a committed offset and refuses longer ones, so
the map has a budget (`TEXT_CHARS_MAX`), and the ledger sees to it, before a call starts, that what may
settle will fit (`ledger.py`, reservation). This file only codes; it holds no state.

The text, before base64:

    version (1) · coding (1) · payload length (2, big-endian) · CRC-32 (4, big-endian) · payload

The checksum covers version, coding, the committed offset and the payload: a map says nothing beside any
other offset. The length stands in front, so bytes that trail behind the payload (seen through a client)
do no harm. The payload codes the offsets from the committed one on, alternating: open, settled, open, …

- run lengths: one varint a run, the first one open (its length may be 0), the last one settled
- bitset: one bit an offset, least significant first, 1 is settled
- bitset, deflated
- split: how many bytes of run lengths follow, as a varint; these; how many offsets behind them are open, as a
  varint; and a bitset of all that is behind those

A narrow window comes as bits (`encode_bits`), which is quickest; a wide one split, or as run lengths alone:
that they fit is what the ledger sees to, and making them smaller would take longer than all the rest of a
commit.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from enum import IntEnum

from pelton.varint import varint

__all__ = [
    "BITSET_OFFSETS_MAX",
    "EMPTY",
    "PAYLOAD_BYTES_MAX",
    "TEXT_CHARS_MAX",
    "AckMap",
    "AckMapError",
    "Range",
    "decode",
    "encode",
    "encode_bits",
    "encode_run_lengths",
    "encode_split",
    "fitting",
    "is_short",
    "read_back",
    "run_lengths",
    "run_lengths_bytes",
    "varint_bytes",
]

#: Settled offsets from the first (inclusive) to the second (exclusive).
Range = tuple[int, int]

#: Kafka's `offset.metadata.max.bytes` is 4 096 by default, and that very length is refused. The Kafka edge
#: writes behind the map which log it speaks of: 13 characters.
TEXT_CHARS_MAX = 4_095 - 13

_VERSION = 1
_HEAD_BYTES = 8
#: What base64 without padding can carry in `TEXT_CHARS_MAX`, less the head.
PAYLOAD_BYTES_MAX = TEXT_CHARS_MAX * 3 // 4 - _HEAD_BYTES

#: A window of at most this many offsets always fits, whatever is open in it.
BITSET_OFFSETS_MAX = PAYLOAD_BYTES_MAX * 8

#: The widest window a map may claim: an honest one is bounded by what run lengths can hold of 3 000 open
#: events; a forged one must not make us allocate.
_SPAN_MAX = 1 << 40
#: Of a length that may be in one.
_VARINT_BYTES_MAX = 6
#: Run lengths that take no more than this part of the budget are written as they are, also of narrow windows.
_SHORT_PART = 3
#: Shorter payloads are not deflated: that takes longer than all the rest of a commit, and saves a few bytes.
_DEFLATED_BYTES_MIN = 512
#: No honest one inflates to more, those included that earlier versions wrote of wider windows.
_INFLATED_BYTES_MAX = 1 << 15

_SETTLED_BITS = re.compile("1+")


class AckMapError(ValueError):
    """The text is no map of this offset: foreign, forged, damaged, or of a later version."""


class _Coding(IntEnum):
    """How the payload is coded."""

    #: Varints, one a run.
    RUN_LENGTHS = 1
    #: One bit an offset.
    BITSET = 2
    #: The same, deflated.
    BITSET_DEFLATED = 3
    #: The one below, the other above.
    SPLIT = 4


class AckMap:
    """Settled offsets as ascending, disjoint, non-adjacent ranges."""

    __slots__ = ("_starts", "ranges")

    def __init__(self, ranges: Sequence[Range]) -> None:
        self.ranges = tuple(ranges)
        self._starts = [start for start, _ in self.ranges]

    @property
    def end(self) -> int:
        """One past the highest settled offset; 0 for the empty map."""
        return self.ranges[-1][1] if self.ranges else 0

    def __contains__(self, offset: int) -> bool:
        at = bisect_right(self._starts, offset) - 1
        return at >= 0 and offset < self.ranges[at][1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AckMap) and self.ranges == other.ranges

    def __hash__(self) -> int:
        return hash(self.ranges)

    def __repr__(self) -> str:
        return f"AckMap({list(self.ranges)})"


EMPTY = AckMap(())


def encode(base: int, ranges: Sequence[Range]) -> str:
    """The map of `ranges`, all at or above the committed offset `base`; the empty text for none.

    Raises AssertionError if nothing fits: whoever let that much start has broken its reservation, and a
    map that is cut would be a promise broken silently.
    """
    if not ranges:
        return ""
    assert ranges[0][0] >= base
    runs: list[int] = []
    at = base
    for start, end in ranges:
        runs += (start - at, end - start)
        at = end
    payload = run_lengths(runs)
    if at - base <= BITSET_OFFSETS_MAX and not is_short(payload):
        return encode_bits(base, _to_bits(base, ranges))
    return encode_run_lengths(base, payload)


def run_lengths(runs: Sequence[int]) -> bytes:
    """Runs by their lengths, coded: open ones and settled ones, in turn."""
    return b"".join([varint(run) for run in runs])


def is_short(coded: bytes) -> bool:
    """What `run_lengths` has coded is not worth a look whether bits were shorter."""
    return len(coded) <= PAYLOAD_BYTES_MAX // _SHORT_PART


def encode_run_lengths(base: int, coded: bytes) -> str:
    """The map of what `run_lengths` has coded; the empty text for nothing."""
    return _text(base, _Coding.RUN_LENGTHS, coded) if coded else ""


def encode_bits(base: int, bits: int) -> str:
    """The map of a window of at most `BITSET_OFFSETS_MAX`: one bit an offset, that of `base` first."""
    if not bits:
        return ""
    coding, payload = _Coding.BITSET, bits.to_bytes(-(-bits.bit_length() // 8), "little")
    if len(payload) > _DEFLATED_BYTES_MIN:
        deflated = zlib.compress(payload, 1)
        if len(deflated) < len(payload):
            coding, payload = _Coding.BITSET_DEFLATED, deflated
    return _text(base, coding, payload)


def encode_split(base: int, coded: bytes, opened: int, bits: int) -> str:
    """The map of what `run_lengths` has coded, so many open offsets behind it, and one bit each of others."""
    if not bits:
        return encode_run_lengths(base, coded)
    bitset = bits.to_bytes(-(-bits.bit_length() // 8), "little")
    return _text(base, _Coding.SPLIT, varint(len(coded)) + coded + varint(opened) + bitset)


def _text(base: int, coding: _Coding, payload: bytes) -> str:
    assert len(payload) <= PAYLOAD_BYTES_MAX, f"ack map of {len(payload)} bytes: reservation broken"
    head = bytes((_VERSION, coding)) + len(payload).to_bytes(2, "big")
    checksum = _checksum(coding, base, payload).to_bytes(4, "big")
    return base64.b64encode(head + checksum + payload).rstrip(b"=").decode("ascii")


def read_back(base: int, text: str | None, log_end: int = -1) -> tuple[AckMap, str | None]:
    """The map beside a committed offset; an empty one where it is not believed, and why.

    Whatever it said, its events are delivered again then: a repeat, never a loss.
    """
    try:
        return decode(base, text or "", log_end), None
    except AckMapError as error:
        return EMPTY, str(error)


def decode(base: int, text: str, log_end: int = -1) -> AckMap:
    """The map that was committed beside `base`. Raises `AckMapError` for anything else, whatever it is.

    A map that speaks of more than a log that ends at `log_end` holds is of another log; -1 asks nothing.
    """
    if not text:
        return EMPTY
    decoded = _decode(base, text)
    if 0 <= log_end < decoded.end:
        raise AckMapError(f"it speaks of offset {decoded.end - 1}, the log ends at {log_end}")
    return decoded


def _decode(base: int, text: str) -> AckMap:
    head_chars = 11  # what 8 bytes need; the rest of the 11th character belongs to the payload
    try:
        head = base64.b64decode(text[:head_chars] + "=", validate=True)
        payload_bytes = int.from_bytes(head[2:4], "big")
        total_bytes = _HEAD_BYTES + payload_bytes
        chars = -(-total_bytes * 4 // 3)
        if len(text) < chars:
            raise AckMapError(f"cut short: {len(text)} of {chars} characters")
        raw = base64.b64decode(text[:chars] + "=" * (-chars % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        if isinstance(error, AckMapError):
            raise
        raise AckMapError(f"not base64: {error}") from None
    if raw[0] != _VERSION:
        raise AckMapError(f"version {raw[0]}, this side knows {_VERSION}")
    payload = raw[_HEAD_BYTES:total_bytes]
    if int.from_bytes(raw[4:8], "big") != _checksum(raw[1], base, payload):
        raise AckMapError("checksum does not match: damaged, or committed beside another offset")
    try:
        coding = _Coding(raw[1])
    except ValueError:
        raise AckMapError(f"unknown coding {raw[1]}") from None
    if coding is _Coding.RUN_LENGTHS:
        return AckMap(_of_run_lengths(base, payload))
    if coding is _Coding.SPLIT:
        return AckMap(_of_split(base, payload))
    if coding is _Coding.BITSET_DEFLATED:
        payload = _inflate(payload)
    return AckMap(_of_bitset(base, payload))


def varint_bytes(number: int) -> int:
    """How many bytes the varint of `number` takes."""
    return max(1, -(-number.bit_length() // 7))


def run_lengths_bytes(base: int, ranges: Sequence[Range]) -> int:
    """What `ranges` take as run lengths, without coding them."""
    total, at = 0, base
    for start, end in ranges:
        total += varint_bytes(start - at) + varint_bytes(end - start)
        at = end
    return total


def fitting(base: int, ranges: list[Range]) -> list[Range]:
    """As many of `ranges`, lowest first, as surely fit."""
    total, at = 0, base
    for count, (start, end) in enumerate(ranges):
        total += varint_bytes(start - at) + varint_bytes(end - start)
        at = end
        if total > PAYLOAD_BYTES_MAX and end - base > BITSET_OFFSETS_MAX:
            return ranges[:count]
    return ranges


def _checksum(coding: int, base: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(bytes((_VERSION, coding)) + base.to_bytes(8, "big")))


def _of_run_lengths(base: int, payload: bytes) -> list[Range]:
    ranges: list[Range] = []
    at, number, shift, settled = base, 0, 0, False
    for byte in payload:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte & 0x80:
            if shift > 42:
                raise AckMapError("a run is longer than any window")
            continue
        end = at + number
        if end - base > _SPAN_MAX:
            raise AckMapError("the window is wider than any map's")
        if settled:
            if number == 0:
                raise AckMapError("an empty run of settled offsets")
            ranges.append((at, end))
        elif number == 0 and ranges:
            raise AckMapError("an empty run of open offsets")
        at, number, shift, settled = end, 0, 0, not settled
    if shift or settled or not ranges:
        raise AckMapError("the runs end in the middle")
    return ranges


def _of_split(base: int, payload: bytes) -> list[Range]:
    coded_bytes, begin = _number_at(payload, 0)
    end = begin + coded_bytes
    ranges = _of_run_lengths(base, payload[begin:end]) if coded_bytes else []
    opened, begin = _number_at(payload, end)
    at = (ranges[-1][1] if ranges else base) + opened
    if at - base > _SPAN_MAX:
        raise AckMapError("the window is wider than any map's")
    upper = _of_bitset(at, payload[begin:])
    if ranges and upper[0][0] == ranges[-1][1]:
        raise AckMapError("an empty run of open offsets")
    return ranges + upper


def _number_at(payload: bytes, at: int) -> tuple[int, int]:
    """The varint that begins there, and where it ends."""
    number = shift = 0
    for place in range(at, min(len(payload), at + _VARINT_BYTES_MAX)):
        number |= (payload[place] & 0x7F) << shift
        if payload[place] < 0x80:
            return number, place + 1
        shift += 7
    raise AckMapError("the runs end in the middle")


def _to_bits(base: int, ranges: Sequence[Range]) -> int:
    bits = 0
    for start, end in ranges:
        bits |= ((1 << (end - start)) - 1) << (start - base)
    return bits


def _of_bitset(base: int, payload: bytes) -> list[Range]:
    # As text, lowest offset first. Shifting a number along would take quadratic time, and whoever may write
    # to the group could have us do it.
    bits = f"{int.from_bytes(payload, 'little'):b}"[::-1]
    ranges = [(base + run.start(), base + run.end()) for run in _SETTLED_BITS.finditer(bits)]
    if not ranges:
        raise AckMapError("no offset is settled")
    return ranges


def _inflate(payload: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        bitset = inflater.decompress(payload, _INFLATED_BYTES_MAX)
    except zlib.error as error:
        raise AckMapError(f"not deflated: {error}") from None
    if not inflater.eof or inflater.unused_data:
        raise AckMapError("inflates to more than any map")
    return bitset
