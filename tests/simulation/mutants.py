"""Planted bugs. Each is one that a bridge like this has had, or could have; the simulation must catch every
one.

A check that cannot fail proves nothing: what shows that the auditor is awake is not that it finds nothing,
but that it finds these. `make mutants` prints who was caught by whom, and after how many schedules.
"""

from __future__ import annotations

import base64
import sys
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import PropertyMock, patch

from confluent_kafka import Consumer as Client
from confluent_kafka import TopicPartition

from pelton.bridge.hops import AtomicSink
from pelton.bridge.pump import Pump
from pelton.core import ackmap, tiers
from pelton.core.ackmap import EMPTY, AckMap, AckMapError
from pelton.core.actions import Actions, Commit, Flow, Hop
from pelton.core.delivery import Delivery, State
from pelton.core.due import CommitDue
from pelton.core.engine import Engine
from pelton.core.intake import Intake
from pelton.core.lane import Lane
from pelton.core.ledger import Ledger
from pelton.core.limits import Slots
from pelton.core.outcome import ACKED, Outcome
from pelton.core.retry import Decision, Do, History, Jitter, decide
from pelton.event import Partition
from pelton.kafka.assignment import Assignment
from pelton.kafka.commits import Commits
from pelton.kafka.committing import Committing, OnQuiet
from pelton.kafka.consumer_thread import ConsumerThread
from pelton.kafka.transactions import Ended
from pelton.subscription import Disposition, RetryPolicy
from tests.simulation import mutants_follow
from tests.simulation.hunting import MUTANTS, Patch, hunt, mutant

__all__ = ["MUTANTS", "hunt"]

#: Imported for what they register.
_OTHERS = (mutants_follow,)

# -- What is committed -----------------------------------------------------------------------------------


def _committing(change: Callable[[Engine, Commit], Commit]) -> Patch:
    original = Engine.commit

    def commit(self: Engine) -> Commit:
        return change(self, original(self))

    return patch.object(Engine, "commit", commit)


@mutant("commits behind the highest settled offset, whatever is open below")
def commits_the_highest() -> Patch:
    return _committing(lambda self, _: Commit(self._ledger.next_offset, ""))


@mutant("passes an offset when its dead letter is handed over, before the broker has it")
def commits_before_the_dead_letter() -> Patch:
    def change(self: Engine, commit: Commit) -> Commit:
        open_offsets = [d.event.offset for d in self.deliveries() if d.state is not State.PRODUCING]
        passed = min(open_offsets, default=self._ledger.next_offset)
        return Commit(passed, "") if passed > commit.offset else commit

    return _committing(change)


@mutant("takes a dead letter that the broker refused for written")
def refused_dead_letter_passes() -> Patch:
    original = Engine.on_produced

    def on_produced(self: Engine, results: Iterable[tuple[Delivery, str | None]], now_ms: float) -> None:
        original(self, [(delivery, None) for delivery, _ in results], now_ms)

    return patch.object(Engine, "on_produced", on_produced)


def _acting(change: Callable[[Engine, Actions], None]) -> Patch:
    original = Engine.take_actions

    def take_actions(self: Engine, now_ms: float, calls_max: int) -> Actions:
        actions = original(self, now_ms, calls_max)
        change(self, actions)
        return actions

    return patch.object(Engine, "take_actions", take_actions)


@mutant("never asks for a commit by itself")
def forgets_to_commit() -> Patch:
    return _acting(lambda _, actions: setattr(actions, "commit", None))


@mutant("lets partitions go without their last commit")
def no_last_commit() -> Patch:
    original = Pump._finish_drained

    def finish(self: Pump, now_ms: float) -> None:
        with patch.object(self._source, "commit", _nothing):
            original(self, now_ms)

    return patch.object(Pump, "_finish_drained", finish)


@mutant("does not try a commit again that was refused")
def refused_commit_forgotten() -> Patch:
    original = Commits.settle

    def settle(
        self: Commits, sent: Mapping[Partition, Commit], failed: Sequence[Partition], now: float
    ) -> None:
        original(self, sent, (), now)

    return patch.object(Commits, "settle", settle)


@mutant("commits once more when an assignment is lost")
def commits_when_lost() -> Patch:
    original = Pump.on_lost

    def on_lost(self: Pump, partitions: Sequence[Partition]) -> None:
        held = [partition for partition in partitions if partition in self._engines]
        self._source.commit({partition: self._engines[partition].commit() for partition in held})
        original(self, partitions)

    return patch.object(Pump, "on_lost", on_lost)


