"""The intake: every open delivery stands in one of its two accounts, and the shared bounds see only one."""

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
    assert (limits.process.events, limits.subscription.bytes) == (2, 100)
    intake.park(delivery)
    assert intake.full
    assert not intake.half_free
    intake.unpark(delivery)
    assert intake.half_free
    assert (limits.process.events, intake.parked.events) == (2, 1)
    intake.clear()
    assert (limits.process.events, limits.subscription.bytes) == (0, 0)
    assert (intake.active.events, intake.parked.bytes) == (0, 0)
