"""The ack map read by somebody else: from the format's description in `core/ackmap.py`, not with its code.

The auditor would believe a map that is coded and decoded wrongly in the same way. This reads one byte by
byte.
"""

from __future__ import annotations

import base64
import binascii
import zlib

__all__ = ["read_map"]


def read_map(base: int, text: str, log_end: int) -> set[int] | None:
    """The offsets that the map beside the committed offset `base` says are settled; None where it is none."""
    if not text:
        return set()
    head = _bytes(text[:12])
    if head is None or head[0] != 1:
        return None
    # What stands behind the payload is nobody's business.
    length = head[2] * 256 + head[3]
    raw = _bytes(text[: ((8 + length) * 4 + 2) // 3])
    if raw is None:
        return None
    payload = raw[8 : 8 + length]
    expected = zlib.crc32(raw[:2] + base.to_bytes(8, "big") + payload)
    if len(payload) < length or expected != int.from_bytes(raw[4:8], "big"):
        return None
    if raw[1] == 4:
        settled = _split(base, payload)
    else:
        settled = _runs(base, payload) if raw[1] == 1 else _bits(base, payload, deflated=raw[1] == 3)
    if log_end >= 0 and any(offset >= log_end for offset in settled):
        return None
    return settled


def _bytes(text: str) -> bytes | None:
    """Base64 without its padding; None where it is not, or too short for a head."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) >= 8 else None


def _split(base: int, payload: bytes) -> set[int]:
    size = 1 if payload[0] < 128 else 2
    end = size + _numbers(payload[:size])[0]
    lengths = payload[size:end]
    rest = payload[end:]
    size = next(place for place, byte in enumerate(rest) if byte < 128) + 1
    begin = base + sum(_numbers(lengths)) + _numbers(rest[:size])[0]
    return _runs(base, lengths) | _bits(begin, rest[size:], deflated=False)


def _numbers(payload: bytes) -> list[int]:
    numbers: list[int] = []
    number = shift = 0
    for byte in payload:
        number += (byte % 128) << shift
        shift += 7
        if byte < 128:
            numbers.append(number)
            number = shift = 0
    return numbers


def _runs(base: int, payload: bytes) -> set[int]:
    settled: set[int] = set()
    at = base
    for place, length in enumerate(_numbers(payload)):
        if place % 2:
            settled.update(range(at, at + length))
        at += length
    return settled


def _bits(base: int, payload: bytes, *, deflated: bool) -> set[int]:
    bitset = zlib.decompress(payload) if deflated else payload
    return {
        base + 8 * place + bit for place, byte in enumerate(bitset) for bit in range(8) if byte >> bit & 1
    }