# -- The ack map -----------------------------------------------------------------------------------------


@mutant("reads an ack map without looking at its checksum", first=580)
def map_without_checksum() -> Patch:
    original = ackmap._decode

    def decode(base: int, text: str) -> AckMap:
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4))
        except ValueError:
            return original(base, text)
        payload = raw[8 : 8 + int.from_bytes(raw[2:4], "big")]
        checksum = zlib.crc32(payload, zlib.crc32(raw[:2] + base.to_bytes(8, "big")))
        mended = base64.b64encode(raw[:4] + checksum.to_bytes(4, "big") + payload)
        return original(base, mended.rstrip(b"=").decode())

    return patch.object(ackmap, "_decode", decode)


@mutant("begins a partition as if nothing above the committed offset were settled")
def carried_map_ignored() -> Patch:
    return patch.object(ackmap, "decode", lambda *_: EMPTY)


@mutant("takes a map that cannot be read for one that settles everything it may")
def broken_map_settles() -> Patch:
    original = ackmap.decode

    def decode(base: int, text: str, log_end: int = -1) -> AckMap:
        try:
            return original(base, text, log_end)
        except AckMapError:
            return AckMap([(base, max(base + 1, log_end))])

    return patch.object(ackmap, "decode", decode)


@mutant("starts calls whether or not their ends would fit into the map")
def no_reservation() -> Patch:
    def reserve(self: Ledger, offset: int) -> bool:
        self._reach(offset)
        self._reserved += 1
        return True

    return patch.multiple(Ledger, reserve=reserve, has_room=lambda _self, _count: True)


@mutant("claims one offset too many at the end of each run")
def map_off_by_one() -> Patch:
    original = Ledger._bits

    def bits(self: Ledger, base: int, span: int, gone: frozenset[int]) -> int:
        settled = original(self, base, span, gone)
        return settled | settled << 1

    return patch.object(Ledger, "_bits", bits)


# -- Transactions and tiers ------------------------------------------------------------------------------


@mutant("asks for commits while a transaction carries them")
def commits_beside_a_transaction() -> Patch:
    def hold(self: CommitDue) -> None:
        self.held = True

    return patch.object(CommitDue, "hold", hold)


@mutant("begins a transaction while a commit from before it is on its way")
def transaction_does_not_wait() -> Patch:
    original = Committing.tell_when_quiet

    def tell(self: Committing, partitions: Sequence[Partition], on_quiet: OnQuiet) -> None:
        with patch.object(self._commits, "under_way", lambda _: False):
            original(self, partitions, on_quiet)

    return patch.object(Committing, "tell_when_quiet", tell)


@mutant("takes a transaction of which nobody knows for committed", first=580)
def unknown_transaction_is_done() -> Patch:
    original = AtomicSink._on_ended

    def on_ended(self: AtomicSink, ended: Ended[Hop]) -> None:
        original(self, Ended() if ended.unknown else ended)

    return patch.object(AtomicSink, "_on_ended", on_ended)


@mutant("passes in a transaction what is written only in the next one")
def transaction_passes_too_much() -> Patch:
    original = Engine.commit_with

    def commit_with(self: Engine, deliveries: Sequence[Delivery]) -> Commit:
        return original(self, [d for d in self.deliveries() if d.state is State.PRODUCING])

    return patch.object(Engine, "commit_with", commit_with)


@mutant("calls what was moved to a retry tier before it is due")
def tier_without_delay() -> Patch:
    return _wherever(tiers._due_in_ms, lambda *_: 0.0)


@mutant("moves what failed in a retry tier to the first one again")
def same_tier_again() -> Patch:
    return _wherever(tiers.next_tier, lambda all_of_them, _: all_of_them[0] if all_of_them else None)


# -- Assignments -----------------------------------------------------------------------------------------


@mutant("goes on with an assignment that is lost")
def lost_assignment_goes_on() -> Patch:
    return patch.object(Pump, "on_lost", _nothing)


@mutant("counts the outcomes of an assignment that is gone")
def late_outcomes_accepted() -> Patch:
    original = Engine.on_late_outcomes

    def on_late_outcomes(self: Engine, results: Collection[tuple[Delivery, Outcome]]) -> list[bytes]:
        results = list(results)
        self.tally.acked += sum(outcome is ACKED for _, outcome in results)
        return original(self, results)

    return patch.object(Engine, "on_late_outcomes", on_late_outcomes)


