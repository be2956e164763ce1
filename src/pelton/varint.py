"""Protobuf's varints (Encoding, "Base 128 Varints"), coded by one or two look-ups.

Only to write; whatever reads a stranger's bytes has bounds to keep, and says there what they are.
"""

from __future__ import annotations

from typing import Final

__all__ = ["LAST", "MORE", "varint"]

#: A group of seven bits: the last one of a number, and one that others follow.
LAST: Final[list[bytes]] = [bytes((group,)) for group in range(0x80)]
MORE: Final[list[bytes]] = [bytes((group | 0x80,)) for group in range(0x80)]
#: Beyond it two groups of seven bits are not enough.
_TWO_GROUPS: Final = 1 << 14
#: Every number below that: nearly every length there is.
_WHOLE: Final[list[bytes]] = LAST + [
    bytes((number & 0x7F | 0x80, number >> 7)) for number in range(0x80, _TWO_GROUPS)
]
#: Two groups that others follow.
_MORE: Final[list[bytes]] = [
    bytes((number & 0x7F | 0x80, number >> 7 | 0x80)) for number in range(_TWO_GROUPS)
]


def varint(number: int) -> bytes:
    """A number's varint; a negative one's as of 64 bits."""
    if 0 <= number < _TWO_GROUPS:
        return _WHOLE[number]
    if number < 0:
        number += 1 << 64
    return _MORE[number & 0x3FFF] + varint(number >> 14)
