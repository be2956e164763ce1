"""Protobuf's varints (Encoding, "Base 128 Varints"), coded: one look-up a number.

Only to write; whatever reads a stranger's bytes has bounds to keep, and says there what they are.
"""

from __future__ import annotations

__all__ = ["VARINTS"]


class _Varints(dict[int, bytes]):
    """Every number's varint, a negative one's as of 64 bits. Those of up to 14 bits are kept: nearly every
    length there is."""

    def __missing__(self, number: int) -> bytes:
        number &= (1 << 64) - 1
        if number < 0x80:
            return bytes((number,))
        if number < 0x4000:
            return bytes((number & 0x7F | 0x80, number >> 7))
        # Two groups of seven bits at once: what is beyond them is kept, most of the time.
        return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80)) + self[number >> 14]


VARINTS = _Varints()
VARINTS.update({number: VARINTS[number] for number in range(1 << 14)})