@mutant("keeps the slot of a call whose assignment was gone when it ended")
def slot_leaks() -> Patch:
    original = Engine.on_late_outcomes

    def on_late_outcomes(self: Engine, results: Collection[tuple[Delivery, Outcome]]) -> list[bytes]:
        before = self.limits.slots.taken
        freed = original(self, results)
        self.limits.slots.take(before - self.limits.slots.taken)
        return freed

    return patch.object(Engine, "on_late_outcomes", on_late_outcomes)


@mutant("forgets which keys have a call out when a partition comes back")
def blocked_keys_forgotten() -> Patch:
    return patch.object(Pump, "_keys_left_behind", lambda *_: {})


@mutant("never frees a key that was blocked across assignments")
def key_stays_blocked() -> Patch:
    return patch.object(Engine, "unblock", _nothing)


@mutant("lets go at once, whatever is out")
def drain_does_not_wait() -> Patch:
    return patch.object(Engine, "drained", PropertyMock(return_value=True))


@mutant("starts calls while it drains")
def starts_while_draining() -> Patch:
    original = Engine.drain

    def drain(self: Engine) -> None:
        original(self)
        self.draining = False

    return patch.object(Engine, "drain", drain)


@mutant("does not cut the calls of a drain whose time is up")
def drain_does_not_cut() -> Patch:
    original = Pump._finish_drained

    def finish(self: Pump, now_ms: float) -> None:
        with patch.object(self.transport, "cancel", _nothing):
            original(self, now_ms)

    return patch.object(Pump, "_finish_drained", finish)


@mutant("lets commands that were meant for an earlier assignment count for the next", first=2170)
def stale_commands_count() -> Patch:
    original = Assignment.add

    def add(self: Assignment, partitions: Iterable[Partition], since: float = 0.0) -> None:
        partitions = list(partitions)
        original(self, partitions, since)
        for held in filter(None, map(self.get, partitions)):
            held.heard = True

    return patch.object(Assignment, "add", add)


@mutant("does not tell that a drain was given up", first=910)
def drain_given_up_in_silence() -> Patch:
    original = ConsumerThread._on_revoke

    def on_revoke(self: ConsumerThread, client: Client, going: list[TopicPartition]) -> None:
        def post(callback: Callable[..., object], *arguments: object) -> None:
            if callback != self._listener.on_lost:
                told(callback, *arguments)

        told = self._post
        with patch.object(self, "_post", post):
            original(self, client, going)

    return patch.object(ConsumerThread, "_on_revoke", on_revoke)


# -- Order -----------------------------------------------------------------------------------------------


@mutant("calls the next event of a key while the one before waits for its next attempt")
def lane_released_too_early() -> Patch:
    original = Engine._wait

    def wait(self: Engine, delivery: Delivery, due_ms: float) -> None:
        original(self, delivery, due_ms)
        head = delivery.follower
        if head is not None:
            head.to(State.QUEUED)
            self._intake.unpark(head)
            self._turns.add(head)

    return patch.object(Engine, "_wait", wait)


@mutant("takes the youngest of those that wait behind a key first")
def parked_overtakes() -> Patch:
    def advance(self: Lane) -> Delivery | None:
        self.blocked = False
        followers = self._unchain()
        if not followers:
            return None
        self.head = self.last = followers.pop()
        for follower in followers:
            self.append(follower)
        self._parked = len(followers)
        return self.head

    return patch.object(Lane, "advance", advance)


# -- Outcomes --------------------------------------------------------------------------------------------


def _wherever(original: Callable[..., Any], changed: Callable[..., Any]) -> Patch:
    """Another function in all modules of the core that have imported this one."""

    @contextmanager
    def all_of_them() -> Iterator[None]:
        name = original.__name__
        with ExitStack() as stack:
            for module in [sys.modules[each] for each in sys.modules if each.startswith("pelton.core.")]:
                if getattr(module, name, None) is original:
                    stack.enter_context(patch.object(module, name, changed))
            yield

    return all_of_them()


def _deciding(change: Callable[[Disposition, Outcome, History, Decision], Decision]) -> Patch:
    def changed(
        policy: RetryPolicy, disposition: Disposition, outcome: Outcome, history: History, jitter: Jitter
    ) -> Decision:
        decision = decide(policy, disposition, outcome, history, jitter)
        return change(disposition, outcome, history, decision)

    return _wherever(decide, changed)


