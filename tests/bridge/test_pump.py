"""The data path among fakes: batches, turns between partitions, what comes late, and letting go."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from pelton.bridge.pump import CALLS_SUBMITTED_MAX
from pelton.core.actions import Actions
from pelton.core.breaker import Health
from pelton.core.engine import Engine
from pelton.core.outcome import ACKED, Outcome, Status
from pelton.core.tiers import TIER_EVENTS_MAX
from pelton.errors import FencedError
from pelton.event import Event, Moved, Partition, Position
from pelton.kafka.listener import Assigned
from pelton.subscription import Intake, Tier
from tests.bridge.stage import EPOCH_MS, Stage, event, until

P0, P1 = Partition("t", 0), Partition("t", 1)
TIER = Tier(60_000_000.0, "retry.s.1000m")
UNAVAILABLE = Outcome(Status.UNAVAILABLE, "refused")


async def test_what_is_fetched_together_is_called_together() -> None:
    stage = Stage()
    stage.assign(0, 1)
    stage.feed(event(0, b"a"), event(1, b"b"), event(0, b"a", 1))
    assert [len(batch) for batch in stage.transport.batches] == [3]
    stage.ack(0, 1)
    stage.ack(0, partition=1)
    assert stage.source.committed[P0].offset == 2
    assert stage.source.committed[P1].offset == 1
    assert stage.holds()


async def test_many_calls_are_handed_over_in_parts_so_that_the_target_begins_with_the_first() -> None:
    most = CALLS_SUBMITTED_MAX
    stage = Stage(concurrency=3 * most)
    stage.assign(0)
    stage.feed(
        *(event(offset, None, value=b"unbuildable" if offset == 1 else b"v") for offset in range(3 * most))
    )
    # What takes the place of the one that cannot be sent comes behind.
    assert [len(batch) for batch in stage.transport.batches] == [most - 1, most, most]
    assert [d.offset for batch in stage.transport.batches for d in batch] == [0, *range(2, 3 * most)]
    assert stage.holds()


async def test_partitions_share_the_calls_and_none_starves() -> None:
    stage = Stage(concurrency=4)
    stage.assign(0, 1)
    stage.feed(*(event(offset, None, partition) for partition in (0, 1) for offset in range(20)))
    assert stage.out == [(0, 0), (0, 1), (1, 0), (1, 1)]
    # Whoever frees a call does not simply take it again.
    stage.ack(0)
    stage.ack(1)
    assert sum(partition == 1 for partition, _ in stage.out) == 3
    # Nor does whoever is first take each that comes free, one by one.
    for _ in range(20):
        partition, offset = min(stage.out, key=lambda out: out[1])
        stage.ack(offset, partition=partition)
    begun = [max(offset for number, offset in stage.out if number == partition) for partition in (0, 1)]
    assert abs(begun[0] - begun[1]) <= 1
    assert stage.limits.slots.free == 0


async def test_who_found_no_call_left_is_the_first_to_get_one() -> None:
    # Thirty equal parts of 601 are 21 each, which is more than there are: the last one gets none.
    stage = Stage(concurrency=601)
    stage.assign(*range(30))
    stage.feed(*(event(offset, None, partition) for partition in range(30) for offset in range(25)))
    assert {partition for partition, _ in stage.out} == set(range(29))
    stage.ack(0)
    assert (29, 0) in stage.out


@pytest.mark.interpreted
async def test_who_waits_for_a_call_is_not_asked_before_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(concurrency=2)
    stage.assign(*range(20))
    stage.feed(*(event(offset, None, partition) for partition in range(20) for offset in range(2)))
    asked: list[int] = []
    original = Engine.take_actions

    def take_actions(self: Engine, now_ms: float, calls_max: int) -> Actions:
        asked.append(self.partition.partition)
        return original(self, now_ms, calls_max)

    monkeypatch.setattr(Engine, "take_actions", take_actions)
    begun = [partition for partition, _ in stage.out]
    while stage.out:
        asked.clear()
        before = set(stage.out)
        partition, offset = stage.out[0]
        stage.ack(offset, partition=partition)
        assert len(asked) <= 2, "the one whose call has ended, and the one that gets the next"
        begun += [partition for partition, _ in set(stage.out) - before]
    assert sorted(begun) == sorted([*range(20), *range(20)])
    assert sorted(begun[:20]) == list(range(20)), "each has its first before any has its second"


async def test_calls_that_one_partition_leaves_go_to_another() -> None:
    stage = Stage(concurrency=10)
    stage.assign(0, 1)
    stage.feed(event(0, None, 0), *(event(offset, None, 1) for offset in range(20)))
    assert len(stage.out) == 10


async def test_a_request_that_cannot_be_built_is_set_aside_and_its_key_goes_on() -> None:
    stage = Stage()
    stage.assign(0)
    stage.feed(event(0, b"a", value=b"unbuildable"), event(1, b"a"))
    (letter,) = stage.sink.submitted
    assert letter.outcome.message == "request field text: not UTF-8"
    assert stage.out == []
    stage.pump.on_produced([(letter, None)])
    assert stage.out == [(0, 1)]
    assert stage.pump.breaker.last_good_ms == float("-inf"), "nobody has heard of the target yet"


async def test_flaws_and_undecidable_filters_are_set_aside_and_the_unwanted_are_not_called() -> None:
    stage = Stage(filter_="event.type == 'x'")
    stage.assign(0)
    stage.feed(
        event(0, b"a", value=b"unwanted"),
        event(1, b"b", value=b"undecidable"),
        event(2, b"c"),
    )
    assert stage.out == [(0, 2)]
    assert stage.pump.tally.filtered == 1
    assert [letter.outcome.message for letter in stage.sink.submitted] == ["filter: cannot be told"]
    assert stage.holds()


async def test_a_dead_letter_that_is_refused_is_written_again_and_nothing_starts_meanwhile() -> None:
    stage = Stage()
    stage.assign(0)
    stage.feed(event(0, b"a"))
    stage.transport.answer((stage.delivery(0), Outcome(Status.INVALID_ARGUMENT, "no")))
    (letter,) = stage.sink.submitted
    stage.pump.on_produced([(letter, "no leader")])
    assert stage.source.of("pause") == [[P0]]
    stage.feed(event(1, b"b"))
    assert stage.out == []
    await until(lambda: len(stage.sink.submitted) == 2, "the second try")
    stage.pump.on_produced([(stage.sink.submitted[1], None)])
    assert stage.out == [(0, 1)]
    assert stage.source.of("resume") == [[P0]]


async def test_the_breaker_stops_every_partition_and_the_probe_starts_them_again() -> None:
    stage = Stage(concurrency=5)
    stage.assign(0, 1)
    stage.feed(*(event(offset, b"%d" % offset, offset % 2) for offset in range(12)))
    stage.transport.answer(*((delivery, UNAVAILABLE) for delivery in list(stage.transport.out)))
    assert stage.pump.breaker.health is Health.UNWELL
    assert stage.out == []
    assert stage.source.partitions("pause") == [P0, P1]
    await until(lambda: stage.out, "the probe")
    assert len(stage.out) == 1
    (probe,) = stage.transport.out
    stage.transport.answer((probe, ACKED))
    assert len(stage.out) == 5
    assert stage.source.partitions("resume") == [P0, P1]


async def test_the_probe_goes_to_the_partition_that_has_an_untried_event() -> None:
    stage = Stage()
    stage.assign(0, 1)
    stage.feed(*(event(offset, None) for offset in range(5)))
    stage.transport.answer(*((stage.delivery(offset), UNAVAILABLE) for offset in range(5)))
    assert not stage.pump.breaker.closed
    # The first partition has only events that have failed; both may probe.
    stage.feed(event(0, None, partition=1))
    await until(lambda: stage.out, "the probe")
    assert stage.out == [(1, 0)]
    stage.ack(0, partition=1)
    assert stage.pump.breaker.closed


async def test_partitions_without_an_untried_event_probe_in_turn() -> None:
    stage = Stage()
    stage.assign(0, 1)
    stage.feed(*(event(offset, None, partition) for partition in (0, 1) for offset in range(5)))
    for partition, offset in list(stage.out):
        stage.transport.answer((stage.delivery(offset, partition), UNAVAILABLE))
    probed = []
    for _ in range(4):
        stage.pump.breaker.next_probe_ms = 0.0
        stage.pump.on_events([])
        await until(lambda: stage.out, "the probe")
        ((partition, offset),) = stage.out
        probed.append(partition)
        stage.transport.answer((stage.delivery(offset, partition), UNAVAILABLE))
    assert sorted(probed) == [0, 0, 1, 1]


async def test_a_revoke_drains_commits_and_then_releases() -> None:
    stage = Stage(concurrency=2)
    stage.assign(0, 1)
    stage.feed(*(event(offset, b"%d" % offset) for offset in range(4)), event(0, b"x", 1))
    out_of_0 = [offset for partition, offset in stage.out if partition == 0]
    stage.pump.on_revoked([P0])
    assert stage.source.of("release") == []
    for offset in out_of_0:
        stage.ack(offset)
    assert stage.source.of("release") == [[P0]]
    kinds = [kind for kind, _ in stage.source.asked]
    assert "commit" in kinds[: kinds.index("release")]
    assert stage.source.committed[P0].offset == len(out_of_0)
    assert all(partition == 1 for partition, _ in stage.out), "nothing of the revoked one starts"
    assert stage.pump.tally.released == 4 - len(out_of_0)
    assert stage.holds()


async def test_a_drain_that_takes_too_long_is_cut_and_frees_its_calls() -> None:
    stage = Stage(concurrency=2, drain_timeout_ms=20.0)
    stage.assign(0)
    stage.feed(event(0, b"a"), event(1, b"b"))
    stage.ack(1)
    stage.pump.on_revoked([P0])
    await until(lambda: stage.source.of("release"), "the drain to be cut")
    assert stage.source.committed[P0].offset == 0
    assert stage.source.committed[P0].metadata, "that the second is settled is not forgotten"
    await until(lambda: stage.limits.slots.taken == 0, "the cancelled call to come back")
    assert stage.pump.tally.late_outcomes == 1
    assert stage.holds()


async def test_a_key_whose_call_is_still_out_stays_blocked_when_its_partition_returns() -> None:
    stage = Stage()
    stage.assign(0)
    stage.feed(event(0, b"a"), event(1, b"b"))
    lost = stage.delivery(0)
    stage.pump.on_lost([P0])
    assert stage.source.of("commit") == []
    stage.assign(0)
    stage.feed(event(0, b"a"), event(1, b"b"), event(2, b"c"))
    # Of the first assignment both calls are out still, so only the third key may be called.
    assert stage.out == [(0, 0), (0, 1), (0, 2)]
    assert len(stage.transport.out) == 3
    stage.transport.answer((lost, ACKED))
    assert stage.pump.tally.acked == 0, "it settles nothing any more"
    assert (0, 0) in stage.out, "but its key is free: the event is called again"
    assert stage.holds()


async def test_a_partition_nobody_knows_is_released_at_once() -> None:
    stage = Stage()
    stage.pump.on_revoked([P1])
    assert stage.source.of("release") == [[P1]]


async def test_a_stop_waits_for_what_is_out_and_takes_nothing_more() -> None:
    stage = Stage(concurrency=1)
    stage.assign(0)
    stage.feed(event(0, b"a"), event(1, b"b"))
    draining = asyncio.ensure_future(stage.pump.drain())
    await asyncio.sleep(0)
    stage.feed(event(2, b"c"))
    stage.assign(1)
    assert stage.out == [(0, 0)]
    assert not draining.done()
    stage.ack(0)
    await draining
    assert stage.source.committed[P0].offset == 1
    assert stage.pump.tally.consumed == 2, "what came after the stop is not ours to count"
    assert stage.pump.tally.released == 1
    assert stage.holds()


async def test_a_stop_with_nothing_assigned_ends_at_once() -> None:
    stage = Stage()
    await stage.pump.drain()
    await stage.pump.drain()


async def test_intake_pauses_at_the_bound_and_resumes_at_half() -> None:
    stage = Stage(concurrency=4, intake=Intake(partition_events_max=4))
    stage.assign(0)
    stage.feed(*(event(offset, None) for offset in range(4)))
    assert stage.source.of("pause") == [[P0]]
    stage.ack(0)
    assert stage.source.of("resume") == []
    stage.ack(1)
    assert stage.source.of("resume") == [[P0]]


async def test_a_bound_that_all_share_pauses_all_partitions_not_only_the_one_that_filled_it() -> None:
    stage = Stage()
    stage.assign(0, 1)
    # What its other partitions hold, but for four.
    stage.limits.subscription.take(9_996, 0)
    stage.feed(*(event(offset, None) for offset in range(4)))
    assert stage.source.partitions("pause") == [P0, P1]


async def test_a_paused_partition_notices_that_others_have_left_the_process_room() -> None:
    stage = Stage()
    stage.assign(0)
    stage.limits.process.take(50_000, 0)
    stage.feed(event(0, None))
    assert stage.source.of("pause") == [[P0]]
    stage.limits.process.give(50_000, 0)
    await until(lambda: stage.source.of("resume"), "the partition to go on")


async def test_commits_of_a_partition_that_is_busy_follow_within_the_delay() -> None:
    stage = Stage(concurrency=2)
    stage.assign(0)
    stage.feed(event(0, b"a"), event(1, b"b"))
    stage.ack(0)
    assert stage.source.of("commit") == []
    await until(lambda: stage.source.of("commit"), "the commit")
    assert stage.source.committed[P0].offset == 1


async def test_what_the_consumer_cannot_survive_is_passed_on() -> None:
    stage = Stage()
    error = FencedError("another one took over")
    stage.pump.on_failed(error)
    assert stage.failures == [error]


async def test_a_loss_to_retention_is_counted_and_a_topic_made_again_is_not_one() -> None:
    stage = Stage()
    stage.pump.on_offsets_lost(P0, 5, 9)
    stage.pump.on_offsets_lost(P0, 9, 0)
    assert stage.pump.offsets_lost == 4


async def test_a_loss_to_retention_is_committed_so_that_it_is_found_once() -> None:
    stage = Stage()
    stage.assign(0)
    stage.pump.on_offsets_lost(P0, 0, 9)
    assert stage.source.committed[P0].offset == 9


async def test_a_partition_whose_events_all_failed_goes_on_when_anothers_probe_succeeds() -> None:
    stage = Stage(concurrency=5)
    stage.assign(0, 1)
    stage.feed(event(0, b"x", 1), *(event(offset, b"%d" % offset) for offset in range(4)))
    stage.transport.answer(*((delivery, UNAVAILABLE) for delivery in list(stage.transport.out)))
    stage.feed(event(4, b"new"))
    assert stage.pump.breaker.health is Health.UNWELL
    await until(lambda: stage.out == [(0, 4)], "the probe with the event that was never called")
    stage.ack(4)
    assert (1, 0) in stage.out, "the other partition has nothing but what has failed, and is not forgotten"


def in_tier(offset: int, due_in_ms: float, key: bytes = b"k", value: bytes = b"v") -> Event:
    """An event of the tier's partition 0, due so long from now."""
    due_ms = round(EPOCH_MS + asyncio.get_running_loop().time() * 1000 + due_in_ms)
    moved = Moved(Position("t", 0, 100 + offset), 2, 0, due_ms, "UNKNOWN", "no")
    return replace(event(offset, key, value=value), topic=TIER.topic, moved=moved)


