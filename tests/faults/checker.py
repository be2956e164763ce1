"""Reads a history and says what is wrong with it: pure, and without a word of Pelton's own metrics.

In the manner of Jepsen's checker for Kafka: each anomaly has a name, is looked for over the whole history,
and carries the events that show it. What a fault allows to come again is no number but a set of calls: a
repeat whose first OK is not among them is an anomaly, however few there are.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from tests.faults.history import NEVER_NS, Blast, Call, History, Kept, Letter, Owned, Place, Stored

__all__ = ["Anomaly", "Expected", "Finding", "Report", "check"]


class Anomaly(Enum):
    """What can be wrong."""

    #: The broker acknowledged it, and the log does not have it.
    LOST_WRITE = "lost write"
    #: It is in the log, and reached no end.
    UNSEEN = "unseen"
    #: It was called again after an OK that no fault explains.
    REPEATED = "repeated"
    #: A key's event was called although the one before it never had been.
    POLL_SKIP = "poll-skip"
    #: A key's event was called before the one before it had ended, or, in one assignment, after a newer one.
    OUT_OF_ORDER = "out of order"
    #: The group had committed past an event that had not ended (I2).
    COMMITTED_PAST_OPEN = "committed past open"
    #: A dead letter is not the record that it stands for, or stands for none (I7).
    UNFAITHFUL = "unfaithful"
    #: More dead letters of one event than crashes explain.
    COPIED = "copied"
    #: An event was set aside that should not have been.
    SET_ASIDE = "set aside"
    #: A call by a bridge on a partition that another one had been assigned (I5).
    NOT_OWNED = "not owned"
    #: A call was taken although a newer owner of its partition had called before it (I6).
    STALE = "stale call taken"


@dataclass(frozen=True, slots=True)
class Finding:
    anomaly: Anomaly
    text: str

    def __str__(self) -> str:
        return f"{self.anomaly.value}: {self.text}"


@dataclass(frozen=True, slots=True)
class Expected:
    """What of a run is no anomaly, beyond what its faults explain."""

    #: Only these events may be dead letters, by number in the publisher's count; None: any may.
    letters: frozenset[int] | None = frozenset()
    #: Copies of one dead letter that crashes may leave.
    copies_max: int = 1
    #: A frozen bridge that wakes up may not know yet that its partitions are gone: what it calls until it
    #: hears may have been settled by their new owner. Count such calls, no more.
    zombies: bool = False
    #: The log forgets on purpose: what was written and is not there any more says nothing.
    compacted: bool = False


@dataclass(slots=True)
class Report:
    """What was found, and the figures beside it."""

    findings: list[Finding] = field(default_factory=list)
    sent: int = 0
    #: Events in the log that reached an end.
    ended: int = 0
    calls: int = 0
    repeats: int = 0
    #: How many could have come again by what the faults allow.
    repeats_max: int = 0
    letters: int = 0
    zombie_calls: int = 0
    #: Calls that began after a newer owner's first, taken or not.
    stale_calls: int = 0

    def count(self, *anomalies: Anomaly) -> int:
        return sum(finding.anomaly in anomalies for finding in self.findings)

    @property
    def lost(self) -> int:
        return self.count(Anomaly.LOST_WRITE, Anomaly.UNSEEN)

    @property
    def disorder(self) -> int:
        return self.count(Anomaly.OUT_OF_ORDER, Anomaly.POLL_SKIP)


def check(history: History, expected: Expected | None = None) -> Report:
    """The whole judgement. Findings come kind by kind."""
    expected = expected or Expected()
    by_place: dict[Place, list[Call]] = defaultdict(list)
    for call in sorted(history.calls, key=lambda call: call.start_ns):
        by_place[call.place].append(call)
    letters: dict[Place, list[Letter]] = defaultdict(list)
    for letter in history.letters:
        letters[letter.origin].append(letter)
    report = Report(sent=len(history.sent), calls=len(history.calls), letters=len(letters))
    ends = {record.place: _end_ns(record.place, by_place[record.place], letters) for record in history.stored}
    report.ended = sum(end_ns < NEVER_NS for end_ns in ends.values())
    stale = _stale_calls(history)
    report.stale_calls = len(stale)
    refused = {call for call in stale if not call.taken}
    found = report.findings
    found += () if expected.compacted else _lost_writes(history)
    found += (Finding(Anomaly.UNSEEN, _name(place)) for place, end in ends.items() if end == NEVER_NS)
    unowned = _unowned(history)
    found += _repeats(history, by_place, refused, set(unowned) if expected.zombies else set(), report)
    found += _disorder(history, by_place, ends)
    found += _commits(history, ends)
    found += _letters(history, letters, expected)
    found += _owners(history, unowned, expected, report)
    found += (
        Finding(Anomaly.STALE, f"{_name(call.place)} by {call.instance}, fence {call.fence}")
        for call in stale
        if call.taken
    )
    return report


def _name(place: Place) -> str:
    return f"{place[0]}/{place[1]}"


def _end_ns(place: Place, calls: Sequence[Call], letters: dict[Place, list[Letter]]) -> int:
    """When an event ended: its first OK or drop. A dead letter's: its first call's, at the earliest."""
    ends = [call.end_ns for call in calls if call.status in ("OK", "DROPPED")]
    if ends:
        return min(ends)
    if place in letters:
        # Without a call that came so far, nothing is known but that it has ended.
        return min((call.end_ns for call in calls if call.end_ns < NEVER_NS), default=0)
    return NEVER_NS


def _lost_writes(history: History) -> Iterator[Finding]:
    there = {record.place: record.number for record in history.stored}
    for sent in history.sent:
        if sent.place is not None and there.get(sent.place) != sent.number:
            yield Finding(Anomaly.LOST_WRITE, f"event {sent.number} at {_name(sent.place)}")


def _repeats(
    history: History,
    by_place: dict[Place, list[Call]],
    refused: set[Call],
    unowned: set[Call],
    report: Report,
) -> Iterator[Finding]:
    allowed = {call for call in history.calls if call.taken and _in_a_blast(call, history)}
    unknowing = {call for call in unowned if _in_a_blast(call, history)}
    report.repeats_max = len(allowed | unknowing)
    for place, calls in by_place.items():
        taken: Call | None = None
        for call in calls:
            # What a handler refuses by its fence has come again, and has done nothing.
            if taken is not None and call.start_ns > taken.end_ns and call not in refused:
                report.repeats += 1
                if taken not in allowed and call not in unknowing:
                    yield Finding(
                        Anomaly.REPEATED, f"{_name(place)}, attempt {call.attempt} by {call.instance}"
                    )
            if call.taken and (taken is None or call.end_ns > taken.end_ns):
                # Of several OKs the latest must explain what comes after it.
                taken = call


def _in_a_blast(call: Call, history: History) -> bool:
    return any(
        call.start_ns <= fault.until_ns
        and call.end_ns >= fault.from_ns
        and fault.instance in ("", call.instance)
        for fault in history.faults
    )


def _lanes(stored: Sequence[Stored]) -> Iterator[list[Place]]:
    lanes: dict[tuple[int, bytes], list[Place]] = defaultdict(list)
    for record in sorted(stored, key=lambda record: record.place):
        if record.key is not None:
            lanes[record.place[0], record.key].append(record.place)
    yield from lanes.values()


def _disorder(
    history: History, by_place: dict[Place, list[Call]], ends: dict[Place, int]
) -> Iterator[Finding]:
    epoch_of = _Epochs(history)
    aside = {letter.origin for letter in history.letters}
    for lane in _lanes(history.stored):
        for before, after in itertools.pairwise(lane):
            if not by_place[after]:
                continue
            first_ns = by_place[after][0].start_ns
            if not by_place[before] or by_place[before][0].start_ns > first_ns:
                yield Finding(Anomaly.POLL_SKIP, f"{_name(after)} was called before {_name(before)}")
            elif ends[before] > first_ns or (before in aside and _out(by_place[before], first_ns)):
                yield Finding(
                    Anomaly.OUT_OF_ORDER, f"{_name(after)} was called while {_name(before)} was open"
                )
        newest: dict[object, Call] = {}
        calls = sorted((call for place in lane for call in by_place[place]), key=lambda call: call.start_ns)
        for call in calls:
            epoch = epoch_of(call)
            earlier = newest.get(epoch)
            if earlier is not None and earlier.place > call.place:
                yield Finding(Anomaly.OUT_OF_ORDER, f"{_name(call.place)} came after {_name(earlier.place)}")
            elif not epoch_of.is_late(call):
                newest[epoch] = call


def _out(calls: Sequence[Call], moment_ns: int) -> bool:
    """One of them was out then. (Not asked of what was taken: a handler may go on with a call given up.)"""
    return any(call.start_ns < moment_ns < call.end_ns < NEVER_NS for call in calls)


class _Epochs:
    """Which assignment of which bridge a call belongs to: after a new one, older events may come again.

    (By the time at which it arrives. Its fence does not say: a static member that joins again has the same.)
    """

    def __init__(self, history: History) -> None:
        self._assigned: dict[tuple[str, int], list[float]] = defaultdict(list)
        #: At each loss, what was out and had not arrived by then, nor has since.
        self._on_the_way: dict[tuple[str, int], list[tuple[float, set[Place]]]] = defaultdict(list)
        for owned in sorted(history.owned, key=lambda owned: owned.at_s):
            there = {call.place for call in history.calls if _is_there(call, owned)} if owned.out else set()
            for partition in owned.partitions:
                at = owned.instance, partition
                if owned.kept is Kept.ASSIGNED:
                    self._assigned[at].append(owned.at_s)
                elif owned.kept is Kept.LOST:
                    out = {place for place in owned.out - there if place[0] == partition}
                    self._on_the_way[at].append((owned.at_s, out))

    def __call__(self, call: Call) -> tuple[str, int]:
        times = self._assigned.get((call.instance, call.place[0]), ())
        return call.instance, bisect_right(times, call.start_s)

    def is_late(self, call: Call) -> bool:
        """It was out when the partition was lost, as its bridge has said, and arrives only now: one call of
        each such event. (Its key waits for it; that it is not overtaken shows in the first calls.)"""
        losses = self._on_the_way.get((call.instance, call.place[0]), ())
        before = [places for at_s, places in losses if at_s <= call.start_s]
        if not before or call.place not in before[-1]:
            return False
        before[-1].discard(call.place)
        return True


def _is_there(call: Call, owned: Owned) -> bool:
    """The target had it in hand at that moment."""
    end_s = call.start_s + (call.end_ns - call.start_ns) / 1e9
    return call.instance == owned.instance and call.start_s <= owned.at_s <= end_s


def _commits(history: History, ends: dict[Place, int]) -> Iterator[Finding]:
    """Every event below a committed offset had ended when that was told."""
    by_partition: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for (partition, offset), end_ns in sorted(ends.items()):
        by_partition[partition].append((offset, end_ns))
    latest: dict[int, tuple[list[int], list[tuple[int, int]]]] = {}
    for partition, events in by_partition.items():
        offsets = [offset for offset, _ in events]
        # The latest end up to each offset, and whose it is.
        running = list(itertools.accumulate(((end, offset) for offset, end in events), max))
        latest[partition] = (offsets, running)
    told: set[Place] = set()
    for sample in history.samples:
        offsets, running = latest.get(sample.partition, ([], []))
        below = bisect_right(offsets, sample.committed - 1)
        if not below:
            continue
        end_ns, offset = running[below - 1]
        place = (sample.partition, offset)
        if end_ns > sample.told_ns and place not in told:
            told.add(place)
            yield Finding(
                Anomaly.COMMITTED_PAST_OPEN, f"{_name(place)} was open when {sample.committed} was committed"
            )


def _letters(history: History, letters: dict[Place, list[Letter]], expected: Expected) -> Iterator[Finding]:
    stored = {record.place: record for record in history.stored}
    for place, copies in letters.items():
        record = stored.get(place)
        for letter in copies:
            if record is None or (letter.key, letter.value, letter.headers, letter.timestamp_ms) != (
                record.key,
                record.value,
                record.headers,
                record.timestamp_ms,
            ):
                yield Finding(Anomaly.UNFAITHFUL, _name(place))
        if len(copies) > expected.copies_max:
            yield Finding(Anomaly.COPIED, f"{_name(place)}: {len(copies)} copies")
        if expected.letters is not None and record is not None and record.number not in expected.letters:
            yield Finding(Anomaly.SET_ASIDE, f"{_name(place)}, event {record.number}")


def _unowned(history: History) -> list[Call]:
    """Those that began when their partition had been assigned to another bridge since."""
    timeline: dict[int, list[tuple[float, str]]] = defaultdict(list)
    for owned in sorted(history.owned, key=lambda owned: owned.at_s):
        if owned.kept is Kept.ASSIGNED:
            for partition in owned.partitions:
                timeline[partition].append((owned.at_s, owned.instance))
    found = []
    for call in history.calls:
        owners = timeline.get(call.place[0], [])
        at = bisect_right(owners, (call.start_s, "\uffff"))
        if at and owners[at - 1][1] != call.instance:
            found.append(call)
    return found


def _owners(history: History, unowned: list[Call], expected: Expected, report: Report) -> Iterator[Finding]:
    """A call starts on what was assigned to its bridge last, and to nobody else since."""
    wrong = Counter((call.instance, call.place[0]) for call in unowned if not _crossed(call, history))
    report.zombie_calls = wrong.total()
    if expected.zombies:
        return
    for (instance, partition), count in wrong.items():
        yield Finding(Anomaly.NOT_OWNED, f"{count} calls by {instance} on partition {partition}")


def _stale_calls(history: History) -> list[Call]:
    """Those that began after the first call of a newer owner, by the fence that each bears alone."""
    newest: dict[int, int] = {}
    stale = []
    for call in sorted(history.calls, key=lambda call: call.start_ns):
        partition = call.place[0]
        newest[partition] = max(call.fence, newest.get(partition, 0))
        if call.fence < newest[partition]:
            stale.append(call)
    return stale


def _crossed(call: Call, history: History) -> bool:
    """A dead bridge's last calls may still be on their way through the sockets."""
    return any(
        fault.blast is Blast.CRASH and fault.from_ns <= call.start_ns <= fault.until_ns
        for fault in history.faults
    )
