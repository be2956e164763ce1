"""The engine: order, what is known before a call, limits, and what it says of itself, step by step."""

from __future__ import annotations

import gc

import pytest

from pelton.core import ackmap
from pelton.core.ackmap import AckMap
from pelton.core.actions import Flow
from pelton.core.breaker import PROBE_FIRST_MS
from pelton.core.delivery import Delivery, State
from pelton.core.due import COMMIT_DELAY_MS
from pelton.core.lane import Lane
from pelton.core.limits import Bound, Limits, Slots
from pelton.core.outbox import RETRY_FIRST_MS
from pelton.core.outcome import ACKED, Outcome, Status
from pelton.subscription import Disposition, Intake, Ordering, RetryPolicy
from tests.core.rig import Rig, event, outcome

WRONG = Outcome(
    Status.INVALID_ARGUMENT, "not what it claims to be", disposition=Disposition.DEAD_LETTER, local=True
)


# -- Order -----------------------------------------------------------------------------------------------


def test_a_key_goes_one_at_a_time_and_others_go_on() -> None:
    rig = Rig()
    rig.feed("abab")
    assert rig.started == [0, 1]
    rig.answer(1)
    assert rig.started == [0, 1, 3]
    rig.answer(0)
    assert rig.started == [0, 1, 3, 2]
    rig.assert_accounts()


def test_a_null_key_is_unordered_and_an_empty_one_is_a_key() -> None:
    rig = Rig()
    rig.feed([None, None, b"", b"", None])
    assert rig.started == [0, 1, 2, 4]
    rig.answer(2)
    assert rig.started == [0, 1, 2, 4, 3]


def test_a_partition_in_order_goes_one_at_a_time() -> None:
    rig = Rig(ordering=Ordering.PARTITION)
    rig.feed([None, "a", b"", None])
    for offset in range(4):
        assert rig.started == list(range(offset + 1))
        rig.answer(offset)
    assert rig.engine.open_events == 0


def test_without_order_all_start_at_once() -> None:
    rig = Rig(ordering=Ordering.NONE)
    rig.feed("aaaa")
    assert rig.started == [0, 1, 2, 3]


def test_a_retry_keeps_its_lane() -> None:
    rig = Rig()
    rig.feed("ab" + "a")
    rig.answer(0, "UNKNOWN")
    rig.answer(1)
    assert rig.started == [0, 1]
    assert rig.state(0) is State.WAITING
    assert rig.state(2) is State.PARKED
    rig.wait(RetryPolicy().backoff_min_ms)
    assert rig.started == [0, 1, 0]
    rig.answer(0)
    assert rig.started == [0, 1, 0, 2]


def test_a_dead_letter_keeps_its_lane_until_the_broker_has_it() -> None:
    rig = Rig()
    rig.feed("aa")
    rig.answer(0, "INVALID_ARGUMENT")
    assert rig.started == [0]
    assert rig.state(0) is State.PRODUCING
    assert rig.engine.committed == 0
    rig.wait(10 * COMMIT_DELAY_MS)
    assert rig.commits == []
    rig.produced(0)
    assert rig.started == [0, 1]
    assert rig.tally.dead_lettered == 1


def test_calls_stay_within_the_slots_and_within_what_was_asked() -> None:
    rig = Rig(concurrency=3)
    rig.engine.on_events([event(at) for at in range(10)], 0)
    assert len(rig.act(calls_max=2).calls) == 2
    assert rig.engine.hungry
    assert len(rig.act().calls) == 1
    assert rig.act().calls == []
    rig.answer(0)
    assert rig.started == [0, 1, 2, 3]
    assert rig.limits.slots.taken == 3


# -- Known before the call -------------------------------------------------------------------------------


def test_what_is_filtered_needs_no_call() -> None:
    rig = Rig()
    rig.arrive(event(0, "a"), event(1, "a"), event(2, "a"), intended={0: None, 2: None})
    assert rig.started == [1]
    assert rig.tally.filtered == 2
    assert rig.engine.committed == 1
    assert ackmap.decode(1, rig.engine.commit().metadata) == AckMap([(2, 3)])


