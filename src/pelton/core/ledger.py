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
its end only shrinks the map. So there is no deadlock, only a stall behind a head that waits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from operator import lt

from pelton.core import ackmap
from pelton.core.ackmap import AckMap, Range

__all__ = ["Ledger"]

_ZERO = ord("0")
_NONE: frozenset[int] = frozenset()
#: A window of no more than this part of what bits can hold is quickest coded as bits, whatever is open in it.
_QUICK_AS_BITS_PART = 6


class Ledger:
    """Open offsets of one partition, from the committed offset `start` on.

    `carried` is the map read back beside `start`: offsets in it were settled before, by whoever owned the
    partition. It is kept, and committed again, until everything it speaks of was polled again.
    """

    __slots__ = (
        "_carried",
        "_carried_end",
        "_lowest",
        "_measured_bytes",
        "_next_ordinal",
        "_open",
        "_reserved",
        "_settled_since_measured",
        "_top",
        "next_offset",
    )

    def __init__(self, start: int, carried: AckMap = ackmap.EMPTY) -> None:
        #: One past the highest offset polled; where nothing is open, this is committed.
        self.next_offset = start
        #: One past the highest offset that is settled or may settle: as far as the map can reach.
        self._top = max(start, carried.end)
        #: The ordinal of each open offset.
        self._open: dict[int, int] = {}
        #: The lowest of them when it was last asked for; it may have left since.
        self._lowest = start
        self._next_ordinal = 0
        self._carried = carried
        self._carried_end = carried.end
        self._reserved = 0
        self._measured_bytes = -1
        self._settled_since_measured = 0

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
            settled = {offset for offset in offsets if offset in self._carried}
            ordinals = [at for at, offset in zip(ordinals, offsets, strict=True) if offset not in settled]
            offsets = [offset for offset in offsets if offset not in settled]
        self._open.update(zip(offsets, ordinals, strict=True))
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
        self._settled_since_measured += len(offsets)

    def reserve(self, offset: int) -> bool:
        """Make sure that the map still fits if `offset` settles; False means: do not start it now.

        Every reservation is given back by `unreserve` when the attempt has ended, after `settle` if it
        settled.
        """
        base = self.committed
        top = max(self._top, offset + 1)
        if offset != base:
            span = top - base
            if span > ackmap.BITSET_OFFSETS_MAX and not self._run_lengths_fit(span, 1):
                return False
        self._top = top
        self._reserved += 1
        return True

    def has_room(self, count: int) -> bool:
        """Whether so many may be reserved at once (`reserve_all`), whichever of those that were polled."""
        reach = max(self._top, self.next_offset)
        # What was the lowest is below what is now: enough, nearly always, and nobody looks for that.
        narrow = reach - ackmap.BITSET_OFFSETS_MAX
        if self._lowest >= narrow or not self._open or self.committed >= narrow:
            return True
        return self._run_lengths_fit(reach - self.committed, count)

    def reserve_all(self, offsets: Collection[int]) -> None:
        """`reserve` for each of these, for which there is room."""
        if offsets:
            self._top = max(self._top, max(offsets) + 1)
            self._reserved += len(offsets)

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
        if span > ackmap.BITSET_OFFSETS_MAX // _QUICK_AS_BITS_PART:
            run_lengths = ackmap.run_lengths(self._runs(base, gone))
            if not gone:
                # It is at hand: else a call would have it looked for again soon.
                self._measured(len(run_lengths))
            if span > ackmap.BITSET_OFFSETS_MAX or ackmap.is_short(run_lengths):
                return ackmap.encode_run_lengths(base, run_lengths)
        return ackmap.encode_bits(base, self._bits(base, span, gone))

    def _runs(self, base: int, gone: frozenset[int]) -> list[int]:
        """How many offsets from `base` on are open, how many then settled or `gone`, and so on."""
        runs: list[int] = []
        if len(self._open) == len(gone):
            return runs
        begun, at, ordinal_at = base, base, self._open[base]
        for offset, ordinal in self._open.items():
            if offset in gone:
                continue
            if ordinal != ordinal_at:
                runs.append(at - begun)
                runs.append(offset - at)
                begun = offset
            if offset >= self._top:
                # Of most windows only the beginning is settled here and there: the long rest is open.
                break
            at, ordinal_at = offset + 1, ordinal + 1
        else:
            if ordinal_at != self._next_ordinal:
                runs.append(at - begun)
                runs.append(self.next_offset - at)
                begun = self.next_offset
        if runs and begun > self._top:
            # A hole behind the highest settled offset would widen the window for nothing.
            runs[-1] -= begun - self._top
        return runs

    def _ranges(self, base: int, gone: frozenset[int]) -> list[Range]:
        """The same as ranges, and with them what was read back and is not polled again yet."""
        ranges: list[Range] = []
        at = base
        runs = iter(self._runs(base, gone))
        for opened, settled in zip(runs, runs, strict=True):
            at += opened + settled
            ranges.append((at - settled, at))
        for start, end in self._carried.ranges:
            if end <= self.next_offset:
                continue
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

    def _run_lengths_fit(self, span: int, more: int) -> bool:
        """Whether run lengths hold what is settled now and all that is reserved, and so many more."""
        # A split replaces one open run by two and a settled one between them; an end beyond the last
        # settled run adds an open run and a settled one. Either way one long varint more at most, and one
        # for the settled run: that is a single offset and the holes around it.
        holes_bytes = ackmap.varint_bytes(1 + self._holes())
        cost_bytes = holes_bytes + ackmap.varint_bytes(span)
        # Once more for the run that ends the map: it grows into the hole behind it when the map grows.
        room_bytes = ackmap.PAYLOAD_BYTES_MAX - holes_bytes
        if self._measured_bytes >= 0:
            pending = self._reserved + self._settled_since_measured + more
            if self._measured_bytes + pending * cost_bytes <= room_bytes:
                return True
            if self._settled_since_measured == 0:
                return False
        self._measured(ackmap.run_lengths_bytes(self.committed, self.settled_ranges()))
        return self._measured_bytes + (self._reserved + more) * cost_bytes <= room_bytes

    def _measured(self, size_bytes: int) -> None:
        """What is settled now takes so much as run lengths."""
        self._measured_bytes = size_bytes
        self._settled_since_measured = 0

    def _holes(self) -> int:
        """How many offsets of the window were never polled."""
        if self.next_offset < self._carried_end:
            # Those of the carried map that are not polled again yet may all turn out to be holes.
            return self._carried_end - self.committed
        return self.next_offset - self.committed - (self._next_ordinal - self._open[self.committed])
