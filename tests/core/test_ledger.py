"""The ledger: what may be committed, holes, what was read back, and the reservation behind the budget."""

from __future__ import annotations

import random

import pytest

from pelton.core import ackmap
from pelton.core.ackmap import TEXT_CHARS_MAX, AckMap
from pelton.core.ledger import Ledger
from pelton.core.window import NO_BITS


def admit(ledger: Ledger, *offsets: int) -> list[bool]:
    known = ledger.admit(*offsets)
    return [offset not in known for offset in offsets]


def settle(ledger: Ledger, *offsets: int) -> None:
    for offset in offsets:
        assert ledger.reserve(offset)
        ledger.settle(offset)
        ledger.unreserve()


def read_back(ledger: Ledger) -> AckMap:
    return ackmap.decode(ledger.committed, ledger.metadata())


def test_offset_zero_is_an_offset() -> None:
    ledger = Ledger(0)
    assert (ledger.committed, ledger.metadata(), len(ledger)) == (0, "", 0)
    admit(ledger, 0, 1)
    assert ledger.committed == 0
    settle(ledger, 0)
    assert ledger.committed == 1
    assert ledger.metadata() == ""


def test_it_commits_the_lowest_open_offset() -> None:
    ledger = Ledger(5)
    admit(ledger, 5, 6, 7, 8)
    settle(ledger, 6, 8)
    assert ledger.committed == 5
    assert ledger.settled_ranges() == [(6, 7), (8, 9)]
    settle(ledger, 5)
    assert ledger.committed == 7
    assert ledger.settled_ranges() == [(8, 9)]
    settle(ledger, 7)
    assert ledger.committed == 9
    assert ledger.settled_ranges() == []
    assert len(ledger) == 0


def test_what_was_lost_before_it_was_polled_is_passed() -> None:
    ledger = Ledger(3)
    ledger.skip_to(10)
    assert (ledger.committed, ledger.metadata()) == (10, "")
    admit(ledger, 10, 11)
    settle(ledger, 11)
    ledger.skip_to(40)
    # What is open is not lost, wherever the log begins now.
    assert ledger.committed == 10
    settle(ledger, 10)
    assert (ledger.committed, ledger.metadata()) == (40, "")


def test_holes_cost_nothing() -> None:
    ledger = Ledger(0)
    admit(ledger, 0, 100, 7_000, 7_001)
    # Nothing is settled between neighbours of the poll, so nothing is said of what lies between.
    assert ledger.settled_ranges() == []
    settle(ledger, 100)
    # The hole around a settled offset is said to be settled: one run instead of three.
    assert ledger.settled_ranges() == [(1, 101)]
    settle(ledger, 7_000)
    assert ledger.settled_ranges() == [(1, 7_001)]
    settle(ledger, 0)
    assert ledger.committed == 7_001


def test_a_hole_before_the_first_event_is_passed_with_it() -> None:
    ledger = Ledger(10)
    admit(ledger, 50)
    assert ledger.committed == 50
    settle(ledger, 50)
    assert ledger.committed == 51


@pytest.mark.parametrize("offset", [4, 3, 0])
def test_offsets_only_ascend(offset: int) -> None:
    ledger = Ledger(3)
    ledger.admit(4)
    with pytest.raises(AssertionError, match="came after"):
        ledger.admit(offset)
    with pytest.raises(AssertionError, match="ascending"):
        ledger.admit(9, 5 + offset)


def test_only_what_is_open_settles() -> None:
    ledger = Ledger(0)
    admit(ledger, 0, 1)
    settle(ledger, 1)
    for offset in (1, 2):
        with pytest.raises(AssertionError, match="not open"):
            ledger.settle(offset)


def test_a_reservation_is_given_back_once() -> None:
    ledger = Ledger(0)
    admit(ledger, 0)
    assert ledger.reserve(0)
    ledger.unreserve()
    with pytest.raises(AssertionError):
        ledger.unreserve()


def test_what_was_read_back_is_settled_already() -> None:
    ledger = Ledger(10, AckMap([(11, 13), (20, 22)]))
    assert admit(ledger, 10, 11, 12, 13) == [True, False, False, True]
    assert len(ledger) == 2


