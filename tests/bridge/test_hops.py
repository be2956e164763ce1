"""The sink of hops among fakes: one transaction at a time, no commit beside it, nobody blamed for another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count
from typing import cast

import pytest

from pelton.bridge import hops as module
from pelton.bridge.hops import (
    GATHER_S,
    GATHERED_MAX_S,
    GATHERED_S,
    GATHERED_TO_TOOK,
    TRIES_MAX,
    AtomicSink,
)
from pelton.bridge.logs import PumpLog
from pelton.core.actions import Commit, Hop
from pelton.core.delivery import Delivery
from pelton.core.followed import Kind
from pelton.core.outcome import Outcome, Status
from pelton.event import Partition
from pelton.kafka.committing import OnQuiet, Quiet
from pelton.kafka.notes import note_of
from pelton.kafka.records import Outgoing
from pelton.kafka.transactions import Ended, Refused
from tests.bridge.stage import Stage, event, until

WRONG = Outcome(Status.INVALID_ARGUMENT, "no")
METADATA = b"metadata"


class FakeWriter:
    """Notes every transaction, and ends the last one when told to."""

    def __init__(self) -> None:
        self.unprepared: str | None = None
        self.written: list[tuple[list[int], dict[Partition, Commit]]] = []
        #: Of the last one.
        self.records: list[Outgoing] = []
        self._hops: list[Hop] = []
        self._on_ended: Callable[[Ended[Hop]], None] | None = None

    def prepare(self, on_prepared: Callable[[str | None], None]) -> None:
        asyncio.get_running_loop().call_soon(on_prepared, self.unprepared)

    def submit(
        self,
        records: Sequence[tuple[Hop, Outgoing]],
        commits: Mapping[Partition, Commit],
        quiet: Quiet,
        on_ended: Callable[[Ended[Hop]], None],
    ) -> None:
        assert self._on_ended is None, "one at a time"
        assert quiet.group_metadata == METADATA
        self._hops = [hop for hop, _ in records]
        self.records = [record for _, record in records]
        self._on_ended = on_ended
        self.written.append(([hop.delivery.event.offset for hop in self._hops], dict(commits)))

    @property
    def is_open(self) -> bool:
        return self._on_ended is not None

    def end(self, error: str | None = None, refused: Sequence[int] = (), unknown: bool = False) -> None:
        assert self._on_ended is not None
        told, self._on_ended = self._on_ended, None
        refusals = tuple(
            Refused(hop, "too large", at_fault=True)
            for hop in self._hops
            if hop.delivery.event.offset in refused
        )
        told(Ended("refused" if refusals else error, refusals, unknown))


class Gathering:
    """The sink's loop: counts what is waited for others, and waits for nothing. Time passes when told to."""

    def __init__(self) -> None:
        self.waits_s: list[float] = []
        #: What happens during each wait.
        self.meanwhile: Callable[[], None] = lambda: None
        self._loop = asyncio.get_running_loop()
        self._now_s = 1_000.0

    def takes(self, seconds: float) -> None:
        self._now_s += seconds

    def time(self) -> float:
        return self._now_s

    def call_soon(self, callback: Callable[..., None], *args: object) -> asyncio.Handle:
        return self._loop.call_soon(callback, *args)

    def call_later(self, delay_s: float, callback: Callable[..., None], *args: object) -> asyncio.Handle:
        self.waits_s.append(delay_s)
        self.meanwhile()
        return self._loop.call_soon(callback, *args)


class Hopping(Stage):
    """A stage whose sink is the real one; the consumer's quiet comes when told to, or at once."""

    def __init__(self, *, follow: bool = False, gathering: Gathering | None = None) -> None:
        super().__init__(follow=follow, attempts=1)
        self.writer = FakeWriter()
        self.asked: list[tuple[set[Partition], OnQuiet]] = []
        self.quiet_at_once = True
        sink = AtomicSink(
            self.pump,
            self.writer,
            self._quiet,
            lambda hop: Outgoing("dlq.s", hop.delivery.event.key, b"letter"),
            asyncio.get_running_loop() if gathering is None else cast(asyncio.AbstractEventLoop, gathering),
            PumpLog("s"),
        )
        self.pump._sink = sink

    def _quiet(self, partitions: Collection[Partition], on_quiet: OnQuiet) -> None:
        self.asked.append((set(partitions), on_quiet))
        if self.quiet_at_once:
            asyncio.get_running_loop().call_soon(self.be_quiet)

    def be_quiet(self, *, ours: Collection[Partition] | None = None, refused: bool = False) -> None:
        partitions, on_quiet = self.asked[-1]
        topic_ids = dict.fromkeys(partitions if ours is None else ours, "")
        on_quiet(None if refused else Quiet(topic_ids, METADATA))

    def fail(self, *offsets: int) -> None:
        self.transport.answer(*((self.delivery(offset), WRONG) for offset in offsets))

    async def opens(self) -> None:
        await until(lambda: self.writer.is_open, "a transaction to be written")

    @property
    def dead(self) -> int:
        return self.pump.tally.dead_lettered


