"""The benchmark's cells: the table is whole, and what is asked for by name is what was meant."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.cells import (
    DELAYS_MS,
    GO_LOOPS,
    JVM_LOOPS,
    MODES,
    MORE_OUT,
    RATES_PER_S,
    STATUSES,
    Bridge,
    Kill,
    Latency,
    Poison,
    Speed,
    cells,
    choose,
    parse_speed,
)


def test_every_mode_has_every_delay_order_and_number_of_workers() -> None:
    found = {
        (cell.bridge.mode, cell.delay_ms, cell.bridge.ordering, cell.bridge.workers)
        for cell in cells()
        if isinstance(cell, Speed)
    }
    for mode in MODES:
        for delay_ms in DELAYS_MS:
            assert {(mode, delay_ms, "key", 1), (mode, delay_ms, "none", 1)} <= found
            assert (mode, delay_ms, "key", 2) in found
        assert (mode, 0, "none", 2) in found


def test_every_loop_has_every_delay_and_the_jvm_its_two_concurrencies() -> None:
    speeds = [cell for cell in cells() if isinstance(cell, Speed)]
    for mode in (*GO_LOOPS, *JVM_LOOPS):
        delays = {cell.delay_ms for cell in speeds if cell.bridge.mode == mode}
        assert delays == ({0, 1} if mode == "go-serial" else set(DELAYS_MS))
    threads = {
        (cell.delay_ms, cell.bridge.concurrency) for cell in speeds if cell.bridge.mode == "parallel-consumer"
    }
    assert threads == {(delay_ms, out) for delay_ms in DELAYS_MS for out in (100, 1_000)}


def test_latency_kill_and_poison_are_asked_of_each() -> None:
    table = cells()
    modes = {"go-keyed", *MODES, *JVM_LOOPS}
    assert {(c.bridge.mode, c.per_second) for c in table if isinstance(c, Latency)} == {
        (mode, rate) for mode in modes for rate in RATES_PER_S
    }
    assert {c.bridge.mode for c in table if isinstance(c, Kill)} == modes
    assert {(c.bridge.mode, c.status) for c in table if isinstance(c, Poison)} == {
        (mode, status) for mode in modes for status in STATUSES
    }


def test_a_name_is_one_cell() -> None:
    assert not [name for name, count in Counter(cell.name for cell in cells()).items() if count > 1]


def test_no_cell_takes_longer_than_its_delay_makes_it() -> None:
    for cell in cells():
        if isinstance(cell, Speed):
            more = MORE_OUT.get(cell.bridge.mode, 1)
            out = cell.bridge.concurrency * cell.bridge.workers * more
            seconds = cell.events / out * cell.delay_ms / 1_000 - cell.bridge.begins_after_s
            assert seconds <= 8, f"{cell.name} would take {seconds} s"


def test_the_fewest_events_still_make_a_run() -> None:
    for cell in cells(1e-9):
        if isinstance(cell, Speed) and cell.delay_ms and not cell.bridge.begins_after_s:
            rounds = cell.events / (cell.bridge.concurrency * cell.bridge.workers)
            assert cell.events == 2_000 or rounds >= 8, f"{cell.name} is over when it has begun"
        elif isinstance(cell, Speed | Kill) and not cell.bridge.begins_after_s:
            assert cell.events == 2_000


def test_only_a_jvm_is_warmed_up() -> None:
    assert {cell.bridge.mode for cell in cells() if cell.bridge.warm_up_s} == set(JVM_LOOPS)


def test_a_speed_of_the_command_line_is_that_of_the_table() -> None:
    for cell in cells(0.5):
        if isinstance(cell, Speed):
            assert parse_speed(cell.name, 0.5) == cell
    made = parse_speed("native:5:64:none:3w")
    assert (made.delay_ms, made.bridge) == (5, Bridge("native", 64, "none", 3))
    assert parse_speed("aio:1").bridge == Bridge("aio", 256)
    assert parse_speed("share-group:0").bridge == Bridge("share-group", 1_000, "none")


def test_cells_are_chosen_by_pattern_and_once() -> None:
    assert choose((), 1.0) == cells()
    assert [cell.name for cell in choose(["kill:a*", "kill:aio", "native:7"], 1.0)] == [
        "kill:aio",
        "native:7:256",
    ]
    assert all(cell.name.startswith("poison:stream") for cell in choose(["poison:stream:*"], 1.0))


@pytest.mark.parametrize(
    "text", ["", "aio", "handler:0", "aio:fast", "aio:0:1:2", "stream:-1", "go-keyed:0:64:2w", "aio:0:8:0w"]
)
def test_what_is_no_cell_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is no cell"):
        parse_speed(text)


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no cell's name matches"):
        choose(["latencies:*"], 1.0)
