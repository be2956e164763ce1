"""The demo's own check: a journal in which something is wrong is found out, whatever it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from examples.demo.check import EXPECTED, Check
from examples.demo.journal import Journal, Published, Reader, Step, What
from examples.demo.publisher import STORY
from pelton import DeadLetter, Retry

BEGAN, TAKEN, RETRY, DEAD_LETTER, CUT = What.BEGAN, What.TAKEN, What.RETRY, What.DEAD_LETTER, What.CUT

#: An order of each kind of event, as it should go.
ORDER = ("order.placed", "order.paid", "order.refunded", "order.shipped")
STEPS: tuple[tuple[int, int, What], ...] = (
    *((1, 1, BEGAN), (1, 1, TAKEN)),
    *((2, 1, BEGAN), (2, 1, RETRY), (2, 2, BEGAN), (2, 2, RETRY), (2, 3, BEGAN), (2, 3, TAKEN)),
    *((3, 1, BEGAN), (3, 1, DEAD_LETTER)),
    *((4, 1, BEGAN), (4, 1, TAKEN)),
)


def checked(
    steps: Iterable[tuple[int, int, What]] = STEPS,
    dead_letters: Iterable[int] = (3,),
    published: Iterable[tuple[int, str]] = tuple(enumerate(ORDER, 1)),
) -> Check:
    check = Check()
    for number, kind in published:
        check.on_published(Published("ann", number, kind))
    for number, attempt, what in steps:
        check.on_step(Step("ann", number, attempt, what))
    for number in dead_letters:
        check.on_dead_letter("ann", number)
    return check


def without(number: int) -> Iterator[tuple[int, int, What]]:
    return (step for step in STEPS if step[0] != number)


def test_what_goes_well_has_no_faults() -> None:
    check = checked()
    assert check.faults() == []
    assert (check.published, check.called, check.retried, check.delivered) == (4, 6, 2, 3)
    assert (check.dead_lettered, check.repeats, check.open) == (1, 0, 0)


def test_the_files_may_come_in_any_order() -> None:
    """The service and the dead letters are read before the publisher's note of the same events."""
    check = Check()
    for number, attempt, what in STEPS:
        check.on_step(Step("ann", number, attempt, what))
    check.on_dead_letter("ann", 3)
    for number, kind in enumerate(ORDER, 1):
        check.on_published(Published("ann", number, kind))
    assert (check.faults(), check.open, check.settled) == ([], 0, 4)


def test_an_event_that_was_never_called_is_lost() -> None:
    check = checked(steps=STEPS[:-2])
    assert check.open == 1
    (fault,) = check.faults()
    assert "ann #4 order.shipped: is lost" in fault


def test_an_event_given_up_is_lost() -> None:
    """Called, told to come again, and never seen any more: the next one is called all the same."""
    steps = [step for step in STEPS if step[:2] != (2, 3)]
    faults = checked(steps).faults()
    assert any("ann #2 order.paid: is lost" in fault for fault in faults)
    assert any("#3 was called before #2 was settled" in fault for fault in faults)


def test_a_dead_letter_that_is_missing_is_a_loss() -> None:
    check = checked(dead_letters=())
    assert check.open == 1
    (fault,) = check.faults()
    assert "ann #3 order.refunded: is lost" in fault


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        ([step for step in STEPS if step[2] is not RETRY], "#2 was called while #2 was still being handled"),
        ([*STEPS[2:], *STEPS[:2]], "#2 was called before #1"),
        ([*STEPS[:8], *STEPS[10:], *STEPS[8:10]], "#3 was called after #4"),
        ([STEPS[0], STEPS[2], STEPS[1], *STEPS[3:]], "#2 was called while #1 was still being handled"),
        ([*STEPS[:4], *STEPS[8:], *STEPS[4:8]], "#3 was called before #2 was settled"),
        ([*STEPS, (1, 1, BEGAN), (1, 1, TAKEN)], "#1 was called after #4"),
        ([(1, 1, BEGAN), (1, 2, BEGAN), (1, 1, TAKEN), (1, 2, TAKEN), *STEPS[2:]], "#1 was called while #1"),
    ],
    ids=["not ended", "swapped", "late", "together", "overtaken", "late repeat", "twice at once"],
)
def test_disorder_is_found(steps: list[tuple[int, int, What]], wrong: str) -> None:
    check = checked(steps)
    assert any(wrong in violation for violation in check.violations), check.violations
    assert any("out of order" in fault for fault in check.faults())


