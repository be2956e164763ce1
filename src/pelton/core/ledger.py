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

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from operator import lt

from pelton.core import ackmap
from pelton.core.ackmap import AckMap, Range

__all__ = ["Ledger"]

_ZERO = ord("0")


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

    def supposing(self, settled: Iterable[int]) -> Ledger:
        """A copy in which these are settled, too: what could be committed then. This one does not change.

        Its map fits if each of them holds a reservation.
        """
        then = Ledger(self.next_offset, self._carried)
        then._top, then._next_ordinal = self._top, self._next_ordinal
        then._open, then._lowest = dict(self._open), self._lowest
        then.settle(*settled)
        return then

    def reserve(self, offset: int) -> bool:
        """Make sure that the map still fits if `offset` settles; False means: do not start it now.

        Every reservation is given back by `unreserve` when the attempt has ended, after `settle` if it
        settled.
        """
        base = self.committed
        top = max(self._top, offset + 1)
        if offset != base:
            span = top - base
            if span > ackmap.BITSET_OFFSETS_MAX and not self._run_lengths_fit(span):
                return False
        self._top = top
        self._reserved += 1
        return True

    @property
    def roomy(self) -> bool:
        """One bit an offset reaches over all that was polled: every `reserve` succeeds."""
        reach = max(self._top, self.next_offset)
        # What was the lowest is below what is now: enough, nearly always, and nobody looks for that.
        room = reach - ackmap.BITSET_OFFSETS_MAX
        return self._lowest >= room or not self._open or self.committed >= room

    def reserve_roomy(self, offsets: Collection[int]) -> None:
        """The same for many, where it is `roomy`."""
        if offsets:
            self._top = max(self._top, max(offsets) + 1)
            self._reserved += len(offsets)

    def unreserve(self, count: int = 1) -> None:
        self._reserved -= count
        assert self._reserved >= 0

    def settled_ranges(self) -> list[Range]:
        """The settled offsets above the committed one: what the map must say."""
        ranges: list[Range] = []
        if self._open:
            at = self.committed
            expected = self._open[at] - 1
            # Of most windows only the beginning is settled here and there, and the long rest is open: once
            # as many ordinals are left as there are offsets, there is nothing settled between them.
            last, last_ordinal = next(reversed(self._open.items()))
            spread = last_ordinal - len(self._open)
            for index, (offset, ordinal) in enumerate(self._open.items()):
                if ordinal != expected:
                    if index:
                        ranges.append((at, offset))
                    if ordinal - index == spread + 1:
                        at, expected = last + 1, last_ordinal + 1
                        break
                at, expected = offset + 1, ordinal + 1
            if expected != self._next_ordinal:
                ranges.append((at, self.next_offset))
            # A hole behind the highest settled offset would widen the window for nothing.
            if ranges and ranges[-1][1] > self._top:
                ranges[-1] = (ranges[-1][0], self._top)
        if self._carried_end > self.next_offset:
            for start, end in self._carried.ranges:
                if end <= self.next_offset:
                    continue
                start = max(start, self.next_offset)
                if ranges and ranges[-1][1] == start:
                    ranges[-1] = (ranges[-1][0], end)
                else:
                    ranges.append((start, end))
        return ranges

    def _settled_bits(self, span: int) -> int:
        """The same of the first `span` offsets, one bit each: whatever is not open, holes included."""
        highest = self.committed + span - 1
        digits = bytearray(b"1") * span
        opened = list(self._open)
        for offset in islice(opened, bisect_right(opened, highest)):
            digits[highest - offset] = _ZERO
        return int(digits, 2) if digits else 0

    def metadata(self) -> str:
        """The ack map to commit beside `committed`."""
        if not self._open and self._carried_end <= self.next_offset:
            return ""
        if self._carried_end <= self.next_offset:
            # Nearly always: the window is as wide as what is open in memory, and nothing carried is in it.
            span = min(self._top, self.next_offset) - self.committed
            if span <= ackmap.BITSET_OFFSETS_MAX:
                return ackmap.encode_bits(self.committed, self._settled_bits(span))
        ranges = self.settled_ranges()
        if self.committed < self._carried_end:
            # What was read back fitted, but compaction has taken some of it since, and its runs may have
            # grown by a byte here and there. Its top repeats then after a restart; nothing is lost.
            ranges = ackmap.fitting(self.committed, ranges)
        return ackmap.encode(self.committed, ranges)

    def _run_lengths_fit(self, span: int) -> bool:
        """Whether run lengths hold what is settled now and all that is reserved, and one more."""
        # A split replaces one open run by two and a settled one between them; an end beyond the last
        # settled run adds an open run and a settled one. Either way one long varint more at most, and one
        # for the settled run: that is a single offset and the holes around it.
        holes_bytes = ackmap.varint_bytes(1 + self._holes())
        cost_bytes = holes_bytes + ackmap.varint_bytes(span)
        # Once more for the run that ends the map: it grows into the hole behind it when the map grows.
        room_bytes = ackmap.PAYLOAD_BYTES_MAX - holes_bytes
        if self._measured_bytes >= 0:
            pending = self._reserved + self._settled_since_measured + 1
            if self._measured_bytes + pending * cost_bytes <= room_bytes:
                return True
            if self._settled_since_measured == 0:
                return False
        self._measured_bytes = ackmap.run_lengths_bytes(self.committed, self.settled_ranges())
        self._settled_since_measured = 0
        return self._measured_bytes + (self._reserved + 1) * cost_bytes <= room_bytes

    def _holes(self) -> int:
        """How many offsets of the window were never polled."""
        if self.next_offset < self._carried_end:
            # Those of the carried map that are not polled again yet may all turn out to be holes.
            return self._carried_end - self.committed
        return self.next_offset - self.committed - (self._next_ordinal - self._open[self.committed])
