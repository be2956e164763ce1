"""A window split anywhere says what is settled, and what is kept of it is what would be found again."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from pelton.core.ackmap import AckMap, decode
from pelton.core.window import NO_BITS, Window

NONE: frozenset[int] = frozenset()


class Counted(dict[int, int]):
    """Open offsets, and how many of their ordinals were asked for."""

    asked = 0

    def __getitem__(self, offset: int) -> int:
        self.asked += 1
        return super().__getitem__(offset)


class Log:
    """Offsets as they were polled, with holes, and which of them are open."""

    def __init__(self, polled: Iterable[int]) -> None:
        self.polled = list(polled)
        self.opened = Counted({offset: ordinal for ordinal, offset in enumerate(self.polled)})
        self.top = 0

    def settle(self, *offsets: int) -> None:
        for offset in offsets:
            del self.opened[offset]
            self.top = max(self.top, offset + 1)

    def look(self, window: Window, split: int, gone: frozenset[int] = NONE) -> Window:
        base = min(self.opened.keys() - gone)
        reached = sum(offset < self.top for offset in self.polled)
        window.look(self.opened, gone, base, (self.top, reached, len(self.polled) - reached), split)
        return window

    def assert_said(self, window: Window, gone: frozenset[int] = NONE) -> None:
        """Nothing that is open is said to be settled, and all that is settled below the top is."""
        opened = self.opened.keys() - gone
        read = decode(min(opened), window.map())
        for offset in self.polled:
            assert (offset in read) == (offset not in opened and offset > min(opened)), offset
        assert read.end <= self.top


def scattered(seed: int) -> tuple[Log, random.Random]:
    chance = random.Random(seed)
    log = Log(offset for offset in range(2_000) if chance.random() < 0.9)
    log.settle(*(offset for offset in log.polled[1:] if chance.random() < offset / 1_500 and offset < 1_500))
    return log, chance


@pytest.mark.parametrize("split", [0, 1, 700, 1_499, 1_500, 1_700, NO_BITS])
def test_wherever_it_is_split_it_says_the_same(split: int) -> None:
    log, _ = scattered(1)
    # Of what was never polled either may be said.
    log.assert_said(log.look(Window(), split))


def test_the_upper_part_is_bits_and_the_lower_one_run_lengths() -> None:
    log = Log(range(100))
    log.settle(1, 2, 50, 60, 62)
    window = log.look(Window(), 40)
    assert (window.ranges, window.run_lengths) == ([(1, 3)], b"\x01\x02")
    assert decode(0, window.map()) == AckMap([(1, 3), (50, 51), (60, 61), (62, 63)])
    assert log.look(Window(), NO_BITS).ranges == [(1, 3), (50, 51), (60, 61), (62, 63)]


def test_a_run_goes_on_up_to_what_is_open_above_the_split() -> None:
    log = Log(range(100))
    log.settle(*range(30, 60), 70)
    window = log.look(Window(), 40)
    assert window.ranges == [(30, 60)]
    assert decode(0, window.map()) == AckMap([(30, 60), (70, 71)])


def test_what_is_gone_counts_as_settled() -> None:
    log, _ = scattered(2)
    gone = frozenset(list(log.opened)[:40:3])
    for split in (0, 600, NO_BITS):
        log.assert_said(log.look(Window(), split, gone), gone)


@pytest.mark.parametrize("seed", range(8))
def test_what_is_kept_is_what_would_be_found(seed: int) -> None:
    log, chance = scattered(seed)
    window, split = Window(), 900
    for _ in range(60):
        log.look(window, split)
        found = log.look(Window(), split)
        assert (window.ranges, window.run_lengths, window.map()) == (
            found.ranges,
            found.run_lengths,
            found.map(),
        )
        log.assert_said(window)
        low = list(log.opened)[: chance.choice([3, 30, 2_000])]
        ended = chance.sample(low, min(len(low), chance.randrange(1, 6)))
        log.settle(*ended)
        window.settle(ended)
        if not log.opened:
            break
        split = chance.choice([split, split, split + 100, split - 50, NO_BITS, 900])


def test_what_is_settled_below_is_counted_with_what_stands_at_the_split() -> None:
    log = Log(range(100))
    log.settle(10, 50, 80)
    window = log.look(Window(), 40)
    window.settle([39, 40, 41, 5])
    assert window.settled == 3
    log.settle(39, 40, 41, 5)
    assert log.look(window, 40).settled == 0


def test_what_has_not_changed_is_not_looked_at_again() -> None:
    log = Log(range(3_000))
    log.settle(*(offset for offset in range(2_000) if offset % 10))
    window = log.look(Window(), 1_900)
    assert log.opened.asked > 150
    for ended in (1_950, 1_990, 1_880):
        log.opened.asked = 0
        log.settle(ended)
        window.settle([ended])
        log.look(window, 1_900)
        assert log.opened.asked <= 6
    log.assert_said(window)