@mutant("tries what failed on this side for ever")
def local_failure_for_ever() -> Patch:
    def change(disposition: Disposition, outcome: Outcome, _: History, decision: Decision) -> Decision:
        if outcome.local and disposition is Disposition.RETRY:
            return Decision(Do.WAIT, 50.0)
        return decision

    return _deciding(change)


@mutant("never runs out of attempts")
def attempts_never_end() -> Patch:
    return _deciding(
        lambda _, outcome, __, decision: (
            Decision(Do.WAIT, 50.0, 1) if decision.exhausted and not outcome.final else decision
        )
    )


@mutant("burns attempts while the target is down")
def outage_burns() -> Patch:
    def change(disposition: Disposition, _: Outcome, history: History, decision: Decision) -> Decision:
        if disposition is Disposition.UNWELL and history.attempt >= history.attempts_max:
            return Decision(Do.DEAD_LETTER, exhausted=True)
        return decision

    return _deciding(change)


@mutant("sets an event aside although its target said retry")
def retry_verdict_sets_aside() -> Patch:
    return _deciding(
        lambda _, outcome, __, decision: (
            Decision(Do.DEAD_LETTER) if outcome.verdict is not None and decision.do is Do.WAIT else decision
        )
    )


@mutant("takes a status it does not know for an ack")
def unknown_is_ack() -> Patch:
    return _deciding(
        lambda _, outcome, __, decision: Decision(Do.ACK) if outcome.status.name == "UNKNOWN" else decision
    )


@mutant("lets a second outcome of one attempt count")
def double_outcome_counts() -> Patch:
    original = Engine.on_outcomes

    def on_outcomes(self: Engine, results: Iterable[tuple[Delivery, Outcome]], now_ms: float) -> None:
        results = list(results)
        for delivery, _ in results:
            if delivery.state is State.WAITING:
                self._intake.unpark(delivery)
                delivery.state = State.CALLING
                self._calling += 1
                self.limits.slots.take()
                self._ledger._reserved += 1
        original(self, results, now_ms)

    return patch.object(Engine, "on_outcomes", on_outcomes)


@mutant("writes a dead letter again while it is on the way")
def dead_letter_twice() -> Patch:
    def change(self: Engine, actions: Actions) -> None:
        out = [d for d in self.deliveries() if d.state is State.PRODUCING and d.last_failure is not None]
        if out and not actions.hops:
            assert out[0].last_failure is not None
            actions.hops.append(Hop(out[0], out[0].last_failure))

    return _acting(change)


# -- Bounds ----------------------------------------------------------------------------------------------


@mutant("reads on although it has as much as it may have")
def intake_without_bound() -> Patch:
    return patch.object(Intake, "crowded", PropertyMock(return_value=False))


@mutant("never reads on after a pause")
def never_resumes() -> Patch:
    original = Engine._flow

    def flow(self: Engine) -> Flow | None:
        wanted = original(self)
        return None if wanted is Flow.RESUME else wanted

    return patch.object(Engine, "_flow", flow)


@mutant("has two calls more out than it may have")
def too_many_calls() -> Patch:
    @contextmanager
    def both() -> Iterator[None]:
        with ExitStack() as stack:
            free = property(lambda self: self.slots_max + 2 - self._taken)
            stack.enter_context(patch.object(Slots, "free", free))
            stack.enter_context(patch.object(Slots, "take", _take_without_bound))
            yield

    return both()


def _take_without_bound(self: Slots, count: int = 1, costly: int = 0) -> None:
    self._taken += count
    self.costly += costly


# -- The table -------------------------------------------------------------------------------------------


def _nothing(*_: object, **__: object) -> None:
    return None


def main() -> int:
    print(f"{'mutant':<32} {'schedules':>9}  {'seed':>5}  what it does / who caught it")
    survivors = 0
    for prey in MUTANTS.values():
        caught = hunt(prey)
        survivors += caught is None
        count, seed = (caught.schedules, caught.seed) if caught else ("-", "-")
        print(f"{prey.name:<32} {count:>9}  {seed:>5}  {prey.plants}")
        print(f"{'':<50}{caught.by[:100] if caught else 'NOT CAUGHT'}", flush=True)
    print(f"\n{len(MUTANTS) - survivors} of {len(MUTANTS)} caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