def test_a_flaw_waits_for_its_turn() -> None:
    rig = Rig()
    rig.arrive(event(0, "a"), event(1, "a", flaw="torn"), event(2, "a"), intended={1: WRONG})
    assert rig.letters == {}
    rig.answer(0)
    assert rig.letters[1].outcome is WRONG
    assert rig.letters[1].delivery.attempt == 0
    assert rig.started == [0]
    rig.produced(1)
    assert rig.started == [0, 2]
    assert rig.breaker.closed
    rig.assert_accounts()


def test_what_is_filtered_waits_where_the_map_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ackmap, "PAYLOAD_BYTES_MAX", 12)
    monkeypatch.setattr(ackmap, "BITSET_OFFSETS_MAX", 96)
    rig = Rig(concurrency=1)
    intended = dict.fromkeys(range(200, 4000, 200))
    rig.arrive(*(event(offset) for offset in range(0, 4_000, 100)), intended=intended)
    assert 0 < rig.tally.filtered < len(intended)
    while rig.engine.open_events:
        rig.answer(min(rig.out))
    assert rig.tally.filtered == len(intended)
    assert rig.tally.acked == 40 - len(intended)


# -- Limits ----------------------------------------------------------------------------------------------


def test_it_pauses_at_its_bound_and_resumes_at_half() -> None:
    rig = Rig(intake=Intake(partition_events_max=10), concurrency=4)
    rig.feed([None] * 9)
    assert rig.flows == []
    rig.feed([None])
    assert rig.flows == [Flow.PAUSE]
    for offset in range(4):
        rig.answer(offset)
        assert rig.flows == [Flow.PAUSE]
    rig.answer(4)
    assert rig.flows == [Flow.PAUSE, Flow.RESUME]


def test_it_pauses_by_bytes_too() -> None:
    rig = Rig(intake=Intake(partition_bytes_max=1_000))
    rig.arrive(event(0, value=bytes(999)))
    assert rig.flows == []
    rig.arrive(event(1, "k", value=None))
    assert rig.flows == [Flow.PAUSE]
    rig.answer(1)
    assert rig.flows == [Flow.PAUSE]
    rig.answer(0)
    assert rig.flows == [Flow.PAUSE, Flow.RESUME]


def test_a_shared_bound_pauses_whoever_asks() -> None:
    limits = Limits(Bound(10, 1 << 20), Bound(100, 1 << 20), Slots(100))
    one, other = Rig(limits=limits), Rig(limits=limits)
    one.feed([None] * 8)
    other.feed([None] * 2)
    assert (one.flows, other.flows) == ([], [Flow.PAUSE])
    for offset in range(5):
        one.answer(offset)
    other.act()
    assert other.flows == [Flow.PAUSE, Flow.RESUME]


def test_what_waits_or_is_parked_stands_outside_the_intake_limits() -> None:
    rig = Rig(intake=Intake(partition_events_max=10, parked_events_max=20), attempts=100)
    rig.feed(["poison"] * 9)
    rig.answer(0, "UNKNOWN")
    assert (rig.engine.waiting, rig.engine.parked, rig.engine.queued) == (1, 8, 0)
    assert rig.limits.subscription.events == 0
    rig.feed(["poison"] * 5 + [None] * 9)
    assert rig.flows == []
    assert rig.engine.parked == 13
    rig.assert_accounts()
    for offset in sorted(rig.out):
        rig.answer(offset)
    rig.wait(RetryPolicy().backoff_min_ms)
    while rig.engine.open_events:
        rig.answer(min(rig.out))
        rig.assert_accounts()
    assert rig.flows == []
    assert rig.limits.subscription.events == rig.limits.process.bytes == 0


