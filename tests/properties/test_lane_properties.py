"""A lane against a plain list: order, and who is parked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pelton.core.delivery import Delivery, State
from pelton.core.lane import Lane
from tests.core.rig import Rig, event
from tests.properties.profile import tried

ENGINE = Rig().engine


@given(st.lists(st.sampled_from(["append", "append", "block", "advance"]), max_size=60))
@tried(100)
def test_a_lane_is_a_list_whose_followers_are_parked_once(steps: list[str]) -> None:
    def fresh(offset: int) -> Delivery:
        return Delivery(event(offset), ENGINE, None, 1, State.QUEUED)

    model = [fresh(0)]
    parked: set[Delivery] = set()
    blocked = False
    lane = Lane(b"k", model[0])
    for offset, step in enumerate(steps, start=1):
        if step == "append":
            model.append(fresh(offset))
            lane.append(model[-1])
            if blocked:
                parked.add(model[-1])
        elif step == "block":
            newly = lane.block()
            assert newly == [follower for follower in model[1:] if follower not in parked]
            parked.update(newly)
            blocked = True
        else:
            model.pop(0)
            head = lane.advance()
            assert head is (model[0] if model else None)
            if head is None:
                return
            parked.discard(head)
            blocked = False
        assert lane.blocked is blocked
        assert list(lane) == model
        assert len(lane) == len(model)
