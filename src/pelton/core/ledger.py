"""The ledger of one partition: which offsets are open, and what may therefore be committed.

Rule 1: an offset is passed only when its event is settled; nothing else in Pelton computes a commit.
Rule 2: only offsets that were polled are tracked. What compaction, transactions and retention left out
between two of them never comes, so it costs nothing and counts as whatever is shorter to say.

The open offsets are few (the limits bound them), the settled ones are many, so the open ones are kept:
ascending, with the ordinal at which each was polled. Two open offsets with neighbouring ordinals have
nothing settled between them. They leave in any order, one by one, so they stand in a dictionary: it keeps the
order in which they came, and none has to be looked for.

Reservation. The committed map has a budget of bytes (`ackmap.PAYLOAD_BYTES_MAX`). A call that settles in
the middle of an open run splits it, which may cost two more runs. So that worst case is reserved before a
call starts, and a call that cannot reserve does not start. The lowest open offset needs no reservation:
its end only shrinks the map. So there is no deadlock, only a stall behind a head that waits. Where the top of
a wide window is bits, an end there costs nothing more (`window.py`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from operator import lt

from pelton.core import ackmap
from pelton.core.ackmap import AckMap, Range
from pelton.core.window import NO_BITS, Above, Window

__all__ = ["Ledger"]

_ZERO = ord("0")
_NONE: frozenset[int] = frozenset()
#: A window of no more than this part of what bits can hold is quickest coded as bits, whatever is open in it;
#: and of a wider one no more is, where it can be split.
_UPPER_PART = 3
#: Other splits are tried again when the window has grown by such a part of that.
_AGAIN_PART = 16


class Ledger:
    """Open offsets of one partition, from the committed offset `start` on.

    `carried` is the map read back beside `start`: offsets in it were settled before, by whoever owned the
    partition. It is kept, and committed again, until everything it speaks of was polled again.
    """

    __slots__ = (
        "_carried",
        "_carried_bytes",
        "_carried_end",
        "_lowest",
        "_most_open",
        "_next_ordinal",
        "_open",
        "_reached",
        "_reserved",
        "_top",
        "_tried_at",
        "_window",
        "next_offset",
    )

    def __init__(self, start: int, carried: AckMap = ackmap.EMPTY) -> None:
        #: One past the highest offset polled; where nothing is open, this is committed.
        self.next_offset = start
        #: One past the highest offset that is settled or may settle: as far as the map can reach.
        self._top = max(start, carried.end)
        #: The ordinal of the first that was polled at or beyond it.
        self._reached = 0
        #: The ordinal of each open offset.
        self._open: dict[int, int] = {}
        #: The lowest of them when it was last asked for; it may have left since.
        self._lowest = start
        self._next_ordinal = 0
        self._carried = carried
        self._carried_end = carried.end
        self._reserved = 0
        #: As it was when a commit, or a call, last asked.
        self._window = Window()
        #: The most that were open at once since.
        self._most_open = 0
        #: What of the map read back was not polled again then.
        self._carried_bytes = self._unpolled_bytes()
        #: How far it was to reach when other splits were tried last.
        self._tried_at = start - ackmap.BITSET_OFFSETS_MAX

    def __len__(self) -> int:
        """How many offsets are open."""
        return len(self._open)

    @property
    def committed(self) -> int:
        """The next offset to read after a restart: the lowest open one, or the next one of all."""
        if not self._open:
            return self.next_offset
        if self._lowest not in self._open:
            self._lowest = next(iter(self._open))
        return self._lowest

    def admit(self, *polled: int) -> Collection[int]:
        """Events were polled, ascending. Returns those that the map read back has settled already."""
        offsets: Sequence[int] = polled
        if not offsets:
            return ()
        assert offsets[0] >= self.next_offset, f"offset {offsets[0]} came after {self.next_offset - 1}"
        assert all(map(lt, offsets, islice(offsets, 1, None))), f"offsets come ascending: {offsets}"
        self.next_offset = offsets[-1] + 1
        first = self._next_ordinal
        self._next_ordinal = first + len(offsets)
        ordinals: Iterable[int] = range(first, self._next_ordinal)
        settled: Collection[int] = ()
        if offsets[0] < self._carried_end:
            self._reached = first + bisect_left(offsets, self._top)
            settled = {offset for offset in offsets if offset in self._carried}
            ordinals = [at for at, offset in zip(ordinals, offsets, strict=True) if offset not in settled]
            offsets = [offset for offset in offsets if offset not in settled]
        self._open.update(zip(offsets, ordinals, strict=True))
        self._most_open = max(self._most_open, len(self._open))
        return settled

    def skip_to(self, offset: int) -> None:
        """What is below this and was not polled never comes."""
        assert offset >= self.next_offset, f"offset {self.next_offset - 1} came, and is below {offset}"
        self.next_offset = offset

    def settle(self, *offsets: int) -> None:
        """The events at these have reached their ends, durably."""
        opened = self._open
        for offset in offsets:
            try:
                del opened[offset]
            except KeyError:
                raise AssertionError(f"offset {offset} is not open") from None
        self._window.settle(offsets)

    def reserve(self, offset: int) -> bool:
        """Make sure that the map still fits if `offset` settles; False means: do not start it now.

        Every reservation is given back by `unreserve` when the attempt has ended, after `settle` if it
        settled.
        """
        base = self.committed
        if offset != base:
            reach = max(self._top, offset + 1)
            if reach - base > ackmap.BITSET_OFFSETS_MAX and not self._fits(reach, 1):
                return False
        self._reach(offset)
        self._reserved += 1
        return True

    def has_room(self, count: int) -> bool:
        """Whether so many may be reserved at once (`reserve_all`), whichever of those that were polled."""
        reach = max(self._top, self.next_offset)
        # What was the lowest is below what is now: enough, nearly always, and nobody looks for that.
        narrow = reach - ackmap.BITSET_OFFSETS_MAX
        if self._lowest >= narrow or not self._open or self.committed >= narrow:
            return True
        return self._fits(reach, count)

    def reserve_all(self, offsets: Collection[int]) -> None:
        """`reserve` for each of these, for which there is room."""
        if offsets:
            self._reach(max(offsets))
            self._reserved += len(offsets)

    def _reach(self, offset: int) -> None:
        """This one, which is open, may settle."""
        if offset >= self._top:
            self._top = offset + 1
            self._reached = self._open[offset] + 1

    def unreserve(self, count: int = 1) -> None:
        self._reserved -= count
        assert self._reserved >= 0

    def metadata(self) -> str:
        """The ack map to commit beside `committed`."""
        return self._map(self.committed, _NONE)

    def supposing(self, settled: Iterable[int]) -> tuple[int, str]:
        """What could be committed if these, which are open, were settled, too: the offset and its ack map.

        The map fits if each of them holds a reservation.
        """
        gone = frozenset(settled)
        assert gone <= self._open.keys(), f"offsets {sorted(gone - self._open.keys())} are not open"
        for offset in self._open:
            if offset not in gone:
                return offset, self._map(offset, gone)
        return self.next_offset, self._map(self.next_offset, gone)

    def settled_ranges(self) -> list[Range]:
        """The settled offsets above the committed one: what the map must say."""
        return self._ranges(self.committed, _NONE)

    def _map(self, base: int, gone: frozenset[int]) -> str:
        """What to commit beside `base`, the lowest that is open and not `gone`."""
        if base < self._carried_end:
            # What was read back fitted, but compaction has taken some of it since, and its runs may have
            # grown by a byte here and there. Its top repeats then after a restart; nothing is lost.
            return ackmap.encode(base, ackmap.fitting(base, self._ranges(base, gone)))
        if len(self._open) == len(gone):
            return ""
        span = min(self._top, self.next_offset) - base
        if span > _upper_max():
            is_wide = span > ackmap.BITSET_OFFSETS_MAX
            # Where bits would do for all of it, it may be split anywhere; else where there is room for that.
            window = self._looked(base, gone, self._window.split if is_wide else self._split())
            if is_wide or (window.ranges and ackmap.is_short(window.run_lengths)):
                return window.map()
        return ackmap.encode_bits(base, self._bits(base, span, gone))

    def _looked(self, base: int, gone: frozenset[int], split: int) -> Window:
        """The window from `base` on, the lowest that is open and not `gone`."""
        window = Window() if gone else self._window
        window.look(self._open, gone, base, self._above(), split)
        if not gone:
            self._most_open = len(self._open)
            self._carried_bytes = self._unpolled_bytes()
        return window

    def _above(self) -> Above:
        return min(self._top, self.next_offset), self._reached, self._next_ordinal - self._reached

    def _unpolled(self) -> list[Range]:
        """What was read back and is not polled again yet; the first of it may have begun below."""
        if self.next_offset >= self._carried_end:
            return []
        return [one for one in self._carried.ranges if one[1] > self.next_offset]

    def _unpolled_bytes(self) -> int:
        return ackmap.run_lengths_bytes(self.committed, self._unpolled())

    def _split(self) -> int:
        """Where to split so that not too many are bits: where it is, as long as that will do."""
        at = self._window.split
        return at if 0 <= self._top - at <= _upper_max() else self._top - _upper_max() // 2

    def _ranges(self, base: int, gone: frozenset[int]) -> list[Range]:
        """What is settled or `gone` above `base`, and what was read back and is not polled again yet."""
        ranges: list[Range] = []
        if len(self._open) > len(gone):
            window = Window()
            window.look(self._open, gone, base, self._above(), NO_BITS)
            ranges = window.ranges
        for start, end in self._unpolled():
            start = max(start, self.next_offset)
            if ranges and ranges[-1][1] == start:
                ranges[-1] = (ranges[-1][0], end)
            else:
                ranges.append((start, end))
        return ranges

    def _bits(self, base: int, span: int, gone: frozenset[int]) -> int:
        """The same of the first `span` offsets, one bit each: whatever is not open, holes included."""
        highest = base + span - 1
        digits = bytearray(b"1") * span
        for offset in self._open:
            if offset > highest:
                # Most of what is open has not been touched for a while, and need not be now.
                break
            if offset not in gone:
                digits[highest - offset] = _ZERO
        return int(digits, 2) if digits else 0

    def _fits(self, reach: int, more: int) -> bool:
        """Whether a wide map holds what is settled and reserved now, and so many more below `reach`."""
        at = self._window.split
        has_room = self._has_room(reach, more)
        if has_room and self._top - at <= _upper_max():
            return True
        if self.next_offset < self._carried_end or reach - self._tried_at < _upper_max() // _AGAIN_PART:
            if has_room or not self._window.settled:
                return has_room
            splits = [at]
        else:
            # Bits tell of every offset, also where hardly anything is open, or most was never there. Last as
            # it is split now, which has room for what is reserved.
            splits = [self._split(), NO_BITS, at]
            self._tried_at = reach
        for split in splits:
            self._looked(self.committed, _NONE, split)
            if self._has_room(reach, more):
                return True
        return False

    def _has_room(self, reach: int, more: int) -> bool:
        """The same, of a window that is split where it is."""
        # Below, a split replaces one open run by two and a settled one between them; an end beyond the last
        # settled run adds an open run and a settled one. Either way a varint for the settled run, which is a
        # single offset and the holes around it, and one no longer than of the part below: open, or a hole.
        window, holes = self._window, self._holes()
        holes_bytes = ackmap.varint_bytes(1 + holes)
        cost_bytes = holes_bytes + ackmap.varint_bytes(self._most_open + holes)
        # Once more for the run that ends the map: it grows into the hole behind it when the map grows.
        size_bytes = holes_bytes + (self._reserved + window.settled + more) * cost_bytes
        size_bytes += len(window.run_lengths) + self._carried_bytes
        upper = reach - max(window.split, self.committed)
        if upper > 0:
            # Above, whatever settles is a bit. And how long either part is, and the run between them, which
            # may be cut in two.
            size_bytes += 2 + -(-upper // 8) + 3 * ackmap.varint_bytes(reach - self.committed)
        return size_bytes <= ackmap.PAYLOAD_BYTES_MAX

    def _holes(self) -> int:
        """How many offsets of the window were never polled."""
        if self.next_offset < self._carried_end:
            # Those of the carried map that are not polled again yet may all turn out to be holes.
            return self._carried_end - self.committed
        return self.next_offset - self.committed - (self._next_ordinal - self._open[self.committed])


def _upper_max() -> int:
    """How many offsets of a window are bits at most, where it can be split."""
    return ackmap.BITSET_OFFSETS_MAX // _UPPER_PART