def test_who_follows_a_letter_stands_outside_the_intake_limits_until_it_is_written() -> None:
    rig = Rig(intake=Intake(partition_events_max=10, parked_events_max=20))
    rig.feed(["poison"] * 9)
    rig.answer(0, "INVALID_ARGUMENT")
    assert (rig.engine.producing, rig.engine.parked, rig.engine.queued) == (1, 8, 0)
    rig.feed(["poison"] * 5 + [None] * 8)
    assert rig.engine.parked == 13
    assert rig.flows == []
    rig.assert_accounts()
    for number in range(14):
        assert list(rig.letters) == [number]
        rig.produced(number)
        rig.assert_accounts()
        if number < 13:
            rig.answer(number + 1, "INVALID_ARGUMENT")
            assert rig.engine.parked == 12 - number
    assert rig.flows == []
    for offset in sorted(rig.out):
        rig.answer(offset)
    assert rig.limits.subscription.events == rig.limits.process.events == rig.engine.open_events == 0


def test_a_pause_for_what_waits_ends_when_half_of_it_has_gone() -> None:
    rig = Rig(intake=Intake(parked_events_max=4), attempts=100)
    rig.feed([None] * 4)
    for offset in range(4):
        rig.answer(offset, "UNKNOWN")
        rig.now_ms += 1
    assert rig.flows == [Flow.PAUSE]
    while rig.engine.waiting > 2:
        assert rig.flows == [Flow.PAUSE]
        assert rig.engine.rests
        rig.wait_for_deadline()
    assert rig.flows == [Flow.PAUSE, Flow.RESUME]
    assert not rig.engine.rests


def test_what_waits_makes_no_pause_longer_before_it_is_at_its_bound() -> None:
    rig = Rig(intake=Intake(partition_events_max=10, parked_events_max=10), attempts=100)
    rig.feed(["poison"] * 8)
    rig.answer(0, "UNKNOWN")
    rig.feed([None] * 10)
    assert rig.flows == [Flow.PAUSE]
    for offset in range(8, 13):
        rig.answer(offset)
    assert rig.engine.waiting + rig.engine.parked == 8
    assert rig.flows == [Flow.PAUSE, Flow.RESUME]
    assert not rig.engine.rests


def test_what_waits_has_a_bound_of_its_own() -> None:
    rig = Rig(intake=Intake(partition_events_max=10, parked_events_max=4), attempts=100)
    rig.feed([None] * 4)
    rig.answers(*((offset, outcome("UNKNOWN")) for offset in range(4)))
    assert rig.flows == [Flow.PAUSE]
    rig.wait(RetryPolicy().backoff_min_ms)
    assert rig.flows == [Flow.PAUSE, Flow.RESUME]


@pytest.mark.parametrize("ordering", [Ordering.KEY, Ordering.PARTITION])
def test_parked_bytes_have_a_bound(ordering: Ordering) -> None:
    rig = Rig(intake=Intake(parked_bytes_max=1_000), ordering=ordering)
    rig.arrive(
        event(0, "k", value=bytes(300)), event(1, "k", value=bytes(300)), event(2, "k", value=bytes(400))
    )
    rig.answer(0, "UNKNOWN")
    # By key the followers are forgotten; where all of the partition is in order that would be of no use.
    assert rig.flows == ([] if ordering is Ordering.KEY else [Flow.PAUSE])
    assert rig.engine.shelved == (2 if ordering is Ordering.KEY else 0)
    rig.assert_accounts()


def test_intake_pauses_while_the_breaker_is_open_and_there_is_something_to_probe_with() -> None:
    rig = Rig(attempts=1_000, concurrency=5)
    rig.feed([None] * 6)
    rig.answers(*((offset, outcome("UNAVAILABLE")) for offset in range(5)))
    assert rig.flows == [Flow.PAUSE]
    rig.wait(PROBE_FIRST_MS)
    assert list(rig.out) == [5]
    rig.answer(5)
    assert rig.flows == [Flow.PAUSE, Flow.RESUME]


