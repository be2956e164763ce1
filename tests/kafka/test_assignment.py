"""The bookkeeping of partitions: what is taken, and what is not any more."""

from __future__ import annotations

from pelton.event import Event, Partition
from pelton.kafka.assignment import Assignment, Held

A, B = Partition("t", 0), Partition("t", 1)


def event(partition: Partition, offset: int) -> Event:
    return Event(partition.topic, partition.partition, offset, None, b"", b"", (), 0)


def flowing(*partitions: Partition, offset: int = 0) -> Assignment:
    assignment = Assignment()
    assignment.add(partitions)
    for held in assignment:
        held.announced = True
        held.starts_at(offset)
        held.flowing = True
    return assignment


def held_of(assignment: Assignment, partition: Partition) -> Held:
    held = assignment.get(partition)
    assert held is not None
    return held


def offsets(batch: list[tuple[Partition, list[Event]]]) -> dict[Partition, list[int]]:
    return {partition: [event.offset for event in events] for partition, events in batch}


def test_events_are_gathered_by_partition_in_order() -> None:
    assignment = flowing(A, B)
    batch = assignment.take([event(A, 0), event(B, 0), event(B, 5), event(A, 1)])
    assert offsets(batch) == {A: [0, 1], B: [0, 5]}
    assert held_of(assignment, B).next_offset == 6
    assert assignment.take([]) == []
    assert offsets(assignment.take([event(A, 2)])) == {A: [2]}


def test_what_is_not_ours_or_not_flowing_is_not_taken() -> None:
    assignment = flowing(A)
    held_of(assignment, A).flowing = False
    assert assignment.take([event(A, 0), event(B, 0), event(Partition("other", 0), 0)]) == []
    assert held_of(assignment, A).next_offset == 0


def test_nothing_is_taken_twice() -> None:
    assignment = flowing(A, offset=5)
    assert offsets(assignment.take([event(A, 4), event(A, 5), event(A, 5), event(A, 6)])) == {A: [5, 6]}


def test_a_partition_that_comes_back_starts_from_nothing() -> None:
    assignment = flowing(A, B)
    assert assignment.remove([A, Partition("never", 0)]) == [A]
    assert assignment.take([event(A, 0)]) == []
    assignment.add([A])
    assert assignment.take([event(A, 0)]) == []
    assert [held.partition for held in assignment.starting(0)] == [A]
    assert assignment.remove([A]) == []  # the listener has not been told of it


def test_a_tier_that_stands_still_is_not_waited_for() -> None:
    assignment = Assignment({A.topic})
    assignment.add([A])
    held = held_of(assignment, A)
    held.announced = True
    assert assignment.waiting, "its start is to be found"
    held.paused = True
    assert not assignment.waiting
    held.paused = False
    assert assignment.waiting


def test_who_is_due() -> None:
    assignment = flowing(A, B)
    assert not assignment.waiting
    held = held_of(assignment, A)
    held.flowing = False
    assert assignment.waiting
    assert assignment.to_seek(0) == [held]
    held.paused = True
    assert assignment.to_seek(0) == []
    held.paused = False
    held.backoff(100.0, 0.01, 1.0)
    assert assignment.to_seek(100.0) == []
    assert assignment.to_seek(100.02) == [held]
    held.lost_wanted = 3
    assert assignment.to_seek(200) == []
    assert assignment.to_find(200) == [held]


def test_waits_double_up_to_their_bound_and_end_with_a_place() -> None:
    held = Held(A)
    waits = []
    for _ in range(6):
        held.backoff(0, 0.1, 1.0)
        waits.append(held.retry_wait_s)
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    held.starts_at(7)
    assert (held.next_offset, held.retry_at, held.retry_wait_s) == (7, 0.0, 0.0)


def test_released_when_all_are_or_are_gone() -> None:
    assignment = flowing(A, B)
    held_of(assignment, A).released = True
    assert assignment.all_released([A])
    assert not assignment.all_released([A, B])
    assignment.remove([B])
    assert assignment.all_released([A, B])