def assign_tier(stage: Stage) -> None:
    stage.pump.on_assigned([Assigned(Partition(TIER.topic, 0), 1, 0, None)])


async def test_an_event_in_a_tier_is_called_when_it_is_due_and_is_not_filtered_again() -> None:
    stage = Stage(filter_="any", tiers=(TIER,))
    assign_tier(stage)
    began_ms = asyncio.get_running_loop().time() * 1000
    # The filter does not want its value today; it did when the event was new.
    stage.feed(in_tier(0, 50, value=b"unwanted"), in_tier(1, 1e9, b"other"))
    assert stage.out == []
    await until(lambda: stage.out, "the event to be called")
    assert asyncio.get_running_loop().time() * 1000 >= began_ms + 49
    assert stage.out == [(0, 100)]
    stage.transport.answer(*((delivery, ACKED) for delivery in list(stage.transport.out)))
    assert stage.holds()
    assert stage.pump.open_events == 1


async def test_a_tier_full_of_waits_is_left_alone_until_they_are_due() -> None:
    stage = Stage(tiers=(TIER,))
    assign_tier(stage)
    stage.assign(0)
    stage.feed(*(in_tier(at, 1_000_000, b"%d" % at) for at in range(TIER_EVENTS_MAX)))
    assert stage.source.partitions("pause") == [Partition(TIER.topic, 0)]
    # Nobody looks at it again while others work; its own due time wakes it.
    assert stage.pump._paused == {}
    stage.feed(event(0))
    stage.ack(0)
    assert stage.pump._paused == {}
    assert stage.source.of("resume") == []
    (engine,) = (engine for engine in stage.pump.engines if engine.tier is not None)
    engine.on_tick(engine.next_deadline() + 1_000)
    stage.pump._dirty[engine] = None
    stage.feed(event(1))
    assert stage.source.partitions("resume") == [Partition(TIER.topic, 0)]


