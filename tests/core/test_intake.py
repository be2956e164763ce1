"""The intake: every open delivery stands in one of its two accounts; the process's bound has both."""

from __future__ import annotations

from pelton.core.delivery import Delivery, State
from pelton.core.intake import Intake
from pelton.core.limits import Bound, Limits, Slots
from pelton.subscription import Intake as Declared
from tests.core.rig import Rig, event


def test_the_intake_has_two_accounts_and_each_delivery_stands_in_one() -> None:
    limits = Limits(Bound(100, 10_000), Bound(100, 10_000), Slots(1))
    intake = Intake(Declared(partition_events_max=10, parked_events_max=2), limits)
    delivery = Delivery(event(0), Rig().engine, None, 50, State.QUEUED)
    intake.admit(3, 150)
    intake.park(delivery)
    assert (intake.active.events, intake.active.bytes) == (2, 100)
    assert (intake.parked.events, intake.parked.bytes) == (1, 50)
    assert (limits.process.events, limits.subscription.bytes) == (3, 100)
    intake.park(delivery)
    assert intake.parked.full
    assert not intake.parked.half_free
    assert intake.half_free, "what waits takes no room from what may be called"
    intake.unpark(delivery)
    assert intake.parked.half_free
    assert (limits.process.events, limits.subscription.events, intake.parked.events) == (3, 2, 1)
    intake.admit_parked(1, 50)
    assert (limits.process.events, limits.subscription.events, intake.parked.events) == (4, 2, 2)
    intake.clear()
    assert (limits.process.events, limits.subscription.bytes) == (0, 0)
    assert (intake.active.events, intake.parked.bytes) == (0, 0)


def test_a_key_that_begins_to_wait_takes_along_what_a_partition_may_have_in_memory_and_no_more() -> None:
    declared = Declared(partition_events_max=10, parked_events_max=4)
    rig = Rig(intake=declared, jitter=lambda: 1.0)
    offset = most = 0
    for _ in range(200):
        if rig.engine.paused:
            # Whatever is out fails: its key waits, and all that is behind it.
            for out in list(rig.out):
                rig.answer(out, "ABORTED")
            for letter in list(rig.letters):
                rig.produced(letter)
            if rig.engine.paused:
                rig.wait_for_deadline()
        else:
            rig.arrive(event(offset, "ab"[offset % 2]))
            offset += 1
        in_memory = rig.engine.open_events - rig.engine.shelved
        most = max(most, in_memory)
        assert rig.limits.process.events == in_memory
        rig.assert_accounts()
    assert 4 < most <= 14
    assert rig.engine.shelved > 0
