"""What the server's lines say: enough to mend what is wrong without looking elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from pelton.bridge.logs import PumpLog
from pelton.core.breaker import Health
from pelton.core.outcome import CANCELLED_BY_US, Outcome, Status
from pelton.event import Partition

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