async def test_a_move_is_settled_when_the_broker_has_it() -> None:
    stage = Stage(attempts=1, tiers=(TIER,))
    stage.assign(0)
    stage.feed(event(0), event(1))
    stage.transport.answer((stage.delivery(0), Outcome(Status.UNKNOWN, "no")))
    (hop,) = stage.sink.submitted
    assert hop.tier is TIER
    assert stage.out == []
    stage.pump.on_produced([(hop, "no leader")])
    assert stage.out == []
    stage.pump.on_produced([])
    await until(lambda: len(stage.sink.submitted) == 2, "the move to be tried again")
    stage.pump.on_produced([(hop, None)])
    assert stage.out == [(0, 1)]
    assert stage.pump.tally.moved == 1


async def test_what_was_parked_by_its_offset_is_read_again_and_what_is_gone_is_counted() -> None:
    stage = Stage(intake=Intake(parked_events_max=2))
    stage.assign(0)
    stage.feed(event(0, b"hot"))
    stage.transport.answer((stage.delivery(0), Outcome(Status.UNKNOWN)))
    stage.feed(*(event(offset, b"hot") for offset in range(1, 5)), event(5, b"other"))
    assert stage.source.of("pause") == []
    assert stage.out == [(0, 5)]
    await until(lambda: (0, 0) in stage.out, "the second attempt")
    stage.ack(0)
    assert stage.source.of("read_again") == [(P0, (1, 2, 3, 4))]
    # Another partition's, or one that is gone: nobody asked.
    stage.pump.on_read_again(P1, (1, 2), [event(1, b"hot", 1)], 2)
    stage.pump.on_read_again(P0, (1, 2, 3, 4), [event(1, b"hot"), event(4, b"hot", value=b"unbuildable")], 4)
    assert stage.pump.offsets_lost == 2
    stage.ack(1)
    assert stage.pump.tally.lost == 2
    # What comes back is looked at like everything that comes.
    assert [letter.delivery.event.offset for letter in stage.sink.submitted] == [4]
    assert stage.holds()
