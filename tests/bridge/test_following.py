"""What is remembered of followed keys: who waits for it, who is told, and what is said when none fits."""

from __future__ import annotations

import json

import pytest

from pelton.bridge import logs
from pelton.config.settings import Logging
from pelton.core.followed import Kind, Note
from pelton.core.outcome import Outcome, Status
from pelton.event import Partition
from tests.bridge.stage import Stage, event

LEFT = Note(Kind.LEFT, "t", b"a", "t", 0, -1, "s/t/0/0")
ENDED = Note(Kind.ENDED, "t", b"a", through=0)


def stage() -> Stage:
    made = Stage(follow=True)
    made.assign(0, 1)
    return made


async def test_nothing_is_called_before_everything_was_read() -> None:
    world = stage()
    assert world.reader.asked == [(0, 1), (1, 2)]
    world.feed(event(1, b"a"), event(1, b"a", partition=1))
    world.pump.on_notes(0, [LEFT], 0)
    assert world.out == []
    world.pump.on_notes(1, [], 2)
    assert world.out == [(1, 1)]
    world.pump.on_notes(0, [], 1)
    assert world.out == [(1, 1)], "its key is followed"
    assert [hop.follows for hop in world.sink.submitted] == [True]


async def test_the_end_of_an_earlier_reading_is_not_its_own() -> None:
    world = stage()
    world.pump.on_lost([Partition("t", 0)])
    assert world.reader.asked[2:] == [(0, None)]
    world.assign(0)
    assert world.reader.asked[3:] == [(0, 3)]
    world.feed(event(0, b"a"))
    world.pump.on_notes(0, [], 1)
    assert world.out == []
    world.pump.on_notes(0, [], 3)
    assert world.out == [(0, 0)]


async def test_a_key_that_is_free_goes_on() -> None:
    world = stage()
    world.pump.on_notes(0, [LEFT, ENDED], 1)
    world.feed(event(1, b"a"))
    assert world.out == [(0, 1)]


async def test_notes_of_a_partition_that_is_not_ours_are_nobodys() -> None:
    world = stage()
    world.pump.on_notes(7, [LEFT], 9)
    assert world.out == []
    plain = Stage()
    plain.assign(0)
    plain.pump.on_notes(0, [LEFT], 1)
    plain.feed(event(0, b"a"))
    assert plain.out == [(0, 0)]


async def test_no_room_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Logging("json", "info"))
    world = stage()
    world.pump.on_notes(0, [], 1)
    (engine,) = [each for each in world.pump.engines if each.partition.partition == 0]
    assert engine.followed is not None
    engine.followed._keys_max = 0
    world.feed(event(0, b"a"))
    wrong = Outcome(Status.INVALID_ARGUMENT, "no")
    world.transport.answer((world.delivery(0), wrong))
    for _ in range(3):
        world.pump._tick()
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (full,) = [line for line in said if "no room to follow" in line["event"]]
    assert (full["level"], full["topic"], full["partition"]) == ("error", "t", 0)
