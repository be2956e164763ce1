"""The checker finds every anomaly that is planted, and nothing in a history that is as it should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.faults.checker import Anomaly, Expected, Report, check
from tests.faults.history import (
    NEVER_NS,
    Blast,
    Call,
    Fault,
    History,
    Kept,
    Letter,
    Owned,
    Place,
    Sample,
    Sent,
    Stored,
)

KEYS = (b"a", b"b")
ALL = frozenset({0})


def call(offset: int, at_ns: int, status: str = "OK", *, took_ns: int = 5, instance: str = "one") -> Call:
    return Call((0, offset), 1, at_ns, at_ns + took_ns, status, instance, at_ns / 1e9)


def sound() -> History:
    """Eight events of two keys in turn on one partition: each called once, ten apart, and committed after."""
    return History(
        sent=[Sent(number, (0, number)) for number in range(8)],
        stored=[Stored((0, number), number, KEYS[number % 2], b"v%d" % number) for number in range(8)],
        samples=[Sample(at, at + 1, 0, at // 10) for at in range(0, 90, 10)],
        owned=[Owned(0.0, "one", Kept.ASSIGNED, ALL)],
        calls=[call(number, number * 10 + 1) for number in range(8)],
    )


def found(report: Report) -> list[Anomaly]:
    return [finding.anomaly for finding in report.findings]


def test_a_sound_history_has_nothing() -> None:
    report = check(sound())
    assert report.findings == []
    assert (report.sent, report.ended, report.calls) == (8, 8, 8)
    assert (report.lost, report.disorder, report.repeats, report.repeats_max) == (0, 0, 0, 0)


def test_nothing_at_all() -> None:
    assert check(History()).findings == []


def without(history: History, *offsets: int) -> None:
    history.calls = [each for each in history.calls if each.place[1] not in offsets]


def lost_write(history: History) -> None:
    history.sent = [*history.sent, Sent(8, (0, 8))]


def overwritten(history: History) -> None:
    history.sent = [*history.sent[:-1], Sent(99, (0, 7))]


def unseen(history: History) -> None:
    without(history, 7)
    history.samples = history.samples[:7]


def only_failed(history: History) -> None:
    history.calls = [*history.calls[:-1], call(7, 71, "UNAVAILABLE")]
    history.samples = history.samples[:7]


def repeated(history: History) -> None:
    history.calls = [*history.calls, call(7, 90)]


def repeated_outside_a_blast(history: History) -> None:
    history.calls = [*history.calls, call(6, 90, instance="two"), call(7, 100, instance="two")]
    history.owned = [*history.owned, Owned(85e-9, "two", Kept.ASSIGNED, ALL)]
    # Event 6 ended at 66; only what was out or settled from 70 on may come again.
    history.faults.append(Fault(Blast.CRASH, 70, 85))


def repeated_after_anothers_crash(history: History) -> None:
    history.calls = [*history.calls, call(7, 90, instance="two")]
    history.owned = [*history.owned, Owned(85e-9, "two", Kept.ASSIGNED, ALL)]
    history.faults.append(Fault(Blast.CRASH, 60, 85, instance="three"))


def skipped(history: History) -> None:
    """Event 2 is called after 4, of the same key; both in time for the commits."""
    history.calls = [each for each in history.calls if each.place[1] not in (2, 4)]
    history.calls += [call(4, 21), call(2, 41)]
    history.samples = history.samples[:2]
    history.owned = [*history.owned, Owned(40e-9, "one", Kept.ASSIGNED, ALL)]


def overtaken(history: History) -> None:
    history.calls = [replace(each, end_ns=45) if each.place == (0, 2) else each for each in history.calls]
    history.samples = history.samples[:2]


def overtaken_a_dead_letter(history: History) -> None:
    history.calls = [each for each in history.calls if each.place != (0, 5)]
    history.calls += [call(5, 51, "UNKNOWN"), call(5, 69, "UNKNOWN")]
    history.letters = [Letter((0, 5), KEYS[1], b"v5")]


def older_after_newer(history: History) -> None:
    """Explained as a repeat, and still wrong within one assignment."""
    history.calls = [*history.calls, call(5, 90)]
    history.faults.append(Fault(Blast.CUT, 0, 100))


def committed_too_early(history: History) -> None:
    history.samples = [*history.samples, Sample(70, 71, 0, 8)]


def unfaithful(history: History) -> None:
    history.calls = [*history.calls[:-1], call(7, 71, "UNKNOWN")]
    history.letters = [Letter((0, 7), KEYS[1], b"another")]


def of_nothing(history: History) -> None:
    history.letters = [Letter((0, 77), None)]


def copied(history: History) -> None:
    history.calls = [*history.calls[:-1], call(7, 71, "UNKNOWN")]
    history.letters = [Letter((0, 7), KEYS[1], b"v7")] * 2


def set_aside(history: History) -> None:
    history.calls = [*history.calls[:-1], call(7, 71, "UNAVAILABLE")]
    history.letters = [Letter((0, 7), KEYS[1], b"v7")]


def not_owned(history: History) -> None:
    history.owned = [*history.owned, Owned(55e-9, "two", Kept.ASSIGNED, ALL)]


def stale(history: History, status: str = "OK") -> None:
    """One of an older generation calls for event 7 again, after a newer one's first call."""
    history.calls = [replace(each, fence=3 if each.start_ns > 50 else 2) for each in history.calls]
    history.calls = [*history.calls, replace(call(7, 90, status), fence=2)]
    history.faults.append(Fault(Blast.CUT, 60, 85))