def hopping(events: int = 3, *, gathering: Gathering | None = None) -> Hopping:
    stage = Hopping(gathering=gathering)
    stage.assign(0)
    stage.feed(*(event(offset, key=None) for offset in range(events)))
    return stage


async def test_a_transaction_carries_the_commit_and_none_goes_beside_it() -> None:
    stage = hopping(4)
    stage.fail(1, 2)
    await stage.opens()
    assert [offsets for offsets, _ in stage.writer.written] == [[1, 2]]
    commit = stage.writer.written[0][1][Partition("t", 0)]
    assert commit.offset == 0
    assert commit.metadata
    before = len(stage.source.of("commit"))
    stage.ack(0, 3)
    # Nothing is open but what is in the transaction: without one this would be committed at once.
    await asyncio.sleep(0)
    assert len(stage.source.of("commit")) == before
    stage.writer.end()
    await until(lambda: stage.source.committed.get(Partition("t", 0)) == Commit(4, ""), "the commit after it")
    assert stage.dead == 2
    assert stage.holds()


async def test_what_comes_meanwhile_is_in_the_next_one() -> None:
    stage = hopping()
    stage.fail(0)
    await stage.opens()
    stage.fail(1)
    stage.fail(2)
    stage.writer.end()
    await stage.opens()
    stage.writer.end()
    assert [offsets for offsets, _ in stage.writer.written] == [[0], [1, 2]]
    assert stage.dead == 3


async def test_the_longer_others_come_the_longer_it_waits_and_not_for_ever() -> None:
    gathering = Gathering()
    stage = hopping(20, gathering=gathering)
    offsets = count()
    gathering.meanwhile = lambda: stage.fail(next(offsets))
    stage.fail(next(offsets))
    await stage.opens()
    assert gathering.waits_s == pytest.approx([0.01, 0.02, 0.04, 0.08])
    assert sum(gathering.waits_s) == pytest.approx(GATHERED_S)
    assert [offsets for offsets, _ in stage.writer.written] == [[0, 1, 2, 3, 4]]


async def test_what_nobody_joins_waits_once() -> None:
    gathering = Gathering()
    stage = hopping(gathering=gathering)
    stage.fail(0)
    await stage.opens()
    assert gathering.waits_s == [GATHER_S]


@pytest.mark.parametrize(
    ("took_s", "in_all_s"),
    [(0.001, GATHERED_S), (0.03, GATHERED_TO_TOOK * 0.03), (8.0, GATHERED_MAX_S)],
    ids=["quick", "slow", "hardly there"],
)
async def test_the_slower_the_broker_the_longer_it_gathers(took_s: float, in_all_s: float) -> None:
    gathering = Gathering()
    stage = hopping(20, gathering=gathering)
    offsets = count()
    stage.fail(next(offsets))
    await stage.opens()
    gathering.takes(took_s)
    stage.writer.end()
    gathering.waits_s.clear()
    gathering.meanwhile = lambda: stage.fail(next(offsets))
    stage.fail(next(offsets))
    await stage.opens()
    assert sum(gathering.waits_s) == pytest.approx(in_all_s)


async def test_letters_of_other_keys_leave_the_broker_alone_for_a_while() -> None:
    gathering = Gathering()
    gathering.meanwhile = lambda: gathering.takes(gathering.waits_s[-1])
    stage = Hopping(gathering=gathering)
    stage.assign(0)
    stage.feed(*(event(offset, key=key) for offset, key in enumerate((b"a", b"a", b"b", b"a", b"b"))))

    async def written_after(*offsets: int) -> list[float]:
        gathering.waits_s.clear()
        stage.fail(*offsets)
        await stage.opens()
        gathering.takes(0.01)
        stage.writer.end()
        await until(lambda: stage.dead == sum(len(each) for each, _ in stage.writer.written), "its end")
        return gathering.waits_s

    assert await written_after(0) == [GATHER_S]
    # The next one of the same key has waited for the transaction.
    assert await written_after(1) == [GATHER_S]
    # Another key's has not: ten times what the one before took.
    assert await written_after(2) == pytest.approx([GATHER_S, GATHERED_TO_TOOK * 0.01 - GATHER_S])
    # One of two has, so it is half of that.
    assert await written_after(3, 4) == pytest.approx([GATHER_S, GATHERED_TO_TOOK * 0.01 / 2 - GATHER_S])
    # Long after the last one there is nothing to be left alone by.
    stage.feed(event(5, key=b"c"))
    gathering.takes(1.0)
    assert await written_after(5) == [GATHER_S]
    # What has no key has waited for nobody's.
    stage.feed(event(6, key=None), event(7, key=None))
    gathering.takes(1.0)
    assert await written_after(6) == [GATHER_S]
    assert await written_after(7) == pytest.approx([GATHER_S, GATHERED_TO_TOOK * 0.01 - GATHER_S])
    assert [offsets for offsets, _ in stage.writer.written] == [[0], [1], [2], [3, 4], [5], [6], [7]]


