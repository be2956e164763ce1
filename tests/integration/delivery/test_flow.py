"""How many calls reach a target, and whose: limits as the target's own journal saw them.

What is out at the target is never more than what Pelton has out: its call begins later there and ends sooner.
So bounds on calls that are out at once need no tolerance; only the rate's does, which counts starts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import median

from tests.integration.delivery.processes import Call, Pelton, Target, serving, until
from tests.integration.delivery.world import Draft, World, out_together_max

MS = 1_000_000

# -- Adaptive concurrency: the target works on so many at once, and more of them queue there.
AT_ONCE = 8
AT_ONCE_LATER = 24
WORK_MS = 40
#: More than the target can do in the time that the phase takes, which ends when so many have been called.
FIRST_EVENTS = 900
LATER_EVENTS = 1_600
CALLS_MAX = 128


def at_once(calls: Sequence[Call], among: Sequence[Call]) -> list[int]:
    """How many of `calls` were out when each of `among` began, itself included."""
    moments = sorted([(call.start_ns, 1) for call in calls] + [(call.end_ns, -1) for call in calls])
    begun = {call.start_ns for call in among}
    found: list[int] = []
    out = 0
    for at_ns, change in moments:
        out += change
        if change > 0 and at_ns in begun:
            found.append(out)
    return found


def acked(pelton: Pelton) -> float:
    return pelton.metrics().sum("pelton_events_settled_total", end="acked")


def upper(counts: Iterable[int]) -> int:
    """What nine in ten do not exceed."""
    ascending = sorted(counts)
    return ascending[len(ascending) * 9 // 10]


def test_adapting_settles_near_what_the_target_can_do_at_once_and_follows_it(
    world: World, note: Callable[[str], None]
) -> None:
    world.publish(Draft(b"key-%d" % number) for number in range(FIRST_EVENTS + LATER_EVENTS))
    subscription = f"    concurrency: {{ max: {CALLS_MAX}, adapt: true }}\n"
    options = ("--at-once", f"{AT_ONCE},{AT_ONCE_LATER}", "--delay-ms", str(WORK_MS))
    with serving(Target(world.directory, *options)) as target:
        pelton = world.serve(world.configure(target, subscription))
        until(lambda: world.passed() >= FIRST_EVENTS, "the first phase to end")
        changed_ns = target.change()
        until(world.all_committed, "every partition to be committed to its end")
        pelton.stop()
    calls = target.journal()
    first = [call for call in calls if call.start_ns < changed_ns]
    later = [call for call in calls if call.start_ns >= changed_ns]
    # Of the later ones neither the climb nor the end, where there is no more to call.
    settled = at_once(calls, first[len(first) // 3 :])
    risen = at_once(calls, later[len(later) // 3 : -AT_ONCE_LATER * 4])
    note(
        f"adapt: {AT_ONCE} at once: {median(settled):.0f} out, nine in ten {upper(settled)}, {max(settled)};"
        f" {AT_ONCE_LATER}: {median(risen):.0f}, {upper(risen)}, {max(risen)}"
    )
    assert world.lost(calls) == set()
    assert median(settled) >= AT_ONCE * 0.5
    assert upper(settled) <= AT_ONCE * 1.5
    assert median(risen) > AT_ONCE * 1.5
    assert upper(risen) <= AT_ONCE_LATER * 1.5


# -- Observing: a target that gets slower under calls that nobody holds back.
OBSERVED_MAX = 32
OBSERVED_AT_ONCE = (64, 8)
OBSERVED_EVENTS = (1_000, 800)


def test_observing_holds_nothing_back_and_says_what_it_would_keep_to(
    world: World, note: Callable[[str], None]
) -> None:
    world.publish(Draft(b"key-%d" % number) for number in range(sum(OBSERVED_EVENTS)))
    subscription = f"    concurrency: {{ max: {OBSERVED_MAX}, adapt: observe }}\n"
    options = ("--at-once", ",".join(map(str, OBSERVED_AT_ONCE)), "--delay-ms", str(WORK_MS))
    with serving(Target(world.directory, *options)) as target:
        pelton = world.serve(world.configure(target, subscription))
        until(lambda: world.passed() >= OBSERVED_EVENTS[0], "the first phase to end")
        found_first = pelton.metrics().sum("pelton_calls_limit_found")
        changed_ns = target.change()
        until(world.all_committed, "every partition to be committed to its end")
        found = pelton.metrics().sum("pelton_calls_limit_found")
        pelton.stop()
    calls = target.journal()
    before = [call for call in calls if call.start_ns < changed_ns]
    after = [call for call in calls if call.start_ns >= changed_ns]
    slower = at_once(calls, after[OBSERVED_MAX * 2 : -OBSERVED_MAX * 2])
    note(
        f"observe: found {found_first:.0f}, then {found:.0f};"
        f" out {median(at_once(calls, before)):.0f}, then {median(slower):.0f}"
    )
    # All that the user allows, whatever it finds. Not always: a turn lies between two calls of a slot, and a
    # busy computer makes it long. Half of it is more still than adapting would leave.
    assert out_together_max(calls) == OBSERVED_MAX
    assert median(slower) >= OBSERVED_MAX / 2
    assert found_first >= OBSERVED_MAX / 2
    assert OBSERVED_AT_ONCE[1] * 0.5 <= found <= OBSERVED_AT_ONCE[1] * 1.5


# -- The rate: a token bucket, in all windows.
PER_SECOND = 200
#: What a tenth of a second may use; see `core/rate.py`.
BURST = PER_SECOND // 10
#: How much later than another one a call may come from Pelton to the target: what was let go in some time
#: comes there in that much less.
WAY_S = 0.1
LOT = 500


def over_the_rate(starts_ns: Sequence[int], per_second: float) -> float:
    """The most by which the calls of any window exceed what the rate allows for its length."""
    most = earliest = float("-inf")
    for number, start_ns in enumerate(starts_ns):
        allowed = per_second * start_ns / 1e9
        earliest = max(earliest, allowed - number)
        most = max(most, number + 1 - allowed + earliest)
    return most


def test_no_window_has_more_calls_than_the_rate_and_a_burst(
    world: World, note: Callable[[str], None]
) -> None:
    world.publish(Draft(b"key-%d" % number) for number in range(LOT))
    subscription = f"    rate: {PER_SECOND}/s\n    concurrency: 128\n"
    with serving(Target(world.directory, "--delay-ms", "5")) as target:
        pelton = world.serve(world.configure(target, subscription))
        until(world.all_committed, "the first lot to be committed")
        # Nothing was there to call for a while: what comes then is no greater burst.
        world.publish(Draft(b"key-%d" % number) for number in range(LOT))
        until(world.all_committed, "the second lot to be committed")
        pelton.stop()
    starts_ns = [call.start_ns for call in target.journal()]
    assert len(starts_ns) == 2 * LOT
    over = over_the_rate(starts_ns, PER_SECOND)
    paces = [(LOT - BURST) * 1e9 / (lot[-1] - lot[0]) for lot in (starts_ns[:LOT], starts_ns[LOT:])]
    note(f"rate: {PER_SECOND}/s: {over:.1f} over it at most, a burst is {BURST}; {min(paces):.0f}/s kept")
    assert over <= BURST + WAY_S * PER_SECOND
    assert min(paces) >= PER_SECOND / 10


# -- Retries, keys that are slow, and partitions.
CALLS = 20
#: `core/limits.py`: what is costly has three in ten calls while fresh events want them.
COSTLY = 6
FRESH = 2_000
EVENTS_A_PARTITION = 200
FAILING = [b"failing-%d" % number for number in range(60)]


def test_retries_have_three_in_ten_calls_while_fresh_events_wait(
    world: World, note: Callable[[str], None]
) -> None:
    fresh = [Draft(b"key-%d" % number) for number in range(FRESH)]
    world.publish([Draft(key) for key in FAILING for _ in range(4)] + fresh)
    options = (
        *("--poison-status", "UNKNOWN", "--poison-keys", ",".join(key.decode() for key in FAILING)),
        *("--delay-ms", str(WORK_MS)),
    )
    with serving(Target(world.directory, *options)) as target:
        config = world.configure(
            target, f"    concurrency: {CALLS}\n", "{ attempts: 1_000, backoff: 5ms..20ms }"
        )
        pelton = world.serve(config)
        until(lambda: acked(pelton) >= FRESH, "the others")
        pelton.kill()
    calls = target.journal()
    failing = {world.delivery_id(event) for event in world.published if event.key in FAILING}
    retries = [call for call in calls if call.attempt > 1]
    assert {call.delivery_id for call in retries} <= failing
    # While fresh events wait: not the beginning, where none has come, nor the end, where none is left.
    others = [call for call in calls if call.delivery_id not in failing]
    since_ns, until_ns = others[CALLS].start_ns, others[-FRESH // 10].start_ns
    meanwhile = [call for call in retries if since_ns <= call.start_ns < until_ns]
    out = at_once(retries, meanwhile)
    called = sum(since_ns <= call.start_ns < until_ns for call in calls)
    note(
        f"retries: {max(out)} out at most, of {CALLS};"
        f" {len(meanwhile)} of {called} calls ({len(meanwhile) / called:.0%})"
    )
    assert max(out) <= COSTLY
    # They are not starved either: all that they may, they use. By their share of the calls: calls that end
    # together begin together, and how many are out at each one's start says when they begin.
    assert len(meanwhile) / called >= (COSTLY - 1) / CALLS


def test_partitions_take_turns(world: World, note: Callable[[str], None]) -> None:
    """No partition's backlog keeps the calls to itself."""
    for partition in range(world.partitions):
        drafts = [Draft(b"key-%d" % number) for number in range(EVENTS_A_PARTITION)]
        world.published += world.log.publish(world.topic, drafts, partition=partition)
    with serving(Target(world.directory, "--delay-ms", str(WORK_MS // 2))) as target:
        pelton = world.serve(world.configure(target, f"    concurrency: {CALLS}\n"))
        until(world.all_committed, "every partition to be committed to its end")
        pelton.stop()
    calls = target.journal()
    half = Counter(call.delivery_id.split("/")[-2] for call in calls[: len(calls) // 2])
    note(f"turns: half-way, by partition: {sorted(half.values())}")
    assert world.lost(calls) == set()
    # All begin as soon as their first events are there, which one fetch need not bring for all.
    assert min(half.values()) >= EVENTS_A_PARTITION // 4
    assert len(half) == world.partitions
