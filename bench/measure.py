"""One measurement: fresh processes, a group of its own, and the figures of one cell.

Nothing is judged here, and nothing printed. A run whose journal does not show every event, or that ended
before it could be measured, is `Failed`: there is no figure of it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import figures, processes, source
from bench.builds import Built
from bench.cells import GO_LOOPS, JVM_LOOPS, STATUSES, Bridge, Cell, Kill, Latency, Poison, Speed
from bench.processes import Failed, Sampler, Stats, Subject, Target, Work
from bench.results import Found, Killed, Late, Poisoned, Throughput
from bench.source import Events
from pelton.local.ports import free_ports

__all__ = ["Bench"]

#: Without a single event settled for so long, a run has failed.
STALL_S = 20.0
#: After a kill: what a dead member of a share group had taken stays locked for 30 s.
STALL_SHARED_S = 45.0
#: And so long for the first one: a dead member's session ends after 45 s where its name is not known again.
FIRST_S = 90.0
ASK_EVERY_S = 0.05
#: Of the run that has Python compile what it imports.
COMPILED_EVENTS = 2_000
#: What of a latency run is not counted: connecting, and of a JVM also its compiling.
LATENCY_WARM_UP_S = 3.0
LATENCY_WARM_UP_JVM_S = 10.0
#: A connection that has brought so much carries events, and not only questions.
BUSY_BYTES = 64 * 1024
#: Of all that came since they share: what each of several workers must have brought at least.
WORKER_SHARE_MIN = 0.1
#: Of all events: what a measurement after a warm-up must have at least.
MEASURED_MIN = 0.15
#: When a kill comes: at such a part of all events.
KILL_AT = 0.4
#: What is settled and not committed yet may repeat: so long before the kill, a commit's round trip included.
UNCOMMITTED_S = 0.25


class Bench:
    """Where the measurements take place: one broker, and the programs."""

    def __init__(self, bootstrap: str, broker_pid: int, built: Built, bytecode: Path) -> None:
        self._bootstrap = bootstrap
        # A small process watches over the broker.
        self._broker_pids = processes.with_children(broker_pid)
        self._built = built
        #: Compiled once, by a Pelton that is not measured.
        self._bytecode = bytecode
        self._prepared: set[Events] = set()
        self._runs = 0

    def prepare(self, events: Events) -> None:
        """The topic for cells of so many events, its order checked. Twice is nothing."""
        if events not in self._prepared:
            source.create_topic(self._bootstrap, events.topic, events.partitions)
            source.preload(self._bootstrap, events)
            source.check_order(self._bootstrap, events)
            self._prepared.add(events)

    def compile(self, mode: str) -> None:
        """A start of Pelton that counts nothing: what Python compiles once is not part of any figure."""
        self.speed(Speed(Bridge(mode, 1), 0, COMPILED_EVENTS))

    def measure(self, cell: Cell, latency_s: float, number: int) -> Found:
        """One run of it, in round `number`."""
        match cell:
            case Speed():
                return self.speed(cell)
            case Latency():
                return self.latency(cell, latency_s)
            case Kill():
                return self.kill(cell)
            case Poison():
                return self.poison(cell, poison_first=number % 2 == 1)

    def speed(
        self,
        cell: Speed,
        profile: Path | None = None,
        *,
        events: Events | None = None,
        subscriptions: int = 1,
        from_part: float = 0.0,
    ) -> Throughput:
        """`events` are others than the table's; each of several subscriptions takes all of them.

        `from_part` of the work is not measured: what many consumers take to start.
        """
        events = Events(cell.events) if events is None else events
        assert events.count == cell.events
        self.prepare(events)
        wanted = events.count * subscriptions
        group = self._name("speed")
        with (
            Target(self._built.target, delay_ms=cell.delay_ms) as target,
            self._subject(cell.bridge, events.topic, group, target, profile, subscriptions) as subject,
        ):
            samplers = [
                Sampler(subject.pids),
                Sampler(lambda: [target.pid]),
                Sampler(lambda: self._broker_pids),
            ]
            if profile is not None:
                _answered(subject, target, 1)
                subject.begin_profile()
            begun, stats = _measured(
                cell.bridge, subject, target, wanted, several=subscriptions > 1, from_part=from_part
            )
            # What was used up to the last answer, not what is noted about it now.
            time.sleep(ASK_EVERY_S)
            for sampler in samplers:
                sampler.stop()
            rss_mb = subject.rss_peak_mb()
            cpu_by_thread = subject.cpu_by_thread()
            subject.stop()
            # Repeats would come as late as this.
            after = target.stats()
        first, last = begun["now_ns"], stats["last_ns"]
        measured = wanted - _counted(begun, several=subscriptions > 1)
        cpu_s, target_cpu_s, broker_cpu_s = (
            (figures.at(one.samples, last) - figures.at(one.samples, first)) * 1e6 / measured
            for one in samplers
        )
        groups = [group] if subscriptions == 1 else [f"{group}.bench-{n}" for n in range(subscriptions)]
        return Throughput(
            events_per_s=measured / ((last - first) / 1e9),
            cpu_s=cpu_s,
            target_cpu_s=target_cpu_s,
            rss_mb=rss_mb,
            first_event_s=(stats["first_ns"] - subject.exec_ns) / 1e9,
            # What several subscriptions share no journal can tell from a repeat; the calls are counted.
            repeats=after["repeats"] if subscriptions == 1 else after["calls"] - wanted,
            disorder=after["disorder"] if cell.bridge.keeps_order and subscriptions == 1 else 0,
            overlaps=after["overlaps"] if cell.bridge.keeps_order and subscriptions == 1 else 0,
            not_committed=(
                None
                if cell.bridge.mode == "share-group"
                else wanted - sum(source.committed(self._bootstrap, events, one) for one in groups)
            ),
            broker_cpu_s=broker_cpu_s,
            wire_bytes=sum(stats["connections"]) / wanted,
            cpu_by_thread=cpu_by_thread,
        )

    def latency(self, cell: Latency, seconds: float) -> Late:
        """Open loop: the clock says how many events there are, and when each is due."""
        topic = self._name("latency")
        source.create_topic(self._bootstrap, topic)
        warm_up_s = LATENCY_WARM_UP_JVM_S if cell.bridge.mode in JVM_LOOPS else LATENCY_WARM_UP_S
        with (
            Target(self._built.target, delay_ms=0, latency=True) as target,
            self._subject(cell.bridge, topic, topic, target) as subject,
        ):
            subject.wait_until_ready()
            paced = source.publish_paced(
                self._bootstrap, topic, per_second=cell.per_second, seconds=warm_up_s + seconds
            )
            stats = _answered(subject, target, paced.events)
            pairs = target.latencies()
            subject.stop()
        counted_from = paced.first_due_ns + int(warm_up_s * 1e9)
        late_ms = [late / 1e6 for due, late in pairs if due >= counted_from]
        return Late(
            p50_ms=figures.percentile(late_ms, 50),
            p99_ms=figures.percentile(late_ms, 99),
            p999_ms=figures.percentile(late_ms, 99.9),
            worst_ms=max(late_ms),
            publisher_p99_ms=figures.percentile(paced.late_ms[-len(late_ms) :], 99),
            samples=len(late_ms),
            repeats=stats["repeats"],
            disorder=stats["disorder"] if cell.bridge.keeps_order else 0,
        )

    def kill(self, cell: Kill) -> Killed:
        """kill -9 in the middle of the events, and started again at once with the same group."""
        events = Events(cell.events)
        self.prepare(events)
        group = self._name("kill")
        with Target(self._built.target, delay_ms=cell.delay_ms) as target:
            lately: list[Stats] = []
            with self._subject(cell.bridge, events.topic, group, target) as subject:
                for stats in _watch(subject, target, int(events.count * KILL_AT)):
                    lately.append(stats)
                subject.kill()
            at_kill = _when_quiet(target)
            target.mark()
            if at_kill["settled"] >= events.count:
                raise Failed("all events were delivered before the kill")
            with self._subject(cell.bridge, events.topic, group, target) as subject:
                stats = _back(subject, target, cell)
                first_event_s = (stats["first_ns"] - subject.exec_ns) / 1e9
                subject.stop()
                stats = target.stats()
        since_ns = lately[-1]["now_ns"] - UNCOMMITTED_S * 1e9
        before = max((one for one in lately if one["now_ns"] <= since_ns), key=lambda one: one["now_ns"])
        return Killed(
            first_event_s=first_event_s,
            repeats=stats["repeats"],
            repeats_bound=cell.bridge.concurrency + at_kill["settled"] - before["settled"],
            disorder=stats["disorder"] if cell.bridge.keeps_order else 0,
            settled=at_kill["settled"],
            events=events.count,
            lost=events.count - stats["settled"],
        )

    def poison(self, cell: Poison, *, poison_first: bool) -> Poisoned:
        """A control and poison, one after the other; who is first changes, since the first is the colder."""
        events = Events(cell.events)
        self.prepare(events)
        healthy = events.count - events.poisonable
        assert healthy < events.count, "no key of these is poison"

        def control() -> float:
            stats = self._paced(cell, events, None, events.count)
            if stats["settled"] < events.count:
                raise Failed(f"{events.count - stats['settled']} events did not come, also without poison")
            return _pace(stats) * healthy / events.count

        def poisoned() -> Stats:
            return self._paced(cell, events, STATUSES[cell.status], healthy)

        if poison_first:
            stats = poisoned()
            control_per_s = control()
        else:
            control_per_s = control()
            stats = poisoned()
        if not stats["refused"]:
            raise Failed("not one event was refused")
        return Poisoned(control_per_s, _pace(stats), healthy - stats["settled"], stats["refused"])

    def _paced(self, cell: Poison, events: Events, poison_code: int | None, wanted: int) -> Stats:
        """The journal when so many are settled, or when nothing has moved for a while."""
        with (
            Target(self._built.target, delay_ms=cell.delay_ms, poison_code=poison_code) as target,
            self._subject(cell.bridge, events.topic, self._name("poison"), target) as subject,
        ):
            stats = target.stats()
            try:
                stats = _answered(subject, target, wanted)
            except Failed:
                subject.check()
                stats = target.stats()
            # What waits for poison would keep some of them from stopping.
            subject.kill()
        return stats

    def _name(self, what: str) -> str:
        self._runs += 1
        return f"{what}-{self._runs}"

    @contextmanager
    def _subject(
        self,
        bridge: Bridge,
        topic: str,
        group: str,
        target: Target,
        profile: Path | None = None,
        subscriptions: int = 1,
    ) -> Iterator[Subject]:
        with tempfile.TemporaryDirectory(prefix="pelton-bench-") as name:
            (http_port,) = free_ports(1)
            folder = Path(name)
            work = Work(self._bootstrap, topic, group, bridge, target.address, http_port, subscriptions)
            if bridge.is_pelton:
                subject = processes.pelton(folder, work, bytecode=self._bytecode, profile=profile)
            else:
                assert profile is None, "the profile is of Python"
                programs = self._built.loops if bridge.mode in GO_LOOPS else self._built.java
                assert programs is not None, f"{bridge.mode} is missing and cannot be measured"
                start = processes.go_loop if bridge.mode in GO_LOOPS else processes.jvm_loop
                subject = start(folder, work, programs)
            with subject:
                yield subject


def _settled(stats: Stats) -> int:
    return stats["settled"]


def _calls(stats: Stats) -> int:
    return stats["calls"]


def _counted(stats: Stats, *, several: bool) -> int:
    return stats["calls"] if several else stats["settled"]


def _watch(
    subject: Subject,
    target: Target,
    wanted: int,
    count: Callable[[Stats], int] = _settled,
    stall_s: float | None = None,
) -> Iterator[Stats]:
    """The target's journal again and again, until it has so many; Failed where nothing moves any more."""
    done, moved = 0, time.monotonic()
    while True:
        stats = target.stats()
        yield stats
        if count(stats) >= wanted:
            return
        if count(stats) > done:
            done, moved = count(stats), time.monotonic()
        subject.check()
        patience_s = (STALL_S if stall_s is None else stall_s) if done and stats["first_ns"] else FIRST_S
        if time.monotonic() - moved > patience_s:
            raise subject.failure(f"{done} of {wanted} events settled, and none more for {patience_s:.0f} s")
        time.sleep(ASK_EVERY_S)


