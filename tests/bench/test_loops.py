"""The loops that Pelton is measured beside, and the harness: a slow or broken one would flatter Pelton."""

from __future__ import annotations

import shutil
from functools import partial

import pytest

from bench.builds import Built, build_java, build_loops, build_target
from bench.cells import GO_LOOPS, JVM_LOOPS, Bridge, Speed
from bench.measure import Bench
from bench.processes import Failed, Target
from pelton.local.broker import LocalKafka

pytestmark = [pytest.mark.needs_tool("go"), pytest.mark.timeout(900)]

EVENTS = 2_000


@pytest.fixture(scope="module")
def bench(kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("loops")
    java = build_java() if shutil.which("mvn") and shutil.which("java") else None
    built = Built(build_target(folder), build_loops(folder), java)
    return Bench(kafka.bootstrap, kafka.status().pid, built, folder / "bytecode")


@pytest.mark.parametrize("mode", GO_LOOPS)
def test_a_loop_delivers_everything_once_and_commits_it(bench: Bench, mode: str) -> None:
    ordering = "none" if mode == "go-unordered" else "key"
    done = bench.speed(Speed(Bridge(mode, 1 if mode == "go-serial" else 64, ordering), 0, EVENTS))
    assert (done.repeats, done.not_committed) == (0, 0)
    assert (done.disorder, done.overlaps) == (0, 0)


@pytest.mark.needs_tool("mvn")
@pytest.mark.needs_tool("java")
@pytest.mark.parametrize("mode", JVM_LOOPS)
def test_a_loop_of_the_jvm_delivers_everything(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Not as fast as it could: what is shown is that it is right."""
    monkeypatch.setattr("bench.cells.JVM_WARM_UP_S", 0.0)
    done = bench.speed(Speed(Bridge(mode, 100, "none" if mode == "share-group" else "key"), 0, EVENTS))
    assert done.repeats == 0
    assert (done.disorder, done.overlaps) == (0, 0)
    # A share group keeps its place elsewhere.
    assert done.not_committed == (None if mode == "share-group" else 0)


def test_what_is_over_before_it_is_measured_has_no_figure(bench: Bench) -> None:
    cell = Speed(Bridge("go-keyed", 64), 0, EVENTS)
    with pytest.raises(Failed, match="over before it was warm"):
        bench.speed(cell, from_part=0.99)


def test_what_loses_events_has_no_figure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops log an error and go on: what their target refuses is lost, and the journal says so."""
    monkeypatch.setattr("bench.measure.STALL_S", 0.5)
    poison_all = partial(Target, poison_code=3)
    monkeypatch.setattr("bench.measure.Target", poison_all)
    with pytest.raises(Failed, match=f"of {EVENTS} events settled, and none more"):
        bench.speed(Speed(Bridge("go-keyed", 64), 0, EVENTS))


def test_order_lost_by_a_loop_is_seen(bench: Bench) -> None:
    """As if the loop without order had been asked to keep it."""
    done = bench.speed(Speed(Bridge("go-unordered", 64, "key"), 1, EVENTS))
    assert done.repeats == 0
    assert done.overlaps + done.disorder > 0