@pytest.mark.parametrize("full", ["HOPS_MAX", "BYTES_MAX"])
async def test_a_transaction_that_is_full_waits_for_nobody(
    full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than the test may take.
    monkeypatch.setattr(module, "GATHER_S", 3600.0)
    stage = hopping(7)
    size_bytes = stage.delivery(0).size_bytes
    monkeypatch.setattr(module, full, 3 if full == "HOPS_MAX" else 3 * size_bytes)
    stage.fail(0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not stage.writer.is_open, "it waits for others"
    stage.fail(1, 2)
    await stage.opens()
    # As many again are there when it has ended; then one that is alone once more.
    stage.fail(3, 4, 5)
    stage.writer.end()
    await stage.opens()
    stage.writer.end()
    assert [offsets for offsets, _ in stage.writer.written] == [[0, 1, 2], [3, 4, 5]]
    stage.fail(6)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not stage.writer.is_open, "what has left fills it no more"


async def test_nothing_is_written_before_it_is_quiet() -> None:
    stage = hopping()
    stage.quiet_at_once = False
    stage.fail(0)
    await until(lambda: stage.asked, "quiet to be asked for")
    assert stage.writer.written == []
    stage.ack(1)
    stage.be_quiet()
    # What was settled until then is in it.
    assert stage.writer.written[0][1][Partition("t", 0)] == Commit(2, "")


async def test_it_is_tried_again_and_then_given_to_the_outbox() -> None:
    stage = hopping(1)
    stage.fail(0)
    for _ in range(TRIES_MAX):
        await stage.opens()
        stage.writer.end("illegal generation")
    assert len(stage.writer.written) == TRIES_MAX
    assert stage.pump.tally.dead_letters_failed == 1
    (engine,) = stage.pump.engines
    assert engine.unwritten == 1
    assert not engine.due.held


async def test_the_refused_one_is_found_and_the_others_go_without_it() -> None:
    stage = hopping(8)
    stage.fail(*range(8))
    # The broker refuses all records of a batch in which one is too large: here the upper four.
    await stage.opens()
    stage.writer.end(refused=range(4, 8))
    while stage.dead < 7:
        await stage.opens()
        offsets = stage.writer.written[-1][0]
        stage.writer.end(refused=offsets if 6 in offsets else ())
    assert [offsets for offsets, _ in stage.writer.written] == [
        list(range(8)), [0, 1, 2, 3], [4, 5], [6, 7], [6], [7],
    ]  # fmt: skip
    (engine,) = stage.pump.engines
    assert engine.unwritten == 1
    assert stage.holds()


async def test_the_refused_one_goes_alone_when_it_comes_again() -> None:
    stage = hopping(2)
    stage.fail(0, 1)
    await stage.opens()
    stage.writer.end(refused=[0])
    await stage.opens()
    stage.writer.end()
    # The outbox's wait is over, and another one fails with it.
    (engine,) = stage.pump.engines
    engine.on_tick(float(engine.next_deadline()))
    stage.feed(event(2, key=None))
    stage.pump._turn(stage.pump._now_ms())
    await stage.opens()
    assert stage.writer.written[-1][0] == [0]
    stage.writer.end()
    assert stage.dead == 2


async def test_a_partition_that_goes_takes_its_hops_along() -> None:
    stage = hopping()
    stage.assign(1)
    stage.feed(event(0, key=None, partition=1))
    stage.quiet_at_once = False
    stage.fail(0)
    stage.transport.answer((stage.delivery(0, 1), WRONG))
    await until(lambda: stage.asked, "quiet to be asked for")
    stage.pump.on_lost([Partition("t", 1)])
    stage.quiet_at_once = True
    stage.be_quiet(ours=[Partition("t", 0)])
    await stage.opens()
    assert list(stage.writer.written[-1][1]) == [Partition("t", 0)]
    stage.writer.end()
    assert stage.dead == 1
    assert stage.pump.tally.released == 1


async def test_no_quiet_is_no_transaction() -> None:
    stage = hopping()
    stage.quiet_at_once = False
    stage.fail(0)
    await until(lambda: stage.asked, "quiet to be asked for")
    stage.be_quiet(refused=True)
    assert stage.writer.written == []
    (engine,) = stage.pump.engines
    assert not engine.due.held
    await until(lambda: len(stage.asked) == 2, "quiet to be asked for again")


async def test_a_drain_waits_for_the_transaction() -> None:
    stage = hopping(1)
    stage.fail(0)
    await stage.opens()
    stage.pump.on_revoked([Partition("t", 0)])
    assert stage.source.of("release") == []
    stage.writer.end()
    assert stage.source.of("release") == [[Partition("t", 0)]]
    assert stage.source.committed[Partition("t", 0)] == Commit(1, "")


async def test_a_drain_that_is_cut_within_a_transaction_commits_nothing() -> None:
    stage = hopping(1)
    stage.fail(0)
    await stage.opens()
    stage.pump.subscription = stage.subscription
    stage.pump._drain([Partition("t", 0)], stage.pump._now_ms() - stage.subscription.drain_timeout_ms)
    stage.pump._turn(stage.pump._now_ms())
    assert stage.source.of("release") == [[Partition("t", 0)]]
    assert stage.source.committed == {}
    # Its end comes late, and settles nothing here.
    stage.writer.end()
    assert stage.dead == 0
    assert stage.holds()


async def test_what_is_not_known_is_left_to_the_next_start() -> None:
    stage = hopping(2)
    stage.fail(0)
    await stage.opens()
    stage.fail(1)
    stage.writer.end("fenced", unknown=True)
    assert list(stage.pump.engines) == []
    assert stage.source.committed == {}
    await asyncio.sleep(0)
    await stage.pump.drain()
    assert stage.holds()


async def test_a_producer_that_cannot_be_made_refuses_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES_MAX", 1)
    stage = hopping()
    stage.writer.unprepared = "no broker"
    stage.fail(0, 1)
    (engine,) = stage.pump.engines
    await until(lambda: engine.unwritten == 2, "both to be refused")
    assert stage.writer.written == []
    assert not engine.due.held
    assert not cast(AtomicSink, stage.pump._sink)._full, "they are its no more"


async def test_a_transaction_is_bounded() -> None:
    stage = Hopping()
    sink = cast(AtomicSink, stage.pump._sink)
    stage.assign(0)
    stage.feed(*(event(offset, key=None, value=bytes(10)) for offset in range(4)))
    deliveries: list[Delivery] = [stage.delivery(offset) for offset in range(4)]
    size_bytes = deliveries[0].size_bytes
    sink.submit([Hop(delivery, WRONG) for delivery in deliveries])
    module_bytes, module.BYTES_MAX = module.BYTES_MAX, 2 * size_bytes
    try:
        assert len(sink._next().hops) == 2
        module.BYTES_MAX = size_bytes - 1
        assert len(sink._next().hops) == 1, "one that is larger than the bound goes alone"
    finally:
        module.BYTES_MAX = module_bytes


async def test_what_is_remembered_of_a_key_goes_with_what_left() -> None:
    stage = Hopping(follow=True)
    stage.assign(0)
    stage.pump.on_notes(0, [], 1)
    stage.feed(event(0, b"a"), event(1, b"a"), event(2, None))
    stage.fail(0, 2)
    await stage.opens()
    letters = [record for record in stage.writer.records if record.topic == "dlq.s"]
    (note,) = [record for record in stage.writer.records if record.topic != "dlq.s"]
    assert len(letters) == 2
    assert (note.topic, note.partition) == ("follow.s", 0)
    said = note_of(note.key, note.value)
    assert said is not None
    assert (said.kind, said.key, said.place, said.through) == (Kind.LEFT, b"a", "t", 0)
    stage.writer.end()
    # The one behind it follows, without a call.
    await stage.opens()
    assert [record.topic for record in stage.writer.records] == ["dlq.s", "follow.s"]
    stage.writer.end()
    assert stage.dead == 3
    assert stage.holds()


async def test_a_note_that_is_refused_keeps_what_left_from_leaving() -> None:
    stage = Hopping(follow=True)
    stage.assign(0)
    stage.pump.on_notes(0, [], 1)
    stage.feed(event(0, b"a"), event(1, b"b"))
    stage.fail(0, 1)
    await stage.opens()
    stage.writer.end(refused=[0])
    await stage.opens()
    assert stage.writer.written[-1][0] == [1, 1]
    stage.writer.end()
    assert stage.dead == 1
    (engine,) = stage.pump.engines
    assert engine.unwritten == 1
