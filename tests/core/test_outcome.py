"""The outcome table, cell by cell, and what wins over it."""

from __future__ import annotations

import pytest

from pelton.core.outcome import (
    ACKED,
    CANCELLED_BY_US,
    STATUS_TABLE,
    Outcome,
    Status,
    Verdict,
    disposition_of,
    table_of,
)
from pelton.subscription import Disposition
from tests.core.rig import Rig

#: As the design has it, written out once more.
CELLS = {
    "OK": Disposition.ACK,
    "CANCELLED": Disposition.UNWELL,
    "UNKNOWN": Disposition.RETRY,
    "INVALID_ARGUMENT": Disposition.DEAD_LETTER,
    "DEADLINE_EXCEEDED": Disposition.UNWELL,
    "NOT_FOUND": Disposition.DEAD_LETTER,
    "ALREADY_EXISTS": Disposition.DEAD_LETTER,
    "PERMISSION_DENIED": Disposition.MISWIRED,
    "RESOURCE_EXHAUSTED": Disposition.UNWELL,
    "FAILED_PRECONDITION": Disposition.DEAD_LETTER,
    "ABORTED": Disposition.RETRY,
    "OUT_OF_RANGE": Disposition.DEAD_LETTER,
    "UNIMPLEMENTED": Disposition.MISWIRED,
    "INTERNAL": Disposition.RETRY,
    "UNAVAILABLE": Disposition.UNWELL,
    "DATA_LOSS": Disposition.DEAD_LETTER,
    "UNAUTHENTICATED": Disposition.MISWIRED,
}


def test_there_are_seventeen_codes_numbered_as_grpc_numbers_them() -> None:
    assert [status.name for status in Status] == list(CELLS)
    assert [status.value for status in Status] == list(range(17))


@pytest.mark.parametrize("name", CELLS)
def test_a_status_means_what_the_design_says(name: str) -> None:
    assert disposition_of(Outcome(Status[name]), STATUS_TABLE) is CELLS[name]


@pytest.mark.parametrize("disposition", Disposition)
@pytest.mark.parametrize("name", [name for name in CELLS if name != "OK"])
def test_every_cell_can_be_changed(name: str, disposition: Disposition) -> None:
    engine = Rig(statuses={name: disposition}).engine
    for status in Status:
        expected = disposition if status.name == name else CELLS[status.name]
        assert disposition_of(Outcome(status), table_of(engine.subscription)) is expected


def test_an_idempotent_subscription_acks_what_exists() -> None:
    engine = Rig(idempotent=True).engine
    assert disposition_of(Outcome(Status.ALREADY_EXISTS), table_of(engine.subscription)) is Disposition.ACK
    assert disposition_of(Outcome(Status.NOT_FOUND), table_of(engine.subscription)) is Disposition.DEAD_LETTER


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize(
    ("verdict", "means"),
    [
        (Verdict.ACK, Disposition.ACK),
        (Verdict.RETRY, Disposition.RETRY),
        (Verdict.DROP, Disposition.DROP),
        (Verdict.DEAD_LETTER, Disposition.DEAD_LETTER),
    ],
)
def test_a_verdict_wins(status: Status, verdict: Verdict, means: Disposition) -> None:
    told = Outcome(status, verdict=verdict, disposition=Disposition.UNWELL)
    assert disposition_of(told, STATUS_TABLE) is means


@pytest.mark.parametrize("status", Status)
def test_what_the_transport_knows_wins_over_the_table(status: Status) -> None:
    told = Outcome(status, disposition=Disposition.MISWIRED)
    assert disposition_of(told, STATUS_TABLE) is Disposition.MISWIRED


def test_the_shared_outcomes() -> None:
    assert Outcome(Status.OK) == ACKED
    assert CANCELLED_BY_US.cancelled
    assert CANCELLED_BY_US.status is Status.CANCELLED
    assert not ACKED.cancelled
