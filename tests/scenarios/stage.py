"""Plays a scenario script on one engine and tells what the engine asked for.

A script is prose (`#` lines), commands, `----`, and what was asked for because of them. The commands:

    subscription NAME=VALUE ...     attempts, ordering, on_exhausted, concurrency, timeout, backoff_max, ...
                                    `tiers=1m,10m`; with `in=1m` it is in that tier; `then_key=follow`
    notes [KEY:OFFSET ...]          what is remembered has been read: of each key, up to where all has ended
    events [at OFFSET] KEY ...      a key, `null`, or `""`; `KEY!filter` and `KEY!flaw` need no call
    moved KEY@DURATION ...          events in a tier, called twice so far, due so long from now
    outcomes OFFSET:STATUS[(...)]   `(after=2s)`, `(final)`, `(verdict=drop)`; `cancelled` is a status here
    scatter COUNT STEP              so many events without a key, each so many offsets after the last
    half STATUS                     every second call that is out ends so, but never the lowest
    every STATUS for DURATION       the target answers so to whatever is called, for that long
    late OFFSET:STATUS              the same for a call that was left behind by `close`
    produced OFFSET:ok|refused      the broker's answer to a dead letter or a move
    committed ok|refused            the broker's answer to the last commit; until then it is not durable
    tick DURATION | tick next       time passes, or jumps to the engine's deadline
    drain | close | kill | assign   assign begins from the last commit that was answered ok; close makes one
    state                           what is open, and the books
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

from pelton.core import ackmap
from pelton.core.actions import Actions, Commit, Hop
from pelton.core.breaker import Breaker
from pelton.core.delivery import Delivery
from pelton.core.engine import Engine
from pelton.core.followed import Followed, Kind, Note
from pelton.core.outcome import CANCELLED_BY_US, Outcome, Status, Verdict
from pelton.core.tally import Tally
from pelton.core.tiers import arrivals, tier_of
from pelton.event import Moved, Partition, Position
from pelton.subscription import Disposition, Intake, OnExhausted, Ordering, Subscription, ThenKey, Tier
from tests.core.rig import PARTITION, SUBSCRIPTION, event, limits_of
from tests.core.rig import outcome as outcome_of

__all__ = ["Stage", "play"]

_DURATION = re.compile(r"([\d.]+)(ms|s|m|h)")
_UNIT_MS = {"ms": 1.0, "s": 1_000.0, "m": 60_000.0, "h": 3_600_000.0}
_OUTCOME = re.compile(r"(\d+):(\w+)(?:\((.*)\))?")
NOTHING = Commit(0, "")
#: More than so many of a kind are told as a count.
LINES_MAX = 12
_FLAW = Outcome(Status.INVALID_ARGUMENT, "flawed", disposition=Disposition.DEAD_LETTER, local=True)
_DURATIONS = {
    "timeout": "timeout_ms",
    "backoff_min": "backoff_min_ms",
    "backoff_max": "backoff_max_ms",
    "give_up_after": "give_up_after_ms",
}
_RETRY = {
    "attempts",
    "backoff_min_ms",
    "backoff_max_ms",
    "give_up_after_ms",
    "on_exhausted",
    "tiers",
    "then_key",
}
_INTAKE = {"partition_events_max", "parked_events_max"}


def milliseconds(text: str) -> float:
    match = _DURATION.fullmatch(text)
    assert match, f"{text!r} is no duration"
    return float(match[1]) * _UNIT_MS[match[2]]


def shown(ms: float) -> str:
    return f"{ms / 1_000:g}s" if ms >= 1_000 else f"{ms:g}ms"


def play(script: str) -> str:
    """The script with its expectations replaced by what happened."""
    told: list[str] = []
    commands: list[str] = []
    stage = Stage()
    expecting = False
    for line in script.splitlines():
        if line == "----":
            assert commands, "expectations without a command"
            told.append(line)
            said = [said for command in commands for said in stage.perform(command)]
            told += said or ["nothing"]
            commands, expecting = [], True
        elif not line.strip():
            expecting = False
            told.append("")
        elif not expecting:
            told.append(line)
            if not line.startswith("#"):
                commands.append(line)
    assert not commands, f"{commands} are followed by no ----"
    return "\n".join(told).rstrip("\n") + "\n"


class Stage:
    """One partition of one subscription, and everything around it that a script can move."""

    def __init__(
        self, subscription: Subscription = SUBSCRIPTION, durable: Commit = NOTHING, now_ms: float = 0.0
    ) -> None:
        self.now_ms = now_ms
        self.subscription = subscription
        self.limits = limits_of(subscription)
        self.breaker = Breaker()
        self.tally = Tally()
        self.engine: Engine | None = None
        self.closed: list[Engine] = []
        self.out: dict[int, Delivery] = {}
        self.left_behind: dict[int, Delivery] = {}
        self.letters: dict[int, Delivery] = {}
        self.next_offset = 0
        self.durable = durable
        self.partition = PARTITION
        self.asked: Commit | None = None
        self.keys: dict[int, bytes | None] = {}
        self.to_read: tuple[int, ...] = ()

    def perform(self, command: str) -> list[str]:
        verb, *words = command.split()
        health = self.breaker.health
        said: list[str] = getattr(self, f"do_{verb}")(*words) or []
        if self.engine is not None and not self.engine.closed:
            said += self.act()
        if self.breaker.health is not health:
            said.append(f"the target is {self.breaker.health.value}")
        return said

    def act(self) -> list[str]:
        assert self.engine is not None
        actions = self.engine.take_actions(self.now_ms, 1_000)
        for delivery in actions.calls:
            self.out[delivery.offset] = delivery
        for letter in actions.hops:
            self.letters[letter.delivery.offset] = letter.delivery
        if actions.read_again:
            self.to_read = actions.read_again
        if actions.commit is not None:
            self.asked = actions.commit
        return list(self.tell(actions))

    def tell(self, actions: Actions) -> list[str]:
        told = [
            f"call {delivery.offset} key={named(delivery.event.key)} attempt={delivery.attempt}"
            for delivery in actions.calls
        ]
        if len(told) > LINES_MAX:
            told = [f"call {len(told)}, from {min(self.out)} to {max(self.out)}"]
        told += [
            f"{_verb(hop)} {hop.delivery.offset} {hop.outcome.status.name}"
            + (f" to {hop.tier.topic}" if hop.tier is not None else "")
            + (f": it {hop.outcome.message}" if hop.follows else "")
            for hop in actions.hops
        ]
        if actions.read_again:
            told.append(f"read again {', '.join(map(str, actions.read_again))}")
        if actions.commit is not None:
            told.append(self.tell_commit(actions.commit))
        if actions.flow is not None:
            told.append(actions.flow.value)
        return told

    def tell_commit(self, commit: Commit) -> str:
        ranges = ackmap.decode(commit.offset, commit.metadata).ranges
        runs = ", ".join(f"{start}" if end == start + 1 else f"{start}-{end - 1}" for start, end in ranges)
        if len(ranges) > LINES_MAX:
            runs = f"{len(ranges)} runs in {len(commit.metadata)} characters"
        return f"commit {commit.offset}" + (f" settled above: {runs}" if runs else "")

    # -- Commands ----------------------------------------------------------------------------------------

    def do_subscription(self, *words: str) -> None:
        changes: dict[str, Any] = {}
        for word in words:
            name, _, value = word.partition("=")
            if name in _DURATIONS:
                changes[_DURATIONS[name]] = milliseconds(value)
            elif name == "tiers":
                delays = [(each, milliseconds(each)) for each in value.split(",")]
                changes[name] = tuple(Tier(delay_ms, f"retry.notify.{each}") for each, delay_ms in delays)
            elif name == "in":
                self.partition = Partition(f"retry.notify.{value}", 0)
            elif name == "ordering":
                changes[name] = Ordering(value)
            elif name == "then_key":
                changes[name] = ThenKey(value)
            elif name == "on_exhausted":
                changes[name] = OnExhausted(value)
            else:
                changes[name] = int(value)
        retry = {name: changes.pop(name) for name in list(changes) if name in _RETRY}
        intake = {name: changes.pop(name) for name in list(changes) if name in _INTAKE}
        self.subscription = replace(
            SUBSCRIPTION,
            retry=replace(SUBSCRIPTION.retry, **retry),
            intake=replace(Intake(), **intake),
            **changes,
        )
        self.limits = limits_of(self.subscription)
        self.do_assign()

    def do_assign(self) -> None:
        assert self.engine is None, "it is assigned already"
        blocked: dict[bytes, int] = {}
        for delivery in self.left_behind.values():
            if delivery.lane is not None:
                blocked[delivery.lane.key] = blocked.get(delivery.lane.key, 0) + 1
        self.engine = Engine(
            self.subscription,
            self.partition,
            generation=len(self.closed) + 1,
            committed=self.durable.offset,
            metadata=self.durable.metadata,
            log_end=-1,
            limits=self.limits,
            breaker=self.breaker,
            tally=self.tally,
            jitter=lambda: 1.0,
            now_ms=self.now_ms,
            blocked_keys=blocked,
            followed=self.followed(),
        )
        self.next_offset = self.durable.offset

    def followed(self) -> Followed | None:
        retry, topic = self.subscription.retry, self.partition.topic
        if retry.then_key is not ThenKey.FOLLOW:
            return None
        return Followed(topic, retry, tier_of(retry.tiers, topic), lambda now_ms: now_ms)

    def do_notes(self, *words: str) -> None:
        assert self.engine is not None
        split = [word.split(":") for word in words]
        notes = [Note(Kind.ENDED, "events", key.encode(), through=int(offset)) for key, offset in split]
        self.engine.on_notes(notes, self.now_ms, all_told=True)

    def do_events(self, *words: str) -> None:
        assert self.engine is not None
        keys = list(words)
        if keys[0] == "at":
            self.next_offset = int(keys[1])
            del keys[:2]
        batch, intended = [], dict[int, Outcome | None]()
        for word in keys:
            name, _, fate = word.partition("!")
            key = None if name == "null" else b"" if name == '""' else name.encode()
            if fate:
                intended[self.next_offset] = {"filter": None, "flaw": _FLAW}[fate]
            batch.append(event(self.next_offset, key))
            self.keys[self.next_offset] = key
            self.next_offset += 1
        self.engine.on_events(batch, self.now_ms, intended)

    def do_moved(self, *words: str) -> None:
        """The origin of each is another topic's offset; its wall clock is the engine's."""
        assert self.engine is not None
        assert self.engine.tier is not None
        batch = []
        for word in words:
            key, _, due = word.partition("@")
            due_ms = round(self.now_ms + milliseconds(due))
            moved = Moved(Position("events", 0, 100 + self.next_offset), 2, 0, due_ms, "UNKNOWN", "told so")
            read = event(self.next_offset, None if key == "null" else key)
            batch.append(replace(read, topic=self.partition.topic, moved=moved))
            self.next_offset += 1
        told = arrivals(batch, self.engine.tier, self.now_ms, self.now_ms)
        self.engine.on_events(batch, self.now_ms, told)

    def do_read(self, *words: str) -> None:
        """What was to be read again is: up to an offset (`to 5`), or but for those that are gone (`4 5`)."""
        assert self.engine is not None
        through = int(words[1]) if words[:1] == ("to",) else self.to_read[-1]
        gone = set() if words[:1] == ("to",) else {int(word) for word in words}
        there = [offset for offset in self.to_read if offset not in gone and offset <= through]
        found = [event(offset, self.keys[offset]) for offset in there]
        self.engine.on_read_again(self.to_read, found, through, self.now_ms)

    def do_scatter(self, count: str, step: str) -> None:
        assert self.engine is not None
        first = self.next_offset
        batch = [event(first + at * int(step)) for at in range(int(count))]
        self.next_offset = batch[-1].offset + 1
        self.engine.on_events(batch, self.now_ms)

    def do_half(self, status: str) -> None:
        """Every second call that is out, but not the lowest."""
        assert self.engine is not None
        told = [(self.out.pop(offset), outcome_of(status)) for offset in sorted(self.out)[1::2]]
        self.engine.on_outcomes(told, self.now_ms)

    def do_outcomes(self, *words: str) -> None:
        assert self.engine is not None
        told = [(self.out.pop(offset), outcome) for offset, outcome in map(_read_outcome, words)]
        self.engine.on_outcomes(told, self.now_ms)

    def do_every(self, status: str, _for: str, duration: str) -> list[str]:
        assert self.engine is not None
        until_ms = self.now_ms + milliseconds(duration)
        answers = 0
        changes = []
        while self.now_ms < until_ms:
            while self.out:
                health = self.breaker.health
                answers += len(self.out)
                told = [(delivery, outcome_of(status)) for delivery in self.out.values()]
                self.out.clear()
                self.engine.on_outcomes(told, self.now_ms)
                # What is called at once is answered at once; all else that is asked for is of no interest.
                self.act()
                if self.breaker.health is not health:
                    changes.append(f"the target is {self.breaker.health.value} at {shown(self.now_ms)}")
            self.now_ms = min(until_ms, max(self.now_ms, self.engine.next_deadline()))
            self.engine.on_tick(self.now_ms)
            if self.now_ms < until_ms:
                self.act()
        return [*changes, f"{answers} attempts were answered {status}; it is {shown(self.now_ms)}"]

    def do_late(self, *words: str) -> None:
        for offset, outcome in map(_read_outcome, words):
            delivery = self.left_behind.pop(offset)
            freed = delivery.engine.on_late_outcomes([(delivery, outcome)])
            if self.engine is not None:
                for key in freed:
                    self.engine.unblock(key)

    def do_produced(self, *words: str) -> None:
        for word in words:
            offset, _, answer = word.partition(":")
            delivery = self.letters.pop(int(offset))
            delivery.engine.on_produced([(delivery, None if answer == "ok" else "no leader")], self.now_ms)

    def do_committed(self, answer: str) -> None:
        assert self.engine is not None
        assert self.asked is not None, "no commit is out"
        if answer == "ok":
            self.durable, self.asked = self.asked, None

    def do_tick(self, how: str) -> list[str]:
        assert self.engine is not None
        deadline_ms = self.engine.next_deadline()
        if how == "next":
            assert deadline_ms < float("inf"), "the engine waits for nothing"
            self.now_ms = max(self.now_ms, deadline_ms)
        else:
            self.now_ms += milliseconds(how)
        self.engine.on_tick(self.now_ms)
        return [f"it is {shown(self.now_ms)}"]

    def do_drain(self) -> list[str]:
        assert self.engine is not None
        self.engine.drain()
        return []

    def do_close(self) -> list[str]:
        """The end of a drain or of its patience: the last commit goes out, and is taken."""
        assert self.engine is not None
        self.durable = self.engine.commit()
        open_events = self.engine.open_events
        self.engine.close()
        self.closed.append(self.engine)
        self.left_behind |= self.out
        self.out = {}
        self.engine = None
        return [
            self.tell_commit(self.durable),
            f"released {open_events}, calls left behind {len(self.left_behind)}",
        ]

    def do_kill(self) -> list[str]:
        """The process dies, and another one knows what was committed and nothing else."""
        partition = self.partition
        self.__init__(self.subscription, self.durable, self.now_ms)  # type: ignore[misc]
        self.partition = partition
        return [self.tell_commit(self.durable)]

    def do_state(self) -> list[str]:
        assert self.engine is not None
        told = [
            f"{delivery.offset} {named(delivery.event.key)} {delivery.state.value}"
            f" attempts={delivery.attempt} burned={round(delivery.burned, 2):g}"
            for delivery in self.engine.deliveries()
        ]
        if len(told) > LINES_MAX:
            states = Counter(delivery.state.value for delivery in self.engine.deliveries())
            told = [f"{count} {state}" for state, count in states.items()]
        tally = self.tally
        assert tally.holds(self.engine.open_events)
        books = {
            "consumed": tally.consumed,
            "acked": tally.acked,
            "dropped": tally.dropped,
            "filtered": tally.filtered,
            "dead-lettered": tally.dead_lettered,
            "moved": tally.moved,
            "lost": tally.lost,
            "already settled": tally.already_settled,
            "released": tally.released,
            "open": self.engine.open_events,
            "shelved": self.engine.shelved,
            "suspect keys": self.engine.suspect_keys,
        }
        return [*told, ", ".join(f"{name} {count}" for name, count in books.items() if count)]


def _verb(hop: Hop) -> str:
    if hop.told is not None:
        return "tell"
    return "dead-letter" if hop.tier is None else "move"


def named(key: bytes | None) -> str:
    return "null" if key is None else key.decode() or '""'


def _read_outcome(word: str) -> tuple[int, Outcome]:
    read = _OUTCOME.fullmatch(word)
    assert read, f"{word!r} is no outcome"
    if read[2] == "cancelled":
        return int(read[1]), CANCELLED_BY_US
    more: dict[str, Any] = {}
    for part in filter(None, (read[3] or "").split(",")):
        name, _, value = part.partition("=")
        match name:
            case "after":
                more["retry_after_ms"] = milliseconds(value)
            case "final":
                more["final"] = True
            case "verdict":
                more["verdict"] = Verdict(value)
            case _:
                raise AssertionError(f"{part!r} is not understood")
    return int(read[1]), outcome_of(read[2], **more)
