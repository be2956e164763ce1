"""What the server's lines say: enough to mend what is wrong without looking elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from pelton.bridge.logs import HOPS_NAMED_MAX, OUT_NAMED_MAX, PumpLog
from pelton.core.actions import Hop
from pelton.core.breaker import Health
from pelton.core.outcome import CANCELLED_BY_US, Outcome, Status
from pelton.event import Event, Partition
from pelton.subscription import Tier
from tests.request.making import delivery_of

PARTITION = Partition("t", 3)
DELIVERY: Any = SimpleNamespace()


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


@pytest.mark.parametrize("health", [Health.UNWELL, Health.MISWIRED])
def test_a_target_that_is_not_well_is_quoted(lines: list[Any], health: Health) -> None:
    log = PumpLog("s")
    log.attempt_failed(DELIVERY, Outcome(Status.UNAVAILABLE, "connection\nrefused"))
    # Neither says anything of the target.
    log.attempt_failed(DELIVERY, CANCELLED_BY_US)
    log.attempt_failed(DELIVERY, Outcome(Status.INVALID_ARGUMENT, "not UTF-8", local=True))
    log.health_changed(Health.WELL, health)
    log.health_changed(health, Health.WELL)
    (line, well) = lines
    assert (line["status"], line["reason"]) == ("UNAVAILABLE", "connection refused")
    assert "reason" not in well


def test_what_retention_took_is_counted(lines: list[Any]) -> None:
    PumpLog("s").offsets_lost(PARTITION, 10, 30)
    assert lines[0]["events"] == 20
    assert "retention" in lines[0]["event"]


def test_an_offset_beyond_the_log_is_not_put_down_to_retention(lines: list[Any]) -> None:
    PumpLog("s").offsets_lost(PARTITION, 500, 0)
    assert "retention" not in lines[0]["event"]
    assert (lines[0]["committed"], lines[0]["first_offset"]) == (500, 0)
    assert "events" not in lines[0]


def test_of_many_hops_some_are_named_and_the_others_counted(lines: list[Any]) -> None:
    def hop(offset: int, tier: Tier | None) -> Hop:
        delivery = delivery_of(Event("t", 3, offset, b"k", b"v", b"v", (), 0), attempt=2)
        return Hop(delivery, Outcome(Status.UNKNOWN, "no"), tier)

    tier = Tier(1_000.0, "retry.s.1s")
    hops = [hop(offset, None) for offset in range(HOPS_NAMED_MAX + 3)]
    PumpLog("s").hopped([*hops, hop(50, tier), hop(51, tier)])
    *named, more = lines
    assert [line["offset"] for line in named] == list(range(HOPS_NAMED_MAX))
    assert (more["dead_letters"], more["moved"]) == (3, {"retry.s.1s": 2})


@pytest.mark.parametrize(("tier", "says"), [(None, "dead-lettered"), (Tier(1_000.0, "retry.s.1s"), "moved")])
def test_a_hop_says_where_to_and_why(lines: list[Any], tier: Tier | None, says: str) -> None:
    delivery = delivery_of(Event("t", 3, 7, b"k", b"v", b"v", (), 0), attempt=2)
    hop = Hop(delivery, Outcome(Status.UNKNOWN, "no\nway"), tier)
    PumpLog("s").hopped([hop])
    PumpLog("s").hop_refused(hop, "no leader")
    done, refused = lines
    assert done["event"].startswith(says)
    assert (done["offset"], done["attempt"], done["status"], done["reason"]) == (7, 2, "UNKNOWN", "no way")
    assert done.get("to") == (tier and tier.topic)
    assert (refused["log_level"], refused["error"]) == ("error", "no leader")
    assert (tier is None) == ("dead letter" in refused["event"])


def test_a_loss_names_what_was_out(lines: list[Any]) -> None:
    other = Partition("t", 4)
    PumpLog("s").lost([PARTITION, other], {PARTITION: list(range(OUT_NAMED_MAX, -1, -1)), other: []})
    (line,) = lines
    assert line["partitions"] == ["t/3", "t/4"]
    assert line["out"] == {"t/3": list(range(OUT_NAMED_MAX))}
