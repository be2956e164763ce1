"""Slots and generations: a name that outlives its process, and that no two live ones share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pelton.errors import BrokerError
from pelton.kafka import membership
from pelton.kafka.membership import Slot, generation_of


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    return tmp_path / "locks"


def number(slot: Slot) -> int:
    return int(slot.instance_id.rpartition("-")[2])


def test_the_lowest_free_slot_is_taken(locks: Path) -> None:
    slots = [Slot.take("g", locks) for _ in range(3)]
    assert [number(slot) for slot in slots] == [0, 1, 2]
    assert len({slot.instance_id for slot in slots}) == 3
    slots[1].release()
    slots[1].release()
    again = Slot.take("g", locks)
    assert number(again) == 1
    for slot in (*slots, again):
        slot.release()


def test_groups_do_not_meet_even_if_their_names_look_alike(locks: Path) -> None:
    names = ["a/b", "a_b", "a b", "../a", "x" * 300]
    slots = [Slot.take(name, locks) for name in names]
    assert {number(slot) for slot in slots} == {0}
    for slot in slots:
        slot.release()


def test_a_killed_process_gives_its_slot_back(locks: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from pelton.kafka.membership import Slot\n"
        "slot = Slot.take('g', Path(sys.argv[1])); print(slot.instance_id, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(locks)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip().endswith(b"-0")
        mine = Slot.take("g", locks)
        assert number(mine) == 1
        other.send_signal(signal.SIGKILL)
        other.wait()
    again = Slot.take("g", locks)
    assert number(again) == 0
    mine.release()
    again.release()


def test_slots_are_bounded(locks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "SLOTS_MAX", 2)
    slots = [Slot.take("g", locks) for _ in range(2)]
    with pytest.raises(BrokerError, match=r"group\.instance\.id"):
        Slot.take("g", locks)
    for slot in slots:
        slot.release()


def test_a_directory_that_others_can_write_is_refused(locks: Path) -> None:
    locks.mkdir()
    locks.chmod(0o777)
    with pytest.raises(BrokerError, match="0700"):
        Slot.take("g", locks)


def test_a_link_or_a_file_in_the_directorys_place_is_refused(locks: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    locks.symlink_to(elsewhere)
    with pytest.raises(BrokerError):
        Slot.take("g", locks)
    locks.unlink()
    locks.write_text("")
    with pytest.raises(BrokerError):
        Slot.take("g", locks)


def test_where_the_locks_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    slot = Slot.take("g")
    slot.release()
    assert (tmp_path / "pelton").stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    assert membership._lock_directory() == Path(f"/tmp/pelton-{os.geteuid()}")


@pytest.mark.parametrize(
    ("metadata", "generation"),
    [
        (b"CGMDv2:\x07\x01\x00\x00g\x00member\x00", 263),
        (b"CGMDv2:\xff\xff\xff\xffg\x00", 0),
        (b"CGMDv3:\x07\x00\x00\x00", 0),
        (b"CGMDv2:\x07", 0),
        (b"", 0),
        (object(), 0),
    ],
)
def test_the_generation_is_read_or_not_known(metadata: object, generation: int) -> None:
    assert generation_of(metadata) == generation