def test_intake_goes_on_while_all_that_is_open_has_failed_and_the_next_event_is_the_probe() -> None:
    """Else a few events that hang would hold the breaker open, and with it everything, for ever."""
    rig = Rig(attempts=2)
    rig.feed("abcde")
    for offset in range(5):
        rig.answer(offset, "DEADLINE_EXCEEDED")
    assert not rig.breaker.closed
    assert not rig.engine.paused
    for _ in range(3):
        while not rig.out:
            rig.wait_for_deadline()
        (poison,) = rig.out
        assert poison < 5
        rig.answer(poison, "DEADLINE_EXCEEDED")
    rig.feed("f")
    assert rig.engine.paused
    while not rig.out:
        rig.wait_for_deadline()
    assert list(rig.out) == [5], "it overtakes those that have failed"
    rig.answer(5)
    assert rig.breaker.closed
    assert not rig.engine.paused
    # The target is well for others: what fails from here on is burned, and has its end.
    for _ in range(200):
        while rig.out:
            hanging = min(rig.out) < 5
            rig.answer(min(rig.out), *["DEADLINE_EXCEEDED"] * hanging)
        if rig.letters:
            break
        rig.wait_for_deadline()
        rig.feed("ghij")
    assert rig.letters
    rig.assert_accounts()


def test_intake_goes_on_while_the_breaker_is_open_and_nothing_is_open_to_probe_with() -> None:
    rig = Rig()
    rig.feed([None] * 5)
    for offset in range(5):
        rig.answer(offset, "UNAVAILABLE", final=True)
    for offset in range(5):
        rig.produced(offset)
    assert not rig.breaker.closed
    assert rig.engine.open_events == 0
    assert rig.flows in ([], [Flow.PAUSE, Flow.RESUME])
    assert not rig.engine.paused
    rig.wait(PROBE_FIRST_MS)
    rig.feed([None])
    rig.answer(5)
    assert rig.breaker.closed


def test_an_open_breaker_asks_for_no_tick_that_has_passed() -> None:
    rig = Rig()
    rig.feed([None] * 6)
    for offset in range(5):
        rig.answer(offset, "UNAVAILABLE", retry_after_ms=0.0)
    for _ in range(200):
        rig.wait_for_deadline()
        if len(rig.out) == 2:
            break
    assert len(rig.out) == 2, "the straggler and the probe"
    assert rig.engine.next_deadline() > rig.now_ms


def test_a_probe_takes_another_key_each_time() -> None:
    rig = Rig(attempts=1_000)
    rig.feed("abcdefgh")
    for offset in list(rig.out):
        rig.answer(offset, "UNAVAILABLE", retry_after_ms=0.0)
    probes = []
    for _ in range(8):
        while not rig.out:
            rig.wait_for_deadline()
        (probe,) = rig.out
        probes.append(probe)
        rig.answer(probe, "UNAVAILABLE", retry_after_ms=0.0)
    assert len(set(probes)) == 8


def test_an_event_that_is_never_sent_is_no_probe_result() -> None:
    rig = Rig(attempts=1_000)
    rig.feed("abcdefgh")
    for offset in range(8):
        rig.answer(offset, "UNAVAILABLE", retry_after_ms=0.0)
    rig.wait(0)
    rig.wait(PROBE_FIRST_MS)
    (probe,) = rig.out
    actions = rig.answer(probe, WRONG)
    assert not rig.breaker.closed
    # Another one goes at once in its place.
    assert len(actions.calls) == 1
    assert actions.calls[0].event.offset != probe


# -- Health and what it says -----------------------------------------------------------------------------


def test_an_idle_engine_is_never_overdue() -> None:
    rig = Rig(concurrency=1)
    rig.wait(3_600_000)
    assert rig.engine.overdue_ms(rig.now_ms) == 0
    # It has its first work after an hour, and others have all the slots: that is no hour's delay.
    rig.limits.slots.take()
    rig.feed([None])
    assert rig.engine.overdue_ms(rig.now_ms) == 0
    assert rig.engine.overdue_ms(rig.now_ms + 5) == 5


def test_a_call_is_overdue_after_its_timeout() -> None:
    rig = Rig(timeout_ms=10_000.0)
    rig.feed([None])
    assert rig.engine.overdue_ms(10_000) == 0
    assert rig.engine.overdue_ms(12_500) == 2_500


