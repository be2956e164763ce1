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
        # Two groups of seven bits at once: what is beyond them is kept, most of the time.
        return _TWO_MORE[number & 0x3FFF] + self[number >> 14]


#: Two groups that others follow.
_TWO_MORE = [bytes((number & 0x7F | 0x80, number >> 7 | 0x80)) for number in range(1 << 14)]
VARINTS = _Varints({number: bytes((number,)) for number in range(0x80)})
VARINTS.update({number: bytes((number & 0x7F | 0x80, number >> 7)) for number in range(0x80, 1 << 14)})