def test_customers_do_not_wait_for_each_other() -> None:
    check = Check()
    for customer in ("ann", "bob"):
        check.on_published(Published(customer, 1, "order.placed"))
        check.on_step(Step(customer, 1, 1, BEGAN))
    for customer in ("ann", "bob"):
        check.on_step(Step(customer, 1, 1, TAKEN))
    assert check.faults() == []


@pytest.mark.parametrize(
    ("steps", "dead_letters", "wrong"),
    [
        (without(1), (1, 3), "ann #1 order.placed: was dead-lettered; expected: taken"),
        ([*without(3), (3, 1, BEGAN), (3, 1, TAKEN)], (), "ann #3 order.refunded: was taken"),
        (STEPS, (1, 3), "ann #1 order.placed: was taken by the service, and dead-lettered as well"),
        ([*STEPS[:2], *STEPS[6:]], (3,), "ann #2 order.paid: was called 1 times (0 of them cut), not 3"),
        (
            [(1, 1, BEGAN), (1, 1, RETRY), (1, 2, BEGAN), *STEPS[1:]],
            (3,),
            "ann #1 order.placed: was called 2",
        ),
        ([*STEPS, (5, 1, BEGAN), (5, 1, TAKEN)], (3,), "ann #5 : was called or dead-lettered, and never"),
    ],
    ids=["set aside", "taken", "both", "too early", "too often", "from nowhere"],
)
def test_another_end_than_expected_is_found(
    steps: Iterable[tuple[int, int, What]], dead_letters: tuple[int, ...], wrong: str
) -> None:
    faults = checked(steps, dead_letters).faults()
    assert any(wrong in fault for fault in faults), faults


def test_repeats_are_counted_and_are_no_fault() -> None:
    """At least once is the promise. One that overtakes is found by its order."""
    steps = [*STEPS[:2], (1, 1, BEGAN), (1, 1, TAKEN), *STEPS[2:]]
    check = checked(steps, dead_letters=(3, 3))
    assert (check.faults(), check.repeats, check.delivered, check.dead_lettered) == ([], 2, 3, 1)


def test_a_call_that_was_cut_may_come_again() -> None:
    check = checked([(1, 1, BEGAN), (1, 1, CUT), *STEPS])
    assert check.faults() == []


def test_every_kind_of_event_has_an_expected_end() -> None:
    assert set(STORY) == set(EXPECTED)


def test_what_is_written_is_read_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    reader = Reader(path)
    assert list(reader.steps()) == []

    journal = Journal(path)
    with journal.call("ann", 1, 1):
        pass
    with pytest.raises(Retry), journal.call("ann", 2, 1):
        raise Retry
    with pytest.raises(DeadLetter), journal.call("ann", 3, 1):
        raise DeadLetter("no")
    with pytest.raises(OSError, match="gone"), journal.call("ann", 4, 1):
        raise OSError("gone")
    ends = [(step.number, step.what) for step in reader.steps() if step.what is not BEGAN]
    assert ends == [(1, TAKEN), (2, RETRY), (3, DEAD_LETTER), (4, CUT)]
    assert list(reader.steps()) == []
    journal.close()

    with path.open("a", encoding="utf-8") as file:
        file.write('["ann", 5, 1, "be')
        file.flush()
        assert list(reader.steps()) == []
        file.write('gan"]\n')
    assert list(reader.steps()) == [Step("ann", 5, 1, BEGAN)]