def test_what_was_read_back_is_committed_again_before_it_is_fetched_again() -> None:
    carried = AckMap([(11, 13), (20, 22)])
    ledger = Ledger(10, carried)
    assert (ledger.committed, read_back(ledger)) == (10, carried)
    admit(ledger, 10)
    assert (ledger.committed, read_back(ledger)) == (10, carried)
    admit(ledger, 11, 12)
    settle(ledger, 10)
    assert (ledger.committed, read_back(ledger)) == (13, AckMap([(20, 22)]))
    admit(ledger, *range(13, 21))
    assert read_back(ledger) == AckMap([(20, 22)])
    settle(ledger, 19)
    assert read_back(ledger) == AckMap([(19, 22)])
    settle(ledger, *range(13, 19))
    # 21 is not fetched again yet, and it is the very next one.
    assert (ledger.committed, read_back(ledger)) == (21, AckMap([(21, 22)]))
    admit(ledger, 21, 22)
    assert (ledger.committed, ledger.metadata()) == (22, "")


def test_what_was_read_back_stays_where_compaction_took_the_rest() -> None:
    ledger = Ledger(0, AckMap([(1, 2), (50, 60)]))
    # 0 to 2 and 50 to 57 are gone.
    assert admit(ledger, 3, 58, 59, 60) == [True, False, False, True]
    assert ledger.committed == 3
    assert read_back(ledger) == AckMap([(4, 60)])


def test_the_lowest_open_offset_may_always_start() -> None:
    chance = random.Random(2)
    ledger = Ledger(0)
    offset = 0
    opened = []
    for _ in range(2_000):
        offset += chance.randrange(1, 100_000)
        ledger.admit(offset)
        opened.append(offset)
    refused = [at for at in opened if not ledger.reserve(at)]
    assert refused, "the pattern is meant to exhaust the budget"
    assert ledger.reserve(opened[0])
    while len(ledger):
        lowest = ledger.committed
        assert ledger.reserve(lowest), lowest
        ledger.settle(lowest)
        ledger.unreserve()
        if lowest % 64 == 0:
            assert len(ledger.metadata()) <= TEXT_CHARS_MAX


def test_a_ragged_top_is_bits_whatever_settles_in_it() -> None:
    # The head waits. Calls near the top end here and there, so that run lengths of it would fill the map.
    ledger = Ledger(0)
    admit(ledger, *range(40_000))
    settle(ledger, *range(1, 26_000), *range(26_001, 29_500, 2))
    ranges = ledger.settled_ranges()
    assert ackmap.run_lengths_bytes(0, ranges) + 256 * 4 > ackmap.PAYLOAD_BYTES_MAX
    assert ledger.has_room(256)
    assert read_back(ledger) == AckMap(ranges)
    assert len(ledger.metadata()) < 700
    # The lower part goes on with what was the top.
    settle(ledger, *range(26_000, 29_500, 2), *range(29_501, 38_000, 2))
    assert read_back(ledger) == AckMap(ledger.settled_ranges())
    settle(ledger, *range(29_500, 38_000, 2))
    assert read_back(ledger) == AckMap([(1, 38_000)])
    settle(ledger, 0)
    assert (ledger.committed, ledger.metadata()) == (38_000, "")


def test_what_was_read_back_is_counted_until_it_is_polled_again() -> None:
    # A map of another process that is nearly full: few calls may start, and all of it fits at every moment.
    opened = range(0, 100_000, 70)
    carried = AckMap([(at + 5, at + 70) for at in opened])
    size_bytes = ackmap.run_lengths_bytes(0, carried.ranges)
    assert 0.9 * ackmap.PAYLOAD_BYTES_MAX < size_bytes < ackmap.PAYLOAD_BYTES_MAX
    ledger = Ledger(0, carried)
    ledger.admit(*range(1_000))
    assert not ledger.has_room(100)
    started = 0
    for first in range(1_000, 110_000, 1_000):
        ledger.admit(*range(first, first + 1_000))
        for offset in opened:
            # In the middle of what is open, so that there is a run more.
            if first <= offset + 2 < first + 1_000 and ledger.reserve(offset + 2):
                ledger.settle(offset + 2)
                ledger.unreserve()
                started += 1
        # Nothing that is settled had to be left out.
        assert read_back(ledger) == AckMap(ledger.settled_ranges())
    assert 20 < started < 200


def test_what_a_transaction_would_settle_is_open_until_it_has() -> None:
    ledger = Ledger(0)
    admit(ledger, *range(60_000))
    settle(ledger, *(offset for offset in range(1, 50_000) if offset % 50))
    before = ledger.metadata()
    for offset in range(50, 2_000, 50):
        assert ledger.reserve(offset)
    assert ledger.supposing(range(50, 2_000, 50)) != (0, before)
    assert ledger.metadata() == before
    settle(ledger, 2_000)
    assert not any(offset in read_back(ledger) for offset in range(50, 2_000, 50))