EVENT_7 = Expected(letters=frozenset({7}))

PLANTED: list[tuple[Callable[[History], None], Expected, set[Anomaly]]] = [
    (lost_write, Expected(), {Anomaly.LOST_WRITE}),
    (overwritten, Expected(), {Anomaly.LOST_WRITE}),
    (unseen, Expected(), {Anomaly.UNSEEN}),
    (only_failed, Expected(), {Anomaly.UNSEEN}),
    (repeated, Expected(), {Anomaly.REPEATED}),
    (repeated_outside_a_blast, Expected(), {Anomaly.REPEATED}),
    (repeated_after_anothers_crash, Expected(), {Anomaly.REPEATED}),
    (skipped, Expected(), {Anomaly.POLL_SKIP}),
    (overtaken, Expected(), {Anomaly.OUT_OF_ORDER}),
    (overtaken_a_dead_letter, Expected(letters=frozenset({5})), {Anomaly.OUT_OF_ORDER}),
    (older_after_newer, Expected(), {Anomaly.OUT_OF_ORDER}),
    (committed_too_early, Expected(), {Anomaly.COMMITTED_PAST_OPEN}),
    (unfaithful, EVENT_7, {Anomaly.UNFAITHFUL}),
    (of_nothing, Expected(), {Anomaly.UNFAITHFUL}),
    (copied, EVENT_7, {Anomaly.COPIED}),
    (set_aside, Expected(), {Anomaly.SET_ASIDE}),
    (not_owned, Expected(), {Anomaly.NOT_OWNED}),
    (stale, Expected(), {Anomaly.STALE}),
]


@pytest.mark.parametrize(
    ("plant", "expected", "anomalies"), PLANTED, ids=[one[0].__name__ for one in PLANTED]
)
def test_what_is_planted_is_found(
    plant: Callable[[History], None], expected: Expected, anomalies: set[Anomaly]
) -> None:
    history = sound()
    plant(history)
    assert set(found(check(history, expected))) == anomalies


def test_every_anomaly_is_planted() -> None:
    assert set().union(*(anomalies for _, _, anomalies in PLANTED)) == set(Anomaly)


def test_what_a_crash_explains_is_counted_beside_its_bound() -> None:
    history = sound()
    history.faults.append(Fault(Blast.CRASH, 60, 85, "kill"))
    history.calls = [*history.calls, call(7, 90, instance="two")]
    history.owned = [*history.owned, Owned(85e-9, "two", Kept.ASSIGNED, ALL)]
    report = check(history)
    assert report.findings == []
    # Events 6 and 7 ended at 66 and 76.
    assert (report.repeats, report.repeats_max) == (1, 2)


def test_a_repeat_of_a_repeat_needs_an_explanation_of_its_own() -> None:
    history = sound()
    history.faults.append(Fault(Blast.CRASH, 60, 85))
    history.calls = [*history.calls, call(7, 90, instance="two"), call(7, 100, instance="two")]
    history.owned = [*history.owned, Owned(85e-9, "two", Kept.ASSIGNED, ALL)]
    assert found(check(history)) == [Anomaly.REPEATED]


def test_events_without_a_key_have_no_order() -> None:
    history = sound()
    history.stored = [replace(record, key=None) for record in history.stored]
    history.calls = [call(number, 80 - number * 10) for number in range(8)]
    history.samples = []
    assert check(history).findings == []


def test_a_call_that_never_ended_is_no_end() -> None:
    history = sound()
    last: Place = (0, 7)
    history.calls = [replace(each, end_ns=NEVER_NS) if each.place == last else each for each in history.calls]
    history.samples = history.samples[:7]
    assert found(check(history)) == [Anomaly.UNSEEN]