def _answered(subject: Subject, target: Target, wanted: int, stall_s: float | None = None) -> Stats:
    """The target's journal once it has answered so many."""
    return [*_watch(subject, target, wanted, stall_s=stall_s)][-1]


def _back(subject: Subject, target: Target, cell: Kill) -> Stats:
    """The journal once all has come after a kill, or nothing more does: what is lost then is lost."""
    stall_s = STALL_SHARED_S if cell.bridge.mode == "share-group" else STALL_S
    try:
        return _answered(subject, target, cell.events, stall_s)
    except Failed:
        subject.check()
        stats = target.stats()
        if not stats["first_ns"]:
            raise
        return stats


def _measured(
    bridge: Bridge, subject: Subject, target: Target, wanted: int, *, several: bool, from_part: float
) -> tuple[Stats, Stats]:
    """The journal where the measurement begins, `now_ns` being when, and where it ends."""
    begun: Stats | None = None
    for stats in _watch(subject, target, wanted, _calls if several else _settled):
        is_far = _counted(stats, several=several) >= wanted * from_part
        if begun is None and stats["first_ns"] and is_far and _is_warm(bridge, stats):
            begun = stats
    if bridge.workers == 1 and not bridge.warm_up_s and not from_part:
        # From the first call on, whenever we looked.
        begun = {**stats, "now_ns": stats["first_ns"], "calls": 0, "settled": 0}
    measured = 0 if begun is None else wanted - _counted(begun, several=several)
    if begun is None or measured < wanted * MEASURED_MIN:
        raise subject.failure(f"{wanted} events were over before it was warm: there is no figure")
    if bridge.workers > 1:
        before = [*begun["connections"], *[0] * (len(stats["connections"]) - len(begun["connections"]))]
        brought = [now - then for now, then in zip(stats["connections"], before, strict=True)]
        sharing = sum(one >= sum(brought) * WORKER_SHARE_MIN for one in brought)
        if sharing < bridge.workers:
            raise subject.failure(f"{sharing} of {bridge.workers} workers did the work")
    return begun, stats


def _is_warm(bridge: Bridge, stats: Stats) -> bool:
    busy = sum(brought >= BUSY_BYTES for brought in stats["connections"])
    return busy >= bridge.workers and stats["now_ns"] - stats["first_ns"] >= bridge.warm_up_s * 1e9


def _when_quiet(target: Target) -> Stats:
    """What was on its way when its sender died has come, and is answered."""
    before = target.stats()
    while True:
        time.sleep(4 * ASK_EVERY_S)
        now = target.stats()
        if now["calls"] == before["calls"] and now["settled"] == before["settled"]:
            return now
        before = now


def _pace(stats: Stats) -> float:
    return stats["settled"] / ((stats["last_ns"] - stats["first_ns"]) / 1e9)
