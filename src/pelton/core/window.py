"""A ledger's window as the ack map codes it: the lower part as run lengths, the upper one as bits.

Where a key waits, the window behind it grows wide. What settles settles near its top, here and there: bits
hold whatever comes there, and are quick to make. Below, little is open and hardly anything changes: run
lengths are short there, and kept as they are as far as nothing has settled since. What is open is the
ledger's to say, and whether all of it fits.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection
from itertools import chain, islice
from operator import itemgetter

from pelton.core import ackmap
from pelton.core.ackmap import Range
from pelton.varint import varint

__all__ = ["NO_BITS", "Above", "Window"]

#: As `Window.split`: all of it is run lengths.
NO_BITS = 1 << 60

#: One past the highest offset that is settled or may be, the ordinal of the next one that was polled, and how
#: many were polled from there on: nothing there can be settled, and a hole there would widen the window.
Above = tuple[int, int, int]

_end_of = itemgetter(1)
_ZERO = ord("0")


class Window:
    """Looked at whole, and then told of what settles until it is looked at again."""

    __slots__ = (
        "_base",
        "_bits",
        "_coded",
        "_opened",
        "_settled_from",
        "ranges",
        "run_lengths",
        "settled",
        "split",
    )

    def __init__(self) -> None:
        #: From here on it is bits.
        self.split = NO_BITS
        #: What is settled below, ascending, each behind an open run; and each with that one, coded.
        self.ranges: list[Range] = []
        self._coded: list[bytes] = []
        #: All of the lower part.
        self.run_lengths = b""
        #: How many behind these are open; and one bit for each of those that follow, up to the top.
        self._opened = self._bits = 0
        self._base = 0
        #: How many have settled below since, and the lowest of them.
        self.settled = 0
        self._settled_from = 0

    def settle(self, offsets: Collection[int]) -> None:
        """These have settled since it was looked at."""
        for offset in offsets:
            # The lower part ends where an open one stands, and would go on if that settles.
            if offset <= self.split:
                self.settled += 1
                if offset < self._settled_from:
                    self._settled_from = offset

    def look(
        self, opened: dict[int, int], gone: Collection[int], base: int, above: Above, split: int
    ) -> None:
        """Look at all from `base` on, the lowest of `opened` that is not `gone`.

        `opened` has the ordinal of each open offset. With any `gone` nothing may be kept from before, or for
        later.
        """
        top, ordinal_above, count_above = above
        # From the top down, so that the old ones, which no cache holds any more, are not touched.
        descending = islice(reversed(opened), count_above, None)
        upper_from = max(split, base)
        digits = bytearray(b"1") * max(0, top - upper_from)
        begin, below = top, -1
        for offset in descending:
            if gone and offset in gone:
                continue
            if offset < split:
                below = offset
                break
            begin = offset
            digits[top - 1 - offset] = _ZERO
        self._bits = int(digits, 2) >> (begin - upper_from) if digits else 0
        # What ends where an open offset begins stays so while that is open; the last may have been cut short.
        kept = bisect_left(self.ranges, min(self._settled_from, split), key=_end_of)
        kept = min(kept, max(0, len(self.ranges) - 1))
        del self.ranges[kept:], self._coded[kept:]
        begun = self.ranges[-1][1] if kept else base
        found: list[Range] = []
        offset_above, ordinal_above = begin, opened[begin] if begin < top else ordinal_above
        for offset in chain((below,), descending) if below >= begun else ():
            if gone and offset in gone:
                continue
            ordinal = opened[offset]
            if ordinal + 1 != ordinal_above:
                found.append((offset + 1, offset_above))
            if offset == begun:
                break
            offset_above, ordinal_above = offset, ordinal
        for start, end in reversed(found):
            self.ranges.append((start, end))
            self._coded.append(varint(start - begun) + varint(end - start))
            begun = end
        self.run_lengths = b"".join(self._coded)
        self._base, self._opened = base, begin - begun
        self.split = self._settled_from = split
        self.settled = 0

    def map(self) -> str:
        """What it was when it was looked at, as text."""
        return ackmap.encode_split(self._base, self.run_lengths, self._opened, self._bits)