def test_calls_in_what_was_polled_since_it_was_measured_have_long_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ackmap, "PAYLOAD_BYTES_MAX", 64)
    monkeypatch.setattr(ackmap, "BITSET_OFFSETS_MAX", 512)
    ledger = Ledger(0)
    admit(ledger, *range(601))
    settle(ledger, *range(1, 601))
    # Run lengths alone, as where bits leave no room.
    ledger._looked(0, frozenset(), NO_BITS)
    ledger.admit(*range(601, 20_600))
    started = [offset for offset in range(800, 20_600, 200) if ledger.reserve(offset)]
    assert len(started) > 10
    for offset in reversed(started):
        ledger.settle(offset)
        assert not any(at in read_back(ledger) for at in started if at < offset)


def test_one_percent_open_scattered_over_106_000_offsets_fits() -> None:
    # The head waits, one key in a hundred waits with it, and all others go on, 256 calls out at once.
    chance = random.Random(7)
    ledger = Ledger(0)
    held = {0, *chance.sample(range(1, 106_000), 1_000)}
    out: list[int] = []
    # What is out has its worst case reserved, so a little less than all of it may be open at once.
    for offset in range(60_000):
        ledger.admit(offset)
        if offset in held:
            continue
        assert ledger.reserve(offset)
        out.append(offset)
        if len(out) == 256:
            ledger.settle(out.pop(0))
            ledger.unreserve()
    for offset in out:
        ledger.settle(offset)
        ledger.unreserve()
    assert len(ledger.metadata()) <= TEXT_CHARS_MAX
    # With one call out at a time the whole of it fits.
    whole = Ledger(0)
    for first in range(0, 106_000, 1_000):
        chunk = [
            offset for offset in range(first, first + 1_000) if not whole.admit(offset) and offset not in held
        ]
        assert whole.reserve(chunk[-1])
        for offset in chunk:
            whole.settle(offset)
        whole.unreserve()
    assert ackmap.run_lengths_bytes(0, whole.settled_ranges()) <= ackmap.PAYLOAD_BYTES_MAX
    assert read_back(whole) == AckMap(whole.settled_ranges())


def test_a_window_that_bits_can_hold_needs_no_counting() -> None:
    ledger = Ledger(0)
    for offset in range(ackmap.BITSET_OFFSETS_MAX + 1):
        ledger.admit(offset)
    # Every second one: the worst there is for run lengths.
    for offset in range(2, ackmap.BITSET_OFFSETS_MAX, 2):
        assert ledger.reserve(offset)
    # One more would make the window too wide for bits, with all of those still to come.
    assert not ledger.reserve(ackmap.BITSET_OFFSETS_MAX)
    for offset in range(2, ackmap.BITSET_OFFSETS_MAX, 2):
        ledger.settle(offset)
    assert len(ledger.metadata()) <= TEXT_CHARS_MAX


def test_a_split_without_a_lower_part_takes_no_more_than_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ackmap, "PAYLOAD_BYTES_MAX", 2)
    monkeypatch.setattr(ackmap, "BITSET_OFFSETS_MAX", 16)
    ledger = Ledger(7)
    admit(ledger, *range(7, 17))
    settle(ledger, 15)
    assert read_back(ledger) == AckMap([(15, 16)])


def test_a_hole_behind_the_window_does_not_widen_it() -> None:
    # Some 1 500 scattered gaps need the bits; the next event comes 10 000 000 offsets later.
    chance = random.Random(4)
    ledger = Ledger(0)
    for offset in range(20_000):
        ledger.admit(offset)
    keep = {0, *chance.sample(range(1, 19_999), 3_000)}
    settle(ledger, *(offset for offset in range(20_000) if offset not in keep))
    before = ledger.metadata()
    ledger.admit(10_000_000)
    assert ledger.metadata() == before
    assert read_back(ledger).end == 20_000


def adversary(seed: int, *, hole_max: int, out_max: int, hold: float) -> None:
    """Thousands of open offsets, started and settled in any order; the map must fit at every moment."""
    chance = random.Random(seed)
    ledger = Ledger(0)
    offset, out, idle, refused = -1, list[int](), list[int](), 0
    for step in range(6_000):
        if len(ledger) < 3_000:
            offset += 1 if hole_max == 1 or chance.random() < 0.5 else chance.randrange(1, hole_max)
            ledger.admit(offset)
            idle.append(offset)
        if len(out) < out_max and idle:
            at = len(idle) - 1 - min(len(idle) - 1, int(chance.expovariate(0.02)))
            if chance.random() > hold:
                if ledger.reserve(idle[at]):
                    out.append(idle.pop(at))
                else:
                    refused += 1
        if out and chance.random() < 0.9:
            offset_settled = out.pop(chance.randrange(len(out)))
            ledger.settle(offset_settled)
            ledger.unreserve()
        if step % 150 == 0:
            assert len(ledger.metadata()) <= TEXT_CHARS_MAX
    while out:
        ledger.settle(out.pop())
        ledger.unreserve()
    assert len(ledger.metadata()) <= TEXT_CHARS_MAX
    read = read_back(ledger)
    # A hole may be said to be settled: it never comes.
    assert all(read.__contains__(at) for start, end in ledger.settled_ranges() for at in (start, end - 1))
    assert not any(map(read.__contains__, idle))