def test_waiting_is_not_overdue_before_it_is_due() -> None:
    rig = Rig(concurrency=1)
    rig.feed([None])
    rig.answer(0, "ABORTED", retry_after_ms=50_000.0)
    assert rig.engine.overdue_ms(50_000) == 0
    assert rig.engine.overdue_ms(50_700) == 700
    # It is due, but somebody else has the slot: from now on it counts.
    rig.limits.slots.take()
    rig.wait(50_000)
    assert rig.engine.overdue_ms(rig.now_ms) == 0


def test_a_refused_dead_letter_is_not_overdue_before_it_is_tried_again() -> None:
    rig = Rig()
    rig.feed("aa")
    rig.answer(0, "INVALID_ARGUMENT")
    rig.produced(0, "no leader")
    assert rig.engine.overdue_ms(rig.now_ms + RETRY_FIRST_MS) == 0
    assert rig.engine.overdue_ms(rig.now_ms + RETRY_FIRST_MS + 1) == 1


def test_an_open_breaker_is_not_overdue_before_its_probe() -> None:
    rig = Rig(attempts=1_000)
    rig.feed([None] * 5)
    for offset in range(5):
        rig.answer(offset, "UNAVAILABLE", retry_after_ms=0.0)
    rig.wait(1)
    assert rig.engine.overdue_ms(rig.breaker.next_probe_ms) == 0
    assert rig.engine.overdue_ms(rig.breaker.next_probe_ms + 3) == 3


def test_it_says_what_it_holds() -> None:
    rig = Rig(committed=7)
    rig.feed(["a"], first=7)
    assert rig.engine.lowest is rig.out[7]
    assert rig.out[7].delivery_id == "notify/events/0/7"
    assert repr(rig.out[7]) == "<Delivery notify/events/0/7 calling attempt=1 burned=0>"
    rig.answer(7)
    assert rig.engine.lowest is None


def test_statuses_mean_what_the_subscription_says() -> None:
    rig = Rig(statuses={"NOT_FOUND": Disposition.DROP, "INTERNAL": Disposition.UNWELL}, idempotent=True)
    rig.feed("abc")
    rig.answer(0, "NOT_FOUND")
    rig.answer(1, "ALREADY_EXISTS")
    rig.answer(2, "INTERNAL")
    assert (rig.tally.dropped, rig.tally.acked) == (1, 1)
    assert rig.delivery(2).burned == 0
    assert rig.tally.outcomes == {Status.NOT_FOUND: 1, Status.ALREADY_EXISTS: 1, Status.INTERNAL: 1}


def kept() -> int:
    """Deliveries and lanes that are in memory, in use or not."""
    return sum(isinstance(each, (Delivery, Lane)) for each in gc.get_objects())


def test_who_has_ended_is_gone_without_the_collector() -> None:
    """It looks rarely: who waited for it would hold events beyond every bound."""
    gc.collect()
    gc.disable()
    try:
        before = kept()
        rig = Rig(concurrency=4)
        rig.feed(f"key {at % 7}" for at in range(40))
        while rig.out:
            rig.answers(
                *((offset, outcome("INVALID_ARGUMENT" if offset % 5 else "OK")) for offset in rig.out)
            )
            for offset in list(rig.letters):
                rig.produced(offset)
            assert kept() <= before + 2 * rig.engine.open_events
        assert kept() == before
        # Waiting, parked, queued and out.
        rig.feed(f"key {at % 7}" for at in range(40))
        rig.answer(next(iter(rig.out)), "UNAVAILABLE")
        out = list(rig.out.values())
        rig.engine.close()
        rig.out.clear()
        assert kept() == before + 2 * len(out)
        assert sorted(rig.engine.on_late_outcomes([(delivery, ACKED) for delivery in out])) == sorted(
            delivery.event.key or b"" for delivery in out
        )
        out.clear()
        assert kept() == before
    finally:
        gc.enable()