def test_a_zombie_is_counted_where_it_is_foreseen() -> None:
    history = sound()
    not_owned(history)
    report = check(history, Expected(zombies=True))
    assert report.findings == []
    assert report.zombie_calls == 2


def test_what_a_woken_bridge_calls_until_it_hears_is_no_surprise_where_it_is_foreseen() -> None:
    """It was frozen from 50 to 110, and the other one settled 6 and 7 meanwhile."""
    history = sound()
    not_owned(history)
    history.calls = [replace(each, instance="two") if each.place[1] > 5 else each for each in history.calls]
    history.calls += [call(6, 90), call(7, 100)]
    history.faults.append(Fault(Blast.CRASH, 50, 110, instance="one"))
    foreseen = check(history, Expected(zombies=True))
    assert (found(foreseen), foreseen.repeats, foreseen.repeats_max) == ([], 2, 3)
    assert found(check(history)) == [Anomaly.REPEATED] * 2
    # The owner itself has no such excuse.
    history.calls[-2:] = [call(6, 90, instance="two"), call(7, 100, instance="two")]
    assert found(check(history, Expected(zombies=True))) == [Anomaly.REPEATED] * 2


def lost_and_back(history: History, *late: Call, out: frozenset[Place]) -> None:
    """The partition goes and comes back; these arrive then, and 4 comes again behind them."""
    at_ns = late[-1].start_ns + 10
    history.calls = [*history.calls, *late, call(4, at_ns)]
    history.owned = [
        *history.owned,
        Owned(85e-9, "one", Kept.LOST, ALL, out),
        Owned(90e-9, "one", Kept.ASSIGNED, ALL),
    ]
    history.faults.append(Fault(Blast.CRASH, 0, 85))


@pytest.mark.parametrize(
    ("out", "anomalies"),
    [({(0, 6)}, []), ({(0, 4)}, [Anomaly.OUT_OF_ORDER]), (set(), [Anomaly.OUT_OF_ORDER])],
)
def test_a_call_that_was_out_at_a_loss_may_arrive_behind_it(
    out: set[Place], anomalies: list[Anomaly]
) -> None:
    history = sound()
    lost_and_back(history, call(6, 10**12), out=frozenset(out))
    assert found(check(history)) == anomalies


def test_it_arrives_once() -> None:
    history = sound()
    lost_and_back(history, call(6, 100), call(6, 110), out=frozenset({(0, 6)}))
    assert Anomaly.OUT_OF_ORDER in found(check(history))


def test_one_that_the_target_had_in_hand_at_the_loss_is_not_on_its_way() -> None:
    history = sound()
    history.calls = [replace(each, end_ns=10**9) if each.place[1] == 6 else each for each in history.calls]
    history.samples = history.samples[:6]
    lost_and_back(history, call(6, 2 * 10**9), out=frozenset({(0, 6)}))
    assert found(check(history)) == [Anomaly.OUT_OF_ORDER]


def test_a_stale_call_that_is_refused_is_counted() -> None:
    history = sound()
    stale(history, "ABORTED")
    report = check(history)
    assert report.findings == []
    assert report.stale_calls == 1


def test_what_a_compacted_log_has_forgotten_says_nothing() -> None:
    history = sound()
    history.stored = [record for record in history.stored if record.number != 2]
    without(history, 2)
    assert found(check(history)) == [Anomaly.LOST_WRITE]
    assert check(history, Expected(compacted=True)).findings == []


def test_the_last_calls_of_the_dead_may_arrive_late() -> None:
    history = sound()
    not_owned(history)
    history.faults.append(Fault(Blast.CRASH, 50, 80))
    assert check(history).findings == []


def test_a_dropped_event_has_ended_and_a_write_that_nobody_knows_of_may_be_missing() -> None:
    history = sound()
    history.calls = [*history.calls[:-1], call(7, 71, "DROPPED")]
    history.sent = [*history.sent, Sent(8, None)]
    assert check(history).findings == []


def test_a_dead_letter_that_never_came_as_far_as_the_handler() -> None:
    history = sound()
    without(history, 7)
    history.letters = [Letter((0, 7), KEYS[1], b"v7")]
    assert check(history, Expected(letters=None)).findings == []


def test_dead_letters_that_are_foreseen() -> None:
    history = sound()
    history.calls = [*history.calls[:-1], call(7, 71, "UNKNOWN")]
    history.letters = [Letter((0, 7), KEYS[1], b"v7")] * 2
    report = check(history, Expected(letters=None, copies_max=2))
    assert report.findings == []
    assert report.letters == 1