@pytest.mark.parametrize("hole_max", [1, 3, 300, 40_000, 3_000_000])
@pytest.mark.parametrize("out_max", [1, 256])
def test_no_order_of_starts_and_ends_overflows_the_map(hole_max: int, out_max: int) -> None:
    adversary(hole_max * 1_000 + out_max, hole_max=hole_max, out_max=out_max, hold=0.1)


def test_every_reservation_may_settle() -> None:
    # Wide holes, so that bits do not help; everything that may start does, then all of it settles at once,
    # highest first, which is the worst order.
    for hole in (1, 130, 17_000, 2_100_000):
        ledger = Ledger(0)
        offsets = [at * hole for at in range(4_000)]
        for offset in offsets:
            ledger.admit(offset)
        started = [offset for offset in offsets[1::2] if ledger.reserve(offset)]
        assert started
        for offset in reversed(started):
            ledger.settle(offset)
        assert len(ledger.metadata()) <= TEXT_CHARS_MAX


def test_holes_between_far_neighbours_are_reserved_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # Settling one offset with wide holes around it makes a settled run as long as the holes: two long
    # varints, not one. With a small budget, exactly those that were allowed to start fit.
    monkeypatch.setattr(ackmap, "PAYLOAD_BYTES_MAX", 64)
    monkeypatch.setattr(ackmap, "BITSET_OFFSETS_MAX", 512)
    ledger = Ledger(0)
    offsets = [at * 20_000 for at in range(60)]
    for offset in offsets:
        ledger.admit(offset)
    started = [offset for offset in offsets[1::3] if ledger.reserve(offset)]
    assert started
    for offset in reversed(started):
        ledger.settle(offset)
        assert len(ledger.metadata()) <= 98


def room(ledger: Ledger) -> int:
    """For how many at once there is room."""
    return max(count for count in range(1_000) if ledger.has_room(count))


def far_apart(monkeypatch: pytest.MonkeyPatch) -> tuple[Ledger, list[int]]:
    """Where bits do not help, and the budget is soon used up."""
    monkeypatch.setattr(ackmap, "PAYLOAD_BYTES_MAX", 64)
    monkeypatch.setattr(ackmap, "BITSET_OFFSETS_MAX", 512)
    ledger = Ledger(0)
    offsets = [at * 20_000 for at in range(60)]
    ledger.admit(*offsets)
    return ledger, offsets


def test_there_is_room_for_as_many_at_once_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, offsets = far_apart(monkeypatch)
    count = room(ledger)
    assert [ledger.reserve(offset) for offset in reversed(offsets[1:])].count(True) == count > 1
    assert not ledger.has_room(1)


def test_what_is_only_supposed_makes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, offsets = far_apart(monkeypatch)
    for offset in offsets[1:7:2]:
        assert ledger.reserve(offset)
        ledger.settle(offset)
        ledger.unreserve()
    before = room(ledger)
    assert ledger.supposing(offsets[2:6:2])[0] == 0
    assert room(ledger) == before
    ledger.settle(*offsets[2:6:2])
    assert ledger.committed == 0
    ledger.metadata()
    assert room(ledger) > before


def test_a_map_that_compaction_lengthened_is_shortened_and_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two runs of 127, a byte each, that become 128 when the offset behind each is compacted away: in a
    # budget that was full the last one no longer fits, and repeats.
    monkeypatch.setattr(ackmap, "PAYLOAD_BYTES_MAX", 6)
    monkeypatch.setattr(ackmap, "BITSET_OFFSETS_MAX", 48)
    carried = AckMap([(200, 327), (600, 727)])
    assert ackmap.run_lengths_bytes(0, carried.ranges) == 6
    ledger = Ledger(0, carried)
    for offset in range(600):
        if offset != 327:
            ledger.admit(offset)
    assert ledger.committed == 0
    assert read_back(ledger) == AckMap([(200, 328)])
    assert ledger.admit(600) == {600}
