"""The ledger against a plain set model, with a budget so small that every bound is reached.

The log has holes from the start, and compaction makes more. Offsets are polled in order, start and end in
any order, and at any moment the process dies and another begins from what was committed last.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pelton.core import ackmap
from pelton.core.ackmap import AckMap
from pelton.core.ledger import Ledger
from pelton.core.window import NO_BITS, Window
from tests.properties.profile import tried


def copied(ledger: Ledger) -> Ledger:
    """One that goes its own way from here on. (What is compiled has no copy of its own.)"""
    then = Ledger(ledger.next_offset, ledger._carried)
    then._open = dict(ledger._open)
    then._top, then._reached, then._most_open = ledger._top, ledger._reached, ledger._most_open
    then._next_ordinal, then._lowest = ledger._next_ordinal, ledger._lowest
    then._reserved, then._tried_at = ledger._reserved, ledger._tried_at
    then._carried_bytes = ledger._carried_bytes
    window, its = then._window, ledger._window
    window.ranges, window._coded = list(its.ranges), list(its._coded)
    window._base, window.run_lengths, window._opened = its._base, its.run_lengths, its._opened
    window._bits, window.split = its._bits, its.split
    window.settled, window._settled_from = its.settled, its._settled_from
    return then


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patches: list[Any] = []
        self.log: list[int] = []
        #: As the auditor sees it: settled for good, and settled but known to the lost process only.
        self.settled: set[int] = set()
        self.polled = 0
        self.open: set[int] = set()
        self.reserved: set[int] = set()

    @initialize(
        budget=st.sampled_from([2, 4, 7, 12, 30, 3_063]),
        gaps=st.lists(
            st.one_of(st.just(1), st.just(1), st.integers(1, 4), st.integers(100, 400), st.just(20_000)),
            min_size=1,
            max_size=120,
        ),
    )
    def begin(self, budget: int, gaps: list[int]) -> None:
        self.patches = [
            patch.object(ackmap, "PAYLOAD_BYTES_MAX", budget),
            patch.object(ackmap, "BITSET_OFFSETS_MAX", budget * 8),
        ]
        for one in self.patches:
            one.start()
        offset = -1
        for gap in gaps:
            offset += gap
            self.log.append(offset)
        self.ledger = Ledger(0)
        self.committed: tuple[int, str] = (0, "")

    def teardown(self) -> None:
        for one in self.patches:
            one.stop()

    @rule(count=st.integers(1, 30))
    def poll(self, count: int) -> None:
        polled = self.log[self.polled : self.polled + count]
        self.polled += len(polled)
        known = set(self.ledger.admit(*polled))
        assert known <= self.settled, f"{known - self.settled} were never settled and are passed over"
        # The others may have been settled by a process that died before it could say so.
        self.settled.difference_update(set(polled) - known)
        self.open.update(set(polled) - known)

    @rule(cut=st.integers(1, 30), beyond=st.integers(0, 300))
    def lose_to_retention(self, cut: int, beyond: int) -> None:
        """The log begins behind what was polled now, with a hole or without."""
        unread = self.log[self.polled : self.polled + cut]
        start = max(self.ledger.next_offset, unread[-1] + 1 if unread else 0)
        if len(unread) < len(self.log) - self.polled:
            start = min(start + beyond, self.log[self.polled + len(unread)])
        del self.log[self.polled : self.polled + len(unread)]
        self.ledger.skip_to(start)

    @precondition(lambda self: self.open - self.reserved)
    @rule(data=st.data(), count=st.integers(1, 10))
    def reserve(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            idle = sorted(self.open - self.reserved)
            if not idle:
                return
            offset = data.draw(st.sampled_from(idle))
            if self.ledger.reserve(offset):
                self.reserved.add(offset)
            else:
                assert offset != min(self.open), "the lowest may always start"

    @precondition(lambda self: self.open - self.reserved)
    @rule(data=st.data())
    def reserve_many(self, data: st.DataObject) -> None:
        many = data.draw(st.lists(st.sampled_from(sorted(self.open - self.reserved)), unique=True))
        if not self.ledger.has_room(len(many)):
            return
        one_by_one = copied(self.ledger)
        assert all(one_by_one.reserve(offset) for offset in many), "there was room for all"
        self.ledger.reserve_all(many)
        assert self.ledger.metadata() == one_by_one.metadata()
        self.reserved.update(many)

    @precondition(lambda self: self.reserved)
    @rule(data=st.data(), count=st.integers(1, 10))
    def settle(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            if not self.reserved:
                return
            offset = data.draw(st.sampled_from(sorted(self.reserved)))
            self.ledger.settle(offset)
            self.ledger.unreserve()
            self.reserved.discard(offset)
            self.open.discard(offset)
            self.settled.add(offset)

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        self.reserved.discard(data.draw(st.sampled_from(sorted(self.reserved))))
        self.ledger.unreserve()

    @rule()
    def commit(self) -> None:
        self.committed = (self.ledger.committed, self.ledger.metadata())

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def suppose(self, data: st.DataObject) -> None:
        """What a transaction would commit is what is committed when all in it has ended."""
        ending = data.draw(st.sets(st.sampled_from(sorted(self.reserved))))
        ended = copied(self.ledger)
        ended.settle(*ending)
        assert self.ledger.supposing(ending) == (ended.committed, ended.metadata())

    @rule(compacted=st.sets(st.integers(0, 119), max_size=20))
    def die_and_begin_again(self, compacted: set[int]) -> None:
        gone = {self.log[at] for at in compacted if at < len(self.log)}
        self.log = [offset for offset in self.log if offset not in gone]
        offset, metadata = self.committed
        self.ledger = Ledger(offset, ackmap.decode(offset, metadata))
        self.polled = sum(at < offset for at in self.log)
        self.open, self.reserved = set(), set()

    @invariant()
    def what_is_committed_is_true(self) -> None:
        if not hasattr(self, "ledger"):
            return
        committed = self.ledger.committed
        expected = min(self.open, default=None)
        assert committed == expected if expected is not None else committed >= self.ledger.next_offset
        # It fits, is read back as it was meant, and speaks of nothing that is open.
        read = ackmap.decode(committed, self.ledger.metadata())
        assert not any(offset in read for offset in self.open)
        for offset in self.log:
            if offset < committed or offset in read:
                assert offset in self.settled, f"{offset} would be lost"
        assert len(self.ledger) == len(self.open)

    @invariant()
    def what_is_kept_is_as_it_would_be_found(self) -> None:
        if not hasattr(self, "ledger") or not self.open:
            return
        kept, ledger = copied(self.ledger), copied(self.ledger)
        ledger._window = Window()
        for split in (kept._window.split, kept._window.split + 5, NO_BITS, kept.next_offset - 40):
            one, other = (each._looked(each.committed, frozenset(), split) for each in (kept, ledger))
            assert (one.ranges, one.run_lengths) == (other.ranges, other.run_lengths)
            assert (one._opened, one._bits) == (other._opened, other._bits)
            ledger._window = Window()

    @invariant()
    def what_is_settled_is_said(self) -> None:
        """As long as compaction has not moved what was read back, nothing that is settled is left unsaid."""
        if not hasattr(self, "ledger"):
            return
        committed, ledger = self.ledger.committed, self.ledger
        if committed < ledger._carried_end:
            return
        read = AckMap(ledger.settled_ranges())
        for offset in self.log[: self.polled]:
            assert (offset < committed or offset in read) == (offset not in self.open)


LedgerMachine.TestCase.settings = tried(150, steps=40)
TestLedger = LedgerMachine.TestCase
